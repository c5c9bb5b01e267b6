"""Models that draw from Python's or NumPy's stream, as layer drop does, under the diagnostics of gradients."""

import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sharpkit.diagnostics import graddiff, gradnorms

STREAMS = {"python": random.random, "numpy": np.random.rand}
SEEDS = {"python": random.seed, "numpy": np.random.seed}
STATES = {"python": random.getstate, "numpy": lambda: str(np.random.get_state())}


class Scaled(nn.Module):
    """A layer that draws its scale in training mode."""

    def __init__(self, draw):
        super().__init__()
        self.draw = draw
        self.layer = nn.Linear(4, 3).double()

    def forward(self, x):
        if self.training:
            x = x * self.draw()
        return self.layer(x)


@pytest.fixture(params=STREAMS)
def stream(request):
    before = random.getstate(), np.random.get_state()
    yield request.param
    random.setstate(before[0])
    np.random.set_state(before[1])


@pytest.mark.parametrize(("diagnose", "passes"), [(gradnorms, 1), (graddiff, 2)])
def test_draws_are_those_of_the_seed_in_every_pass_and_the_stream_stays(stream, diagnose, passes):
    seen = []  # not of the model, which is put back
    model = Scaled(lambda: seen.append(STREAMS[stream]()) or seen[-1])
    generator = torch.Generator().manual_seed(0)
    batch = torch.randn(6, 4, generator=generator).double(), torch.randint(3, (6,), generator=generator)
    before = STATES[stream]()
    diagnose(model, F.cross_entropy, [batch, batch], dropout=True, seed=3)
    assert STATES[stream]() == before
    SEEDS[stream](3)
    assert seen[:passes] == [STREAMS[stream]()] * passes
    assert len(set(seen[passes:])) == 1
    assert seen[passes] != seen[0]

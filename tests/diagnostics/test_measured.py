"""What is measured of a model that writes to its weights: one function of them, the same for every diagnostic."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sharpkit.diagnostics import checkpoint_plane, graddiff, gradnorms, hessian, landscape, sharpness
from sharpkit.diagnostics.gradients.gradient_variance import gradient_variance
from tests.diagnostics.support import dense
from tests.diagnostics.zoo import animal, samples

GRID = (-1.0, 0.4, 1.0)


class Table(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.table, self.out = nn.Embedding(9, 4, **options), nn.Linear(4, 3)

    def forward(self, x):
        return self.out(torch.tanh(self.table((3 * x.abs()).long().clamp(max=8))).mean(1))


def tables():
    """A table of rows of norm 1 to 9 that every pass scales to 2, and a plain one with the rows scaled by hand."""
    torch.manual_seed(0)
    scaling, plain = Table(max_norm=2.0).double(), Table().double()
    with torch.no_grad():
        w = scaling.table.weight
        w.mul_(torch.arange(1, 10)[:, None] / w.norm(dim=1, keepdim=True))
        plain.load_state_dict(scaling.state_dict())
        lengths = w.norm(dim=1, keepdim=True)
        plain.table.weight.copy_(torch.where(lengths > 2, w * 2 / (lengths + 1e-7), w))
    return scaling, plain


MEASURES = {
    "hessian": lambda m, b: (lambda r: [*r.eigenvalues, r.loss, r.trace.value])(
        hessian(m, F.cross_entropy, b, top=2, tol=1e-8, trace="hutchinson")
    ),
    "sharpness": lambda m, b: (lambda r: [r.ascent.value, r.average.value, r.one_step.value])(
        sharpness(m, F.cross_entropy, b, "asam:rho=0.5")
    ),
    "surface": lambda m, b: landscape(m, F.cross_entropy, b, x=GRID, y=GRID).loss.ravel(),
    "gradient differences": lambda m, b: graddiff(m, F.cross_entropy, b).difference_norms,
    "gradient norms": lambda m, b: gradnorms(m, F.cross_entropy, b).values,
    "gradient variance": lambda m, b: [gradient_variance(m, F.cross_entropy, b).variance],
}


@pytest.mark.parametrize("measure", MEASURES)
def test_an_embedding_with_max_norm_is_a_plain_table_with_its_rows_scaled(measure):
    (scaling, plain), (x, y) = tables(), samples()
    batches = [(x[:6], y[:6]), (x[6:], y[6:])]
    np.testing.assert_allclose(MEASURES[measure](scaling, batches), MEASURES[measure](plain, batches), rtol=1e-9)


def test_the_hessian_is_that_of_the_scaled_table_and_a_note_says_so():
    (scaling, plain), (x, y) = tables(), samples()
    found = hessian(scaling, F.cross_entropy, [(x, y)], top=3, tol=1e-8)
    np.testing.assert_allclose(found.eigenvalues, torch.linalg.eigvalsh(dense(plain, x, y)).flip(0)[:3], rtol=1e-8)
    notes = [*found.notes, *sharpness(scaling, F.cross_entropy, [(x, y)], steps=1).notes]
    notes += landscape(scaling, F.cross_entropy, [(x, y)], x=GRID, y=None).notes
    assert sum("rows of table are scaled to max_norm=2 once" in note for note in notes) == 3


def test_other_checkpoints_are_scaled_as_the_centre_is():
    (scaling, _), (x, y) = tables(), samples()
    other = {name: value * 1.7 for name, value in scaling.state_dict().items()}
    found = landscape(
        scaling, F.cross_entropy, [(x, y)], x=(0.0, 1.0), y=None, plane=checkpoint_plane(scaling, {"o": other})
    )
    own = F.cross_entropy(scaling(x), y)
    scaling.load_state_dict(other)
    for loss, wanted in zip(found.loss[0], (own, F.cross_entropy(scaling(x), y)), strict=True):
        assert loss == pytest.approx(float(wanted.detach()), rel=1e-9)


def test_a_model_that_writes_to_its_weights_in_another_way_is_told_of():
    model, (x, y) = animal("clipped"), samples()
    with torch.no_grad():
        model.layer.weight.mul_(9)
    found = hessian(model, F.cross_entropy, [(x, y)], top=1)
    assert any("writes to layer.weight" in note for note in found.notes)
    found = landscape(model, F.cross_entropy, [(x, y)], x=GRID, y=None, check=False)
    assert any("writes to layer.weight" in note for note in found.notes)

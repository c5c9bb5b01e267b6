"""What `--compile` and `--channels-last` may change in any recipe: the order of sums, and nothing else."""

from dataclasses import dataclass, replace

import pytest
import torch
from functorch.compile import make_boxed_func
from torch import nn
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn import functional as F

from sharpkit import RECIPES, parse
from sharpkit.core.slots import Radius
from sharpkit.core.task import Batch, Supervised
from sharpkit.engine import compiling
from sharpkit.engine.compiling import compiled
from tests.core.support import SAMPLES, numbered, sharp
from tests.recipes.test_precision_contract import drawing
from tests.reference.problems import EPOCH

SIZES = (16, 16, 16, 10)
"""Of the batches of an epoch; every shard of the recipes with shards has two samples, but for some of the last."""

UNIONS = ["sampa+bisam-tanh:rho=0.3", "sampa+asam:rho=0.3", "ae-sam+ssam-f", "msam+vasso:rho=0.3"]


def batch(t):
    return numbered(SIZES[t % EPOCH], seed=t)


def noisy():
    """Batch norm, dropout, and nothing that Python does beside the tensors."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 3)]
        return nn.Sequential(*layers).double()


@dataclass(frozen=True)
class Growing(Radius):
    def at(self, step):
        return 0.01 * (1 + step.clock.step)


def growing(name):
    rule = parse(name)
    return replace(rule, radius=Growing()) if rule.radius is not None else rule


def stepped(opt, steps):
    """Take steps at a learning rate that falls and with the random numbers of the step."""
    for t in steps:
        opt.base.param_groups[0]["lr"] = 0.1 / (1 + t)
        torch.manual_seed(t)
        opt.step(batch(t))


@pytest.fixture
def pair(monkeypatch):
    """A model trained through a compiled task, and its twin as it is."""

    def call(name, backend, graphs=False):
        torch._dynamo.reset()
        monkeypatch.setattr(compiling, "BACKEND", backend)
        models = noisy(), noisy()
        task, _ = compiled(Supervised(models[0], F.cross_entropy), Batch(*batch(0)), graphs=graphs)
        draw = drawing(torch.float64)
        return models, [
            sharp(growing(name), m, loss=loss, draw=draw)
            for m, loss in zip(models, (task, F.cross_entropy), strict=True)
        ]

    return call


@pytest.mark.parametrize("name", [*RECIPES, *UNIONS])
def test_no_step_after_the_first_epoch_compiles(pair, name):
    """While learning rate, radius, masks and the memory change; an epoch shows every size of a batch."""
    counter = CompileCounterWithBackend("eager")
    _, (opt, _) = pair(name, counter)
    assert counter.frame_count == 1
    counts = []
    for t in range(3 * EPOCH):
        stepped(opt, [t])
        counts.append(counter.frame_count)
    assert counts[EPOCH - 1 :] == [counts[EPOCH - 1]] * (2 * EPOCH + 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*RECIPES, *UNIONS])
def test_compiled_code_computes_the_same_with_the_same_dropout_masks(pair, name):
    models, opts = pair(name, "inductor")
    for opt in opts:
        stepped(opt, range(2 * EPOCH))
    torch.testing.assert_close(models[0].state_dict(), models[1].state_dict(), rtol=0, atol=1e-9)
    assert opts[0].counters() == opts[1].counters()


class Reusing:
    """A backend whose passes take the memory back that the ones before returned, as replayed CUDA graphs do.

    torch's own takes it back when the next forward pass starts. Here what lies there becomes NaN then.
    """

    def __init__(self):
        self.returned = []
        self.passes = 0

    def __call__(self, graph, inputs):
        backend = aot_autograd(fw_compiler=self.of(forward=True), bw_compiler=self.of(forward=False))
        return backend(graph, inputs)

    def of(self, *, forward):
        def compiler(graph, inputs):
            def run(*given):
                if forward:
                    self.passes += 1
                    for values in self.returned:
                        values.fill_(torch.nan)
                    self.returned.clear()
                out = [t.clone() if isinstance(t, torch.Tensor) else t for t in graph(*given)]
                self.returned += [t.data for t in out if isinstance(t, torch.Tensor) and t.is_floating_point()]
                return out

            return make_boxed_func(run)

        return compiler


def graph_cases():
    fast = ("sampa", "bisam-tanh")
    return [pytest.param(name, marks=() if name in fast else pytest.mark.slow) for name in [*RECIPES, *UNIONS]]


@pytest.mark.parametrize("name", graph_cases())
def test_nothing_is_read_from_the_memory_of_a_replayed_pass(pair, name):
    backend = Reusing()
    models, opts = pair(name, backend, graphs=True)
    reports = []
    for opt in opts:
        torch.manual_seed(0)
        reports.append([opt.step(batch(t)) for t in range(EPOCH)])
    assert backend.passes > EPOCH
    torch.testing.assert_close(models[0].state_dict(), models[1].state_dict(), rtol=0, atol=1e-9)
    for mine, other in zip(*reports, strict=True):
        torch.testing.assert_close((mine.loss, mine.outputs), (other.loss, other.outputs), rtol=0, atol=1e-9)


def test_without_the_copies_it_would_be(pair):
    models, (opt, _) = pair("sampa", Reusing())
    reports = [opt.step(batch(t)) for t in range(2)]
    assert reports[0].outputs.isnan().all()
    assert any(p.isnan().any() for p in models[0].parameters())


# ---------------------------------------------------------------------- memory format


def convolutional():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Tanh(), nn.Conv2d(8, 16, 3, stride=2)]
        return nn.Sequential(*layers, nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3)).double()


def images(t, size=None):
    generator = torch.Generator().manual_seed(t)
    size = size or SIZES[t % EPOCH]
    x = torch.randn(size, 3, 6, 6, generator=generator, dtype=torch.float64)
    return x, torch.randint(3, (size,), generator=generator), torch.arange(size) % SAMPLES


def drawn_images(count, generator):
    return images(50, count)[:2]


SPARSE = ["ssam-f:structure=filter", "ssam-f:structure=2:4", "ssam-d:structure=filter", "looksam:scope=tensor"]


@pytest.mark.parametrize("name", [*RECIPES, *UNIONS, *SPARSE])
def test_the_memory_format_is_invisible(name):
    models = convolutional(), convolutional().to(memory_format=torch.channels_last)
    assert not models[1][3].weight.is_contiguous()
    for model in models:
        opt = sharp(name, model, draw=drawn_images)
        for t in range(2 * EPOCH):
            opt.step(images(t, 16))
    assert not models[1][3].weight.is_contiguous()
    torch.testing.assert_close(models[1].state_dict(), models[0].state_dict(), rtol=0, atol=1e-10)

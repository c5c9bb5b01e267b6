"""Parameters of every kind: complex, sparse, lazy, empty, shared; each gives the right numbers or one clear line."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from sharpkit import RECIPES, SharpnessAware
from sharpkit.diagnostics import gradnorms, hessian
from sharpkit.errors import UsageError
from tests.core.support import LENGTHS, batch, bits, net, numbered, sharp, weights


def sgd(module, **options):
    return torch.optim.SGD(module.parameters(), **{"lr": 0.1, "momentum": 0.9, **options})


# ---------------------------------------------------------------------- complex parameters


class Filtered(nn.Module):
    """A filter in the frequency domain, complex or as real pairs."""

    def __init__(self, *, paired):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        w = torch.randn(3, dtype=torch.complex128, generator=generator)
        self.w = nn.Parameter(torch.view_as_real(w).clone() if paired else w)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.head = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).double()
        self.paired = paired

    def forward(self, x):
        w = torch.view_as_complex(self.w) if self.paired else self.w
        return self.head(torch.fft.irfft(torch.fft.rfft(x) * w, n=4))


@pytest.mark.parametrize("rule", [*RECIPES, "sampa+asam", "ssam-f:structure=filter"])
@pytest.mark.parametrize(
    ("base", "options"),
    [(sgd, {"clip": 0.5}), (lambda m: torch.optim.Adam(m.parameters(), lr=0.01), {"accumulate": 2, "loss_decay": 0.1})],
)
def test_a_complex_parameter_takes_the_steps_of_its_real_pairs(rule, base, options):
    ends = []
    for paired in (False, True):
        model = Filtered(paired=paired)
        opt = sharp(rule, model, base(model), **options)
        for t in range(5):
            opt.step(numbered(16, seed=t))
        ends.append([model.w if paired else torch.view_as_real(model.w), *model.head.parameters()])
    for a, b in zip(*ends, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def test_a_closure_of_a_complex_parameter():
    model, twin = Filtered(paired=False), Filtered(paired=True)
    for m in (model, twin):
        opt = sharp("sam:rho=0.3", m, sgd(m))

        def closure(m=m):
            loss = F.cross_entropy(m(batch()[0]), batch()[1])
            loss.backward()
            return loss

        assert float(opt.step(closure).notes["epsilon_norm"]) == pytest.approx(0.3, rel=1e-9)
    torch.testing.assert_close(torch.view_as_real(model.w), twin.w, rtol=1e-9, atol=1e-11)


def test_norms_of_gradients_are_those_of_real_pairs():
    values = [gradnorms(Filtered(paired=paired), F.cross_entropy, [batch()]).values[0] for paired in (False, True)]
    assert values[0] == pytest.approx(values[1], rel=1e-12)


def test_curvature_of_a_complex_parameter_is_refused():
    with pytest.raises(UsageError, match=r"parameter w is torch\.complex128, allowed are real ones"):
        hessian(Filtered(paired=False), F.cross_entropy, [batch()])


# ---------------------------------------------------------------------- sparse gradients


@pytest.mark.parametrize("rule", ["sgd", "sam:rho=0.2"])
def test_sparse_adam_steps_the_rows_that_the_gradients_reach(rule):
    """Against SAM written out. Moments of other rows stay, where Adam's would decay."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(9, 4, sparse=True), nn.Flatten(), nn.Linear(12, 3)).double()
    model[2].requires_grad_(False)
    twin = copy.deepcopy(model)
    opt = sharp(rule, model, torch.optim.SparseAdam(model[0].parameters(), lr=0.1))
    base, w = torch.optim.SparseAdam(twin[0].parameters(), lr=0.1), twin[0].weight
    for t in range(4):
        x, y = torch.randint(9, (5, 3), generator=torch.Generator().manual_seed(t)), torch.tensor([0, 1, 2, 0, 1])
        opt.step((x, y))
        old = w.detach().clone()
        if rule != "sgd":
            base.zero_grad()
            F.cross_entropy(twin(x), y).backward()
            g = w.grad.to_dense()
            with torch.no_grad():
                w.add_(g, alpha=0.2 / float(g.norm()))
        base.zero_grad()
        F.cross_entropy(twin(x), y).backward()
        with torch.no_grad():
            w.copy_(old)
        base.step()
    torch.testing.assert_close(model[0].weight, w, rtol=1e-10, atol=1e-12)


def test_sparse_adam_refuses_dense_gradients_in_one_line():
    model = nn.Sequential(nn.Embedding(9, 4, sparse=True), nn.Flatten(), nn.Linear(12, 3)).double()
    opt = sharp("sam", model, torch.optim.SparseAdam(model.parameters()))
    before = bits(weights(model))
    with pytest.raises(UsageError, match=r"takes sparse gradients only, and that of 2\.weight is dense"):
        opt.step((torch.randint(9, (5, 3)), torch.tensor([0, 1, 2, 0, 1])))
    assert bits(weights(model)) == before


# ---------------------------------------------------------------------- what has no numbers, or shares them


def _meta():
    with torch.device("meta"):
        return nn.Linear(4, 3)


def _shared():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3))
    model[1].weight = nn.Parameter(model[0].weight.data)
    return model


def _with(**parameters):
    model = nn.Sequential(nn.Linear(4, 3))
    for name, value in parameters.items():
        model.register_parameter(name, nn.Parameter(value))
    return model


REFUSED = {
    "lazy": (lambda: nn.Sequential(nn.LazyLinear(3)), r"0\.weight is uninitialized: a lazy layer .* \(call model"),
    "lazy buffers": (lambda: nn.LazyBatchNorm1d(affine=False), "running_mean is uninitialized"),
    "meta": (_meta, r"weight is on the meta device.*to_empty"),
    "shared": (_shared, r"parameters 0\.weight and 1\.weight share memory"),
    "expanded": (lambda: _with(p=torch.zeros(1).expand(3)), "the entries of parameter p share memory"),
    "float8": (lambda: _with(p=torch.zeros(3).to(torch.float8_e4m3fn)), r"parameter p is stored in torch\.float8"),
    "sparse": (lambda: _with(p=torch.eye(3).to_sparse()), r"parameter p has layout torch\.sparse_coo"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_parameters_that_cannot_be_perturbed_are_refused_at_once(kind):
    make, words = REFUSED[kind]
    model = make()
    held = list(model.parameters()) or [nn.Parameter(torch.zeros(1))]
    with pytest.raises(UsageError, match=words):
        SharpnessAware(model, torch.optim.SGD(held, lr=0.1), "sam", loss=F.cross_entropy)


@pytest.mark.parametrize("diagnose", [hessian, gradnorms])
def test_diagnostics_refuse_lazy_layers(diagnose):
    with pytest.raises(UsageError, match=r"0\.weight is uninitialized"):
        diagnose(nn.Sequential(nn.LazyLinear(3)), F.cross_entropy, [batch()])


def test_a_lazy_model_trains_once_it_has_seen_a_batch():
    model = nn.Sequential(nn.LazyLinear(3)).double()
    base = sgd(model)
    model(batch()[0])
    twin = copy.deepcopy(model)
    for m, b in ((model, base), (twin, sgd(twin))):
        sharp("sam", m, b).step(batch())
    assert bits(weights(model)) == bits(weights(twin))


class Odd(nn.Module):
    """A 0-dim, an empty, an integer and a never used parameter, tied weights, and weights that are views of one."""

    def __init__(self, *, odd):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.5, dtype=torch.float64))
        self.net = net()
        self.tied = nn.Linear(4, 6).double()
        if odd:
            self.tied.weight = self.net[0].weight
            self.empty = nn.Parameter(torch.zeros(0, 3, dtype=torch.float64))
            self.number = nn.Parameter(torch.tensor([3]), requires_grad=False)
            self.unused = nn.Parameter(torch.ones(2, dtype=torch.float64))
            flat = torch.cat([p.detach().flatten() for p in self.net[2].parameters()])
            cut = self.net[2].weight.numel()
            self.net[2].weight = nn.Parameter(flat[:cut].view(3, 6))
            self.net[2].bias = nn.Parameter(flat[cut:])

    def forward(self, x):
        return self.scale * self.net(x)


@pytest.mark.parametrize("rule", ["sam:rho=0.3", "asam", "gsam", "sampa"])
def test_odd_parameters_leave_the_others_as_they_are_without_them(rule):
    ends = []
    for odd in (True, False):
        model = Odd(odd=odd)
        opt = sharp(rule, model)
        for t in range(3):
            opt.step(batch(seed=t))
        ends.append([model.scale, *model.net.parameters()])
        if odd:
            assert torch.equal(model.unused, torch.ones(2).double())
    for a, b in zip(*ends, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def test_data_parallel_takes_the_steps_of_the_module():
    model, twin = net(), net()
    sharp("sam", nn.DataParallel(model), sgd(model)).step(batch())
    sharp("sam", twin, sgd(twin)).step(batch())
    assert bits(weights(model)) == bits(weights(twin))


def test_a_reentrant_checkpoint_is_refused_with_the_remedy():
    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net()

        def forward(self, x):
            return checkpoint(self.net[2], torch.tanh(self.net[0](x)), use_reentrant=True)

    model = Checkpointed()
    before = bits(weights(model))
    with pytest.raises(UsageError, match=r"use_reentrant=True.*use_reentrant=False"):
        sharp("sam", model).step(batch())
    assert bits(weights(model)) == before


# ---------------------------------------------------------------------- parameter groups


@pytest.mark.parametrize(
    ("rule", "options"),
    [("sam", {"rho": 0.3}), ("sam", {"adaptive": True}), ("sampa", {"lam": 0.5}), ("looksam", {"k": 3})],
)
def test_hyperparameters_of_a_recipe_in_a_group_are_refused(rule, options):
    model = net()
    ((key, value),) = options.items()
    base = sgd_groups(model, options)
    with pytest.raises(UsageError, match=rf"parameter group 1 has {key}={value}, which SGD does not read"):
        SharpnessAware(model, base, rule, loss=F.cross_entropy, **LENGTHS)


def sgd_groups(model, options):
    groups = [{"params": model[0].parameters()}, {"params": model[2].parameters(), **options}]
    return torch.optim.SGD(groups, lr=0.1)


def test_what_the_base_reads_itself_is_its_own():
    """Adadelta has a rho, and a scheduler and timm write keys of their own."""
    model = net()
    groups = [{"params": list(model.parameters()), "rho": 0.5, "lr_scale": 0.3, "initial_lr": 1.0, "name": "all"}]
    opt = SharpnessAware(model, torch.optim.Adadelta(groups), "sam", loss=F.cross_entropy)
    assert math.isfinite(float(opt.step(batch()).loss))

"""What a filter is in every kind of layer, and directions of weights that are computed from other parameters."""

import copy
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

from sharpkit.core.base import owners
from sharpkit.core.filters import filters, gathered, spread
from sharpkit.diagnostics import graddiff, hessian_plane, landscape, random_plane
from sharpkit.diagnostics.curvature.analysis import Wanted
from sharpkit.diagnostics.curvature.spectrum import of_layers
from sharpkit.diagnostics.problem import opened
from sharpkit.diagnostics.surfaces.directions import normalised
from tests.diagnostics.support import dense, points

X, Y = np.linspace(-1, 1, 5), np.linspace(-1, 1, 3)


def plain():
    """Six features as a tiny image through an upsampling convolution with groups."""
    return nn.Sequential(
        nn.Unflatten(1, (6, 1)),
        nn.ConvTranspose1d(6, 4, 2, groups=2),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(8, 5, bias=False),
        nn.Tanh(),
        nn.Linear(5, 3),
    ).double()


def samples():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(12, 6, generator=generator, dtype=torch.float64), torch.randint(3, (12,), generator=generator)


def by_hooks(function):
    def parametrise(layer, **options):
        with warnings.catch_warnings(action="ignore", category=FutureWarning):
            function(layer, **options)

    return parametrise


NORMS = {
    "weight norm": parametrizations.weight_norm,
    "weight norm by a hook": by_hooks(weight_norm),
    "spectral norm": parametrizations.spectral_norm,
    "spectral norm by a hook": by_hooks(spectral_norm),
}


def parametrised(norm):
    """A network with parametrised weights in training mode, and the plain network that computes the same."""
    torch.manual_seed(0)
    model, same = plain(), plain()
    NORMS[norm](model[1], dim=1)
    NORMS[norm](model[4])
    model(samples()[0])  # a hook computes its weight in a pass
    same.load_state_dict(model.state_dict(), strict=False)
    model.eval()
    model(samples()[0])
    with torch.no_grad():
        for i in (1, 4):
            same[i].weight.copy_(model[i].weight)
    return model.train(), same


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("options", [{}, {"ignore": "none"}, {"norm": "layer"}, {"norm": "none"}])
def test_the_surface_is_that_of_the_network_with_the_computed_weights(norm, options):
    (model, same), (x, y) = parametrised(norm), samples()
    found = landscape(model, F.cross_entropy, [(x, y)], x=X, y=Y, seed=3, **options)
    wanted = points(same.eval(), x, y, random_plane(same, seed=3, **options), X, Y)
    np.testing.assert_allclose(found.loss, wanted, rtol=1e-10)
    assert np.ptp(found.loss[:, 0]) > 1e-3  # nothing vanishes at -1
    exact = landscape(same, F.cross_entropy, [(x, y)], x=X, y=Y, seed=3, **options).check.exact
    for a, b in zip(found.check.exact, exact, strict=True):
        assert (a.slope, a.curvature) == pytest.approx((b.slope, b.curvature), rel=1e-8)
    assert any("as the layers compute with them" in note for note in found.notes)


def test_convexity_is_of_the_same_network():
    (model, same), (x, y) = parametrised("weight norm"), samples()
    found, wanted = (landscape(m, F.cross_entropy, [(x, y)], x=X, y=Y, convex=2).convexity for m in (model, same))
    np.testing.assert_allclose(found.largest, wanted.largest, rtol=1e-4)


@pytest.mark.parametrize("how", ["pruning", "parametrization"])
def test_pruned_entries_stay_pruned(how):
    torch.manual_seed(0)
    model, (x, y) = plain(), samples()
    mask = torch.rand(5, 8) < 0.5
    if how == "pruning":
        prune.custom_from_mask(model[4], "weight", mask)
    else:

        class Mask(nn.Module):
            def forward(self, w):
                return w * mask

        parametrize.register_parametrization(model[4], "weight", Mask())
    plane = random_plane(model)
    for axis in plane.axes:
        d = dict(zip(plane.names, axis, strict=True))["4.weight"]
        assert torch.equal(d != 0, mask)
        torch.testing.assert_close(d.norm(dim=1), model[4].weight.detach().norm(dim=1))
    found = landscape(model, F.cross_entropy, [(x, y)], x=X, y=Y, plane=plane)
    assert found.check.slope_error < 0.02
    assert not any("writes to" in note for note in found.notes)


def test_recurrent_layers_under_weight_norm():
    torch.manual_seed(0)

    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.out = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 3)

        def forward(self, x):
            return self.out(self.layer(x.unflatten(1, (2, 3)))[0][:, -1])

    same, (x, y) = Last().double(), samples()
    model = copy.deepcopy(same)
    by_hooks(weight_norm)(model.layer, name="weight_ih_l0")
    by_hooks(weight_norm)(model.layer, name="weight_hh_l0")
    # The order of the tensors, and with it the random numbers, is another one: the plane is carried over.
    plane = random_plane(model)
    found = landscape(model, F.cross_entropy, [(x, y)], x=X, y=Y, plane=plane)
    np.testing.assert_allclose(found.loss, points(same, x, y, plane, X, Y), rtol=1e-10)
    for axis in plane.axes:
        d = dict(zip(plane.names, axis, strict=True))
        for name in ("layer.weight_ih_l0", "layer.weight_hh_l0"):  # a row makes one unit of one gate
            torch.testing.assert_close(d[name].norm(dim=1), same.get_parameter(name).detach().norm(dim=1))


def loops(layer):
    """The filters of a layer's weight by its definition: which entries one output depends on, by differentiation."""
    weight = layer.weight.detach()
    if isinstance(layer, nn.Embedding):
        return [torch.eye(len(weight), dtype=torch.bool)[i][:, None].expand_as(weight) for i in range(len(weight))]
    if isinstance(layer, nn.Bilinear):
        inputs = torch.randn(2, 3), torch.randn(2, 4)
    else:
        inputs = (
            torch.randn(1, layer.in_channels, *[3] * (weight.dim() - 2)) if weight.dim() > 2 else torch.randn(2, 6),
        )
    out = layer(*inputs)
    channels = out.shape[1]
    sums = out.transpose(0, 1).reshape(channels, -1).sum(1)
    return [torch.autograd.grad(s, layer.weight, retain_graph=True)[0] != 0 for s in sums]


class Conv1D(nn.Module):
    """As transformers has it: a linear layer with its inputs along the first axis."""

    def __init__(self, nf, nx):
        super().__init__()
        self.nf, self.weight = nf, nn.Parameter(torch.randn(nx, nf))

    def forward(self, x):
        return x @ self.weight


LAYERS = {
    "linear": lambda: nn.Linear(6, 4),
    "transposed linear": lambda: Conv1D(4, 6),
    "bilinear": lambda: nn.Bilinear(3, 4, 5),
    "convolution": lambda: nn.Conv2d(4, 6, 2),
    "grouped convolution": lambda: nn.Conv1d(4, 6, 2, groups=2),
    "transposed convolution": lambda: nn.ConvTranspose2d(4, 6, 2),
    "grouped transposed convolution": lambda: nn.ConvTranspose1d(4, 6, 2, groups=2),
    "depthwise transposed convolution": lambda: nn.ConvTranspose2d(4, 8, 2, groups=4),
    "volume": lambda: nn.ConvTranspose3d(2, 3, 2),
    "embedding": lambda: nn.Embedding(5, 3),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_a_filter_is_what_one_output_depends_on(kind):
    torch.manual_seed(0)
    layer = LAYERS[kind]()
    weight, wanted = layer.weight.detach(), loops(layer)
    rows = filters(weight, layer)
    assert len(rows) == len(wanted)
    for row, which in zip(rows, wanted, strict=True):
        assert torch.equal(row.sort().values, weight[which].sort().values)
    numbers = torch.arange(float(len(rows)))
    everywhere = spread(numbers, weight, layer).expand_as(weight)
    for i, which in enumerate(wanted):
        assert bool((everywhere[which] == i).all())
    assert torch.equal(gathered(spread(numbers, weight, layer), weight, layer), numbers)


def test_filters_of_a_single_entry_are_one_filter():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 5), nn.Linear(5, 3))
    (plane,) = random_plane(model, 1).axes
    assert not torch.allclose(plane[0].abs(), model[0].weight.detach().abs())
    torch.testing.assert_close(plane[0].norm(), model[0].weight.detach().norm())


@pytest.mark.parametrize("norm", ["weight norm", "weight norm by a hook"])
def test_eigenvectors_move_the_parameters_themselves_and_biasbn_leaves_lengths_alone(norm):
    model, _ = parametrised(norm)
    drawn = [torch.randn_like(p) for p in model.parameters()]
    d = dict(
        zip(
            (n for n, _ in model.named_parameters()),
            normalised(drawn, model, norm="filter", ignore="biasbn"),
            strict=True,
        )
    )
    ends = ("original0", "weight_g") if norm == "weight norm" else ("weight_g",)
    lengths = [name for name in d if name.endswith(ends)]
    assert len(lengths) == 2
    for name, values in d.items():
        if name in lengths or name.endswith("bias"):
            assert not values.any()
    v = next(name for name in d if name.startswith("1.") and name.endswith(("original1", "weight_v")))
    w = model.get_parameter(v).detach()
    for group in range(2):
        for j in range(2):
            torch.testing.assert_close(
                d[v][3 * group : 3 * group + 3, j].norm(), w[3 * group : 3 * group + 3, j].norm()
            )


def test_the_parts_of_a_parametrised_weight_belong_to_its_layer():
    (model, _), (x, y) = parametrised("weight norm"), samples()
    assert list(graddiff(model, F.cross_entropy, [(x, y)]).by_layer()) == ["1", "4", "6"]
    with opened(model, F.cross_entropy, [(x, y)]) as problem:
        assert list(of_layers(problem, Wanted(top=1))) == ["1", "4", "6"]
    plain = parametrizations.weight_norm(nn.LayerNorm(8, bias=False), dim=None)
    names = [name for name, _ in plain.named_parameters()]
    assert [type(o).__mro__[1] for o in owners(plain, list(plain.parameters()))] == [nn.LayerNorm] * len(names)


def test_eigenvectors_of_a_block_of_the_dense_hessian():
    torch.manual_seed(0)
    model, (x, y) = plain(), samples()
    names = [name for name, _ in model.named_parameters()]
    sizes = [p.numel() for p in model.parameters()]
    inside = torch.cat(
        [torch.full((n,), name.startswith("4.") or name == "6.weight") for name, n in zip(names, sizes, strict=True)]
    )
    values, vectors = torch.linalg.eigh(dense(model, x, y)[inside][:, inside])
    plane = hessian_plane(model, F.cross_entropy, [(x, y)], tol=1e-9, params=r"^4\.|^6\.weight")
    assert plane.names == tuple(names)
    assert plane.values == pytest.approx(values[-2:].flip(0).tolist(), rel=1e-8)
    for axis, vector in zip(plane.axes, vectors.T.flip(0), strict=False):
        flat = torch.cat([t.flatten() for t in axis])
        assert not flat[~inside].any()
        assert abs(float(flat[inside] @ vector)) == pytest.approx(1, abs=1e-8)
    found = landscape(model, F.cross_entropy, [(x, y)], x=X, y=Y, plane=plane)
    np.testing.assert_allclose(found.loss, points(model, x, y, plane, X, Y), rtol=1e-10)
    assert [s.curvature for s in found.check.exact] == pytest.approx(list(plane.values), rel=1e-6)

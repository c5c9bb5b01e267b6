"""Directions: the norms by their definition, seeds, eigenvectors, principal components, other checkpoints."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sharpkit.core import vec
from sharpkit.diagnostics.surfaces.directions import movable, random_directions
from sharpkit.diagnostics.surfaces.plane import checkpoint_plane, hessian_plane, pca_plane, random_plane
from sharpkit.errors import InputError, UsageError
from tests.core.support import bits
from tests.diagnostics.support import dense, net, samples


class Everything(nn.Module):
    """One layer of every kind that has filters of its own."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 6, 3, groups=2)
        self.up = nn.ConvTranspose2d(6, 4, 2, groups=2)
        self.linear = nn.Linear(5, 3)
        self.attention = nn.MultiheadAttention(4, 2)
        self.norm = nn.LayerNorm((2, 3))
        self.batch = nn.BatchNorm2d(4)
        self.gain = nn.Parameter(torch.tensor(2.0))


def by_name(model, **options):
    (d,) = random_directions(model, 1, **options)
    return dict(zip(movable(model), d, strict=True))


def test_filters_have_the_norms_of_the_weights_by_the_definition():
    torch.manual_seed(0)
    model = Everything()
    d, w = by_name(model, ignore="none"), model.state_dict()

    def same(a, b):
        assert float(a.norm()) == pytest.approx(float(b.norm()), rel=1e-6)

    for i in range(6):  # a kernel of every output channel
        same(d["conv.weight"][i], w["conv.weight"][i])
    for group in range(2):  # (inputs, outputs a group, ...): channel j of a group reads that group's inputs
        for j in range(2):
            same(d["up.weight"][3 * group : 3 * group + 3, j], w["up.weight"][3 * group : 3 * group + 3, j])
    for i in range(3):
        same(d["linear.weight"][i], w["linear.weight"][i])
    for i in range(12):  # rows of query, key and value
        same(d["attention.in_proj_weight"][i], w["attention.in_proj_weight"][i])
    for name in ("conv.bias", "linear.bias", "batch.weight", "gain"):  # of one axis or none: one filter
        same(d[name], w[name])
        assert w[name].numel() == 1 or not torch.equal(d[name].abs(), w[name].abs())
    assert not d["attention.in_proj_bias"].any()  # a filter of norm zero stays


def test_biases_and_normalisation_layers_are_left_alone():
    torch.manual_seed(0)
    d = by_name(Everything())
    still = {name for name, values in d.items() if not values.any()}
    assert still == {
        "conv.bias", "up.bias", "linear.bias", "attention.in_proj_bias", "attention.out_proj.bias",
        "norm.weight", "norm.bias", "batch.weight", "batch.bias", "gain",
    }  # fmt: skip


def test_layers_have_the_norms_of_the_weights_and_none_has_its_own():
    torch.manual_seed(0)
    model = Everything()
    scaled, raw = by_name(model, norm="layer"), by_name(model, norm="none")
    for name in ("conv.weight", "up.weight", "linear.weight"):
        w = model.state_dict()[name]
        assert float(scaled[name].norm()) == pytest.approx(float(w.norm()), rel=1e-6)
        torch.testing.assert_close(scaled[name] / scaled[name].norm(), raw[name] / raw[name].norm())
    entries = torch.cat([values.flatten() for values in by_name(nn.Linear(100, 300), norm="none").values()])
    assert abs(float(entries[entries != 0].std()) - 1) < 0.02


def test_numbers_depend_on_the_seed_alone():
    model = net("cnn")
    first, second = random_directions(model, 2, seed=3)
    assert bits(first) == bits(random_directions(model, 1, seed=3)[0])
    assert bits(first) != bits(second)
    assert bits(first) != bits(random_directions(model, 1, seed=4)[0])
    wide = random_directions(model, 1, seed=3, ignore="none")[0]
    assert bits(wide[0]) == bits(first[0])  # what is ignored is drawn all the same
    single = random_directions(net("cnn").float(), 1, seed=3)[0]
    for a, b in zip(single, first, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-6, atol=1e-7)


def test_what_is_not_trained_does_not_move():
    model = net("mlp")
    model[1].weight.requires_grad_(False)
    assert "1.weight" not in random_plane(model).names


def test_orthogonal_directions_keep_their_lengths():
    model = net("mlp")
    free, right = random_plane(model, seed=5), random_plane(model, seed=5, orthogonal=True)
    a, b = (vec.flatten(axis) for axis in free.axes)
    assert free.angle == pytest.approx(math.degrees(math.acos(float(a @ b / (a.norm() * b.norm())))), abs=1e-9)
    assert abs(free.angle - 90) > 1
    assert right.angle == pytest.approx(90, abs=1e-9)
    assert right.lengths == pytest.approx(free.lengths, rel=1e-12)
    assert bits(right.axes[0]) == bits(free.axes[0])


def test_eigenvectors_of_the_dense_hessian():
    model, (x, y) = net("mlp"), samples()
    values, vectors = torch.linalg.eigh(dense(model, x, y))
    plane = hessian_plane(model, F.cross_entropy, [(x, y)], tol=1e-8)
    assert plane.values == pytest.approx(values[-2:].flip(0).tolist(), rel=1e-8)
    for axis, vector in zip(plane.axes, vectors.T.flip(0), strict=False):
        flat = vec.flatten(axis)
        assert abs(float(flat @ vector)) == pytest.approx(1, abs=1e-8)
        assert flat[flat.abs().argmax()] > 0
    assert plane.angle == pytest.approx(90, abs=1e-6)


def moved(model, scale, seed):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: value + scale * torch.randn(value.shape, generator=generator, dtype=value.dtype)
        if value.is_floating_point()
        else value
        for name, value in model.state_dict().items()
    }


def test_other_checkpoints_are_corners_of_the_plane():
    model = net("cnn")
    states = {"a": moved(model, 0.1, 0), "b": moved(model, 0.2, 1)}
    plane = checkpoint_plane(model, states)
    assert [(m.name, round(m.x, 9), round(m.y, 9)) for m in plane.marks] == [("a", 1, 0), ("b", 0, 1)]
    for mark in plane.marks:
        assert mark.distance < 1e-6
    for i, name in enumerate(plane.names):
        torch.testing.assert_close(dict(model.named_parameters())[name] + plane.axes[1][i], states["b"][name])
    torch.testing.assert_close(model[1].running_var + plane.buffers[0]["1.running_var"], states["a"]["1.running_var"])


def test_orthogonal_planes_go_through_the_same_checkpoints():
    model = net("cnn")
    states = {"a": moved(model, 0.1, 0), "b": moved(model, 0.2, 1)}
    plane = checkpoint_plane(model, states, orthogonal=True)
    mark = plane.marks[1]
    assert plane.angle == pytest.approx(90, abs=1e-9)
    for name, first, second in zip(plane.names, *plane.axes, strict=True):
        there = dict(model.named_parameters())[name] + mark.x * first + mark.y * second
        torch.testing.assert_close(there, states["b"][name])
    there = model[1].running_mean + mark.x * plane.buffers[0]["1.running_mean"]
    torch.testing.assert_close(there + mark.y * plane.buffers[1]["1.running_mean"], states["b"]["1.running_mean"])


def test_principal_components_are_those_of_numpy():
    model = net("mlp")
    states = {str(i): moved(model, 0.1 * (6 - i), i) for i in range(6)} | {"end": model.state_dict()}
    plane = pca_plane(model, states)
    rows = np.stack([np.concatenate([s[n].flatten().numpy() for n in plane.names]) for s in states.values()])
    _, sizes, components = np.linalg.svd(rows - rows.mean(0), full_matrices=False)
    assert plane.values == pytest.approx((sizes**2 / (sizes**2).sum())[:2], rel=1e-9)
    for k, axis in enumerate(plane.axes):
        flat = vec.flatten(axis).numpy()
        sign = np.sign(flat @ components[k])
        np.testing.assert_allclose(flat, sign * components[k], atol=1e-10)
        places = [(m.x, m.y)[k] for m in plane.marks]
        np.testing.assert_allclose(places, (rows - rows[-1]) @ flat, atol=1e-10)
    assert plane.marks[0].x < 0
    assert (plane.marks[-1].x, plane.marks[-1].y) == pytest.approx((0, 0), abs=1e-12)
    left = rows[2] - rows[-1] - sum((rows[2] - rows[-1]) @ c * c for c in components[:2])
    assert plane.marks[2].distance == pytest.approx(np.linalg.norm(left), rel=1e-9)


def test_what_spans_no_plane_is_refused():
    model = net("mlp")
    state = moved(model, 0.1, 0)
    with pytest.raises(UsageError, match="2 components need 3"):
        pca_plane(model, {"a": state, "b": model.state_dict()})
    with pytest.raises(UsageError, match="fewer than 2"):
        pca_plane(model, {"a": state, "b": state, "c": model.state_dict()})
    with pytest.raises(UsageError, match="those of the centre"):
        checkpoint_plane(model, {"a": model.state_dict()})
    with pytest.raises(UsageError, match="parallel"):
        checkpoint_plane(model, {"a": state, "b": state}, orthogonal=True)
    with pytest.raises(UsageError, match="one or two"):
        checkpoint_plane(model, {})
    with pytest.raises(InputError, match=r"no 1\.weight of shape"):
        checkpoint_plane(model, {"a": net("cnn").state_dict()})

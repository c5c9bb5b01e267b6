"""Planes through checkpoints that differ in frozen weights and in buffers: what moves, and what is said of the rest."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sharpkit.core import vec
from sharpkit.diagnostics import checkpoint_plane, landscape, pca_plane
from tests.diagnostics.support import net, samples


class Scaled(nn.Module):
    """A network with a buffer that is no number of batch norm, one that is no float, and one that is not stored."""

    def __init__(self):
        super().__init__()
        self.body = net("cnn")
        self.register_buffer("scale", torch.ones((), dtype=torch.float64))
        self.register_buffer("on", torch.ones(3, dtype=torch.bool))
        self.register_buffer("derived", torch.zeros(2), persistent=False)

    def forward(self, x):
        return self.body(x) * self.scale * self.on


def moved(model, seed, only=""):
    generator = torch.Generator().manual_seed(seed)
    noise = {
        n: 0.2 * torch.randn(v.shape, generator=generator, dtype=torch.float64) for n, v in model.state_dict().items()
    }
    return {n: v + noise[n] if v.is_floating_point() and only in n else v for n, v in model.state_dict().items()}


def of_state(model, state, x, y):
    held = {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(state)
    with torch.no_grad():
        loss = float(F.cross_entropy(model.eval()(x), y))
    model.load_state_dict(held)
    return loss


@pytest.mark.parametrize("bn_mode", ["eval", "recompute"])
def test_frozen_weights_that_differ_move_so_that_the_ends_are_the_checkpoints(bn_mode):
    model, (x, y) = Scaled(), samples("cnn")
    model.body[0].requires_grad_(False)
    states = {"a": moved(model, 1), "b": moved(model, 2)}
    for state in states.values():
        state["scale"] = state["scale"].abs()
    plane = checkpoint_plane(model, states)
    assert plane.names == tuple(name for name, _ in model.named_parameters())
    found = landscape(model, F.cross_entropy, [(x, y)], x=(0.0, 1.0), y=(0.0, 1.0), plane=plane, bn_mode=bn_mode)
    if bn_mode == "eval":
        for loss, state in zip((found.loss[0, 1], found.loss[1, 0]), states.values(), strict=True):
            assert loss == pytest.approx(of_state(model, state, x, y), rel=1e-9)
    assert [note for note in found.notes if "derivatives" not in note] == []
    assert len(found.notes) == (bn_mode == "eval")


def test_slope_and_curvature_count_frozen_weights_that_move():
    model, (x, y) = net("mlp"), samples()
    model[1].requires_grad_(False)
    plane = checkpoint_plane(model, {"a": moved(model, 1)})
    found = landscape(model, F.cross_entropy, [(x, y)], x=np.linspace(-1, 1, 5), y=None, plane=plane)
    h, w = 1e-4, {n: v.clone() for n, v in model.state_dict().items()}
    low, mid, high = (
        of_state(model, {n: v + t * dict(zip(plane.names, plane.axes[0], strict=True))[n] for n, v in w.items()}, x, y)
        for t in (-h, 0, h)
    )
    assert found.check.exact[0].slope == pytest.approx((high - low) / (2 * h), rel=1e-6)
    assert found.check.exact[0].curvature == pytest.approx((high + low - 2 * mid) / h**2, rel=1e-3)
    assert not model[1].weight.requires_grad


def test_frozen_weights_that_are_the_same_stay_out_of_the_plane():
    model = net("mlp")
    model[1].requires_grad_(False)
    assert checkpoint_plane(model, {"a": moved(model, 1, only="3.")}).names == ("3.weight", "3.bias")


def test_principal_components_count_frozen_weights():
    model = net("mlp")
    model[1].requires_grad_(False)
    states = {str(i): moved(model, i) for i in range(4)} | {"end": model.state_dict()}
    plane = pca_plane(model, states)
    rows = np.stack(
        [np.concatenate([s[n].flatten().numpy() for n, _ in model.named_parameters()]) for s in states.values()]
    )
    _, sizes, components = np.linalg.svd(rows - rows.mean(0), full_matrices=False)
    assert plane.values == pytest.approx((sizes**2 / (sizes**2).sum())[:2], rel=1e-9)
    for axis, component in zip(plane.axes, components, strict=False):
        assert abs(float(vec.flatten(axis).numpy() @ component)) == pytest.approx(1, rel=1e-9)


def test_buffers_that_stay_are_named():
    model = Scaled()
    state = moved(model, 1)
    state["on"] = torch.tensor([True, False, True])
    del state["body.1.running_var"]
    (missing, differ) = checkpoint_plane(model, {"a": state}).notes
    assert missing == "a lacks buffer body.1.running_var: the model's own are used"
    assert "differ in buffer on:" in differ
    found = pca_plane(model, {"a": moved(model, 1), "b": moved(model, 2), "w": model.state_dict()})
    (note,) = found.notes
    assert "body.1.running_mean" in note
    assert "scale" in note
    x, y = samples("cnn")
    assert note in landscape(model, F.cross_entropy, [(x, y)], x=(0.0, 1.0), y=(0.0, 1.0), plane=found).notes
    assert checkpoint_plane(model, {"a": moved(model, 1, only="weight")}, buffers=False).notes == ()

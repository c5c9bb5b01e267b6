"""Every diagnostic leaves the model and the random streams as they were, bit for bit, also when it fails."""

import random
from contextlib import suppress

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from sharpkit.diagnostics import (
    checkpoint_plane,
    graddiff,
    gradnorms,
    hessian,
    hessian_plane,
    landscape,
    pca_plane,
    random_plane,
    sharpness,
)
from sharpkit.diagnostics.gradients.gradient_variance import gradient_variance
from sharpkit.diagnostics.surfaces.directions import random_directions
from sharpkit.errors import InputError, UsageError
from tests.diagnostics.zoo import ZOO, animal, everything, samples

GRID = (-1.0, 0.0, 1.0)


def other(model, scale):
    return {name: value + scale if value.is_floating_point() else value for name, value in model.state_dict().items()}


def surface(model, loss, batches, plane):
    return landscape(model, loss, batches, x=GRID, y=GRID, plane=plane)


DIAGNOSTICS = {
    "hessian": lambda m, loss, b: hessian(m, loss, b, bottom=1, tol=0.1, density=True, steps=3, trace="hutchinson"),
    "hessian, finite differences": lambda m, loss, b: hessian(m, loss, b, top=1, tol=0.5, products="fd"),
    "hessian, batch statistics": lambda m, loss, b: hessian(m, loss, b, top=1, tol=0.1, bn_mode="train"),
    "gauss-newton": lambda m, loss, b: hessian(m, loss, b, top=1, tol=0.1, kind="ggn", dtype=torch.float32),
    "fisher": lambda m, loss, b: hessian(m, loss, b, top=1, tol=0.1, kind="fisher"),
    "sharpness": lambda m, loss, b: sharpness(m, loss, b, steps=2, directions=2, m=5),
    "sharpness, batch statistics": lambda m, loss, b: sharpness(m, loss, b, "asam", steps=2, bn_mode="train"),
    "surface": lambda m, loss, b: landscape(m, loss, b, x=GRID, y=GRID, convex=1),
    "surface, recomputed": lambda m, loss, b: landscape(m, loss, b, x=GRID, y=GRID, bn_mode="recompute"),
    "surface, interpolated": lambda m, loss, b: landscape(m, loss, b, x=GRID, y=None, adaptive=0.1, chunk=4),
    "surface of eigenvectors": lambda m, loss, b: surface(m, loss, b, hessian_plane(m, loss, b, tol=0.1)),
    "surface of checkpoints": lambda m, loss, b: surface(
        m, loss, b, checkpoint_plane(m, {"a": other(m, 0.1), "b": twice(m)})
    ),
    "surface of components": lambda m, loss, b: surface(
        m, loss, b, pca_plane(m, {"a": other(m, 0.1), "b": twice(m), "w": copy_of(m)})
    ),
    "gradient differences": lambda m, loss, b: graddiff(m, loss, b, dropout=True),
    "gradient differences, stored": lambda m, loss, b: graddiff(m, loss, b, bn_mode="eval", dtype=torch.float32),
    "gradient norms": lambda m, loss, b: gradnorms(m, loss, b, dropout=True),
    "gradient variance": lambda m, loss, b: gradient_variance(m, loss, b),
    "directions": lambda m, loss, b: (random_directions(m, 2), random_plane(m)),
}  # fmt: skip


def twice(model):
    return {name: 1.3 * value if value.is_floating_point() else value for name, value in model.state_dict().items()}


def copy_of(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def failing(after, error):
    """Cross-entropy that draws from every stream, and fails at its call of that number."""
    calls = 0

    def loss(outputs, targets, reduction):
        nonlocal calls
        calls += 1
        _ = torch.rand(()), random.random(), np.random.rand()
        if calls == after:
            raise error
        return F.cross_entropy(outputs, targets, reduction=reduction)

    return loss


@pytest.mark.parametrize("kind", ZOO)
@pytest.mark.parametrize("diagnostic", DIAGNOSTICS)
def test_the_model_and_the_streams_come_back_bit_for_bit(diagnostic, kind):
    model, (x, y) = animal(kind), samples()
    torch.manual_seed(5)
    before = everything(model)
    # Not all matrices have products by finite differences; derivatives of what writes to its weights are wrong.
    with suppress(*((InputError, UsageError) if kind in ("max_norm", "clipped") else ())):
        DIAGNOSTICS[diagnostic](model, F.cross_entropy, [(x[:6], y[:6]), (x[6:], y[6:])])
    assert everything(model) == before


@pytest.mark.parametrize("after", [1, 2, 5])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("no")])
@pytest.mark.parametrize("diagnostic", [d for d in DIAGNOSTICS if d != "directions"])
def test_they_come_back_when_it_fails(diagnostic, error, after):
    (x, y), reached = samples(), 0
    for kind in ("max_norm", "restless", "weight norm", "cumulative batch norm"):
        model = animal(kind)
        before = everything(model)
        try:
            DIAGNOSTICS[diagnostic](model, failing(after, error), [(x[:6], y[:6]), (x[6:], y[6:])])
        except type(error):
            reached += 1
        assert everything(model) == before
    assert reached or after > 1

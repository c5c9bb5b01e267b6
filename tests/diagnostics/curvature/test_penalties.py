"""Curvature of losses that hold more than a function of the outputs, such as weight decay inside `Task.losses`."""

import pytest
import torch
from torch.func import functional_call, grad, jacrev
from torch.nn import functional as F

from sharpkit.core.task import Supervised
from sharpkit.diagnostics import hessian
from sharpkit.diagnostics.curvature.matrices import Curvature
from sharpkit.diagnostics.problem import opened
from tests.diagnostics.support import net, samples, uneven

PENALTIES = {
    "weight decay": lambda losses, w, f: losses + 0.05 * sum((p**2).sum() for p in w.values()),
    "fourth powers of one tensor": lambda losses, w, f: losses + (w["3.weight"] ** 4).sum(),
    "absolute values": lambda losses, w, f: losses + sum(p.abs().sum() for p in w.values()),
    "a factor": lambda losses, w, f: losses * (1 + sum((p**2).sum() for p in w.values())),
    "confidence against a weight": lambda losses, w, f: losses + f.square().sum(1) * w["1.bias"].exp().sum(),
}


class Penalised(Supervised):
    """Cross entropy and a penalty on the weights, for every sample."""

    def __init__(self, model, penalty):
        super().__init__(model, F.cross_entropy)
        object.__setattr__(self, "penalty", penalty)

    def losses(self, outputs, batch):
        return self.penalty(super().losses(outputs, batch), dict(self.model.named_parameters()), outputs)


def linearised(model, penalty, x, y):
    """The Hessian of the mean loss with the outputs replaced by their first-order expansion at the weights."""
    named = {name: p.detach() for name, p in model.named_parameters()}
    sizes = [p.numel() for p in named.values()]
    start = torch.cat([p.flatten() for p in named.values()])

    def parts(flat):
        pieces = flat.split(sizes)
        return {name: v.reshape(p.shape) for (name, p), v in zip(named.items(), pieces, strict=True)}

    def call(flat):
        return functional_call(model, parts(flat), (x,))

    rows, outputs = jacrev(call)(start), call(start)

    def loss(flat):
        f = outputs + rows @ (flat - start)
        return penalty(F.cross_entropy(f, y, reduction="none"), parts(flat), f).mean()

    return jacrev(grad(loss))(start)


def matrix_of(problem):
    """The Gauss-Newton matrix, a few of its columns once more from graphs that are not kept."""
    identity = torch.eye(problem.size, dtype=torch.float64)
    kept, anew = Curvature(problem, "ggn"), Curvature(problem, "ggn", memory_bytes=0)
    matrix = torch.stack([kept.product(column) for column in identity])
    for i in (0, problem.size // 2, problem.size - 1):
        torch.testing.assert_close(anew.product(identity[i]), matrix[i], rtol=1e-12, atol=1e-12)
    return matrix


@pytest.mark.parametrize("name", PENALTIES)
def test_gauss_newton_has_the_penaltys_own_hessian(name):
    model, (x, y) = net("mlp"), samples()
    with opened(model, Penalised(model, PENALTIES[name]), uneven(x, y)) as problem:
        matrix = matrix_of(problem)
    torch.testing.assert_close(matrix, linearised(model, PENALTIES[name], x, y), rtol=1e-9, atol=1e-10)


def test_a_penalty_on_hidden_features_is_differentiated_in_full():
    """What the task keeps from its own forward pass is no function of the outputs: all its second derivatives count."""

    class Features(Supervised):
        def outputs(self, batch):
            hidden = self.model[:3](batch.inputs)
            object.__setattr__(self, "hidden", hidden)
            return self.model[3](hidden)

        def losses(self, outputs, batch):
            return super().losses(outputs, batch) + self.hidden.square().mean(1)

    model, (x, y) = net("mlp"), samples()
    named = {name: p.detach() for name, p in model[:3].named_parameters()}
    names = list(named)

    def extra(*tensors):
        return functional_call(model[:3], dict(zip(names, tensors, strict=True)), (x,)).square().mean(1).mean()

    blocks = torch.autograd.functional.hessian(extra, tuple(named.values()))
    rows = zip(blocks, named.values(), strict=True)
    inner = torch.cat([torch.cat([b.reshape(p.numel(), -1) for b in row], 1) for row, p in rows])
    expected = linearised(model, lambda losses, w, f: losses, x, y)
    expected[: len(inner), : len(inner)] += inner
    with opened(model, Features(model, F.cross_entropy), [(x, y)]) as problem:
        matrix = matrix_of(problem)
    torch.testing.assert_close(matrix, expected, rtol=1e-9, atol=1e-10)


def test_weight_decay_inside_the_losses_is_that_of_the_option():
    model, data = net("mlp"), samples()
    inside = hessian(model, Penalised(model, PENALTIES["weight decay"]), [data], kind="ggn", tol=1e-10)
    option = hessian(model, F.cross_entropy, [data], kind="ggn", weight_decay=0.1, tol=1e-10)
    assert inside.eigenvalues == pytest.approx(option.eigenvalues, rel=1e-8)

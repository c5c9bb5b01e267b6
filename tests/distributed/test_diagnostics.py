"""Every diagnostic on several ranks finds what it finds in one process, on every rank."""

import math
from dataclasses import fields, is_dataclass

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sharpkit.core.comm import ALONE
from sharpkit.core.task import Batch
from sharpkit.diagnostics import graddiff, gradnorms, hessian, hessian_plane, landscape, random_plane, sharpness
from sharpkit.errors import SharpkitError
from tests.diagnostics.support import net, samples, uneven
from tests.distributed.launch import once

SIZES = [2, pytest.param(4, marks=pytest.mark.slow)]
X, Y = (-0.6, -0.2, 0.2, 0.6), (-0.5, 0.0, 0.5)


class Kinked(nn.Module):
    """A net whose activation has no second derivative in autograd."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.outer = nn.Linear(16, 4).double(), nn.Linear(4, 3).double()

    def forward(self, x):
        return self.outer(_Once.apply(self.inner(x.flatten(1))))


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.tanh(x)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        return grad * (1 - torch.tanh(ctx.saved_tensors[0]) ** 2)


def given(kind="mlp", sizes=(7, 7, 6), double=True):
    """A net and its samples in batches of these sizes."""
    x, y = samples(kind, sum(sizes))
    batches = uneven(x, y, sizes)
    if double:
        return net(kind), F.cross_entropy, batches
    return net(kind).float(), F.cross_entropy, [(a.float(), b) for a, b in batches]


def many(count=7, size=6):
    return given("cnn", (size,) * count)


def mixed():
    """A net with dropout, and batches."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 6), nn.Tanh(), nn.Dropout(0.4), nn.Linear(6, 3)).double()
    x, y = samples(count=30)
    return model, F.cross_entropy, uneven(x, y, (6,) * 5)


def stopping(comm, first, second):
    """A watch that stops after as many calls as said of the first rank and of the others; alone, of the others."""
    limit = first if comm.rank == 0 and comm.size > 1 else second
    calls = []
    return lambda *_: calls.append(0) or limit is None or len(calls) < limit


CASES = {
    "hessian": lambda c: hessian(*given("cnn"), top=3, bottom=2, tol=1e-8, comm=c),
    "hessian, one batch": lambda c: hessian(*given("cnn", (7,)), top=2, tol=1e-8, comm=c),
    "hessian, one sample": lambda c: hessian(*given("mlp", (1,)), top=2, tol=1e-8, comm=c),
    "hessian, no memory for graphs": lambda c: hessian(*given("cnn"), top=2, tol=1e-8, memory_bytes=30_000, comm=c),
    "hessian, restarted": lambda c: hessian(*given(), top=1, tol=1e-8, memory_bytes=15_000, comm=c),
    "hessian, float32": lambda c: hessian(*given("cnn", double=False), top=2, tol=1e-4, comm=c),
    "hessian, training mode": lambda c: hessian(*given("cnn", (6, 5, 7)), top=2, tol=1e-8, bn_mode="train", comm=c),
    "hessian, differences": lambda c: hessian(Kinked(), *given()[1:], top=2, tol=1e-4, trace="hutchinson", comm=c),
    "hessian, scipy": lambda c: hessian(*given("cnn"), top=2, tol=1e-8, backend="scipy", comm=c),
    "ggn": lambda c: hessian(*given("cnn"), kind="ggn", top=2, tol=1e-8, weight_decay=0.1, comm=c),
    "fisher": lambda c: hessian(*given("cnn"), kind="fisher", top=2, tol=1e-8, comm=c),
    "density, trace and error bars": lambda c: hessian(
        *given("cnn"), top=2, tol=1e-8, density=True, steps=12, runs=2, trace="deflated", trace_tol=1e-3,
        trace_products=12, error_bars=True, comm=c,
    ),
    "hutch++": lambda c: hessian(*given(), top=1, tol=1e-8, trace="hutch++", trace_products=15, comm=c),
    "block": lambda c: hessian(*given(), top=3, tol=1e-8, block=2, comm=c),
    "hessian, stopped on rank 1": lambda c: hessian(
        *given("cnn"), top=3, tol=1e-12, watch=stopping(c, None, 5), comm=c
    ),
    "landscape": lambda c: landscape(*given("cnn"), x=X, y=Y, convex=2, comm=c),
    "landscape, one sample": lambda c: landscape(*given("mlp", (1,)), x=X, y=Y, comm=c),
    "landscape, statistics anew": lambda c: landscape(*given("cnn", (6, 5, 7)), x=X, y=Y, bn_mode="recompute", comm=c),
    "landscape, adaptive": lambda c: landscape(
        *given(), x=np.linspace(-1, 1, 15), y=np.linspace(-1, 1, 15), adaptive=0.2, comm=c
    ),
    "landscape, hessian": lambda c: landscape(
        *given(), x=X, y=Y, plane=hessian_plane(*given(), tol=1e-10, comm=c), comm=c
    ),
    "landscape, bf16": lambda c: landscape(*given("cnn", double=False), x=X, y=Y, amp="bf16", comm=c),
    "landscape, stopped on rank 1": lambda c: landscape(
        *given(), x=X, y=Y, watch=stopping(c, None, 5), comm=c
    ),
    "gradnorms": lambda c: gradnorms(*many(), comm=c),
    "gradnorms, fewer than ranks": lambda c: gradnorms(*many(1), bn_mode="eval", comm=c),
    "gradnorms, dropout": lambda c: gradnorms(*mixed(), dropout=True, seed=4, comm=c),
    "graddiff": lambda c: graddiff(*many(5), comm=c),
    "graddiff, dropout": lambda c: graddiff(*mixed(), "ssam-f:rho=0.1", dropout=True, seed=4, comm=c),
    "graddiff, one batch": lambda c: graddiff(*many(1, 7), "asam:rho=0.3", bn_mode="eval", comm=c),
    "graddiff, one batch in pieces": lambda c: graddiff(*many(1, 19), "sam:rho=0.3", accumulate=4, eps=1e-12, comm=c),
    "sharpness": lambda c: sharpness(
        *given("cnn"), "sam:rho=0.2", steps=6, restarts=1, directions=3, m=3, m_steps=2, comm=c
    ),
    "sharpness, training mode": lambda c: sharpness(
        *given("cnn", (7, 7, 6)), "asam:rho=0.2", steps=4, restarts=0, directions=2, bn_mode="train", comm=c
    ),
    "sharpness, fisher": lambda c: sharpness(
        *given(), "fisher-sam:rho=0.2", steps=4, restarts=0, directions=2, comm=c
    ),
    "sharpness, one sample": lambda c: sharpness(*given("mlp", (1,)), steps=3, restarts=0, directions=2, m=1, comm=c),
}  # fmt: skip

TOLERANCES = {
    "hessian, float32": 1e-5,
    "hessian, differences": 1e-6,  # of rounding over the step
    "landscape, bf16": 2e-2,
    "landscape, hessian": 1e-8,  # the eigenvectors' own
}
UNLIKE = {
    "seconds", "how", "forwards", "backwards", "residuals", "vectors", "steps", "bounds", "notes", "evaluations",
}  # fmt: skip
"""What need not be the same: times, counts of probes, and what is rounding itself."""


def plain(value):
    """A result as plain data, without what need not be the same."""
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().numpy()
    if is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value) if f.name not in UNLIKE}
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return value


def found(name, comm):
    try:
        return plain(CASES[name](comm))
    except SharpkitError as error:
        return error.message


def refused(comm):
    """What ranks are told that are not alike, or ask for what runs in one process only."""
    mine = torch.Generator().manual_seed(comm.rank)
    model, loss, batches = given()
    shuffled = [batches[int(k)] for k in torch.randperm(3, generator=mine)] if comm.rank else batches[::-1]
    other = net("mlp", seed=comm.rank)
    asked = {
        "pyhessian": lambda: hessian(model, loss, batches, backend="pyhessian", comm=comm),
        "order": lambda: hessian(model, loss, shuffled, comm=comm),
        "weights": lambda: landscape(other, loss, batches, x=X, y=Y, plane=random_plane(net("mlp")), comm=comm),
        "own batches": lambda: gradnorms(model, loss, [batches[comm.rank % 2]] * 3, comm=comm),
        "not finite": lambda: sharpness(
            model, loss, [Batch(batches[0][0] * (math.nan if comm.rank else 1), batches[0][1])], comm=comm
        ),
    }
    told = {}
    for name, ask in asked.items():
        with pytest.raises(SharpkitError) as error:
            ask()
        told[name] = str(error.value)
    return told


def every_case(comm):
    return {"refused": refused(comm), **{name: found(name, comm) for name in CASES}}


def close(got, expected, tol, where=""):
    if isinstance(expected, dict):
        assert got.keys() == expected.keys(), where
        for key in expected:
            close(got[key], expected[key], tol, f"{where}.{key}")
    elif isinstance(expected, list):
        assert len(got) == len(expected), where
        for i, (a, b) in enumerate(zip(got, expected, strict=True)):
            close(a, b, tol, f"{where}[{i}]")
    elif isinstance(expected, float | np.ndarray) and np.asarray(expected).dtype.kind == "f":
        scale = np.abs(np.nan_to_num(expected, posinf=0, neginf=0)).max(initial=0)
        np.testing.assert_allclose(got, expected, rtol=tol, atol=tol * scale, err_msg=where)
    else:
        np.testing.assert_equal(got, expected, err_msg=where)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", CASES)
def test_a_diagnostic_on_ranks_is_that_of_one_process(name, size, shared):
    expected = found(name, ALONE)
    first, *others = [values[name] for values in once(size, every_case, folder=shared / str(size))]
    assert isinstance(first, dict), first
    close(first, expected, TOLERANCES.get(name, 1e-10))
    for other in others:
        close(other, first, 0)


def test_what_ranks_cannot_do_together_is_refused_on_all(shared):
    first, second = (values["refused"] for values in once(2, every_case, folder=shared / "2"))
    assert first == second
    assert "runs in one process" in first["pyhessian"]
    assert "other weights" in first["weights"]
    for name in ("order", "own batches", "not finite"):
        assert "the same batches" in first[name]

"""mSAM: every shard of a batch with a perturbation of its own."""

import copy

import pytest
import torch
from torch.nn import functional as F

from sharpkit.errors import UsageError
from tests.core.support import batch, bits, gradient, joint_norm, net, sharp, weights


def shard_gradients(model, x, y, sizes, rho):
    """sum_i (|S_i| / b) grad L(S_i; w + rho g_i / ||g_i||) over contiguous shards of these sizes."""
    before = weights(model)
    total = [torch.zeros_like(w) for w in before]
    at = 0
    for size in sizes:
        part = x[at : at + size], y[at : at + size]
        at += size
        g = gradient(model, *part)
        there = [w + rho * v / (joint_norm(g) + 1e-12) for w, v in zip(before, g, strict=True)]
        for t, h in zip(total, gradient(model, *part, at=there), strict=True):
            t += size / len(x) * h
    return total


@pytest.mark.parametrize(
    ("size", "m", "sizes"),
    [
        *[(8, 4, (2, 2, 2, 2)), (8, 3, (3, 3, 2)), (7, 4, (2, 2, 2, 1)), (5, 4, (2, 1, 1, 1)), (5, 2, (3, 2))],
        *[(4, 4, (1, 1, 1, 1)), (3, 4, (1, 1, 1)), (1, 4, (1,)), (2, 100, (1, 1)), (8, 1, (8,))],
    ],
)
def test_every_shard_has_its_own_perturbation_and_its_share_of_the_update(size, m, sizes):
    """Also where the batch does not divide into m, or is smaller than m."""
    x, y = batch(size)
    model = net()
    expected = shard_gradients(model, x, y, sizes, 0.3)
    before, fed = weights(model), []
    hook = model.register_forward_pre_hook(lambda _, args: fed.append(args[0].clone()))
    report = sharp(f"msam:rho=0.3:m={m}", model, torch.optim.SGD(model.parameters(), lr=1.0)).step((x, y))
    hook.remove()
    moved = [a - b for a, b in zip(before, weights(model), strict=True)]
    torch.testing.assert_close(moved, expected, rtol=0, atol=1e-12)
    assert [len(f) for f in fed[::2]] == [len(f) for f in fed[1::2]] == list(sizes)  # each clean, then perturbed
    for passes in (fed[::2], fed[1::2]):
        assert torch.equal(torch.cat(passes), x)  # contiguous, in order, every sample once
    assert report.gradients == pytest.approx(2, abs=1e-12)
    assert (report.forward_samples, report.backward_samples) == (2 * size, 2 * size)
    assert float(report.loss) == pytest.approx(float(F.cross_entropy(copy.deepcopy(net())(x), y).detach()), abs=1e-12)
    assert report.outputs.shape == (size, 3)


def test_batch_norm_keeps_the_statistics_of_every_clean_shard():
    x, y = batch(8)
    model, twin = net("batch-norm"), net("batch-norm")
    sharp("msam:m=3", model).step((x, y))
    for part in (x[:3], x[3:6], x[6:]):
        twin(part)
    assert bits(dict(model.named_buffers())) == bits(dict(twin.named_buffers()))


def test_looksam_remembers_a_direction_for_every_shard():
    """A smaller batch leaves the later shards' directions, and their age, as they are."""
    opt = sharp("msam+looksam:rho=0.1:m=3:k=4", net())
    opt.step(batch(9))
    memory = opt.state_dict()["memory"]
    assert {key for key in memory if key.endswith("looksam.v")} == {f"{i}/looksam.v" for i in range(3)}
    opt.step(batch(2, seed=1))
    opt.step(batch(9, seed=2))
    assert [opt.state_dict()["memory"][f"{i}/looksam.age"] for i in range(3)] == [2, 2, 1]


def test_a_closure_cannot_be_cut():
    model = net()
    opt = sharp("msam", model)
    with pytest.raises(UsageError, match="closure"):
        opt.step(lambda: None)

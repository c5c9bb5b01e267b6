"""Batch-norm statistics of a step on two ranks are those of the passes that `bn_stats` names, the same on both."""

import numpy as np
import pytest
import torch

from sharpkit.core.batch_norm import synchronise
from sharpkit.core.task import Batch
from tests.core.support import batch, net, numbered, sharp
from tests.distributed.launch import once
from tests.distributed.test_recipes import part

RULES = ("sgd", "ss-sam:p=0", "ae-sam:lam1=40:lam2=40", "sam", "msam:m=2", "sampa", "mesa:start=-1")
STEPS = 3


def after_steps(comm):
    """Buffers by rule and kind of batch norm, with perturbed statistics."""
    found = {}
    for rule in RULES:
        for synchronised in (False, True):
            model = net("batch-norm")
            if synchronised:
                synchronise(model, comm)
            opt = sharp(rule, model, bn_stats="perturbed", comm=comm)
            for t in range(STEPS):
                opt.step(part(Batch(*numbered(8, seed=t)), comm, opt.rule.shards))
            found[rule, synchronised] = {key: b.clone() for key, b in model.named_buffers()}
    return found


def lonely(comm):
    """Buffers after ESAM has descended on a sample of rank 0 alone, and what batch norm saw of it there."""
    model, given = net("batch-norm"), []
    opt = sharp("esam:beta=1:gamma=0.5:rho=0", model, bn_stats="perturbed", comm=comm)
    x, y = batch(4)
    model[1].register_forward_pre_hook(lambda module, args: given.append(args[0].detach().numpy().copy()))
    opt.step((x[:2], y[:2]) if comm.rank == 0 else (x[2:], y[2:]))
    return dict(model.named_buffers()), given


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES)
def test_every_step_updates_statistics_once_on_every_rank(rule, shared):
    values = once(2, after_steps, folder=shared / "statistics")
    one = {}
    model = net("batch-norm")
    opt = sharp(rule, model, bn_stats="perturbed")
    for t in range(STEPS):
        opt.step(numbered(8, seed=t))
    one = dict(model.named_buffers())
    for synchronised in (False, True):
        first, second = (value[rule, synchronised] for value in values)
        assert all(torch.equal(first[key], second[key]) for key in first)
        assert torch.equal(first["1.num_batches_tracked"], one["1.num_batches_tracked"])
    synced = values[0][rule, True]
    torch.testing.assert_close(synced, {key: one[key] for key in synced}, rtol=0, atol=1e-12)


@pytest.mark.slow
def test_a_rank_without_selected_samples_takes_the_statistics_of_the_others(shared):
    """With a radius of 0 all rises are 0, so the first half of the batch is selected, all of it on rank 0."""
    (buffers, given), (others, _) = once(2, lonely, folder=shared / "lonely")
    x = given[-1]
    np.testing.assert_allclose(buffers["1.running_mean"], 0.1 * x.mean(0), rtol=0, atol=1e-12)
    np.testing.assert_allclose(buffers["1.running_var"], 0.9 + 0.1 * x.var(0, ddof=1), rtol=0, atol=1e-12)
    assert int(buffers["1.num_batches_tracked"]) == 1
    assert all(torch.equal(buffers[key], others[key]) for key in buffers)

"""Every recipe on a model of fully_shard is the recipe on one process with the whole batch."""

import functools

import pytest
import torch
from torch import nn
from torch.distributed.fsdp import fully_shard

from sharpkit.core.batch_norm import synchronise
from tests.core.support import net, numbered, sharp
from tests.distributed.launch import on_ranks
from tests.distributed.test_recipes import BATCHES, EVERY, part
from tests.recipes.test_precision_contract import drawing

SPARSE = [rule for rule in EVERY if "ssam" in rule]
RUNNING = [rule for rule in EVERY if rule not in SPARSE]


def cut(model):
    """Shard every layer with parameters on its own, and the model."""
    for layer in model:
        if list(layer.parameters()):
            fully_shard(layer)
    return fully_shard(model)


def whole(model):
    return [p.full_tensor() if hasattr(p, "full_tensor") else p.detach().clone() for p in model.parameters()]


def trained(rule, size, comm=None, **options):
    """The weights after some steps, in float64, and what was reported."""
    model = net("batch-norm" if "sam-on" in rule else "mlp")
    if comm is not None:
        synchronise(model, comm)
        cut(model)
    opt = sharp(rule, model, draw=drawing(torch.float64), comm=comm, **options)
    torch.manual_seed(0)
    reports = []
    for t, count in enumerate(BATCHES[size]):
        batch = numbered(count, seed=t)
        from sharpkit.core.task import Batch

        batch = Batch(*batch)
        report = opt.step(batch if comm is None else part(batch, comm, opt.rule.shards))
        notes = {name: float(value) for name, value in report.notes.items()}
        reports.append((float(report.loss), report.forward_samples, report.backward_samples, report.gradients, notes))
    return whole(model), reports


def every_recipe(comm, rules):
    return {rule: trained(rule, comm.size, comm) for rule in rules}


@functools.cache
def found(size, tmp):
    try:
        return on_ranks(size, every_recipe, RUNNING, folder=tmp / str(size))
    except AssertionError as error:
        return error  # once for all that ask


@pytest.fixture(scope="module")
def tmp(tmp_path_factory):
    return tmp_path_factory.mktemp("sharded")


@pytest.mark.parametrize("size", [2, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("rule", RUNNING)
def test_sharded_parameters_are_one_process_with_the_whole_batch(rule, size, tmp):
    values = found(size, tmp)
    if isinstance(values, AssertionError):
        raise values
    expected, reports = trained(rule, size)
    for value in values:
        got, told = value[rule]
        for a, b in zip(got, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(told, reports, rtol=1e-12, atol=1e-12)

"""Every recipe on several ranks is the recipe on one: of the whole batch, or of one shard a rank."""

from dataclasses import replace

import pytest
import torch

from sharpkit.core.batch_norm import synchronise
from sharpkit.core.task import Batch, portion
from sharpkit.recipes.grammar import parse
from tests.core.support import net, numbered, sharp, weights
from tests.distributed.launch import once
from tests.recipes.test_compiled_contract import UNIONS
from tests.recipes.test_precision_contract import NAMES, drawing
from tests.recipes.test_unions import RUNNING, joint

EVERY = list(dict.fromkeys([*NAMES, *UNIONS]))
PAIRS = [joint(a, b) for a, b in RUNNING]
BATCHES = {2: (8, 9, 8, 9, 8, 9), 4: (17, 16, 18, 17, 16, 19)}
"""Sizes by the number of ranks, uneven, so that every rank has some of every shard that a recipe cuts."""


def part(batch, comm, shards=1):
    """A rank's samples of a batch, with what everybody has."""
    rows, parts = portion(batch.size, comm.rank, comm.size, shards)
    return Batch(batch.inputs[rows], batch.targets[rows], batch.indices[rows], parts=parts)


def trained(rule, size, comm=None, shards=None, **options):
    """The weights after some steps, in float64, and the counters."""
    kind = "batch-norm" if "sam-on" in rule else "mlp"
    model = net(kind)
    if comm is not None and options.get("ascent_scope") != "local":
        synchronise(model, comm)
    variant = parse(rule) if shards is None else replace(parse(rule), shards=shards)
    opt = sharp(variant, model, draw=drawing(torch.float64), comm=comm, **options)
    torch.manual_seed(0)
    reports = []
    for t, count in enumerate(BATCHES[size]):
        batch = Batch(*numbered(count, seed=t))
        report = opt.step(batch if comm is None else part(batch, comm, opt.rule.shards))
        reports.append((float(report.loss), report.forward_samples, report.backward_samples, report.gradients))
    return weights(model), reports


def every_recipe(comm, rules, scope):
    return {rule: trained(rule, comm.size, comm, ascent_scope=scope) for rule in rules}


def values_of(rule, size, scope, shared):
    """What every rank gave for a recipe."""
    rules = LOCAL if scope == "local" else [*EVERY, *PAIRS] if size == 2 else EVERY
    return [value[rule] for value in once(size, every_recipe, tuple(rules), scope, folder=shared / f"{scope}{size}")]


UNSHARDED = {"sam-on", "msam", "esam"}  # which have batch norm, shards of their own, or one draw a batch
LOCAL = [rule for rule in EVERY if not UNSHARDED & {name.partition(":")[0] for name in rule.split("+")}]


@pytest.mark.parametrize("size", [2, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("rule", EVERY)
def test_global_scope_is_one_process_with_the_whole_batch(rule, size, shared):
    expected, reports = trained(rule, size)
    for got, told in values_of(rule, size, "global", shared):
        for a, b in zip(got, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(told, reports, rtol=1e-12, atol=0)


@pytest.mark.parametrize("size", [2, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("rule", LOCAL)
def test_local_scope_is_one_process_with_a_shard_a_rank(rule, size, shared):
    expected, reports = trained(rule, size, shards=size)
    for got, told in values_of(rule, size, "local", shared):
        for a, b in zip(got, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(told, reports, rtol=1e-12, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("pair", PAIRS)
def test_a_union_in_global_scope_is_that_of_one_process(pair, shared):
    test_global_scope_is_one_process_with_the_whole_batch(pair, 2, shared)

"""An optimizer that does not know of its ranks is refused, and so is a model that reduces gradients by itself."""

import re

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from sharpkit import Supervised
from sharpkit.core.comm import SingleProcess
from sharpkit.core.task import Batch
from sharpkit.errors import UsageError
from tests.core.support import bits, everything, net, numbered, sharp, weights
from tests.distributed.launch import once
from tests.distributed.test_recipes import part

STEPS = 3
pytestmark = pytest.mark.slow


def refused(make):
    """What is said, None where nothing is refused."""
    try:
        make()
    except UsageError as error:
        return str(error)
    return None


def sharded():
    model = net("mlp")
    fully_shard(model)
    return model


def every_refusal(comm):
    """What is said of each case on this rank."""
    ddp = DistributedDataParallel(net())
    task = Supervised(ddp, cross_entropy)
    _, pair = comm.pairs()
    said = {
        "bare": refused(lambda: sharp("sam", net())),
        "ddp": refused(lambda: sharp("sam", ddp)),
        "ddp and ranks": refused(lambda: sharp("sam", ddp, comm=comm)),
        "ddp inside": refused(lambda: sharp("sam", nn.Sequential(ddp), comm=comm)),
        "ddp in the task": refused(lambda: sharp("sam", ddp.module, comm=comm, loss=task)),
        "fsdp1": refused(
            lambda: sharp("sam", FullyShardedDataParallel(net(), device_id=torch.device("cpu")), comm=comm)
        ),
        "fsdp2": refused(lambda: sharp("sam", sharded())),
        "fsdp2 and ranks": refused(lambda: sharp("sam", sharded(), comm=comm)),
        "ranks": refused(lambda: sharp("sam", net(), comm=comm)),
        "pair": refused(lambda: sharp("sampa", net(), pair=pair)),
        "alone": refused(lambda: sharp("sam", net(), comm=SingleProcess())),
    }
    model = net()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dist, "is_initialized", lambda: False)
        early = sharp("sam", model)
    before = everything(model, early)
    said["initialised after"] = refused(lambda: early.step(numbered()))
    assert everything(model, early) == before
    return said


def unwrapped(comm):
    """The weights after steps of what DistributedDataParallel wraps, on parts of the batches."""
    model = DistributedDataParallel(net()).module
    opt = sharp("sam", model, comm=comm)
    for t in range(STEPS):
        opt.step(part(Batch(*numbered(9, seed=t)), comm))
    return weights(model)


def on_one_rank(comm, rules):
    """The weights after steps in a process group of one rank, of a bare model and of a wrapped one."""
    found = {}
    for rule in rules:
        for wrapped in (False, True):
            model = net("batch-norm")
            opt = sharp(rule, DistributedDataParallel(model) if wrapped else model)
            for t in range(STEPS):
                opt.step(numbered(9, seed=t))
            found[rule, wrapped] = bits(weights(model))
    return found


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("bare", "process group of 2 ranks and comm was not given.*give comm=sharpkit.Ranks"),
        ("initialised after", "process group of 2 ranks and comm was not given"),
        ("ddp", "wrapped in DistributedDataParallel on 2 ranks.*give model.module and comm=sharpkit.Ranks"),
        ("ddp and ranks", "wrapped in DistributedDataParallel"),
        ("ddp inside", "wrapped in DistributedDataParallel"),
        ("ddp in the task", "wrapped in DistributedDataParallel"),
        ("fsdp1", "wrapped in FullyShardedDataParallel .FSDP1. on 2 ranks.*fully_shard"),
        ("fsdp2", "process group of 2 ranks and comm was not given"),
        *((case, None) for case in ("fsdp2 and ranks", "ranks", "pair", "alone")),
    ],
)
def test_replicas_that_would_drift_apart_are_refused(case, message, shared):
    for said in once(2, every_refusal, folder=shared / "refusals"):
        if message is None:
            assert said[case] is None
        else:
            assert re.search(message, said[case] or "")  # of one line, as the dot does not match its end
            assert "\n" not in said[case]


def test_what_a_wrapper_holds_is_trained_as_by_one_process(shared):
    model = net()
    opt = sharp("sam", model)
    for t in range(STEPS):
        opt.step(numbered(9, seed=t))
    for value in once(2, unwrapped, folder=shared / "unwrapped"):
        torch.testing.assert_close(value, weights(model), rtol=0, atol=1e-12)


RULES = ("sam", "sampa", "esam:beta=0.5", "sam-on", "ae-sam", "msam:m=2")


@pytest.mark.parametrize("rule", RULES)
def test_a_process_group_of_one_rank_changes_nothing(rule, shared):
    (found,) = once(1, on_one_rank, RULES, folder=shared / "one")
    model = net("batch-norm")
    opt = sharp(rule, model)
    for t in range(STEPS):
        opt.step(numbered(9, seed=t))
    assert found[rule, False] == bits(weights(model))
    assert found[rule, True] == bits(weights(model))

"""Parameters that are frozen and unfrozen in the middle of a run, on two ranks."""

import pytest
import torch

from sharpkit.core.task import Batch
from sharpkit.errors import UsageError
from tests.core.support import bits, net, numbered, sharp, weights
from tests.distributed.launch import once
from tests.distributed.test_recipes import part
from tests.distributed.test_sharded import cut, whole
from tests.recipes.test_precision_contract import drawing

RULES = ("sam", "sampa", "vasso:theta=0.4", "looksam:k=3", "mesa:start=-1:decay=0.6", "ssam-f:nf=8", "esam")
SHARDED = tuple(rule for rule in RULES if "ssam" not in rule)
FLAGS = (True, True, False, False, True, True)

pytestmark = pytest.mark.slow


def trained(rule, model, given, **options):
    opt = sharp(rule, model, draw=drawing(torch.float64), **options)
    for t, flag in enumerate(FLAGS):
        model[0].requires_grad_(flag)
        opt.step(given(Batch(*numbered(8, seed=t))))
    return opt


def every_way(comm):
    """The weights by way and rule."""
    found = {}
    for rule in RULES:
        model = net()
        trained(rule, model, lambda batch: part(batch, comm), comm=comm)
        found["replicas", rule] = weights(model)
    for rule in SHARDED:
        model = cut(net())
        trained(rule, model, lambda batch: part(batch, comm), comm=comm)
        found["shards", rule] = whole(model.parameters())
    model = net()
    _, pair = comm.pairs()
    trained("sampa", model, lambda batch: batch, pair=pair)
    found["pair", "sampa"] = weights(model)
    return found


def unfrozen_late(comm):
    """What is said where a layer of a sharded model is unfrozen that was frozen when it was sharded."""
    model = net()
    model[0].requires_grad_(False)
    model = cut(model)
    opt = sharp("sam", model, comm=comm)
    opt.step(part(Batch(*numbered(8)), comm))
    model[0].requires_grad_(True)
    with pytest.raises(UsageError) as caught:
        opt.step(part(Batch(*numbered(8)), comm))
    return str(caught.value)


@pytest.mark.parametrize(
    ("way", "rule"),
    [*(("replicas", rule) for rule in RULES), *(("shards", rule) for rule in SHARDED), ("pair", "sampa")],
)
def test_two_ranks_take_the_steps_of_one_process(way, rule, shared):
    model = net()
    trained(rule, model, lambda batch: batch)
    values = [value[way, rule] for value in once(2, every_way, folder=shared / "ways")]
    assert bits(values[0]) == bits(values[1])
    torch.testing.assert_close(values[0], weights(model), rtol=0, atol=1e-12)


def test_a_sharded_parameter_that_passes_give_no_gradient_is_refused(shared):
    for said in once(2, unfrozen_late, folder=shared / "late"):
        assert "parameter 0.weight of a fully sharded model was frozen when the optimizer was built" in said

"""Rules as answers to questions, and their union."""

from dataclasses import dataclass, fields

import pytest
import torch

from sharpkit import RECIPES, Rule
from sharpkit.core import parts
from sharpkit.core.slots import Filter, Mask, Metric, Part
from sharpkit.errors import ConflictError, UsageError
from sharpkit.recipes.asam import asam
from sharpkit.recipes.bisam import SmoothedErrors
from sharpkit.recipes.saf import mesa, saf
from sharpkit.recipes.sam import sam
from sharpkit.recipes.sampa import sampa
from sharpkit.recipes.sgd import sgd
from tests.core.support import batch, bits, gradient, joint_norm, net, sharp, trail, weights


@dataclass(frozen=True)
class Ones(Metric):
    def diagonal(self, step, direction):
        return [torch.ones_like(v) for v in direction]


@dataclass(frozen=True)
class Keep(Filter):
    factor: float = 1.0

    def apply(self, step, direction):
        return [self.factor * v for v in direction]


@dataclass(frozen=True)
class Only(Mask):
    """Perturb the tensors whose name ends in `suffix`; `inside` is fixed by the two classes below."""

    suffix: str

    def apply(self, step, v):
        return [t if name.endswith(self.suffix) else torch.zeros_like(t) for name, t in zip(step.names, v, strict=True)]


@dataclass(frozen=True)
class OnlyInside(Only):
    inside = True


SLOT_VALUES = {
    "gate": (parts.Every(2), parts.Every(3)),
    "ascent": (parts.Gradient(), sampa().ascent),
    "ascent_loss": (SmoothedErrors("log", 1.0), SmoothedErrors("tanh", 1.0)),
    "filter": (Keep(1.0), Keep(2.0)),
    "metric": (Ones(), asam().metric),
    "radius": (parts.Constant(0.1), parts.Constant(0.2)),
    "rows": (parts.SameBatch(), sampa().rows),
    "descent": (parts.Climbed(), sampa().descent),
    "shards": (2, 3),
    "auxiliary": (saf().auxiliary, mesa().auxiliary),
}


@pytest.mark.parametrize("slot", SLOT_VALUES)
def test_two_answers_to_one_question_are_refused_by_slot(slot):
    mine, theirs = SLOT_VALUES[slot]
    with pytest.raises(ConflictError, match=rf"a and b both claim the slot '{slot}' and answer it differently"):
        Rule("a", **{slot: mine}) + Rule("b", **{slot: theirs})


@pytest.mark.parametrize("slot", SLOT_VALUES)
def test_the_same_answer_twice_and_one_answer_alone_unite(slot):
    mine, _ = SLOT_VALUES[slot]
    for other in (Rule("b"), Rule("b", **{slot: mine})):
        for united in (Rule("a", **{slot: mine}) + other, other + Rule("a", **{slot: mine})):
            assert getattr(united, slot) == mine
            assert united.stated() == {slot}


def test_the_table_of_slots_above_is_complete():
    assert set(SLOT_VALUES) == {f.name for f in fields(Rule)} - {"name", "text", "masks"}


def test_unequal_disjoint_slots_unite_in_either_order():
    gated, smoothed = Rule("a", gate=parts.Every(2), shards=2), Rule("b", filter=Keep(), masks=(Only("bias"),))
    one, other = gated + smoothed, smoothed + gated
    assert (one.name, other.name) == ("a+b", "b+a")
    assert one.stated() == other.stated() == {"gate", "shards", "filter", "masks"}
    assert all(getattr(one, slot) == getattr(other, slot) for slot in one.stated())


def test_masks_are_collected_once_each():
    a, b = Rule("a", masks=(Only("bias"),)), Rule("b", masks=(Only("bias"), Only("weight")))
    assert (a + b).masks == (Only("bias"), Only("weight"))


@pytest.mark.parametrize("measure", [{"metric": Ones()}, {"masks": (Only("bias"),)}])
def test_the_radius_of_the_rule_that_measures_it_holds(measure):
    measured = Rule("m", radius=parts.Constant(2.0), **measure)
    assert (measured + sam(0.1)).radius == (sam(0.1) + measured).radius == parts.Constant(2.0)
    assert (Rule("m", **measure) + sam(0.1)).radius == parts.Constant(0.1)
    with pytest.raises(ConflictError, match="'radius'"):
        measured + Rule("n", radius=parts.Constant(0.1), masks=(Only("weight"),))


@pytest.mark.parametrize("name", [name for name in RECIPES if name not in ("sgd", "saf", "mesa")])
def test_a_rule_that_never_perturbs_unites_with_none_that_would(name):
    for pair in ((sgd(), RECIPES[name]()), (RECIPES[name](), sgd())):
        with pytest.raises(ConflictError, match=rf"sgd never perturbs, so {name} would have nothing.*slot: gate.*use"):
            pair[0] + pair[1]


@pytest.mark.parametrize("added", [saf, mesa])
def test_a_rule_that_only_adds_to_the_loss_leaves_it_to_the_other_whether_to_perturb(added):
    rule = added()
    for united in (sgd() + rule, rule + sgd(), rule):
        assert (united.never, united.auxiliary) == (True, rule.auxiliary)
    for united in (sam() + rule, rule + sam(), rule + sampa()):
        assert (united.never, united.auxiliary) == (False, rule.auxiliary)
    assert (rule + sampa()).gate == sampa().gate


def test_needs_come_from_the_parts():
    assert sampa().needs() == {"batch", "past"}
    assert (sampa() + asam()).needs() == {"batch", "past"}
    assert sam().needs() == asam().needs() == sgd().needs() == set()


def test_parts_are_values():
    assert sampa(lam=0.3) == sampa(lam=0.3) != sampa(lam=0.4)
    assert {asam(), asam()} == {asam()}
    assert all(isinstance(part, Part) for part in (sampa() + asam()).parts())


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: sam(-1), r"rho is -1, allowed is \[0, inf\)"),
        (lambda: sam(float("nan")), "rho is nan"),
        (lambda: sam(float("inf")), "rho is inf"),
        (lambda: asam(eta=-1e-9), r"eta is -1e-09, allowed is \[0, inf\)"),
        (lambda: sampa(lam=1.5), r"lam is 1.5, allowed is \[0, 1\]"),
        (lambda: parts.Every(0), r"k is 0, allowed is \[1, inf\)"),
        (lambda: parts.Bernoulli(1.1), r"p is 1.1, allowed is \[0, 1\]"),
        (lambda: sharp(Rule("x", shards=0), net()), "shards is 0, allowed is 1 or more"),
    ],
)
def test_values_out_of_range_are_refused_with_the_interval(build, message):
    with pytest.raises(UsageError, match=message):
        build()


@pytest.mark.parametrize("mask", [Only("bias"), OnlyInside("bias")])
def test_an_inside_mask_keeps_the_radius_and_an_outside_mask_shrinks_it(mask):
    model = net()
    g, seen = gradient(model, *batch()), trail(model)
    sharp(Rule("masked", masks=(mask,), radius=parts.Constant(0.5)), model).step(batch())
    held = [v if p.dim() == 1 else torch.zeros_like(v) for p, v in zip(seen[0], g, strict=True)]
    length = joint_norm(held) if mask.inside else joint_norm(g)
    offset = [b - a for a, b in zip(seen[0], seen[1], strict=True)]
    torch.testing.assert_close(offset, [0.5 * v / length for v in held], rtol=0, atol=1e-12)


def test_every_perturbs_on_the_first_of_k_steps():
    opt = sharp(Rule("x", gate=parts.Every(3)), net())
    assert [opt.step(batch()).perturbed for _ in range(7)] == [True, False, False, True, False, False, True]
    assert opt.counters()["perturbed"] == 3


@pytest.mark.parametrize(("p", "wanted"), [(0.0, {False}), (1.0, {True})])
def test_bernoulli_at_its_ends(p, wanted):
    opt = sharp(Rule("x", gate=parts.Bernoulli(p)), net())
    assert {opt.step(batch()).perturbed for _ in range(20)} == wanted


def test_bernoulli_draws_from_a_stream_of_its_own():
    """200 draws at p = 0.3 lie within 5 standard deviations; the seed decides, the global stream does not."""

    def decisions(seed, global_seed):
        torch.manual_seed(global_seed)
        opt = sharp(Rule("x", gate=parts.Bernoulli(0.3)), net(), seed=seed)
        return [opt.step(batch()).perturbed for _ in range(200)]

    first = decisions(0, 0)
    assert abs(sum(first) - 60) < 5 * (200 * 0.3 * 0.7) ** 0.5
    assert first == decisions(0, 1) != decisions(1, 0)


def test_a_filter_acts_on_the_climbed_vector():
    """A factor that turns it round climbs down."""
    up, down = net(), net()
    seen_up, seen_down = trail(up), trail(down)
    sharp(Rule("up", radius=parts.Constant(0.5)), up).step(batch())
    sharp(Rule("down", filter=Keep(-3.0), radius=parts.Constant(0.5)), down).step(batch())
    for w, a, b in zip(seen_up[0], seen_up[1], seen_down[1], strict=True):
        torch.testing.assert_close(a - w, w - b, rtol=0, atol=1e-11)


def test_an_empty_rule_is_sam():
    model, twin = net(), net()
    sharp(Rule("empty"), model).step(batch())
    sharp("sam:rho=0.05", twin).step(batch())
    assert bits(weights(model)) == bits(weights(twin))

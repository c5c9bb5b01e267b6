"""Which recipes unite, which do not and why, and that the unions run."""

import copy
from functools import cache
from itertools import combinations, permutations
from typing import get_args

import pytest
import torch

from sharpkit import RECIPES, parse
from sharpkit.core.parts import Constant
from sharpkit.core.rule import SLOTS
from sharpkit.errors import ConflictError, UsageError
from sharpkit.recipes.grammar import parameters
from sharpkit.recipes.gsam import WithRate
from tests.core.support import batch, bits, everything, net, numbered, sharp

NAMES = [
    *("sam", "asam", "fisher-sam", "sam-on", "bisam-tanh", "bisam-log", "vasso", "gsam", "gnp", "msam"),
    *("sampa", "ss-sam", "looksam", "ae-sam", "ae-looksam", "esam", "ssam-f", "ssam-d", "saf", "mesa"),
]
PAIRS = list(combinations(NAMES, 2))

# What the methods claim, written down apart from the code: of each row two recipes exclude each other, and where
# several rows hold both, the first is the reason.
CLAIMS = {
    "gate": {"sampa", "ss-sam", "looksam", "ae-sam", "ae-looksam"},
    "ascent_loss": {"bisam-tanh", "bisam-log"},
    "metric": {"asam", "fisher-sam"},
    "rows": {"esam", "sampa"},
    "descent": {"gsam", "gnp", "sampa", "looksam", "ae-looksam"},
    "auxiliary": {"saf", "mesa"},
    "masks": {"ssam-f", "ssam-d"},
}
ONE_A_STEP = {"esam"}
MEASURED = {"asam", "fisher-sam", "sam-on", "esam", "ssam-f", "ssam-d"}  # the radius has units of its own
SCHEDULES = {"sam", "ss-sam", "ae-sam"}  # whose radius is that of whatever they join


def conflict(a, b):
    """The slot that both claim, or None."""
    return next((slot for slot, names in CLAIMS.items() if {a, b} <= names), None)


def unfit(a, b):
    return ("msam" in (a, b)) and bool({a, b} & ONE_A_STEP)


ALLOWED = [(a, b) for a, b in PAIRS if conflict(a, b) is None]
RUNNING = [pair for pair in ALLOWED if not unfit(*pair)]
REFUSED = [(a, b) for a, b in PAIRS if conflict(a, b) is not None]


def default(name):
    rho = parameters(RECIPES[name]).get("rho")
    return None if rho is None else rho.default


def strength(name):
    return -1 if default(name) is None else 2 if name in MEASURED else 0 if name in SCHEDULES else 1


def joint(a, b):
    """The union's string, with one rho where the defaults would disagree."""
    clash = default(a) != default(b) and strength(a) == strength(b)
    return f"{a}+{b}:rho=0.1" if clash else f"{a}+{b}"


def named(*pairs):
    return pytest.mark.parametrize(("a", "b"), pairs, ids=lambda name: name)


def run(text, steps=5):
    model = net("batch-norm")
    opt = sharp(text, model)
    for t in range(steps):
        opt.step(numbered(8 + (t == 3), seed=t))  # msam's shards of a batch norm need two samples each
    return model, opt


def test_the_table_of_claims_is_of_recipes_there_are():
    assert (
        set().union(*CLAIMS.values(), ONE_A_STEP, MEASURED, SCHEDULES) | {"msam", "vasso"} == set(NAMES) <= set(RECIPES)
    )
    assert len(RUNNING) + len(REFUSED) + len(set(ALLOWED) - set(RUNNING)) == len(PAIRS)
    assert len(RUNNING) > 60


@named(
    *[("sampa", x) for x in ("asam", "sam-on", "vasso", "bisam-tanh", "bisam-log", "fisher-sam")],
    *[("ae-sam", x) for x in ("gnp", "gsam", "asam", "vasso", "sam-on", "bisam-tanh", "fisher-sam")],
    *[("ss-sam", x) for x in ("gnp", "gsam", "asam", "vasso", "sam-on")],
    *[
        ("asam", "sam-on"),
        ("msam", "asam"),
        ("msam", "sampa"),
        ("msam", "sam-on"),
        ("msam", "fisher-sam"),
        ("msam", "bisam-log"),
        ("msam", "vasso"),
    ],
    *[("ae-sam", x) for x in ("msam", "ssam-f", "ssam-d", "esam")],
    *[("ss-sam", x) for x in ("msam", "ssam-f", "ssam-d", "bisam-log")],
    *[(mask, metric) for mask in ("ssam-f", "ssam-d") for metric in ("asam", "fisher-sam")],
    *[("sampa", "ssam-f"), ("sampa", "ssam-d"), ("sam-on", "ssam-f"), ("sam-on", "ssam-d")],
)
def test_the_unions_that_are_promised_exist(a, b):
    for one, other in ((a, b), (b, a)):
        rule = parse(f"{one}+{other}:rho=0.1")
        assert rule.name == f"{one}+{other}"
        assert rule.stated() == RECIPES[a]().stated() | RECIPES[b]().stated()
        assert rule.radius == Constant(0.1)
    assert (a, b) in RUNNING or (b, a) in RUNNING


@named(
    *[("gnp", "gsam"), ("looksam", "gsam"), ("ss-sam", "ae-sam"), ("sampa", "ss-sam"), ("sampa", "gnp")],
    *[("ss-sam", "looksam"), ("sampa", "gsam"), ("sampa", "ae-sam"), ("sampa", "looksam"), ("looksam", "gnp")],
    *[("asam", "fisher-sam"), ("bisam-tanh", "bisam-log"), ("ae-sam", "looksam"), ("ae-sam", "ae-looksam")],
)
def test_the_unions_that_are_ruled_out_are_refused(a, b):
    assert (a, b) in REFUSED or (b, a) in REFUSED
    for text in (f"{a}+{b}", f"{b}+{a}", f"{a}+{b}:rho=0.1"):
        with pytest.raises(ConflictError):
            parse(text)


@named(*REFUSED)
def test_a_refusal_names_both_recipes_and_the_slot(a, b):
    for one, other in ((a, b), (b, a)):
        with pytest.raises(ConflictError) as caught:
            parse(f"{one}+{other}")
        assert caught.value.message == (
            f"{one} and {other} both claim the slot {conflict(a, b)!r} and answer it differently"
        )
        assert conflict(a, b) in SLOTS
        assert caught.value.hint == "leave one of them out"
        assert caught.value.exit_code == 2


@pytest.mark.parametrize("name", [name for name in NAMES if name not in CLAIMS["auxiliary"]])
def test_nothing_that_perturbs_unites_with_sgd(name):
    for text in (f"sgd+{name}", f"{name}+sgd", f"sgd+{name}:rho=0.1"):
        with pytest.raises(ConflictError) as caught:
            parse(text)
        assert caught.value.message == (f"sgd never perturbs, so {name} would have nothing to act on (slot: gate)")
        assert "alone" in caught.value.hint


@named(*[pair for pair in ALLOWED if unfit(*pair)])
def test_what_is_decided_once_a_step_cannot_be_cut_into_shards(a, b):
    """The message names the union; with one shard there is nothing to cut."""
    for one, other in ((a, b), (b, a)):
        with pytest.raises(UsageError) as caught:
            sharp(f"{one}+{other}:rho=0.1", net())
        assert all(name in str(caught.value) for name in (a, b, "whole_batch"))
    whole = next(name for name in (a, b) if name != "msam")
    model, opt = run(f"{a}+{b}:rho=0.1:m=1")
    twin, alone = run(f"{whole}:rho=0.1")
    assert bits(model.state_dict()) == bits(twin.state_dict())
    assert opt.counters() == alone.counters()


@named(*RUNNING)
def test_every_union_runs_in_either_order_and_resumes(a, b):
    text = joint(a, b)
    model, opt = run(text, 3)
    state, kept = copy.deepcopy((opt.state_dict(), model.state_dict()))
    resumed = net("batch-norm", seed=9)
    resumed.load_state_dict(kept)
    again = sharp(text, resumed)
    again.load_state_dict(state)
    for one in (opt, again):
        for t in (3, 4):
            one.step(numbered(8 + (t == 3), seed=t))
    assert everything(model, opt) == everything(resumed, again)
    assert all(p.isfinite().all() for p in model.parameters())
    assert opt.counters()["steps"] == 5
    assert opt.counters()["perturbed"] > 0
    twin, other = run(text.replace(f"{a}+{b}", f"{b}+{a}"))
    assert bits(model.state_dict()) == bits(twin.state_dict())
    assert bits(opt.state_dict()["memory"]) == bits(other.state_dict()["memory"])
    assert opt.counters() == other.counters()


@cache
def end(head, settings):
    """Where a recipe is after two epochs and a half, of the settings taking those that it has."""
    own = {key for name in head.split("+") for key in parameters(RECIPES[name])}
    taken = [f"{key}={value}" for key, value in settings if key in own]
    return bits(run(":".join([head, *taken]), 10)[0].state_dict())


@named(*[pair for pair in RUNNING if "sam" not in pair])
def test_every_union_differs_from_both_of_its_parts(a, b):
    """Neither recipe is silently left out. Whoever decides when to perturb does so on the first two steps alone."""
    settings = (("rho", 0.2), ("lam1", 2), ("lam2", 2), ("k", 3), ("theta", 0.5), ("start", 0), ("lag", 1))
    united = end(f"{a}+{b}", settings)
    assert united != end(a, settings)
    assert united != end(b, settings)


# ---------------------------------------------------------------------- the radius of a union


@named(*ALLOWED)
def test_the_radius_is_that_of_the_stronger_claim_or_must_be_given(a, b):
    """Measured in a metric or on a mask, over a method's own, over that of a recipe that only says when."""
    for one, other in ((a, b), (b, a)):
        if joint(a, b).endswith(":rho=0.1"):
            with pytest.raises(ConflictError) as caught:
                parse(f"{one}+{other}")
            assert caught.value.message == f"{one} and {other} both claim the slot 'radius' and answer it differently"
            assert caught.value.hint == "give one for both, as in :rho=0.1"
        else:
            assert parse(f"{one}+{other}").radius == Constant(default(max((a, b), key=strength)))
        assert parse(f"{one}+{other}:rho=0.3").radius == Constant(0.3)


def test_a_radius_that_follows_the_rate_holds_where_nothing_measures_it():
    schedule = "rho_max=0.3:rho_min=0.1"
    for text in ("ae-sam+gsam", "gsam+ae-sam", "ss-sam+gsam", "sam+gsam"):
        assert parse(f"{text}:{schedule}").radius == WithRate(0.3, 0.1)


@pytest.mark.parametrize("other", ["asam", "fisher-sam", "sam-on"])
@pytest.mark.parametrize("given", ["rho_max=0.3:rho_min=0.1", "rho_max=0.9", "rho=0.1:rho_max=0.3"])
def test_radii_that_are_given_are_used_or_refused(other, given):
    """Never accepted and ignored: GSAM's schedule is published for the adaptive form too."""
    for names in (f"gsam+{other}", f"{other}+gsam"):
        try:
            rule = parse(f"{names}:{given}")
        except UsageError:
            continue
        assert isinstance(rule.radius, WithRate)


# ---------------------------------------------------------------------- names and strings


@named(*ALLOWED)
def test_the_canonical_text_of_a_union_builds_the_same_rule(a, b):
    for text in (joint(a, b), joint(a, b).replace(f"{a}+{b}", f"{b}+{a}")):
        rule = parse(text)
        assert parse(rule.text) == rule


@named(*ALLOWED)
def test_every_parameter_of_a_union_can_be_set_alone(a, b):
    """`alpha` or `scope` may mean different things in two recipes: the recipe's name before it says which is meant."""
    shared = parameters(RECIPES[a]).keys() & parameters(RECIPES[b]).keys() - {"rho"}
    for key in shared:
        for name, other in ((a, b), (b, a)):
            own, theirs = (parameters(RECIPES[n])[key] for n in (name, other))
            value = own.default * 0.5 if own.kind is float else next(c for c in get_args(own.kind) if c != own.default)
            settings = parse(f"{joint(a, b)}:{name}.{key}={value}").text.split(":")
            assert f"{name}.{key}={value}" in settings
            assert f"{other}.{key}={theirs.default}" in settings


@pytest.mark.parametrize(
    "names",
    [
        *[("sampa", "asam", "vasso"), ("sampa", "sam-on", "bisam-log"), ("ae-sam", "asam", "gnp")],
        *[("ss-sam", "vasso", "sam-on"), ("msam", "asam", "gnp"), ("ae-looksam", "vasso", "sam-on")],
        ("fisher-sam", "vasso", "gsam"),
    ],
    ids="+".join,
)
def test_unions_of_three_run_in_any_order(names):
    ends = [bits(run(f"{'+'.join(order)}:rho=0.1")[0].state_dict()) for order in permutations(names)]
    assert ends == ends[:1] * 6


@pytest.mark.parametrize(
    ("text", "slot"),
    [
        ("ae-sam+asam+looksam", "gate"),
        ("asam+gnp+gsam", "descent"),
        ("sam-on+asam+fisher-sam", "metric"),
        ("vasso+bisam-log+bisam-tanh", "ascent_loss"),
    ],
)
def test_a_conflict_among_three_is_found(text, slot):
    with pytest.raises(ConflictError, match=slot) as caught:
        parse(f"{text}:rho=0.1")
    assert all(name in str(caught.value) for name in text.split("+"))


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_unites_with_itself_once(name):
    with pytest.raises(UsageError, match=f"{name} is named twice"):
        parse(f"{name}+{name}")


def test_two_gates_that_are_the_same_gate_unite():
    """ae-looksam with ae-sam's thresholds says nothing that ae-sam contradicts."""
    rule = parse("ae-sam+ae-looksam:lam1=0:lam2=1")
    assert rule.gate == parse("ae-sam:lam1=0:lam2=1").gate
    assert rule.descent == parse("ae-looksam").descent


@pytest.mark.parametrize("base", [torch.optim.AdamW, torch.optim.RMSprop])
@pytest.mark.parametrize("text", ["sampa+vasso:rho=0.1", "ae-sam+gnp", "asam+sam-on", "msam+looksam:rho=0.1:m=2"])
def test_unions_run_on_other_bases(text, base):
    model = net("batch-norm")
    opt = sharp(text, model, base(model.parameters(), lr=0.01))
    for t in range(4):
        opt.step(batch(seed=t))
    assert all(p.isfinite().all() for p in model.parameters())

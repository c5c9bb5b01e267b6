"""Recipe strings."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharpkit import RECIPES, Rule, parse
from sharpkit.core.parts import Constant, Every
from sharpkit.errors import ConflictError, UsageError
from sharpkit.recipes.asam import WeightMagnitude
from sharpkit.recipes.grammar import parameters
from sharpkit.recipes.sampa import Optimistic

POSITIVE = st.floats(1e-3, 1e6, allow_nan=False)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("sgd", "sgd"),
        ("sam", "sam:rho=0.05"),
        (" sam : rho = 1e-1 ", "sam:rho=0.1"),
        ("asam:scope=all:eta=0", "asam:rho=0.5:eta=0.0:scope=all"),
        ("sampa:y_step=plain", "sampa:rho=0.1:lam=0.2:y_step=plain"),
        ("sampa+asam", "sampa+asam:rho=0.5:lam=0.2:y_step=peek:eta=0.01:scope=weights"),
        ("asam+sampa:rho=2", "asam+sampa:rho=2.0:eta=0.01:scope=weights:lam=0.2:y_step=peek"),
    ],
)
def test_the_canonical_text_states_every_hyperparameter(text, canonical):
    assert parse(text).text == canonical
    assert parse(canonical) == parse(text)


@given(st.data(), st.sampled_from([*RECIPES, "sampa+asam", "asam+sampa", "sam+asam"]))
def test_canonical_text_round_trips(data, names):
    """Also for numbers whose shortest text is long or has an exponent."""
    chosen = {}
    for name in names.split("+"):
        for key, parameter in parameters(RECIPES[name]).items():
            choices = getattr(parameter.kind, "__args__", None)
            if type(None) in (choices or ()):
                continue
            fraction = key in ("lam", "p", "theta", "delta", "beta", "gamma", "sparsity", "alpha", "decay")
            choices = choices and [c for c in choices if c != "2:4"]  # which holds for one sparsity only
            numbers = st.integers(1, 9) if parameter.kind is int else st.floats(0.01, 0.99) if fraction else POSITIVE
            chosen[key] = data.draw(st.sampled_from(choices) if choices else numbers)
    rule = parse(":".join([names, *(f"{key}={value!r}".replace("'", "") for key, value in chosen.items())]))
    assert parse(rule.text) == rule
    assert parse(rule.text).text == rule.text


def test_values_reach_the_parts():
    rule = parse("sampa+asam:rho=0.7:lam=0.4:y_step=plain:eta=0.3:scope=all")
    assert rule.radius == Constant(0.7)
    assert rule.descent == Optimistic(0.4, "plain")
    assert rule.metric == WeightMagnitude(0.3, "all")
    assert rule.name == "sampa+asam"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "unknown optimizer ''"),
        ("sma", r"unknown optimizer 'sma'.*did you mean 'sam'\? allowed: sgd, sam"),
        ("sam+", r"unknown optimizer '' in 'sam\+'"),
        ("sam+sam", "sam is named twice"),
        ("sam:", "'' in 'sam:' is not key=value"),
        ("sam:rho", "'rho' in 'sam:rho' is not key=value"),
        ("sam:rho=", "'rho=' in 'sam:rho=' is not key=value"),
        ("sam:roh=0.1", r"sam has no parameter 'roh'.*did you mean 'rho'\?"),
        ("sgd:rho=0.1", "sgd has no parameter 'rho'.*leave it out"),
        ("sam:lam=0.1", "sam has no parameter 'lam'"),
        ("sam:rho=big", "rho is 'big', allowed is a number"),
        ("sam:rho=0.1,0.2", "is a list of values"),
        ("sam:rho=-1", r"rho is -1, allowed is \[0, inf\)"),
        ("sam:rho=nan", "rho is nan"),
        ("asam:scope=everything", "scope is 'everything'.*allowed: weights, all"),
        ("asam:scope=weight", r"did you mean 'weights'\?"),
        ("sampa:y_step=peak", r"did you mean 'peek'\?"),
    ],
)
def test_a_bad_string_is_refused_in_one_line_with_what_is_allowed(text, message):
    with pytest.raises(UsageError, match=message) as caught:
        parse(text)
    assert "\n" not in str(caught.value)


def test_conflicts_name_the_slot():
    with pytest.raises(ConflictError, match="slot: gate"):
        parse("sgd+sam")


def test_a_table_of_ones_own_with_whole_numbers():
    def lazy(k: int = 2) -> Rule:
        return Rule("lazy", gate=Every(k))

    table = {**RECIPES, "lazy": lazy}
    assert parse("lazy:k=5", table).gate == Every(5)
    assert parse("asam+lazy", table).text == "asam+lazy:rho=0.5:eta=0.01:scope=weights:k=2"
    with pytest.raises(UsageError, match=r"k is '2\.5', allowed is a whole number"):
        parse("lazy:k=2.5", table)
    with pytest.raises(ConflictError, match="'gate'"):
        parse("sampa+lazy", table)


@pytest.mark.parametrize("name", RECIPES)
def test_parameters_are_read_off_the_signature(name):
    for key, parameter in parameters(RECIPES[name]).items():
        assert parameter.default is None or f"{key}={parameter.default}" in parse(name).text.split(":")

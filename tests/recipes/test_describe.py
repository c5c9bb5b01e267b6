"""What recipes say of themselves, from which the list of recipes and the site's index are made."""

import pytest

from sharpkit import RECIPES, parse
from sharpkit.core.rule import Rule
from sharpkit.recipes.describe import describe
from tests.core.support import net, numbered, sharp


def test_of_sampa():
    said = describe(RECIPES["sampa"])
    assert said.what == "Climb a gradient of the step before, so that both gradients of a step can run at once"
    assert (said.cost, said.source) == ("2 gradients a step", "Xie, Pethick, Cevher (2024)")
    assert said.settings == ("rho=0.1", "lam=0.2", "y_step=peek")
    assert said.slots == ("ascent", "descent", "gate", "radius", "rows")


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_has_a_source_and_a_cost_that_its_steps_have(name):
    said = describe(RECIPES[name])
    assert bool(said.source) is (name != "sgd")
    assert ":".join([name, *said.settings]) == parse(name).text
    opt = sharp(name, net("batch-norm"))
    gradients = [opt.step(numbered(seed=t)).gradients for t in range(6)]
    terms = said.cost.partition(" gradient")[0].split(" + ")
    defaults = dict(setting.split("=") for setting in said.settings)
    if name in ("ss-sam", "looksam", "ae-sam", "ae-looksam"):
        assert terms[0][0] == "1"
        assert set(gradients) <= {1, 2}
    else:
        assert gradients[1] == sum(float(defaults.get(term, term)) for term in terms)


def test_a_recipe_that_does_not_say_its_cost():
    def mute() -> Rule:
        """Do nothing."""
        return Rule("mute")

    with pytest.raises(ValueError, match="the docstring of mute does not say what a step costs"):
        describe(mute)

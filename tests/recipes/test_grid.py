"""Recipe strings with lists of values, and which of some recipes a name means."""

import pytest

from sharpkit.errors import UsageError
from sharpkit.recipes.grid import expanded, named, shortened


@pytest.mark.parametrize(
    ("text", "recipes"),
    [
        ("sgd", ["sgd"]),
        ("sam:rho=0.1", ["sam:rho=0.1"]),
        ("sam:rho=0.1,0.2", ["sam:rho=0.1", "sam:rho=0.2"]),
        ("sampa+asam:lam=0.1, 0.2", ["sampa+asam:lam=0.1", "sampa+asam:lam=0.2"]),
        (
            "ssam-f:sparsity=0.5,0.9:nf=16,64",
            [f"ssam-f:sparsity={s}:nf={n}" for s in ("0.5", "0.9") for n in ("16", "64")],
        ),
        ("ssam-f:structure=2:4,tensor", ["ssam-f:structure=2:4", "ssam-f:structure=tensor"]),
        ("ssam-f:structure=tensor,2:4:nf=16", ["ssam-f:structure=tensor:nf=16", "ssam-f:structure=2:4:nf=16"]),
    ],
)
def test_lists_of_values(text, recipes):
    assert expanded(text) == recipes


@pytest.mark.parametrize("text", ["sam:rho=0.1,", "sam:rho=,", "sam:rho=0.1,0.1"])
def test_lists_that_are_none(text):
    with pytest.raises(UsageError, match=r"has (an empty value|a value twice)"):
        expanded(text)


def test_names_mean_the_same_recipe_in_other_words_or_the_only_one():
    labels = ["sgd", "sam:rho=0.1", "sampa:lam=0.2:rho=0.1", "gnp:alpha=0.5", "gnp:alpha=0.7"]
    assert named("sgd", labels) == "sgd"
    assert named("sam", labels) == "sam:rho=0.1"
    assert named("sampa:rho=0.1:lam=0.2", labels) == "sampa:lam=0.2:rho=0.1"
    assert named("gnp:alpha=0.70", labels) == "gnp:alpha=0.7"
    assert named("sam:rho=0.05", ["sgd", "sam"]) == "sam"
    assert [named(name, labels) for name in ("gnp:alpha=0.6", "asam", "nothing", "")] == [None] * 4


def test_recipes_in_full_are_shortened_by_what_goes_without_saying():
    full = ["sam:rho=0.05", "sampa:rho=0.1:lam=0.2:y_step=peek", "sampa:rho=0.1:lam=0.4:y_step=peek", "sgd"]
    short = shortened(full)
    assert [short[text] for text in full] == ["sam", "sampa:lam=0.2", "sampa:lam=0.4", "sgd"]

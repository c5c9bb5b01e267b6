"""The list of dependencies' licences is complete."""

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def name_of(requirement):
    return re.match(r"[A-Za-z0-9._-]+", requirement)[0]


def dependencies():
    document = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project = document["project"]
    groups = [document["build-system"]["requires"], project["dependencies"], *project["optional-dependencies"].values()]
    return {name_of(requirement) for group in groups for requirement in group} - {"sharpkit"}


def listed():
    """The licence of each package in the table."""
    text = (ROOT / "docs" / "releasing.md").read_text()
    rows = [line.strip("| ").split(" | ") for line in text[text.index("| package |") :].splitlines() if line[:1] == "|"]
    return {name: licence for names, licence, _ in rows[2:] for name in names.split(", ")}


def test_every_dependency_has_its_licence_listed_and_nothing_else():
    assert set(listed()) == dependencies()


@pytest.mark.parametrize("name", sorted(dependencies()))
def test_the_licence_listed_is_the_one_that_the_package_states(name):
    try:
        about = metadata.metadata(name)
    except metadata.PackageNotFoundError:
        pytest.skip("not installed")
    stated = " ".join([about.get("License-Expression", ""), about.get("License", ""), *about.get_all("Classifier", [])])
    families = [family for family in ("BSD", "MIT", "Apache", "MPL") if family in listed()[name].split(",")[0]]
    assert all(family in stated for family in families or ["matplotlib"])


def test_the_tools_of_the_checks_are_pinned():
    """By pyproject.toml or by the constraints that the checks install with."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    pinned = {
        name_of(one).lower() for one in (ROOT / ".ci" / "constraints.txt").read_text().splitlines() if "==" in one
    }
    loose = [
        one for group in ("test", "dev") for one in extras[group] if "==" not in one and not one.startswith("sharpkit")
    ]
    assert {name_of(one).lower() for one in loose} <= pinned
    assert {"pip", "hatchling"} <= pinned

"""What every entry of RECIPES must do; a new one is held to it by being in the table."""

import copy
import inspect
import re
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from sharpkit import RECIPES, Rule, parse
from sharpkit.core.slots import Radius
from sharpkit.errors import UsageError
from sharpkit.recipes.grammar import parameters
from tests.core.support import bits, everything, net, numbered, sharp
from tests.reference import reference

DOCS = Path(__file__).parents[2] / "docs" / "recipes"
NAMES = pytest.mark.parametrize("name", RECIPES)


def nets(*kinds):
    """Every recipe with every net that has something for it to act on."""
    return pytest.mark.parametrize(
        ("name", "kind"), [(n, k) for n in RECIPES for k in kinds if k in getattr(reference(n), "NETS", kinds)]
    )


@NAMES
def test_has_a_reference(name):
    assert inspect.isfunction(reference(name).trajectory)


@NAMES
def test_has_a_page_that_names_its_parameters(name):
    page = DOCS / f"{name}.md"
    assert page.is_file(), f"the recipe {name!r} has no page: write docs/recipes/{name}.md"
    text = page.read_text()
    missing = [key for key in parameters(RECIPES[name]) if not re.search(rf"\b{key}\b", text)]
    assert not missing, f"docs/recipes/{name}.md does not mention {missing}"


@NAMES
def test_defaults_build_a_rule_of_that_name(name):
    rule = RECIPES[name]()
    assert isinstance(rule, Rule)
    assert rule.name == name
    assert replace(parse(name), text="") == rule
    assert parse(parse(name).text) == parse(name)


@NAMES
def test_every_parameter_is_typed_has_a_default_and_is_documented(name):
    signature = inspect.signature(RECIPES[name])
    doc = inspect.getdoc(RECIPES[name])
    assert signature.return_annotation in (Rule, "Rule")
    for key, parameter in signature.parameters.items():
        assert parameter.default is not parameter.empty
        assert parameter.annotation is not parameter.empty
        assert re.search(rf"^    {key}: ", doc, re.MULTILINE), f"{name} does not document {key}"


@pytest.mark.parametrize("name", [name for name in RECIPES if "rho" in parameters(RECIPES[name])])
def test_a_radius_below_zero_is_refused(name):
    with pytest.raises(UsageError, match=r"rho(_min)? is -0\.1, allowed is \[0, inf\)"):
        parse(f"{name}:rho=-0.1")


@nets("mlp", "batch-norm", "dropout")
def test_runs_counts_and_resumes(name, kind):
    """The reference says what the first three steps cost, in all and one after the other, unless chance decides."""
    model = net(kind)
    opt = sharp(name, model)
    reports = [opt.step(numbered(seed=t)) for t in range(2)]
    state, kept = copy.deepcopy((opt.state_dict(), model.state_dict()))
    resumed = net(kind, seed=9)
    resumed.load_state_dict(kept)
    again = sharp(name, resumed)
    again.load_state_dict(state)
    for one in (opt, again):
        torch.manual_seed(2)
        last = one.step(numbered(seed=2))
        declared = [1 + r.perturbed for r in (*reports, last)]
        everywhere, critical = getattr(reference(name), "GRADIENTS", (declared, declared))
        assert [r.gradients for r in (*reports, last)] == everywhere
        assert [r.critical for r in (*reports, last)] == critical
        assert one.counters()["gradients"] == sum(everywhere)
    assert everything(resumed, again) == everything(model, opt)
    assert all(p.isfinite().all() for p in model.parameters())


@NAMES
def test_the_same_run_twice_is_the_same_run(name):
    ends = []
    for _ in range(2):
        model = net("dropout", dtype=torch.float32)
        opt = sharp(name, model)
        torch.manual_seed(0)
        for t in range(3):
            opt.step(numbered(seed=t, dtype=torch.float32))
        ends.append(bits(model.state_dict()))
    assert ends[0] == ends[1]


@dataclass(frozen=True)
class Growing(Radius):
    def at(self, step):
        return 0.01 * (1 + step.clock.step)


@NAMES
@pytest.mark.parametrize("backend", ["eager", pytest.param("aot_eager", marks=pytest.mark.slow)])
def test_does_not_recompile_when_radius_and_rate_change(name, backend):
    """And computes what the uncompiled model does."""
    torch._dynamo.reset()
    counter = CompileCounterWithBackend(backend)
    rule = replace(RECIPES[name](), radius=Growing())
    model, twin = net("batch-norm"), net("batch-norm")
    opt, other = sharp(rule, torch.compile(model, backend=counter)), sharp(rule, twin)
    compiled = []
    for t in range(6):
        for each in (opt, other):
            each.base.param_groups[0]["lr"] = 0.1 / (1 + t)
            each.step(numbered(seed=t))
        compiled.append(counter.frame_count)
    assert compiled[0] > 0
    assert compiled[1:] == [compiled[1]] * 5
    torch.testing.assert_close(model.state_dict(), twin.state_dict(), rtol=0, atol=1e-12)

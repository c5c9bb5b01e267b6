"""Independent transcriptions of the published equations in numpy: flat float64 vectors, no sharpkit code.

Every recipe has a module of its own name here, with

- `trajectory(problem, base, steps, **hyperparameters)`: the iterates;
- `CASES`: hyperparameters that it is compared with the recipe at;
- `MASKED`: others, at which it takes the masks of every step that the recipe drew, in `masks`;
- `GRADIENTS`: what the first three steps cost, in all and one after the other; left out where chance or data decide;
- `NETS` and `PROBLEMS`: of the tests' nets and problems those that it can act on, where it cannot act on all.

A union has a module too, which says what it is in `RECIPE`.
"""

import pkgutil
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType


def reference(recipe: str) -> ModuleType:
    """The module that transcribes a recipe (`ae-sam` is in `ae_sam.py`); a missing one fails the test that asks."""
    name = f"{__name__}.{recipe.replace('-', '_')}"
    path = f"tests/reference/{recipe.replace('-', '_')}.py"
    assert find_spec(name) is not None, f"the recipe {recipe!r} has no reference: write {path} from its equations"
    module = import_module(name)
    assert callable(getattr(module, "trajectory", None)), f"{path} has no trajectory(problem, base, steps, ...)"
    return module


def unions() -> dict[str, ModuleType]:
    """The unions that have a reference."""
    modules = [import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]
    return {module.RECIPE: module for module in modules if hasattr(module, "RECIPE")}

"""How sharp the minimum of a finished run is: measured once of its final checkpoint and kept beside it."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

from sharpkit.commands.stored_sharpness import FILE, read
from sharpkit.diagnostics.curvature.analysis import Wanted
from sharpkit.diagnostics.curvature.spectrum import of_problem
from sharpkit.diagnostics.problem import opened
from sharpkit.diagnostics.sharpness import sharpness
from sharpkit.engine import rundir, seal
from sharpkit.engine.config import TrainConfig
from sharpkit.engine.documents import finite
from sharpkit.engine.trained import Trained, load
from sharpkit.engine.trusted_code import names_of

_BATCH = 256
_BALL = "sam:rho=0.05"
_STEPS = 20


def measure(folder: Path, names: Collection[str], config: TrainConfig) -> None:
    """Measure what is not there yet, on all training samples, and store it under the run's seal.

    lambda is the largest eigenvalue of the Hessian, ratio lambda_1 / lambda_5, trace its trace, worst the rise
    of the loss at distance 0.05 that 20 gradients of ascent find.
    """
    stored = read(folder)
    missing = set(names) - stored.keys()
    if not missing:
        return
    trained = load(folder, device=config.device, requested=names_of(config))
    found: dict[str, float | None] = dict(stored)
    if missing & {"lambda", "ratio", "trace"}:
        found |= _spectrum(trained, trace="trace" in missing)
    if "worst" in missing:
        found["worst"] = _worst(trained)
    rundir.write_text(folder / FILE, json.dumps(finite(found)) + "\n")
    seal.seal_also(folder, FILE)


def _spectrum(trained: Trained, *, trace: bool) -> dict[str, float | None]:
    with opened(trained.model, trained.task, trained.batches(_BATCH)) as problem:
        found = of_problem(problem, Wanted(top=5, tol=1e-3, trace="deflated" if trace else None))
    values: dict[str, float | None] = {"lambda": float(found.eigenvalues[0]), "ratio": found.ratio}
    return values if found.trace is None else {**values, "trace": found.trace.value}


def _worst(trained: Trained) -> float:
    found = sharpness(trained.model, trained.task, trained.batches(_BATCH), _BALL, steps=_STEPS, directions=0)
    return found.ascent.value

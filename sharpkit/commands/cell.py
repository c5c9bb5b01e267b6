"""One cell of a comparison: brought to its end, from wherever it is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from sharpkit.commands import train
from sharpkit.diagnostics.analysis import Wanted
from sharpkit.diagnostics.problem import opened
from sharpkit.diagnostics.spectrum import of_problem
from sharpkit.engine import rundir, seal
from sharpkit.engine.config import TrainConfig
from sharpkit.engine.documents import finite
from sharpkit.engine.fit import Observer
from sharpkit.engine.rundir import RunDir
from sharpkit.engine.trained import load
from sharpkit.errors import InputError

_BATCH = 256


def finish(folder: Path, config: TrainConfig, observer: Observer) -> None:
    """Train a cell: go on with it where a checkpoint is there, else from the beginning.

    A finished cell is left as it is. One whose files cannot be trusted is removed and trained anew.

    Args:
        folder: Of this cell alone.
        config: What it is.
        observer: Is told how it goes.

    Raises:
        SharpkitError: As the errors of `sharpkit.errors` say.
    """
    if seal.fault(folder) is None:
        return
    if not seal.sealed(folder) and RunDir(folder).checkpoint.is_file():
        try:
            train.resume(folder, observer=observer)
        except InputError as error:
            observer.note(f"begun anew: {error.message}")
        else:
            return
    if folder.exists():
        shutil.rmtree(folder)
    train.run(config, folder, observer=observer)


def measure(folder: Path, device: str) -> None:
    """Measure how sharp a finished cell's minimum is, on all training samples, and store it beside the checkpoint.

    lambda is the largest eigenvalue of the Hessian, ratio lambda_1 / lambda_5, trace its trace to 1 %.
    """
    trained = load(folder, device=device)
    with opened(trained.model, trained.task, trained.batches(_BATCH)) as problem:
        found = of_problem(problem, Wanted(top=5, tol=1e-3, trace="deflated"))
    assert found.trace is not None
    values = {"lambda": float(found.eigenvalues[0]), "ratio": found.ratio, "trace": found.trace.value}
    rundir.write_text(folder / "sharpness.json", json.dumps(finite(values)) + "\n")

"""`sharpkit sharpness`: how much the loss rises around the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sharpkit.commands.measure import (
    DTYPES,
    Form,
    Measured,
    Observer,
    Quiet,
    Watch,
    in_pieces,
    in_sequence,
    measure,
)
from sharpkit.commands.result_files import Files
from sharpkit.commands.sharpness_config import SharpnessConfig
from sharpkit.core.task import Batch
from sharpkit.diagnostics.sharpness import Estimate, SharpnessResult, sharpness
from sharpkit.engine.ranks import current
from sharpkit.engine.trained import Trained


def run(
    names: Sequence[str], config: SharpnessConfig, out: Path | None = None, *, plot: bool = True,
    observer: Observer | None = None,
) -> Measured[SharpnessResult]:  # fmt: skip
    """Measure the sharpness of checkpoints and write it to files.

    Args:
        names: Checkpoint files or run directories.
        config: What is computed.
        out: A file for all of them, by its ending png, pdf, svg, npz or csv; None puts files beside the checkpoints.
        plot: Whether a figure is drawn where `out` does not say.
        observer: Is told how it goes.

    Raises:
        SharpkitError: As the errors of `sharpkit.errors` say; of several checkpoints only if all fail.
    """

    def one(trained: Trained, watch: Watch) -> SharpnessResult:
        return sharpness(
            trained.model,
            trained.task,
            trained.batches(config.batch_size),
            config.recipe,
            steps=config.steps,
            restarts=config.restarts,
            directions=config.directions,
            m=config.m,
            m_steps=config.m_steps,
            bn_mode=config.bn_mode,
            dtype=DTYPES[config.dtype],
            seed=config.seed,
            watch=watch,
            comm=current(),
        )

    def probe(trained: Trained) -> Batch:
        return next(trained.random_batches(min(config.batch_size, len(trained.samples)), 1))

    form = Form(
        command="sharpness",
        document=document_of,
        write=Files("sharpness", _arrays, _lines, _figure),
        notes=_notes,
        work=_work,
    )
    told = observer or Quiet()
    return measure(form, names, config, in_pieces(one, probe, config, told), told, out=out, plot=plot)


def document_of(result: SharpnessResult) -> dict[str, Any]:
    """Return a result as plain data."""
    return {
        "rule": result.rule,
        "rho": result.radius,
        "one_step": {**_estimate(result.one_step), "bound": "lower"},
        "ascent": {
            **_estimate(result.ascent),
            "bound": "lower",
            "steps": result.steps,
            "starts": result.starts.tolist(),
        },
        "average": {**_estimate(result.average), "directions": result.directions.tolist()},
        "m_sharpness": None
        if result.m_sharpness is None
        else {**_estimate(result.m_sharpness), "bound": "lower", "m": result.m, "steps": result.m_steps},
        "loss": result.loss,
        "samples": result.samples,
        "parameters": result.parameters,
        "gradients": result.gradients,
        "bn_mode": result.bn_mode,
        "augmentation": "none",
        "weight_decay": 0.0,
        "dtype": result.dtype,
        "seconds": round(result.seconds, 3),
        "complete": result.complete,
        "notes": list(result.notes),
    }


def _estimate(found: Estimate) -> dict[str, Any]:
    return {**asdict(found), "interval": list(found.interval)}


def _pair(found: Estimate) -> list[float]:
    return [found.value, found.error]


def _arrays(result: SharpnessResult) -> dict[str, Any]:
    arrays: dict[str, Any] = {
        "one_step": _pair(result.one_step),
        "ascent": _pair(result.ascent),
        "average": _pair(result.average),
        "starts": result.starts,
        "directions": result.directions,
        "loss": result.loss,
        "rho": result.radius,
    }
    if result.m_sharpness is not None:
        arrays["m_sharpness"] = _pair(result.m_sharpness)
    return arrays


def _lines(results: Mapping[str, SharpnessResult]) -> list[list[Any]]:
    lines: list[list[Any]] = [["ckpt", "rule", "measure", "value", "error", "bound"]]
    for name, result in results.items():
        for measured in ("one_step", "ascent", "average", "m_sharpness"):
            found = getattr(result, measured)
            if found is not None:
                bound = "" if measured == "average" else "lower"
                lines.append([name, result.rule, measured, found.value, found.error, bound])
    return lines


def _figure(results: Mapping[str, SharpnessResult]) -> Any:
    from sharpkit.figures.sharpness import rises

    return rises(results)


def _work(result: SharpnessResult) -> dict[str, float]:
    """Return gradients of all samples; the loss alone is computed twice at first, at one step and in each direction."""
    backwards = result.gradients * result.samples
    return in_sequence(result.gradients, backwards + (3 + len(result.directions)) * result.samples, backwards)


def _notes(result: SharpnessResult) -> list[str]:
    notes = list(result.notes)
    if not result.complete:
        notes.append("stopped before its end; what was found until then is told")
    if result.complete and result.starts.max() > result.starts[0] * (1 + 1e-3):
        notes.append("a random start found more than the start at the weights; more --restarts may find more still")
    return notes

"""`sharpkit graddiff`: how much a perturbation changes the gradient, parameter by parameter."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sharpkit.commands.graddiff_config import GradDiffConfig
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
from sharpkit.core.task import Batch
from sharpkit.data.part import drawn
from sharpkit.diagnostics.gradients.gradient_difference import GradDiffResult, graddiff
from sharpkit.diagnostics.gradients.relative import FINE, Grid, Tally
from sharpkit.engine.ranks import current
from sharpkit.engine.trained import Trained

_COUNTS = ("entries", "counted", "zero", "both_zero", "denormal", "below_eps", "same", "negative", "below_floor")
_OF_A_BATCH = ("fraction_negative", "cosine", "clean_norm", "perturbed_norm", "difference_norm")
QUANTILES = {"q05": 0.05, "q25": 0.25, "median": 0.5, "q75": 0.75, "q95": 0.95}


def run(
    names: Sequence[str], config: GradDiffConfig, out: Path | None = None, *, plot: bool = True,
    observer: Observer | None = None,
) -> Measured[GradDiffResult]:  # fmt: skip
    """Compare the two gradients at checkpoints and write the distribution of their difference to files.

    Args:
        names: Checkpoint files or run directories.
        config: What is computed.
        out: A file for all of them, by its ending png, pdf, svg, npz or csv; None puts files beside the checkpoints.
        plot: Whether a figure is drawn where `out` does not say.
        observer: Is told how it goes.

    Raises:
        SharpkitError: As the errors of `sharpkit.errors` say; of several checkpoints only if all fail.
    """

    def one(trained: Trained, watch: Watch) -> GradDiffResult:
        whole = config.samples is not None
        count = len(trained.samples)
        batches = (
            trained.batches(count)
            if whole
            else trained.random_batches(config.batch_size, config.batches, seed=config.seed)
        )
        return graddiff(
            trained.model,
            trained.task,
            batches,
            config.recipe,
            grid=Grid(config.low, config.high, config.bins),
            eps=config.eps,
            bn_mode=config.bn_mode,
            dropout=config.dropout,
            dtype=DTYPES[config.dtype],
            accumulate=max(1, -(-count // config.batch_size)) if whole else 1,
            seed=config.seed,
            draw=partial(drawn, trained.samples),
            total=1 if whole else config.batches,
            watch=watch,
            comm=current(),
        )

    form = Form(
        command="graddiff",
        document=partial(document_of, factor=factor(config), per_layer=config.per_layer),
        write=Files(
            "graddiff",
            partial(_arrays, factor=factor(config)),
            partial(_lines, factor=factor(config)),
            partial(_figure, config=config),
        ),
        notes=_notes,
        work=_work,
    )

    def probe(trained: Trained) -> Batch:
        return next(trained.random_batches(min(config.batch_size, len(trained.samples)), 1))

    told = observer or Quiet()
    return measure(form, names, config, in_pieces(one, probe, config, told), told, out=out, plot=plot)


def factor(config: GradDiffConfig) -> float:
    """Return what natural logarithms are divided by."""
    return 1.0 if config.log == "e" else math.log(10)


def document_of(result: GradDiffResult, factor: float, per_layer: bool) -> dict[str, Any]:
    """Return a result as plain data."""
    parts: dict[str, Any] = {}
    if per_layer:
        parts["layers"] = [{"layer": name, **_tally(t, result.grid, factor)} for name, t in result.by_layer().items()]
        parts["kinds"] = [{"kind": name, **_tally(t, result.grid, factor)} for name, t in result.by_kind().items()]
    return {
        "rule": result.rule,
        **_tally(result.total, result.grid, factor),
        "error": result.error,
        "log": "e" if factor == 1 else "10",
        "histogram": {
            "edges": (result.grid.edges / factor).tolist(),
            "counts": result.total.histogram.tolist(),
            "under": result.total.under,
            "over": result.total.over,
        },
        "quantile_resolution": result.grid.width / FINE / factor,
        "batches": [
            dict(
                zip(
                    ("fraction_negative", "cosine", "clean_norm", "perturbed_norm", "difference_norm"), row, strict=True
                )
            )
            for row in np.stack(_by_batch(result), 1).tolist()
        ],
        "loss": result.loss,
        "batch_size": result.samples,
        "parameters": result.parameters,
        "eps": result.eps,
        "bn_mode": result.bn_mode,
        "dropout": result.dropout,
        "augmentation": "none",
        "weight_decay": 0.0,
        "dtype": result.dtype,
        "seconds": round(result.seconds, 3),
        "complete": result.complete,
        **parts,
    }


def _tally(tally: Tally, grid: Grid, factor: float) -> dict[str, Any]:
    quantiles = {name: tally.quantile(q, grid) / factor for name, q in QUANTILES.items()}
    return {
        **{name: getattr(tally, name) for name in _COUNTS},
        "excluded": tally.excluded,
        "fraction_negative": tally.fraction_negative,
        "fraction_below_floor": tally.fraction_below_floor,
        **quantiles,
    }


def _by_batch(result: GradDiffResult) -> list[Any]:
    norms = (result.clean_norms, result.perturbed_norms, result.difference_norms)
    return [result.fractions, result.cosines, *norms]


def _arrays(result: GradDiffResult, factor: float) -> dict[str, Any]:
    tallies = [t.tally for t in result.tensors]
    return {
        "edges": result.grid.edges / factor,
        "histogram": result.total.histogram,
        "fine": result.total.fine,
        "tensor": np.array([t.name for t in result.tensors]),
        "kind": np.array([t.kind for t in result.tensors]),
        "tensor_histogram": np.stack([t.histogram for t in tallies]),
        **{f"tensor_{name}": np.array([getattr(t, name) for t in tallies]) for name in (*_COUNTS, "under", "over")},
        **dict(zip(_OF_A_BATCH, _by_batch(result), strict=True)),
        "base": np.array(math.e if factor == 1 else 10.0),
    }


def _lines(results: Mapping[str, GradDiffResult], factor: float) -> list[list[Any]]:
    lines: list[list[Any]] = [["ckpt", "low", "high", "count", "density"]]
    for name, result in results.items():
        edges, width = result.grid.edges / factor, result.grid.width / factor
        for low, high, count in zip(edges[:-1], edges[1:], result.total.histogram, strict=True):
            lines.append([name, float(low), float(high), int(count), count / max(1, result.total.counted) / width])
    return lines


def _figure(results: Mapping[str, GradDiffResult], config: GradDiffConfig) -> Any:
    from sharpkit.figures.differences import differences

    return differences(results, math.e if config.log == "e" else 10)


def _work(result: GradDiffResult) -> dict[str, float]:
    samples = 2.0 * result.batches * result.samples
    return in_sequence(2.0 * result.batches, samples, samples)


def _notes(result: GradDiffResult) -> list[str]:
    notes: list[str] = []
    total = result.total
    if not total.counted:
        notes.append("every entry of g_SGD is excluded, so there is no r")
    elif total.fraction_below_floor > 0.01:
        notes.append(
            f"{100 * total.fraction_below_floor:.2g}% of the differences are no more than rounding; "
            "--dtype float64 computes them"
        )
    if result.clean_norms.min(initial=math.inf) == 0:
        notes.append("a batch has a zero gradient, so nothing was perturbed there")
    return notes

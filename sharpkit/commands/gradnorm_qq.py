"""`sharpkit gradnorm-qq`: are squared stochastic gradient norms normal, and what if they are not?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sharpkit.commands.gradnorm_qq_config import GradNormConfig
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
from sharpkit.diagnostics.gradients.gradient_norms import GradNormResult, gradnorms
from sharpkit.engine.ranks import current
from sharpkit.engine.trained import Trained


def run(
    names: Sequence[str], config: GradNormConfig, out: Path | None = None, *, plot: bool = True,
    observer: Observer | None = None,
) -> Measured[GradNormResult]:  # fmt: skip
    """Measure squared gradient norms of random batches at checkpoints, and write them to files.

    Args:
        names: Checkpoint files or run directories.
        config: What is computed.
        out: A file for all of them, by its ending png, pdf, svg, npz or csv; None puts files beside the checkpoints.
        plot: Whether a figure is drawn where `out` does not say.
        observer: Is told how it goes.

    Raises:
        SharpkitError: As the errors of `sharpkit.errors` say; of several checkpoints only if all fail.
    """

    def batches(trained: Trained, count: int) -> Any:
        return trained.random_batches(config.batch_size, count, seed=config.seed, replacement=config.replacement)

    def one(trained: Trained, watch: Watch) -> GradNormResult:
        return gradnorms(
            trained.model,
            trained.task,
            batches(trained, config.batches),
            lam1=config.lam1,
            lam2=config.lam2,
            delta=config.delta,
            bn_mode=config.bn_mode,
            dropout=config.dropout,
            dtype=DTYPES[config.dtype],
            seed=config.seed,
            population=len(trained.samples),
            total=config.batches,
            watch=watch,
            comm=current(),
        )

    def probe(trained: Trained) -> Batch:
        return next(batches(trained, 1))

    form = Form(
        command="gradnorm-qq",
        document=lambda result: document_of(result, config),
        write=Files("gradnorm-qq", _arrays, _lines, lambda results: _figure(results, config.hist)),
        notes=lambda result: _notes(result, config.replacement),
        work=_work,
    )
    told = observer or Quiet()
    return measure(form, names, config, in_pieces(one, probe, config, told), told, out=out, plot=plot)


def document_of(result: GradNormResult, config: GradNormConfig) -> dict[str, Any]:
    """Return a result as plain data."""
    found, share = result.normality, result.share
    tests = {
        "shapiro": {"statistic": found.shapiro.statistic, "p": found.shapiro.p, "count": found.shapiro_count},
        "anderson": {"statistic": found.anderson.statistic, "p": found.anderson.p},
    }
    return {
        "n": len(result.values),
        "mean": found.mean,
        "var": found.std**2,
        "skewness": found.skewness,
        "kurtosis": found.kurtosis,
        "r_qq": found.r_qq,
        **{name: value for name, value in tests.items() if config.test in ("both", name)},
        "outside_envelope": found.outside,
        "verdict": found.verdict,
        "fit": {"mean": found.intercept, "std": found.slope},
        "ae_sam": asdict(share),
        "values": result.values.tolist(),
        "losses": result.losses.tolist(),
        "batch_size": result.samples,
        "population": result.population,
        "replacement": config.replacement,
        "parameters": result.parameters,
        "bn_mode": result.bn_mode,
        "dropout": result.dropout,
        "augmentation": "none",
        "weight_decay": 0.0,
        "dtype": result.dtype,
        "seconds": round(result.seconds, 3),
        "complete": result.complete,
    }


def _arrays(result: GradNormResult) -> dict[str, Any]:
    found = result.normality
    return {
        "values": result.values,
        "losses": result.losses,
        "theoretical": found.theoretical,
        "ordered": found.ordered,
        "low": found.low,
        "high": found.high,
        "slope": found.slope,
        "intercept": found.intercept,
        "r_qq": found.r_qq,
    }


def _lines(results: Mapping[str, GradNormResult]) -> list[list[Any]]:
    lines: list[list[Any]] = [["ckpt", "batch", "squared_norm", "loss"]]
    for name, result in results.items():
        pairs = zip(result.values.tolist(), result.losses.tolist(), strict=True)
        lines += [[name, i, value, loss] for i, (value, loss) in enumerate(pairs)]
    return lines


def _figure(results: Mapping[str, GradNormResult], histogram: bool) -> Any:
    from sharpkit.figures.norms import norms

    return norms(results, histogram=histogram)


def _work(result: GradNormResult) -> dict[str, float]:
    samples = float(len(result.values) * result.samples)
    return in_sequence(float(len(result.values)), samples, samples)


def _notes(result: GradNormResult, replacement: bool) -> list[str]:
    count = len(result.values)
    notes = [] if result.complete else [f"stopped after {count} batches"]
    per_pass = (result.population or 0) // result.samples
    if not replacement and 0 < per_pass < count:
        passes = -(-count // per_pass)
        notes.append(f"the {count} batches are {passes} passes over the samples, so they are not all independent")
    return notes

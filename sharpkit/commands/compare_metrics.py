"""What a finished run says: the metrics of a comparison, with their titles and units."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharpkit.errors import UsageError

Summary = Mapping[str, Any]


@dataclass(frozen=True)
class Metric:
    """A number of a run.

    Args:
        title: The head of its column.
        unit: Of a difference.
        read: From the summary, NaN-free or a KeyError where the run has none.
        digits: After the point.
    """

    title: str
    unit: str
    read: Callable[[Summary], float]
    digits: int = 2


def _percent(name: str) -> Callable[[Summary], float]:
    return lambda summary: 100 * float(summary["metrics"][name])


def _metric(name: str) -> Callable[[Summary], float]:
    return lambda summary: float(summary["metrics"][name])


def _cost(name: str) -> Callable[[Summary], float]:
    return lambda summary: float(summary["cost"][name])


def _sharpness(name: str) -> Callable[[Summary], float]:
    return lambda summary: float(summary["sharpness"][name])


METRICS: dict[str, Metric] = {
    "acc": Metric("test accuracy, %", "points", _percent("test_acc")),
    "best_acc": Metric("test accuracy at best validation, %", "points", _percent("best_test_acc")),
    "val_acc": Metric("validation accuracy, %", "points", _percent("val_acc")),
    "train_acc": Metric("training accuracy, %", "points", _percent("train_acc")),
    "test_loss": Metric("test loss", "nats", _metric("test_loss"), 4),
    "train_loss": Metric("training loss", "nats", _metric("train_loss"), 4),
    "pct_sam": Metric("SAM steps, %", "points", _metric("pct_sam"), 1),
    "grads": Metric("gradients", "gradients", _cost("grads"), 0),
    "grads_seq": Metric("gradients in sequence", "gradients", _cost("grads_sequential"), 0),
    "grads_critical": Metric("gradients, two devices", "gradients", _cost("grads_critical"), 0),
    "forwards": Metric("forward samples", "samples", _cost("forwards"), 0),
    "backwards": Metric("backward samples", "samples", _cost("backwards"), 0),
    "time": Metric("seconds", "s", _cost("wall_s")),
    "s_per_epoch": Metric(
        "s/epoch", "s", lambda summary: float(summary["cost"]["wall_s"]) / float(summary["metrics"]["epochs"]), 3
    ),
    "ms_per_step": Metric(
        "ms/step", "ms", lambda summary: 1e3 * float(summary["cost"]["wall_s"]) / float(summary["cost"]["steps"])
    ),
    "peak_mb": Metric("peak memory, MB", "MB", _cost("peak_mb"), 0),
    "lambda": Metric("lambda 1", "", _sharpness("lambda"), 3),
    "ratio": Metric("lambda 1 / lambda 5", "", _sharpness("ratio")),
    "trace": Metric("trace", "", _sharpness("trace"), 2),
}


def metric_of(name: str) -> Metric:
    """Return a metric by name; any number of a run's summary is one, under its own name.

    Raises:
        UsageError: If the name cannot be one.
    """
    if name in METRICS:
        return METRICS[name]
    if not name.isidentifier():
        raise UsageError(f"metric is {name!r}, allowed are {', '.join(METRICS)}", "correct --metric")
    return Metric(name, "", lambda summary: float(summary["metrics"].get(name, summary["cost"].get(name))), 4)


def value_of(name: str, summary: Summary) -> float | None:
    """Return a metric of a run, None where it has none."""
    try:
        return metric_of(name).read(summary)
    except (KeyError, TypeError, ValueError):
        return None


def check_known(names: list[str], summaries: list[Summary]) -> None:
    """Refuse a metric that no run has.

    Raises:
        UsageError: If there is one.
    """
    for name in names:
        if summaries and all(value_of(name, summary) is None for summary in summaries):
            known = sorted({*METRICS, *(key for summary in summaries for key in summary["metrics"])})
            close = difflib.get_close_matches(name, known, n=1)
            guess = f"did you mean {close[0]!r}? " if close else ""
            raise UsageError(f"no run has the metric {name!r}", f"{guess}there are {', '.join(known)}")


def read_sharpness(folder: Path) -> dict[str, float]:
    """Return what was measured of a run's final checkpoint; nothing where that is missing or torn."""
    try:
        stored: Any = json.loads((folder / "sharpness.json").read_text(encoding="utf-8"))
        return {str(key): float(value) for key, value in stored.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}

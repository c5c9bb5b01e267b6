"""What a finished run says: the metrics of a comparison, with their titles and units."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sharpkit.engine.config import TrainConfig
from sharpkit.engine.probe_names import KEYS, probe_names
from sharpkit.engine.records import NOTES
from sharpkit.errors import UsageError

Summary = Mapping[str, Any]


@dataclass(frozen=True)
class Metric:
    """A number of a run.

    Args:
        title: The head of its column.
        unit: Of a difference.
        read: From the summary; a KeyError or TypeError where the run has none.
        digits: After the point.
        better: 1 if more is better, -1 if less is, 0 if neither.
    """

    title: str
    unit: str
    read: Callable[[Summary], float]
    digits: int = 2
    better: int = 0


def _from(part: str, name: str, factor: float = 1.0) -> Callable[[Summary], float]:
    return lambda summary: factor * float(summary[part][name])


def _ratio(name: str, of: tuple[str, str], factor: float = 1.0) -> Callable[[Summary], float]:
    return lambda summary: factor * float(summary["cost"][name]) / float(summary[of[0]][of[1]])


METRICS: dict[str, Metric] = {
    "acc": Metric("test accuracy, %", "points", _from("metrics", "test_acc", 100), better=1),
    "best_acc": Metric(
        "test accuracy at best validation, %", "points", _from("metrics", "best_test_acc", 100), better=1
    ),
    "val_acc": Metric("validation accuracy, %", "points", _from("metrics", "val_acc", 100), better=1),
    "train_acc": Metric("training accuracy, %", "points", _from("metrics", "train_acc", 100)),
    "test_loss": Metric("test loss", "nats", _from("metrics", "test_loss"), 4, -1),
    "train_loss": Metric("training loss", "nats", _from("metrics", "train_loss"), 4),
    "pct_sam": Metric("SAM steps, %", "points", _from("metrics", "pct_sam"), 1),
    "epochs": Metric("epochs", "epochs", _from("metrics", "epochs"), 0),
    "grads": Metric("gradients", "gradients", _from("cost", "grads"), 0, -1),
    "grads_seq": Metric("gradients in sequence", "gradients", _from("cost", "grads_sequential"), 0, -1),
    "grads_critical": Metric("gradients, two devices", "gradients", _from("cost", "grads_critical"), 0, -1),
    "forwards": Metric("forward samples", "samples", _from("cost", "forwards"), 0, -1),
    "backwards": Metric("backward samples", "samples", _from("cost", "backwards"), 0, -1),
    "time": Metric("seconds", "s", _from("cost", "wall_s"), 2, -1),
    "s_per_epoch": Metric("s/epoch", "s", _ratio("wall_s", ("metrics", "epochs")), 2, -1),
    "ms_per_step": Metric("ms/step", "ms", _ratio("wall_s", ("cost", "steps"), 1e3), 2, -1),
    "peak_mb": Metric("peak memory, MB", "MB", _from("cost", "peak_mb"), 0, -1),
    "lambda": Metric("lambda 1", "", _from("sharpness", "lambda"), 3, -1),
    "ratio": Metric("lambda 1 / lambda 5", "", _from("sharpness", "ratio"), 2, -1),
    "trace": Metric("trace", "", _from("sharpness", "trace"), 2, -1),
    "worst": Metric("rise of the loss at 0.05, lower bound", "nats", _from("sharpness", "worst"), 4, -1),
}
TIMES = ("time", "s_per_epoch", "ms_per_step", "peak_mb")
"""Those that are another number when a run is repeated."""


def metric_of(name: str) -> Metric:
    """Return a metric by name; any number of a run's summary is one, under its own name.

    Raises:
        UsageError: If the name cannot be one.
    """
    if name in METRICS:
        return METRICS[name]
    if not name.isidentifier():
        raise _unknown(name, METRICS)
    return Metric(name, "", lambda summary: float(summary["metrics"].get(name, summary["cost"].get(name))), 4)


def value_of(name: str, summary: Summary) -> float | None:
    """Return a metric of a run, which may not be finite, None where it has none."""
    try:
        return metric_of(name).read(summary)
    except (KeyError, TypeError, ValueError):
        return None


def check_measured(names: Iterable[str], config: TrainConfig) -> None:
    """Refuse a metric that a run of a configuration is not going to have.

    Raises:
        UsageError: If there is one.
    """
    probed = [key for probe in probe_names(config.probe) for key in KEYS[probe]]
    for name in names:
        if name not in METRICS and name not in NOTES and name not in probed:
            raise _unknown(name, [*METRICS, *NOTES, *probed])
        if name == "val_acc" and not config.val_frac:
            raise UsageError("validation accuracy is asked for, and val-frac is 0", "give --val-frac 0.1")
        if name == "best_acc" and config.save_every != "best":
            raise UsageError(f"the metric best_acc needs save-every best, which is {config.save_every}", "add it")


def check_known(names: Iterable[str], summaries: list[Summary]) -> None:
    """Refuse a metric that no run has.

    Raises:
        UsageError: If there is one.
    """
    for name in names:
        if summaries and all(value_of(name, summary) is None for summary in summaries):
            found = (key for summary in summaries for key in summary["metrics"])
            raise _unknown(name, sorted({*METRICS, *found}), "no run has the metric")


def _unknown(name: str, known: Iterable[str], what: str = "unknown metric") -> UsageError:
    known = list(dict.fromkeys(known))
    close = difflib.get_close_matches(name, known, n=1)
    guess = f"did you mean {close[0]!r}? " if close else ""
    return UsageError(f"{what} {name!r}", f"{guess}allowed: {', '.join(known)}")

"""What a model is judged by: accuracy and the other metrics of GLUE, and GLUE's average over its tasks.

A metric is a function of predictions and targets, both (N,), and is computed in double precision. A correlation of
constants, 0 / 0, is 0, as in scikit-learn's Matthews correlation; SciPy returns NaN for the other two.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from sharpkit.data.glue import PREFIX, TASKS, canonical
from sharpkit.errors import UsageError


def accuracy(predicted: Tensor, targets: Tensor) -> float:
    """Return the fraction of class numbers that are right."""
    return float((predicted == targets).double().mean())


def f1(predicted: Tensor, targets: Tensor) -> float:
    """Return F1 = 2 TP / (2 TP + FP + FN) of class 1, the harmonic mean of precision and recall; 0 for 0 / 0."""
    found, there = predicted == 1, targets == 1
    both, either = int((found & there).sum()), int(found.sum()) + int(there.sum())
    return 2 * both / either if either else 0.0


def matthews(predicted: Tensor, targets: Tensor) -> float:
    """Return Matthews' correlation of two binary variables, in [-1, 1].

    B. Matthews (1975); it is Pearson's correlation of the two, which of several classes it is not.

    Raises:
        UsageError: If there are more than two classes.
    """
    if int(torch.maximum(predicted, targets).max()) > 1:
        raise UsageError("Matthews' correlation is that of two classes, the targets have more", "use accuracy")
    return pearson(predicted, targets)


def pearson(predicted: Tensor, targets: Tensor) -> float:
    """Return Pearson's correlation sum (x - mean x)(y - mean y) / (|x - mean x| |y - mean y|)."""
    x, y = (t.double().cpu() - t.double().cpu().mean() for t in (predicted, targets))
    scale = math.sqrt(float(x @ x) * float(y @ y))
    return float(x @ y) / scale if scale > 0 else 0.0


def spearman(predicted: Tensor, targets: Tensor) -> float:
    """Return Spearman's correlation, that of the ranks; equal values share the mean of their ranks."""
    return pearson(_ranks(predicted), _ranks(targets))


def _ranks(values: Tensor) -> Tensor:
    unique = cast("Callable[..., tuple[Tensor, Tensor, Tensor]]", torch.unique)
    _, place, counts = unique(values.cpu(), return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    return (last - (counts.double() - 1) / 2)[place]


@dataclass(frozen=True)
class Metric:
    """A metric, and what it is called for people."""

    function: Callable[[Tensor, Tensor], float]
    title: str


METRICS = {
    "acc": Metric(accuracy, "accuracy"),
    "f1": Metric(f1, "F1"),
    "mcc": Metric(matthews, "Matthews correlation"),
    "pearson": Metric(pearson, "Pearson correlation"),
    "spearman": Metric(spearman, "Spearman correlation"),
}
"""The metrics by the names that they have in a run's results."""


def glue_average(scores: Mapping[str, float | Sequence[float]]) -> float:
    """Return GLUE's average: the metrics of a task are averaged first, then the nine tasks.

    A. Wang et al. (2019), section 3; so is the column "GLUE" of table 6 of W. Xie, T. Pethick, V. Cevher (2024),
    "SAMPa: Sharpness-aware Minimization Parallelized".

    Args:
        scores: For every task, as `cola` or `CoLA`, its metric or metrics, all in percent or all as fractions.

    Raises:
        UsageError: If a task is missing, or has another number of metrics than GLUE gives it.
    """
    given = {canonical(f"{PREFIX}{name}"): value for name, value in scores.items()}
    means: list[float] = []
    for name, task in TASKS.items():
        value = given.pop(f"{PREFIX}{name}", ())
        values = (value,) if isinstance(value, int | float) else tuple(value)
        # MNLI has two test sets with one metric, of which papers often print one.
        if len(values) not in (1, len(task.metrics) + len(task.further)):
            raise UsageError(
                f"{name} has {len(values)} scores, GLUE has {len(task.metrics) + len(task.further)}",
                f"give {', '.join(METRICS[metric].title for metric in task.metrics)}, or their mean",
            )
        means.append(sum(values) / len(values))
    if given:
        raise UsageError(f"{next(iter(given)).removeprefix(PREFIX)} is no task of GLUE", f"allowed: {', '.join(TASKS)}")
    return sum(means) / len(means)

"""What is minimised for which targets: cross-entropy for classes, the squared error for numbers."""

from __future__ import annotations

from functools import partial

from torch import Tensor
from torch.nn import functional

from sharpkit.core.rule import Rule
from sharpkit.core.task import LossFunction
from sharpkit.data.dataset import Dataset
from sharpkit.errors import UsageError


def loss_of(dataset: Dataset, smoothing: float = 0.0) -> LossFunction:
    """Return the loss of a data set's targets.

    Args:
        dataset: Its targets are class numbers, or numbers to be predicted.
        smoothing: Of labels.

    Raises:
        UsageError: If labels are to be smoothed that are no classes.
    """
    if not dataset.regression:
        return partial(functional.cross_entropy, label_smoothing=smoothing)
    if smoothing:
        raise UsageError(
            f"smoothing is {smoothing:g}, and the targets of {dataset.name} are numbers, not classes",
            "leave --smoothing out",
        )
    return squared_error


def squared_error(outputs: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
    """Return (z - y)^2 of outputs z, (B, 1), and targets y, (B,), for every sample or their mean."""
    return functional.mse_loss(outputs[:, 0].to(targets.dtype), targets, reduction=reduction)


def check_rule(rule: Rule, dataset: Dataset) -> None:
    """Refuse a rule that compares the probabilities of classes where there are none.

    Raises:
        UsageError: If it does.
    """
    slots = [slot for slot in ("ascent_loss", "auxiliary") if slot in rule.stated()]
    if dataset.regression and slots:
        raise UsageError(
            f"{rule.name} compares the probabilities of classes, and the targets of {dataset.name} are numbers",
            "use another --opt, such as sam",
        )

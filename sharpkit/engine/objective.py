"""What is minimised for which targets: cross-entropy for classes, the squared error for numbers."""

from __future__ import annotations

from functools import partial
from typing import Literal

from torch import Tensor
from torch.nn import functional

from sharpkit.core.rule import Rule
from sharpkit.core.task import LossFunction
from sharpkit.data.dataset import Dataset
from sharpkit.errors import UsageError

SmoothingOver = Literal["all", "others"]
"""Classes that label smoothing is spread over."""


def loss_of(dataset: Dataset, smoothing: float = 0.0, over: SmoothingOver = "all") -> LossFunction:
    """Return the loss of a data set's targets.

    With label smoothing s of K classes the target distribution is q = (1 - s) onehot + s / K over all classes (Szegedy
    et al. 2016), or q = 1 - s for the labelled class and s / (K - 1) for each of the others, as in the code of
    davda54/sam, BiSAM and SAMPa. The second is the first with s K / (K - 1) in place of s.

    Args:
        dataset: Its targets are class numbers, or numbers to be predicted.
        smoothing: s, the probability that is taken from the labelled class.
        over: Which classes it is spread over.

    Raises:
        UsageError: If labels are to be smoothed that are no classes, or smoothing would make the labelled class less
            probable than the others.
    """
    if not dataset.regression:
        return partial(functional.cross_entropy, label_smoothing=_over_all(smoothing, over, dataset.classes))
    if smoothing:
        raise UsageError(
            f"smoothing is {smoothing:g}, and the targets of {dataset.name} are numbers, not classes",
            "leave --smoothing out",
        )
    return squared_error


def _over_all(smoothing: float, over: SmoothingOver, classes: int) -> float:
    """Return the smoothing over all classes that gives the same target distribution."""
    if over == "all":
        return smoothing
    most = 1 - 1 / classes
    if smoothing > most:
        raise UsageError(
            f"smoothing is {smoothing:g} over the other classes, allowed are at most {most:g} of {classes} classes, "
            "beyond which the labelled class is less probable than the others",
            "lower --smoothing",
        )
    return smoothing / most


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

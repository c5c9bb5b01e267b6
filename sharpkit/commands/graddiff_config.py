"""The options of `sharpkit graddiff`, each once; torch is not imported here, so that `--help` answers at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sharpkit.commands.checkpoint_config import SHARED
from sharpkit.commands.gradient_config import GradientConfig
from sharpkit.engine.config import option, with_radius
from sharpkit.errors import UsageError, check_count, check_range

PANELS: dict[str, tuple[str, ...]] = {
    "Perturbation": ("opt", "rho"),
    "Gradients": ("batches", "batch_size", "samples", "split", "bn_mode", "dropout", "dtype"),
    "Distribution": ("eps", "bins", "low", "high", "log", "per_layer"),
    **SHARED,
}


@dataclass(frozen=True, kw_only=True)
class GradDiffConfig(GradientConfig):
    """Everything that decides what `sharpkit graddiff` computes.

    Raises:
        UsageError: If a value is outside its range.
    """

    opt: str | None = option(None, "Recipe whose perturbation is used.", shown="sam:rho=0.1")
    rho: float | None = option(None, "Radius, short for :rho= in --opt.", shown="the recipe's")
    batches: int = option(1, "Batches, each with a pair of gradients of its own.")
    samples: str | None = option(
        None, "One pair of gradients of so many samples together: a number, or all.", shown="--batches"
    )
    bn_mode: Literal["eval", "train"] = option("train", "Batch norm by each batch's statistics, or the stored ones.")
    eps: float = option(0.0, "Exclude entries with |g_SGD| up to this; zeros and denormals always are.")
    bins: int = option(200, "Bins of the histogram.")
    low: float = option(-20.0, "Lower end of the histogram, natural logarithm.")
    high: float = option(20.0, "Upper end of the histogram, natural logarithm.")
    log: Literal["e", "10"] = option("e", "Base of the logarithm in table, figure and files.")
    per_layer: bool = option(False, "A table of layers and kinds of parameters too.")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("batches", self.batches, 1)
        check_range("eps", self.eps, 0)
        check_range("bins", self.bins, 1, 100_000)
        check_range("low", self.low)
        check_range("high", self.high, self.low, open_low=True)
        if self.rho is not None:
            check_range("rho", self.rho, 0, open_low=True)
        if self.samples is not None and self.batches != 1:
            raise UsageError("--samples and --batches are both given", "give one of them")
        _ = self.count, self.recipe

    @property
    def count(self) -> int | None:
        """How many samples are looked at; None is all."""
        return None if self.samples is None else check_count("samples", self.samples, "all")

    @property
    def recipe(self) -> str:
        """The recipe with its radius."""
        if self.opt is None:
            return with_radius("sam", 0.1 if self.rho is None else self.rho)
        return with_radius(self.opt, self.rho)

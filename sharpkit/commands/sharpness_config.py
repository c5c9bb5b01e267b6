"""The options of `sharpkit sharpness`, each once; torch is not imported here, so that `--help` answers at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sharpkit.commands.checkpoint_config import SHARED, CheckpointConfig
from sharpkit.engine.config import option, with_radius
from sharpkit.errors import check_count, check_range

PANELS: dict[str, tuple[str, ...]] = {
    "Ball": ("opt", "rho"),
    "Loss": ("samples", "split", "batch_size", "bn_mode", "dtype"),
    "Worst case": ("steps", "restarts"),
    "Average and pieces": ("directions", "m", "m_steps"),
    **SHARED,
}


@dataclass(frozen=True, kw_only=True)
class SharpnessConfig(CheckpointConfig):
    """Everything that decides what `sharpkit sharpness` computes.

    Raises:
        UsageError: If a value is outside its range.
    """

    opt: str = option("sam", "Recipe that says radius, metric and masks: sam, asam, fisher-sam, sam-on or a union.")
    rho: float | None = option(None, "Radius, short for :rho= in --opt.", shown="the recipe's")
    samples: str = option("all", "Samples of the loss: a number, or all.")
    batch_size: int = option(256, "Samples evaluated at once; with stored statistics the result does not change.", "-b")
    bn_mode: Literal["eval", "train"] = option("eval", "Batch norm by stored statistics, or by those of each batch.")
    dtype: Literal["auto", "float32", "float64"] = option("auto", "Precision.", shown="the model's")
    steps: int = option(20, "Gradients of the ascent from a start, at most.")
    restarts: int = option(1, "Starts at random points, beside the one at the weights.")
    directions: int = option(20, "Random directions of the average; 0 for none.")
    m: int | None = option(None, "Samples a piece of m-sharpness.", shown="none")
    m_steps: int = option(1, "Gradients of the ascent for a piece; 1 is one step of the recipe.")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("batch_size", "steps", "m_steps"):
            check_range(name.replace("_", "-"), getattr(self, name), 1)
        for name in ("restarts", "directions"):
            check_range(name, getattr(self, name), 0)
        if self.m is not None:
            check_range("m", self.m, 1)
        if self.rho is not None:
            check_range("rho", self.rho, 0, open_low=True)
        _ = self.count, self.recipe

    @property
    def count(self) -> int | None:
        """How many samples are looked at; None is all."""
        return check_count("samples", self.samples, "all")

    @property
    def recipe(self) -> str:
        """The recipe with its radius."""
        return with_radius(self.opt, self.rho)

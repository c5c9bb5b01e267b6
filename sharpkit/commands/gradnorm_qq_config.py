"""The options of `sharpkit gradnorm-qq`, each once; torch is not imported here, so that `--help` answers at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sharpkit.commands.checkpoint_config import SHARED
from sharpkit.commands.gradient_config import GradientConfig
from sharpkit.engine.config import option
from sharpkit.errors import check_range

PANELS: dict[str, tuple[str, ...]] = {
    "Gradients": ("batches", "batch_size", "replacement", "split", "bn_mode", "dropout", "dtype"),
    "Distribution": ("test", "hist"),
    "AE-SAM": ("lam1", "lam2", "delta"),
    **SHARED,
}


@dataclass(frozen=True, kw_only=True)
class GradNormConfig(GradientConfig):
    """Everything that decides what `sharpkit gradnorm-qq` computes.

    Raises:
        UsageError: If a value is outside its range.
    """

    batches: int = option(400, "Random batches.")
    replacement: bool = option(False, "Draw every sample on its own, and not pass after pass.")
    bn_mode: Literal["eval", "train"] = option("train", "Batch norm by each batch's statistics, or the stored ones.")
    test: Literal["both", "shapiro", "anderson"] = option("both", "Tests of normality that are shown.")
    hist: bool = option(True, "A histogram with the fitted normal beside the Q-Q plot.")
    lam1: float = option(-1.0, "AE-SAM's threshold at the end of a run, in standard deviations.")
    lam2: float = option(1.0, "AE-SAM's threshold at its beginning.")
    delta: float = option(0.9, "Weight of the past in AE-SAM's averages.")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("batches", self.batches, 8)
        check_range("lam1", self.lam1)
        check_range("lam2", self.lam2)
        check_range("delta", self.delta, 0, 1, open_high=True)

"""What the commands on gradients have in common; torch is not imported here, so that `--help` answers at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sharpkit.commands.checkpoint_config import CheckpointConfig
from sharpkit.engine.config import option
from sharpkit.errors import check_range


@dataclass(frozen=True, kw_only=True)
class GradientConfig(CheckpointConfig):
    """How gradients of batches are taken.

    Raises:
        UsageError: If a value is outside its range.
    """

    batch_size: int = option(128, "Samples a batch.", "-b")
    dropout: bool = option(False, "Dropout as in training.")
    dtype: Literal["auto", "float32", "float64"] = option("auto", "Precision of the gradients.", shown="the model's")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("batch-size", self.batch_size, 1)

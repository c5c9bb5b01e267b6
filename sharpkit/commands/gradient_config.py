"""What the commands on gradients have in common; torch is not imported here, so that `--help` answers at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sharpkit.engine.config import option, sample_count
from sharpkit.errors import check_range

CHECKPOINT = ("data", "data_dir", "model")
RUN = ("seed", "device", "threads")


@dataclass(frozen=True, kw_only=True)
class GradientConfig:
    """Where the gradients are taken.

    Raises:
        UsageError: If a value is outside its range.
    """

    split: Literal["train", "val", "test"] = option("train", "Which samples.")
    batch_size: int = option(128, "Samples a batch.", "-b")
    dropout: bool = option(False, "Dropout as in training.")
    dtype: Literal["auto", "float32", "float64"] = option("auto", "Precision of the gradients.", shown="the model's")
    data: str | None = option(None, "Data set, where the checkpoint does not say it.", shown="the checkpoint's")
    data_dir: str | None = option(None, "Folder that data sets are looked for in.", shown="the checkpoint's")
    model: str | None = option(None, "Model, where the checkpoint does not say it.", shown="the checkpoint's")
    seed: int = option(0, "Seed of the samples drawn, and of every other random choice.")
    device: str = option("auto", "Device: auto, cpu, cuda, cuda:1, mps.")
    threads: str = option("auto", "CPU threads; auto measures one against all.")

    def check_shared(self) -> None:
        """Refuse what is out of range among the options of this class."""
        check_range("batch-size", self.batch_size, 1)
        check_range("seed", self.seed, 0, 2**31 - 1)


def count_of(samples: str | None) -> int | None:
    """Return how many samples are asked for; None is all."""
    return None if samples is None else sample_count(samples)

"""The options of every command that measures checkpoints, each once; torch is not imported here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sharpkit.engine.config import MOST_THREADS, option
from sharpkit.errors import check_count, check_range

SHARED: dict[str, tuple[str, ...]] = {
    "Checkpoint": ("data", "data_dir", "model"),
    "Run": ("seed", "device", "threads", "timeout"),
}
"""The last panels of every such command."""


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """Which samples a checkpoint is measured on, and where.

    Raises:
        UsageError: If a value is outside its range.
    """

    split: Literal["train", "val", "test"] = option("train", "Which samples.")
    data: str | None = option(None, "Data set, where the checkpoint does not say it.", shown="the checkpoint's")
    data_dir: str | None = option(None, "Folder that data sets are looked for in.", shown="the checkpoint's")
    model: str | None = option(None, "Model, where the checkpoint does not say it.", shown="the checkpoint's")
    seed: int = option(0, "Seed of the samples drawn, and of every other random choice.")
    device: str = option("auto", "Device: auto, cpu, cuda, cuda:1, mps.")
    threads: str = option("auto", "CPU threads; auto measures one against all.")
    timeout: float = option(600.0, "Of several processes: seconds that one waits for another, at most.")

    def __post_init__(self) -> None:
        check_range("seed", self.seed, 0, 2**31 - 1)
        check_range("timeout", self.timeout, 0, 10**6, open_low=True)
        check_count("threads", self.threads, "auto", high=MOST_THREADS)

    @property
    def count(self) -> int | None:
        """How many samples are drawn; None is all."""
        return None

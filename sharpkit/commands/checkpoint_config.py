"""The options of every command that measures checkpoints, each once; torch is not imported here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sharpkit.engine.config import check_process, option
from sharpkit.engine.world import TIMEOUT

SHARED: dict[str, tuple[str, ...]] = {
    "Checkpoint": ("data", "data_dir", "model", "trust_code"),
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
    trust_code: bool = option(False, "UNSAFE: run whatever code the checkpoint names as its model or data.")
    seed: int = option(0, "Seed of the samples drawn, and of every other random choice.")
    device: str = option("auto", "Device: auto, cpu, cuda, cuda:1, mps.")
    threads: str = option("auto", "CPU threads; auto measures one against all.")
    timeout: float = option(TIMEOUT, "Of several processes: seconds that one waits for another, at most.")

    def __post_init__(self) -> None:
        check_process(self.seed, self.threads, self.timeout)

    @property
    def count(self) -> int | None:
        """How many samples are drawn; None is all."""
        return None

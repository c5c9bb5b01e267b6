"""The options of `sharpkit plot`, each once; torch is not imported here, so that `--help` answers at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sharpkit.engine.config import option
from sharpkit.errors import UsageError

PANELS: dict[str, tuple[str, ...]] = {"Curves": ("metric", "x", "band", "log_y", "by_run")}


@dataclass(frozen=True, kw_only=True)
class PlotConfig:
    """What `sharpkit plot` draws."""

    metric: str | None = option(None, "List of keys of metrics.jsonl.", shown="losses, accuracies, %SAM and probes")
    x: Literal["epoch", "step", "gradients", "seconds"] = option("epoch", "What the curves run over.")
    band: Literal["std", "se", "range", "none"] = option(
        "std", "Around the mean over seeds: standard deviation, standard error, range."
    )
    log_y: bool = option(False, "Losses, norms and eigenvalues on a logarithmic scale.")
    by_run: bool = option(False, "A curve for every run, and no means over seeds.")

    @property
    def metrics(self) -> tuple[str, ...] | None:
        """The keys; None is the usual ones.

        Raises:
            UsageError: If the list is empty.
        """
        if self.metric is None:
            return None
        names = tuple(dict.fromkeys(name.strip() for name in self.metric.split(",") if name.strip()))
        if not names:
            raise UsageError(f"metric is {self.metric!r}, allowed is a list of keys", "use --metric train_loss,val_acc")
        return names

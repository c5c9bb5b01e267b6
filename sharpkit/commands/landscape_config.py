"""The options of `sharpkit landscape`, each once; torch is not imported, so that `--help` answers at once."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from sharpkit.commands.checkpoint_config import SHARED, CheckpointConfig
from sharpkit.engine.config import option
from sharpkit.errors import UsageError, check_count, check_range

PANELS: dict[str, tuple[str, ...]] = {
    "Plane": ("x", "y", "adaptive", "dirs", "norm", "ignore", "dir_seed", "orthogonal"),
    "Loss": ("samples", "split", "bn_mode", "batch_size", "amp"),
    "Numbers": ("radius", "level", "check", "convexity"),
    "Figure": ("style", "log_z", "vmin", "vmax", "levels"),
    **SHARED,
}

Range = tuple[float, float, int]
"""The lowest coordinate, the highest, and how many there are."""

_MOST = 100_000


@dataclass(frozen=True, kw_only=True)
class LandscapeConfig(CheckpointConfig):
    """Everything that decides what `sharpkit landscape` computes and draws.

    Raises:
        UsageError: If a value is outside its range.
    """

    x: str = option("auto", "Points along the first direction, LOW:HIGH:COUNT.", shown="-1:1:50, or what fits")
    y: str = option("auto", "Points along the second, or none for a profile.", shown="as --x")
    adaptive: float | None = option(
        None, "Interpolate within this part of the surface's range, such as 0.01, where it is smooth.", shown="off"
    )
    dirs: str = option(
        "random", "Directions: random, hessian, pca (of a run's epoch-*.pt), or towards CKPT or CKPT,CKPT."
    )
    norm: Literal["auto", "filter", "layer", "none"] = option(
        "auto", "What of a direction gets the norm of the weights.", shown="filter for random, else none"
    )
    ignore: Literal["auto", "biasbn", "none"] = option(
        "auto", "Whether directions leave biases and normalisation alone.", shown="biasbn for random, else none"
    )
    dir_seed: int = option(0, "Seed of the directions, the same for all checkpoints.")
    orthogonal: bool = option(False, "Make the second direction orthogonal to the first.")
    samples: str = option("all", "Samples of the loss: a number, or all.")
    bn_mode: Literal["eval", "recompute"] = option(
        "eval", "Batch norm by stored statistics, or by those of the samples at every point."
    )
    batch_size: int | None = option(None, "Samples evaluated at once.", "-b", shown="measured")
    amp: Literal["off", "bf16"] = option("off", "Mixed precision; its error is measured and printed.")
    radius: float | None = option(None, "Radius of the mean rise.", shown="half of the largest circle")
    level: float | None = option(None, "Loss that cells are counted below.", shown="1 above the centre")
    check: bool = option(True, "Compare slope and curvature at the centre with derivatives.")
    convexity: int = option(0, "Points along each axis for the Hessian's extreme eigenvalues; costly.", shown="none")
    style: Literal["contour", "surface", "both"] = option("contour", "Figure: filled contours, 3-D surfaces, or both.")
    log_z: bool = option(False, "Logarithmic loss in the figure.")
    vmin: float | None = option(None, "Lowest loss of the colours.", shown="the lowest of all")
    vmax: float | None = option(None, "Highest loss of the colours.", shown="the highest of all")
    levels: int = option(16, "Contour levels.")
    seed: int = option(0, "Seed of the samples drawn.")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("dir-seed", self.dir_seed, 0, 2**31 - 1)
        check_range("levels", self.levels, 2, 256)
        if self.adaptive is not None:
            check_range("adaptive", self.adaptive, 0, 1, open_low=True, open_high=True)
        check_range("convexity", self.convexity, 0)
        if self.convexity and self.bn_mode != "eval":
            raise UsageError("--convexity is given with --bn-mode recompute", "leave one of them out")
        if self.batch_size is not None:
            check_range("batch-size", self.batch_size, 1)
        if self.radius is not None:
            check_range("radius", self.radius, 0, open_low=True)
        _ = self.count, self.x_range, self.y_range
        if self.vmin is not None and self.vmax is not None and self.vmin >= self.vmax:
            raise UsageError(f"vmin is {self.vmin:g} and vmax is {self.vmax:g}", "give a vmax above vmin")
        if self.log_z and self.vmin is not None:
            check_range("vmin", self.vmin, 0, open_low=True)
        if self.kind in ("pca", "checkpoints"):
            for name, value in (("norm", self.norm), ("ignore", self.ignore)):
                if value not in ("auto", "none"):
                    raise UsageError(
                        f"{name} is {value} and dirs is {self.dirs}: checkpoints would not lie in the plane",
                        f"leave --{name} out",
                    )
        if self.orthogonal and self.profile:
            raise UsageError("--orthogonal is given, and a profile has one direction", "leave it out, or give --y")

    @property
    def kind(self) -> Literal["random", "hessian", "pca", "checkpoints"]:
        """Where the directions come from."""
        return self.dirs if self.dirs in ("random", "hessian", "pca") else "checkpoints"

    @property
    def others(self) -> tuple[str, ...]:
        """The checkpoints that --dirs names."""
        if self.kind != "checkpoints":
            return ()
        names = tuple(name.strip() for name in self.dirs.split(","))
        if len(names) > 2 or not all(names):
            raise UsageError(
                f"dirs is {self.dirs!r}, allowed are random, hessian, pca, CKPT and CKPT,CKPT", "give one of them"
            )
        return names

    @property
    def profile(self) -> bool:
        """Whether there is one direction only."""
        return self.y == "none" or (self.y == "auto" and len(self.others) == 1)

    @property
    def x_range(self) -> Range | None:
        """The points along the first direction; None is what fits the directions."""
        return None if self.x == "auto" else _parsed("x", self.x)

    @property
    def y_range(self) -> Range | None:
        """The points along the second; None is as for x, or none."""
        if len(self.others) == 1 and self.y not in ("auto", "none"):
            raise UsageError(f"y is {self.y} and dirs names one checkpoint", "name two, or leave --y out")
        return None if self.y in ("auto", "none") else _parsed("y", self.y)

    @property
    def count(self) -> int | None:
        """The number of samples; None is all."""
        return check_count("samples", self.samples, "all")

    @property
    def norm_chosen(self) -> Literal["filter", "layer", "none"]:
        """What of a direction gets the norm of the weights."""
        if self.norm != "auto":
            return self.norm
        return "filter" if self.kind == "random" else "none"

    @property
    def ignore_chosen(self) -> Literal["biasbn", "none"]:
        """What directions leave alone."""
        if self.ignore != "auto":
            return self.ignore
        return "biasbn" if self.kind == "random" else "none"


def _parsed(name: str, text: str) -> Range:
    found = re.fullmatch(r"([^:]+):([^:]+):(\d+)", text)
    try:
        low, high, count = (float(found[1]), float(found[2]), int(found[3])) if found else (0.0, 0.0, 0)
    except ValueError:
        low, high, count = 0.0, 0.0, 0
    if not (2 <= count <= _MOST and low < high < float("inf") and low > float("-inf")):
        more = ", none" if name == "y" else ""
        raise UsageError(f"{name} is {text!r}, allowed is LOW:HIGH:COUNT{more}", f"give --{name} -1:1:50, for example")
    return low, high, count

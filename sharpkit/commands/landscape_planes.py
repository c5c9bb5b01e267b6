"""The directions that `sharpkit landscape` is asked for, and the range that fits them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sharpkit.commands.landscape_config import LandscapeConfig, Range
from sharpkit.diagnostics.surfaces.plane import Plane, checkpoint_plane, hessian_plane, pca_plane, random_plane
from sharpkit.engine.agreement import everywhere
from sharpkit.engine.matching import chosen
from sharpkit.engine.ranks import current
from sharpkit.engine.trained import Trained
from sharpkit.engine.weights import read_weights
from sharpkit.errors import UsageError

_BATCH = 256
"""Samples of a batch of products with the Hessian."""

_POINTS = 50
_UNIT: Range = (-1.0, 1.0, _POINTS)
_BETWEEN: Range = (-0.5, 1.5, 41)
"""The points between checkpoints, which lie at 0 and 1 and are among them."""

_MARGIN = 0.25
"""What a range reaches beyond a trajectory, relative to its extent."""


def plane_of(trained: Trained, config: LandscapeConfig) -> Plane:
    """Return the plane through a checkpoint.

    Raises:
        UsageError: If its directions do not span one.
        InputError: If another checkpoint cannot be read or does not fit.
    """
    axes = 1 if config.profile else 2
    model, seed, norm, ignore = trained.model, config.dir_seed, config.norm_chosen, config.ignore_chosen
    if config.kind == "random":
        return random_plane(model, axes, norm=norm, ignore=ignore, seed=seed, orthogonal=config.orthogonal)
    if config.kind == "hessian":
        batches = trained.batches(_BATCH)
        return hessian_plane(model, trained.task, batches, axes, norm=norm, ignore=ignore, seed=seed, comm=current())
    if config.kind == "pca":
        return pca_plane(model, everywhere(lambda: _run_of(trained.path)), axes)
    states = everywhere(lambda: {name: chosen(model, read_weights(Path(name)), name).fitting for name in config.others})
    return checkpoint_plane(model, states, orthogonal=config.orthogonal)


def _run_of(path: Path) -> dict[str, dict[str, Tensor]]:
    """Return the checkpoints of a run in its order, the one at hand at last."""
    numbered = {int(found[1]): file for file in path.parent.glob("epoch-*.pt") if (found := _EPOCH.match(file.name))}
    files = [numbered[epoch] for epoch in sorted(numbered)]
    if path in files:
        files = files[: files.index(path)]
    if not files:
        raise UsageError(f"there is no epoch-*.pt beside {path}", "train with --save-every 1, or give other --dirs")
    return {file.stem: read_weights(file) for file in [*files, path]}


_EPOCH = re.compile(r"epoch-(\d+)\.pt$")


def axes_of(config: LandscapeConfig, plane: Plane) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """Return the coordinates along both directions; None for the second of a profile."""
    x = np.linspace(*(config.x_range or _fitting(plane, 0)))
    if config.profile:
        return x, None
    chosen = config.y_range or (config.x_range if plane.kind in ("random", "hessian") else None)
    return x, np.linspace(*(chosen or _fitting(plane, 1)))


def _fitting(plane: Plane, axis: int) -> Range:
    """Return the range for directions of a kind: of a trajectory what it covers, and as much as a margin."""
    if plane.kind == "checkpoints":
        return _BETWEEN
    if plane.kind != "pca":
        return _UNIT
    places = [0.0, *((m.x, m.y)[axis] for m in plane.marks)]
    low, high = min(places), max(places)
    margin = _MARGIN * (high - low)
    return low - margin, high + margin, _POINTS

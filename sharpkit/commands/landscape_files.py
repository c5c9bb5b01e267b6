"""Surfaces as JSON, arrays and tables."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from sharpkit.diagnostics.surfaces.landscape_result import LandscapeResult

_CURVED = ("x", "y", "smallest", "largest", "converged")


def level_of(result: LandscapeResult, level: float | None) -> float:
    """Return the loss that cells are counted below: as given, or 1 above the centre."""
    return result.centre.loss + 1 if level is None else level


def interpolated(result: LandscapeResult) -> str:
    """Return in words how a surface was interpolated."""
    found = result.interpolation
    assert found is not None
    nodes = " x ".join(str(count) for count in found.nodes[: len(result.plane.axes)])
    return (
        f"the {found.of} is interpolated from {nodes} Chebyshev points; on {found.checked} other cells it is off by "
        f"{100 * found.error:.2g} % of the range of the {found.scale} at most"
    )


def document_of(result: LandscapeResult, radius: float | None, level: float | None) -> dict[str, Any]:
    """Return a surface as plain data."""
    plane = result.plane
    below = level_of(result, level)
    return {
        "loss0": result.centre.loss,
        "loss0_error": result.centre.error,
        "accuracy0": result.centre.accuracy,
        "checkpoint_loss": result.checkpoint.loss,
        "min": result.lowest,
        "max": result.highest,
        "mean_rise": result.mean_rise(radius),
        "radius": result.half_width / 2 if radius is None else radius,
        "level": below,
        "fraction_below": result.fraction_below(below),
        "nan_cells": result.nan_cells,
        "cells": int(result.known.sum()),
        "x": result.x.tolist(),
        "y": None if result.profile else result.y.tolist(),
        "loss": result.loss.tolist(),
        "accuracy": result.accuracy.tolist() if np.isfinite(result.accuracy).any() else None,
        "standard_error": result.error.tolist(),
        "directions": {
            "kind": plane.kind,
            "norm": plane.norm,
            "ignore": plane.ignore,
            "seed": plane.seed,
            "orthogonal": plane.orthogonal,
            "effective_weights": plane.effective,
            "angle": None if math.isnan(plane.angle) else plane.angle,
            "lengths": list(plane.lengths),
            "values": list(plane.values),
            "checkpoints": [{"name": m.name, "x": m.x, "y": m.y, "distance": m.distance} for m in plane.marks],
        },
        "centre": _centre(result),
        "interpolation": None if result.interpolation is None else asdict(result.interpolation),
        "convexity": _convexity(result),
        "samples": result.samples,
        "parameters": result.parameters,
        "bn_mode": result.bn_mode,
        "amp": result.amp,
        "amp_error": None if math.isnan(result.amp_error) else result.amp_error,
        "augmentation": "none",
        "how": result.how,
        "evaluations": result.evaluations,
        "reused": result.reused,
        "seconds": round(result.seconds, 3),
        "complete": result.complete,
        "notes": list(result.notes),
    }


def _centre(result: LandscapeResult) -> dict[str, Any] | None:
    check = result.check
    if check is None:
        return None
    return {
        "slope": [s.slope for s in check.exact],
        "slope_fitted": [s.slope for s in check.fitted],
        "curvature": [s.curvature for s in check.exact],
        "curvature_fitted": [s.curvature for s in check.fitted],
        "steps": list(check.steps),
    }


def _convexity(result: LandscapeResult) -> dict[str, Any] | None:
    found = result.convexity
    if found is None:
        return None
    return {
        "x": found.x.tolist(),
        "y": found.y.tolist(),
        "smallest": found.smallest.tolist(),
        "largest": found.largest.tolist(),
        "ratio": found.ratio.tolist(),
        "converged": found.converged.tolist(),
        "products": found.products,
    }


def arrays_of(result: LandscapeResult) -> dict[str, Any]:
    """Return the arrays of a surface by name."""
    plane, convexity = result.plane, result.convexity
    curved = {} if convexity is None else {f"convexity_{n}": getattr(convexity, n) for n in _CURVED}
    return {
        **curved,
        "interpolated": result.interpolated,
        "x": result.x,
        "y": result.y,
        "loss": result.loss,
        "accuracy": result.accuracy,
        "standard_error": result.error,
        "known": result.known,
        "centre": np.array([result.centre.loss, result.centre.accuracy, result.centre.error]),
        "marks": np.array([[m.x, m.y, m.distance] for m in plane.marks]).reshape(-1, 3),
        "mark_names": np.array([m.name for m in plane.marks], dtype=str),
        "angle": plane.angle,
        "lengths": np.array(plane.lengths),
        "samples": result.samples,
    }


def lines_of(surfaces: Mapping[str, LandscapeResult]) -> list[list[Any]]:
    """Return a header and a line for every cell that is known."""
    lines: list[list[Any]] = [["ckpt", "x", "y", "loss", "standard_error", "accuracy"]]
    for name, result in surfaces.items():
        for j, i in np.argwhere(result.known):
            values = (result.loss[j, i], result.error[j, i], result.accuracy[j, i])
            told = ["" if math.isnan(value) else float(value) for value in values]
            lines.append([name, float(result.x[i]), float(result.y[j]), *told])
    return lines

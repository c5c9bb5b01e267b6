"""Spectra as JSON, arrays and tables."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from sharpkit.diagnostics.curvature.self_check import SelfCheck
from sharpkit.diagnostics.curvature.spectrum import SpectrumResult


class Spectra(NamedTuple):
    """The spectra of a checkpoint.

    Args:
        whole: Of the whole matrix.
        layers: Of the diagonal block of every layer; empty where not asked for.
    """

    whole: SpectrumResult
    layers: dict[str, SpectrumResult]


def document_of(spectra: Spectra) -> dict[str, Any]:
    """Return the spectra of a checkpoint as plain data."""
    layers = [{"layer": layer, **_document(result)} for layer, result in spectra.layers.items()]
    return {**_document(spectra.whole), **({"layers": layers} if layers else {})}


def _document(result: SpectrumResult) -> dict[str, Any]:
    """Return a spectrum as plain data, with lambda1, lambda2, ... as keys of their own."""
    named = {f"lambda{i}": float(value) for i, value in enumerate(result.eigenvalues, 1)}
    return {
        **named,
        "ratio": result.ratio,
        "eigenvalues": result.eigenvalues.tolist(),
        "residuals": result.residuals.tolist(),
        "converged": result.converged.tolist(),
        **({} if np.isnan(result.errors).all() else {"errors": result.errors.tolist()}),
        "smallest": None
        if result.smallest is None
        else {
            "eigenvalues": result.smallest.values.tolist(),
            "residuals": result.smallest.residuals.tolist(),
            "converged": result.smallest.converged.tolist(),
        },
        "none_missing": result.none_missing,
        "trace": _trace(result),
        "density": _density(result),
        "matrix": result.kind,
        "loss": result.loss,
        "samples": result.samples,
        "parameters": result.parameters,
        "bn_mode": result.bn_mode,
        "dtype": result.dtype,
        "weight_decay": result.weight_decay,
        "augmentation": "none",
        "products": result.products,
        "how": result.how,
        "self_check": _self_check(result.self_check),
        "seconds": round(result.seconds, 3),
        "complete": result.complete,
        "notes": list(result.notes),
    }


def _self_check(check: SelfCheck) -> dict[str, Any]:
    if check.state == "skipped":
        return {"state": "skipped"}
    return {
        "state": check.state,
        "symmetry": check.symmetry,
        "symmetry_tolerance": check.symmetry_tolerance,
        "difference": check.difference,
        "difference_tolerance": check.tolerance,
        "slope": None if math.isnan(check.slope) else check.slope,
        "slope_tolerance": check.slope_tolerance,
        "samples": check.samples,
        "step": check.step,
        "dtype": check.dtype,
        "at": "near w" if check.near else "w",
        "cause": check.cause,
    }


def _trace(result: SpectrumResult) -> dict[str, Any] | None:
    trace = result.trace
    if trace is None:
        return None
    by_name = {
        name: {"value": float(value), "error": float(error)}
        for name, value, error in zip(result.names, trace.parts, trace.part_errors, strict=True)
    }
    return {
        "value": trace.value,
        "error": trace.error,
        "interval": list(trace.interval),
        "samples": trace.samples,
        "method": trace.method,
        "parameters": by_name,
    }


def _density(result: SpectrumResult) -> dict[str, Any] | None:
    density = result.density
    if density is None:
        return None
    runs = [
        {"nodes": nodes.tolist(), "weights": weights.tolist()}
        for nodes, weights in zip(density.nodes, density.weights, strict=True)
    ]
    known = len(density.exact)
    return {
        "sigma": density.sigma,
        "exact": {"eigenvalues": density.exact.tolist(), "weight": 1 / result.parameters},
        "estimated_weight": (result.parameters - known) / result.parameters,
        "runs": runs,
    }


def arrays_of(spectra: Spectra) -> dict[str, Any]:
    """Return the arrays of the whole matrix's spectrum by name."""
    result = spectra.whole
    held: dict[str, Any] = {
        "eigenvalues": result.eigenvalues,
        "residuals": result.residuals,
        "converged": result.converged,
        "errors": result.errors,
        "loss": result.loss,
        "samples": result.samples,
        "parameters": result.parameters,
        "names": np.array(result.names),
    }
    if result.smallest is not None:
        held["smallest"], held["smallest_residuals"] = result.smallest.values, result.smallest.residuals
    if result.trace is not None:
        held["trace"] = np.array([result.trace.value, result.trace.error])
        held["trace_parts"] = np.stack([result.trace.parts, result.trace.part_errors])
    if result.density is not None:
        density = result.density
        held |= {"grid": density.grid, "density": density.mean, "spread": density.spread, "sigma": density.sigma}
        held["exact"] = density.exact
        for k, (nodes, weights) in enumerate(zip(density.nodes, density.weights, strict=True)):
            held[f"nodes{k}"], held[f"weights{k}"] = nodes, weights
    return held


def lines_of(found: Mapping[str, Spectra]) -> list[list[Any]]:
    """Return a header and a line for every eigenvalue."""
    lines: list[list[Any]] = [["ckpt", "number", "eigenvalue", "residual", "converged", "standard_error"]]
    for name, (result, _) in found.items():
        columns = (result.eigenvalues, result.residuals, result.converged, result.errors)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        for i, (value, residual, good, error) in enumerate(rows, 1):
            lines.append([name, i, value, residual, int(good), "" if math.isnan(error) else error])
    return lines

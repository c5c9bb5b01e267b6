"""Spectra as JSON, arrays and tables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sharpkit.diagnostics.spectrum import SpectrumResult
from sharpkit.engine.checkpoint import write_atomically
from sharpkit.engine.rundir import write_text


def document_of(result: SpectrumResult) -> dict[str, Any]:
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
        "seconds": round(result.seconds, 3),
        "complete": result.complete,
        "notes": list(result.notes),
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
    return {"sigma": density.sigma, "runs": runs}


def write_arrays(path: Path, spectra: Mapping[str, SpectrumResult]) -> Path:
    """Write spectra as .npz; of several, the names of the arrays begin with 0/, 1/, ..., and `ckpt` names them."""
    arrays: dict[str, Any] = {"ckpt": np.array(list(spectra))}
    for i, result in enumerate(spectra.values()):
        head = f"{i}/" if len(spectra) > 1 else ""
        arrays |= {head + name: value for name, value in _arrays(result).items()}
    write_atomically(path, lambda file: np.savez(file, **arrays))
    return path


def _arrays(result: SpectrumResult) -> dict[str, Any]:
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
        for k, (nodes, weights) in enumerate(zip(density.nodes, density.weights, strict=True)):
            held[f"nodes{k}"], held[f"weights{k}"] = nodes, weights
    return held


def write_table(path: Path, spectra: Mapping[str, SpectrumResult]) -> Path:
    """Write a line for every eigenvalue as .csv."""
    lines = ["ckpt,number,eigenvalue,residual,converged,standard_error"]
    for name, result in spectra.items():
        quoted = '"' + name.replace('"', '""') + '"' if "," in name or '"' in name else name
        rows = zip(result.eigenvalues, result.residuals, result.converged, result.errors, strict=True)
        lines += [
            f"{quoted},{i},{value!r},{residual!r},{int(good)},{'' if np.isnan(error) else repr(float(error))}"
            for i, (value, residual, good, error) in enumerate(
                ((float(v), float(r), bool(c), e) for v, r, c, e in rows), 1
            )
        ]
    write_text(path, "\n".join(lines) + "\n")
    return path

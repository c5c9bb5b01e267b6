"""What a trained network's loss looks like around its weights: model, loss and samples in, a frozen result out."""

from __future__ import annotations

from sharpkit.diagnostics.landscape import landscape
from sharpkit.diagnostics.landscape_result import LandscapeResult
from sharpkit.diagnostics.plane import Plane, checkpoint_plane, hessian_plane, pca_plane, random_plane
from sharpkit.diagnostics.spectrum import SpectrumResult, hessian

__all__ = [
    "LandscapeResult",
    "Plane",
    "SpectrumResult",
    "checkpoint_plane",
    "hessian",
    "hessian_plane",
    "landscape",
    "pca_plane",
    "random_plane",
]

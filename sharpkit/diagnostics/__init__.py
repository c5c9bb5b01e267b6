"""What a trained network's loss looks like around its weights: model, loss and samples in, a frozen result out."""

from __future__ import annotations

from sharpkit.diagnostics.gradient_difference import GradDiffResult, graddiff
from sharpkit.diagnostics.gradient_norms import GradNormResult, gradnorms
from sharpkit.diagnostics.landscape import landscape
from sharpkit.diagnostics.landscape_result import LandscapeResult
from sharpkit.diagnostics.plane import Plane, checkpoint_plane, hessian_plane, pca_plane, random_plane
from sharpkit.diagnostics.relative import Grid
from sharpkit.diagnostics.sharpness import SharpnessResult, sharpness
from sharpkit.diagnostics.spectrum import SpectrumResult, hessian

__all__ = [
    "GradDiffResult",
    "GradNormResult",
    "Grid",
    "LandscapeResult",
    "Plane",
    "SharpnessResult",
    "SpectrumResult",
    "checkpoint_plane",
    "graddiff",
    "gradnorms",
    "hessian",
    "hessian_plane",
    "landscape",
    "pca_plane",
    "random_plane",
    "sharpness",
]

"""What a trained network's loss looks like around its weights: model, loss and samples in, a frozen result out."""

from __future__ import annotations

from sharpkit.diagnostics.curvature.spectrum import SpectrumResult, hessian
from sharpkit.diagnostics.gradients.gradient_difference import GradDiffResult, graddiff
from sharpkit.diagnostics.gradients.gradient_norms import GradNormResult, gradnorms
from sharpkit.diagnostics.gradients.relative import Grid
from sharpkit.diagnostics.sharpness import SharpnessResult, sharpness
from sharpkit.diagnostics.surfaces.landscape import landscape
from sharpkit.diagnostics.surfaces.landscape_result import LandscapeResult
from sharpkit.diagnostics.surfaces.plane import Plane, checkpoint_plane, hessian_plane, pca_plane, random_plane

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

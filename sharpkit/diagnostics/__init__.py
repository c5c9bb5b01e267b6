"""What a trained network's loss looks like around its weights: model, loss and samples in, a frozen result out."""

from __future__ import annotations

from sharpkit.diagnostics.gradient_difference import GradDiffResult, graddiff
from sharpkit.diagnostics.gradient_norms import GradNormResult, gradnorms
from sharpkit.diagnostics.relative import Grid
from sharpkit.diagnostics.sharpness import SharpnessResult, sharpness
from sharpkit.diagnostics.spectrum import SpectrumResult, hessian

__all__ = [
    "GradDiffResult", "GradNormResult", "Grid", "SharpnessResult", "SpectrumResult",
    "graddiff", "gradnorms", "hessian", "sharpness",
]  # fmt: skip

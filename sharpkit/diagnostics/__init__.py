"""What a trained network's loss looks like around its weights: model, loss and samples in, a frozen result out."""

from __future__ import annotations

from sharpkit.diagnostics.spectrum import SpectrumResult, hessian

__all__ = ["SpectrumResult", "hessian"]

"""Products of the Hessian with a vector by central differences of gradients."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sharpkit.core import vec
from sharpkit.core.point import displaced
from sharpkit.diagnostics import reductions
from sharpkit.diagnostics.problem import Problem
from sharpkit.errors import UsageError


class GradientDifference:
    """H v = (g(w + h v) - g(w - h v)) / 2h, with an error of order h^2 and of rounding / h.

    The error is estimated at the first product, by halving h. Where the loss has kinks, as with ReLU, it is large at
    every h.

    Args:
        problem: What is differentiated.

    Raises:
        UsageError: If batch norm is in training mode.
    """

    def __init__(self, problem: Problem) -> None:
        if problem.bn_mode == "train":
            raise UsageError("hvp is fd and bn-mode is train, allowed is eval", "use --bn-mode eval")
        self.error = math.nan
        self._problem = problem
        weights = reductions.norm(vec.flatten(problem.params))
        self._step = torch.finfo(problem.dtype).eps ** (1 / 3) * (1 + float(weights))

    def product(self, vector: Tensor) -> Tensor:
        """Return H v, (P,), of a vector (P,)."""
        length = float(reductions.norm(vector))
        if length == 0:
            return torch.zeros_like(vector)
        step = self._step / length
        result = self._difference(vector, step)
        if math.isnan(self.error):
            finer = self._difference(vector, step / 2)
            self.error = float(reductions.norm(finer - result) / reductions.norm(finer).clamp_min(1e-300))
        return result

    def _difference(self, vector: Tensor, step: float) -> Tensor:
        return self._gradient(vector * step).sub_(self._gradient(vector * -step)).div_(2 * step)

    def _gradient(self, offset: Tensor) -> Tensor:
        problem = self._problem
        return displaced(problem.params, vec.unflatten(offset, problem.params), problem.gradient)

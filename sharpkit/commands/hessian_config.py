"""The options of `sharpkit hessian`, each once; this module does not import torch, so that `--help` answers at once."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from sharpkit.commands.checkpoint_config import SHARED, CheckpointConfig
from sharpkit.engine.config import option
from sharpkit.errors import UsageError, check_count, check_range

PANELS: dict[str, tuple[str, ...]] = {
    "Matrix": ("matrix", "ggn", "samples", "split", "batch_size", "params", "bn_mode", "weight_decay"),
    "Eigenvalues": ("top", "both_ends", "tol", "copies", "error_bars", "block", "backend", "per_layer"),
    "Density and trace": ("density", "steps", "runs", "sigma", "trace", "trace_tol"),
    "Numerics": ("hvp", "dtype", "memory"),
    **SHARED,
}

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclass(frozen=True, kw_only=True)
class HessianConfig(CheckpointConfig):
    """Everything that decides what `sharpkit hessian` computes.

    Raises:
        UsageError: If a value is outside its range.
    """

    matrix: Literal["hessian", "ggn", "fisher"] = option(
        "hessian", "Hessian, generalised Gauss-Newton or empirical Fisher matrix."
    )
    ggn: bool = option(False, "Short for --matrix ggn.")
    samples: str = option("all", "Samples of the loss: a number, or all.")
    batch_size: int = option(256, "Samples evaluated at once; the result does not depend on it.", "-b")
    params: str | None = option(None, "Only parameters whose names match this regular expression.", shown="all")
    bn_mode: Literal["eval", "train"] = option("eval", "Batch norm by stored statistics, or by those of each batch.")
    weight_decay: float = option(0.0, "lambda of a term lambda/2 |w|^2 added to the loss.")
    top: int = option(5, "How many of the largest eigenvalues.", "-k")
    both_ends: bool = option(False, "As many of the smallest eigenvalues too.")
    tol: float = option(1e-4, "Residual, relative to the eigenvalue, at which one counts as converged.")
    copies: bool = option(True, "Look for what one starting vector misses: multiple eigenvalues, clusters.")
    error_bars: bool = option(False, "Standard errors of the eigenvalues over the samples.")
    block: int = option(1, "Starting vectors; finds eigenvalues of a multiplicity up to it at once.")
    backend: Literal["lanczos", "scipy", "pyhessian"] = option("lanczos", "Who computes the eigenvalues.")
    per_layer: bool = option(False, "The diagonal block of every layer too.")
    density: bool = option(True, "The density of all eigenvalues.")
    steps: int = option(100, "Nodes of the density, the exact eigenvalues among them.")
    runs: int = option(1, "Starting vectors of the estimated part of the density.")
    sigma: float | None = option(None, "Width of the density's Gaussian.", shown="from the spectrum")
    trace: Literal["deflated", "hutchinson", "hutch++", "none"] = option("deflated", "How the trace is estimated.")
    trace_tol: float = option(0.01, "Relative standard error that the trace aims at.")
    hvp: Literal["auto", "autograd", "fd"] = option("auto", "Products by second derivatives or finite differences.")
    self_check: bool = option(True, "Check products on a few samples: symmetry, and finite differences.")
    dtype: Literal["auto", "float32", "float64"] = option("auto", "Precision of the products.", shown="the model's")
    memory: str = option("auto", "For graphs and vectors, as 8G.", shown="half of what is free")
    seed: int = option(0, "Seed of the random vectors, and of the samples drawn.")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("top", "block", "batch_size", "runs"):
            check_range(name.replace("_", "-"), getattr(self, name), 1)
        check_range("steps", self.steps, 2)
        check_range("weight-decay", self.weight_decay, 0)
        for name, value in (("tol", self.tol), ("trace-tol", self.trace_tol)):
            check_range(name, value, 0, 1, open_low=True)
        if self.sigma is not None:
            check_range("sigma", self.sigma, 0, open_low=True)
        _ = self.count, self.memory_bytes
        if self.ggn and self.matrix == "fisher":
            raise UsageError("--ggn and --matrix fisher are both given", "give one of them")
        if self.block > 1 and self.density:
            raise UsageError(f"block is {self.block} and a density is wanted, which needs one vector", "--no-density")
        if self.backend == "pyhessian":
            self._check_pyhessian()

    @property
    def kind(self) -> Literal["hessian", "ggn", "fisher"]:
        """The matrix, with --ggn."""
        return "ggn" if self.ggn else self.matrix

    @property
    def count(self) -> int | None:
        """The number of samples; None is all."""
        return check_count("samples", self.samples, "all")

    @property
    def memory_bytes(self) -> int | None:
        """The memory budget in bytes; None is half of what is free."""
        if self.memory == "auto":
            return None
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)i?B?", self.memory.strip(), re.IGNORECASE)
        if found is None:
            raise UsageError(f"memory is {self.memory!r}, allowed are auto and a size such as 8G", "use --memory 8G")
        return int(float(found[1]) * _UNITS[found[2].upper()])

    def _check_pyhessian(self) -> None:
        given = {
            "matrix": self.kind != "hessian",
            "params": self.params is not None,
            "bn-mode": self.bn_mode != "eval",
            "weight-decay": self.weight_decay != 0,
            "both-ends": self.both_ends,
            "dtype": self.dtype == "float64",
            "per-layer": self.per_layer,
        }
        for name in (name for name, is_given in given.items() if is_given):
            raise UsageError(f"backend is pyhessian, which has no --{name}", "use --backend lanczos")

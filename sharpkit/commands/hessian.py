"""`sharpkit hessian`: the spectra of one or several checkpoints."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from sharpkit.commands import checkpoints
from sharpkit.commands.checkpoints import beside, beside_all, loaded, noted
from sharpkit.commands.figure_files import FIGURES, write_figure
from sharpkit.commands.hessian_config import HessianConfig
from sharpkit.commands.hessian_files import document_of, write_arrays, write_table
from sharpkit.commands.train import peak_mb
from sharpkit.diagnostics.analysis import Wanted
from sharpkit.diagnostics.problem import opened
from sharpkit.diagnostics.spectrum import SpectrumResult, of_layers, of_problem
from sharpkit.engine import rundir, runtime
from sharpkit.engine.runtime import StopRequest
from sharpkit.engine.trained import Trained
from sharpkit.errors import InputError, SharpkitError

_SUFFIXES = (*FIGURES, ".npz", ".csv")


class Observer(checkpoints.Observer, Protocol):
    """Is told how it goes."""

    def product(self, products: int, largest: float) -> None:
        """Tell how many products are done, and the largest eigenvalue so far."""
        ...


class Quiet(checkpoints.Quiet):
    """An observer that ignores everything."""

    def product(self, products: int, largest: float) -> None:
        """Ignore."""


@dataclass(frozen=True)
class HessianResult:
    """The spectra of checkpoints.

    Args:
        spectra: By the name that was given.
        layers: Of every checkpoint the spectra of its layers; empty where not asked for.
        failed: What is wrong with the checkpoints that have no spectrum.
        files: What was written.
        signal_number: The signal that stopped it, 0 for none.
        args: The configuration.
        env: Versions and device.
        cost: Products, seconds, peak memory.
        warnings: What a reader should know.
    """

    spectra: dict[str, SpectrumResult]
    layers: dict[str, dict[str, SpectrumResult]]
    failed: dict[str, SharpkitError]
    files: list[str]
    signal_number: int
    args: dict[str, Any]
    env: dict[str, Any]
    cost: dict[str, float]
    warnings: list[str]

    @property
    def exit_code(self) -> int:
        """0, 5 where some checkpoints failed, 128 plus the number of a signal."""
        return 128 + self.signal_number if self.signal_number else 5 if self.failed else 0

    def document(self) -> dict[str, Any]:
        """Return the JSON document of the command."""
        results = [
            {"ckpt": name, **document_of(result), **self._of_layers(name)} for name, result in self.spectra.items()
        ]
        return checkpoints.document_of_checkpoints("hessian", self, results)

    def _of_layers(self, name: str) -> dict[str, Any]:
        blocks = self.layers.get(name)
        if not blocks:
            return {}
        return {"layers": [{"layer": layer, **document_of(result)} for layer, result in blocks.items()]}


def run(
    names: Sequence[str], config: HessianConfig, out: Path | None = None, *, plot: bool = True,
    observer: Observer | None = None,
) -> HessianResult:  # fmt: skip
    """Compute the spectra of checkpoints and write them to files.

    Args:
        names: Checkpoint files or run directories.
        config: What is computed.
        out: A file for all of them, by its ending png, pdf, svg, npz or csv; a figure gets the arrays beside it. None
            puts CKPT-hessian.npz and CKPT-hessian.png beside the checkpoints.
        plot: Whether a figure is drawn where `out` does not say.
        observer: Is told how it goes.

    Raises:
        SharpkitError: As the errors of `sharpkit.errors` say; of several checkpoints only if all fail.
    """
    checkpoints.check_arguments(names, out, _SUFFIXES)
    told = observer or Quiet()
    start = time.perf_counter()
    spectra: dict[str, SpectrumResult] = {}
    layers: dict[str, dict[str, SpectrumResult]] = {}
    failed: dict[str, SharpkitError] = {}
    env: dict[str, Any] = {}
    runtime.keep_freed_memory()
    with StopRequest() as stop:
        for name, trained in loaded(names, config, failed, stop, told):
            with noted(name, failed, told):
                spectra[name], layers[name] = _of_one(trained, config, stop, told)
                env = rundir.environment(trained.device)
    if not spectra:
        raise next(iter(failed.values()))
    files, warnings = _write(spectra, out, plot)
    warnings += [f"{name}: {note}" for name, result in spectra.items() for note in result.notes]
    cost = {
        **_work([*spectra.values(), *(block for blocks in layers.values() for block in blocks.values())]),
        "wall_s": round(time.perf_counter() - start, 3),
        "peak_mb": round(peak_mb(torch.device(env["device"])), 1),
    }
    args = {"checkpoints": list(names), **asdict(config)}
    return HessianResult(
        spectra, layers, failed, [str(f) for f in files], int(stop.signal_number), args, env, cost, warnings
    )


def _of_one(
    trained: Trained, config: HessianConfig, stop: StopRequest, told: Observer
) -> tuple[SpectrumResult, dict[str, SpectrumResult]]:
    batches = trained.batches(config.batch_size)
    _, sentence = runtime.pick_threads(config.threads, trained.model, trained.task, batches[0], trained.device)
    told.note(sentence)

    def watch(products: int, largest: float) -> bool:
        told.product(products, largest)
        return not stop.signal_number

    dtype = {"auto": None, "float32": torch.float32, "float64": torch.float64}[config.dtype]
    options: dict[str, Any] = {
        "kind": config.kind,
        "weight_decay": config.weight_decay,
        "products": config.hvp,
        "budget": config.memory_bytes,
        "watch": watch,
    }
    with opened(
        trained.model, trained.task, batches, params=config.params, bn_mode=config.bn_mode, dtype=dtype
    ) as problem:
        result = of_problem(problem, _wanted(config), **options)
        blocks: dict[str, SpectrumResult] = {}
        if config.per_layer and not stop.signal_number:
            blocks = of_layers(problem, _wanted(config, whole=False), **options)
    return result, blocks


def _work(results: Sequence[SpectrumResult]) -> dict[str, float]:
    """Return products, gradients (derivatives of all samples, a second one as one more), and samples passed."""
    backwards = [r.backwards / r.samples for r in results]
    return {
        "products": float(sum(r.products for r in results)),
        "grads": float(sum(backwards)),
        "grads_sequential": float(sum(backwards)),
        "forwards": float(sum(r.forwards for r in results)),
        "backwards": float(sum(r.backwards for r in results)),
    }


def _wanted(config: HessianConfig, *, whole: bool = True) -> Wanted:
    """Return what is computed of the whole matrix, or of a layer's block, of which density and trace are left out."""
    return Wanted(
        top=config.top,
        bottom=config.top if config.both_ends and whole else 0,
        tol=config.tol,
        copies=config.copies,
        error_bars=config.error_bars,
        block=config.block,
        density=config.density and whole,
        steps=config.steps,
        runs=config.runs,
        sigma=config.sigma,
        trace=None if config.trace == "none" or not whole else config.trace,
        trace_tol=config.trace_tol,
        seed=config.seed,
        backend=config.backend if whole else "lanczos",
    )


def _write(spectra: dict[str, SpectrumResult], out: Path | None, plot: bool) -> tuple[list[Path], list[str]]:
    """Write arrays and figure; return the files, and why there is no figure where none was asked for by name."""
    warnings: list[str] = []
    if out is not None:
        if out.suffix == ".csv":
            return [write_table(out, spectra)], warnings
        files = [write_arrays(out.with_suffix(".npz"), spectra)]
        return files + ([_draw(out, spectra)] if out.suffix in FIGURES else []), warnings
    files = [write_arrays(beside(name, "hessian.npz"), {name: result}) for name, result in spectra.items()]
    if plot:
        try:
            files.append(_draw(beside_all(list(spectra), "hessian.png"), spectra))
        except InputError as error:
            warnings.append(f"no figure was drawn: {error.message}; {error.hint}")
    return files, warnings


def _draw(path: Path, spectra: dict[str, SpectrumResult]) -> Path:
    from sharpkit.figures.spectrum import spectrum

    return write_figure(path, spectrum(spectra))

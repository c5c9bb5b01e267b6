"""`sharpkit hessian`: the spectra of one or several checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from sharpkit.commands import checkpoints
from sharpkit.commands.hessian_config import HessianConfig
from sharpkit.commands.hessian_files import Spectra, arrays_of, document_of, lines_of
from sharpkit.commands.measure import DTYPES, Form, Measured, choose_threads, in_sequence, measure
from sharpkit.commands.result_files import Files
from sharpkit.diagnostics.curvature.analysis import Wanted
from sharpkit.diagnostics.curvature.spectrum import SpectrumResult, of_layers, of_problem
from sharpkit.diagnostics.problem import opened
from sharpkit.engine.ranks import current
from sharpkit.engine.runtime import StopRequest
from sharpkit.engine.trained import Trained


class Observer(checkpoints.Observer, Protocol):
    """Is told how it goes."""

    def product(self, products: int, largest: float) -> None:
        """Tell how many products are done, and the largest eigenvalue so far."""
        ...


class Quiet(checkpoints.Quiet):
    """An observer that ignores everything."""

    def product(self, products: int, largest: float) -> None:
        """Ignore."""


def run(
    names: Sequence[str], config: HessianConfig, out: Path | None = None, *, plot: bool = True,
    observer: Observer | None = None,
) -> Measured[Spectra]:  # fmt: skip
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
    told = observer or Quiet()

    def one(name: str, trained: Trained, stop: StopRequest) -> Spectra:
        return _of_one(trained, config, stop, told)

    form = Form(
        command="hessian",
        document=document_of,
        write=Files("hessian", arrays_of, lines_of, _figure),
        notes=lambda spectra: spectra.whole.notes,
        work=_work,
    )
    return measure(form, names, config, one, told, out=out, plot=plot)


def _of_one(trained: Trained, config: HessianConfig, stop: StopRequest, told: Observer) -> Spectra:
    batches = trained.batches(config.batch_size)
    choose_threads(config, trained, batches[0], told)

    def watch(products: int, largest: float) -> bool:
        told.product(products, largest)
        return not stop.signal_number

    options: dict[str, Any] = {
        "kind": config.kind,
        "weight_decay": config.weight_decay,
        "products": config.hvp,
        "budget": config.memory_bytes,
        "self_check": config.self_check,
        "watch": watch,
    }
    with opened(
        trained.model,
        trained.task,
        batches,
        params=config.params,
        bn_mode=config.bn_mode,
        dtype=DTYPES[config.dtype],
        comm=current(),
    ) as problem:
        whole = of_problem(problem, _wanted(config), **options)
        layers: dict[str, SpectrumResult] = {}
        if config.per_layer and whole.complete:
            layers = of_layers(problem, _wanted(config, whole=False), **options)
    return Spectra(whole, layers)


def _work(spectra: Spectra) -> dict[str, float]:
    """Return products, gradients (derivatives of all samples, a second one as one more), and samples passed."""
    results = [spectra.whole, *spectra.layers.values()]
    return in_sequence(
        grads=sum(r.backwards / r.samples for r in results),
        forwards=sum(r.forwards for r in results),
        backwards=sum(r.backwards for r in results),
        products=sum(r.products for r in results),
    )


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


def _figure(found: Mapping[str, Spectra]) -> Any:
    from sharpkit.figures.spectrum import spectrum

    return spectrum({name: spectra.whole for name, spectra in found.items()})

"""`sharpkit landscape`: the losses around one or several checkpoints, on a common grid along common directions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from sharpkit.commands import checkpoints
from sharpkit.commands.checkpoints import beside, beside_all
from sharpkit.commands.figure_files import FIGURES, write_figure
from sharpkit.commands.landscape_config import LandscapeConfig
from sharpkit.commands.landscape_files import arrays_of, document_of, interpolated, lines_of
from sharpkit.commands.landscape_planes import axes_of, plane_of
from sharpkit.commands.landscape_store import Store, fingerprint
from sharpkit.commands.measure import Form, Measured, choose_threads, measure
from sharpkit.commands.result_files import drawn_if_possible, write_lines
from sharpkit.diagnostics.surfaces.landscape import landscape
from sharpkit.diagnostics.surfaces.landscape_result import LandscapeResult
from sharpkit.engine.agreement import on_first
from sharpkit.engine.atomic import write_atomically
from sharpkit.engine.ranks import current, join
from sharpkit.engine.runtime import StopRequest
from sharpkit.engine.trained import Trained
from sharpkit.errors import SharpkitError

_ENDINGS = (*FIGURES, ".html", ".npz", ".csv")
_BATCH, _STATISTICS, _PROBE = 2048, 256, 64
"""Samples of the batches that passes are cut from, of those that batch-norm statistics are means over, and of the one
that threads are chosen by."""


class Observer(checkpoints.Observer, Protocol):
    """Is told how it goes."""

    def point(self, known: int, wanted: int, loss: float) -> None:
        """Tell how many points are known, and the loss at the last one."""
        ...


class Quiet(checkpoints.Quiet):
    """An observer that ignores everything."""

    def point(self, known: int, wanted: int, loss: float) -> None:
        """Ignore."""


def run(
    names: Sequence[str],
    config: LandscapeConfig,
    out: Path | None = None,
    *,
    overwrite: bool = False,
    plot: bool = True,
    observer: Observer | None = None,
) -> Measured[LandscapeResult]:
    """Compute the surfaces of checkpoints and write them to files; cells that a file holds are not computed again.

    Args:
        names: Checkpoint files or run directories.
        config: What is computed.
        out: A file for all of them, by its ending png, pdf, svg, html, npz or csv; the arrays are beside it as .npz.
            None puts CKPT-landscape.npz and CKPT-landscape.png beside the checkpoints.
        overwrite: Whether files that hold other surfaces are replaced.
        plot: Whether a figure is drawn where `out` does not say.
        observer: Is told how it goes.

    Raises:
        SharpkitError: As the errors of `sharpkit.errors` say; of several checkpoints only if all fail.
    """
    checkpoints.check_arguments(names, out, _ENDINGS)  # before a store reads what is there
    told = observer or Quiet()
    names = list(dict.fromkeys(names))
    join(config.device, config.timeout)

    def opened(path: Path, of: Sequence[str]) -> Store:
        return on_first(lambda: Store(path, of, overwrite=overwrite))

    common = None if out is None else opened(out.with_suffix(".npz"), names)

    def one(name: str, trained: Trained, stop: StopRequest) -> LandscapeResult:
        store = common or opened(_stored(name, config), [name])
        return _of_one(name, trained, config, store, stop, told)

    form = Form(
        command="landscape",
        document=lambda surface: document_of(surface, config.radius, config.level),
        write=lambda surfaces, out, plot: _write(surfaces, config, out, plot),
        notes=lambda surface: surface.notes,
        work=_work,
        endings=_ENDINGS,
    )
    return measure(form, names, config, one, told, out=out, plot=plot)


def _work(surface: LandscapeResult) -> dict[str, float]:
    return {"evaluations": surface.evaluations, "forwards": surface.evaluations * surface.samples}


def _called(config: LandscapeConfig) -> str:
    """Return the name of the files of a kind of directions, so that surfaces along others stand beside each other."""
    shape = "profile" if config.profile else "landscape"
    return shape if config.kind == "random" else f"{shape}-{config.kind}"


def _stored(name: str, config: LandscapeConfig) -> Path:
    return beside(name, f"{_called(config)}.npz")


def _of_one(
    name: str, trained: Trained, config: LandscapeConfig, store: Store, stop: StopRequest, told: Observer
) -> LandscapeResult:
    recomputed = config.bn_mode == "recompute"
    batches = trained.batches(_even(len(trained.samples), config.batch_size) if recomputed else _BATCH)
    probe = batches[0].select_range(0, min(_PROBE, batches[0].size))
    choose_threads(config, trained, probe, told)
    plane = plane_of(trained, config)
    smoothing = f"{trained.config.smoothing:g}"
    if trained.config.smoothing_over != "all":
        smoothing += f" over the {trained.config.smoothing_over}"
    cells = on_first(
        lambda: store.cells(
            name,
            fingerprint(
                trained.model,
                batches,
                plane,
                bn_mode=f"recomputed {batches[0].size}" if recomputed else "eval",
                amp=config.amp,
                loss=f"cross-entropy, smoothing {smoothing}",
            ),
        )
    )
    if len(cells):
        told.note(f"{store.path}: goes on with {len(cells)} known points")
    x, y = axes_of(config, plane)

    unwritten: list[SharpkitError] = []

    def watch(known: int, wanted: int, loss: float) -> bool:
        told.point(known, wanted, loss)
        try:
            store.tick()
        except SharpkitError as error:  # told when all processes have stopped
            unwritten.append(error)
        return not (stop.signal_number or unwritten)

    def written() -> None:
        store.write()
        if unwritten:
            raise unwritten[0]

    try:
        result = landscape(
            trained.model,
            trained.task,
            batches,
            x=x,
            y=y,
            plane=plane,
            bn_mode=config.bn_mode,
            amp=config.amp,
            chunk=None if recomputed else config.batch_size,
            check=config.check,
            adaptive=config.adaptive,
            adaptive_scale="log loss" if config.log_z else "loss",
            convex=config.convexity,
            cells=cells,
            watch=watch,
            comm=current(),
        )
        result.mean_rise(config.radius)  # refuses a radius beyond the grid
        store.done(name, arrays_of(result))
        told.note(f"evaluated in {result.how}")
        if config.amp != "off":
            told.note(f"{config.amp}: relative error of the loss up to {result.amp_error:.2g}, measured on some cells")
        if result.interpolation is not None and result.interpolation.accepted:
            told.note(interpolated(result))
    except BaseException:
        store.write()
        raise
    on_first(written)
    return result


def _even(samples: int, given: int | None) -> int:
    """Return the size of batches for statistics: about 256 samples, so that the last is not left with a few."""
    if given is not None:
        return given
    return -(-samples // -(-samples // _STATISTICS))


def _write(
    surfaces: dict[str, LandscapeResult], config: LandscapeConfig, out: Path | None, plot: bool
) -> tuple[list[Path], list[str]]:
    """Draw or list what was computed, as `Form.write` says; the arrays are stored as they come."""
    if out is None:
        stored = list(dict.fromkeys(_stored(name, config) for name in surfaces))
        path = beside_all(list(surfaces), f"{_called(config)}.png")
        drawn, warnings = drawn_if_possible(plot, lambda: _figure(path, surfaces, config))
        return stored + drawn, warnings
    files = [out.with_suffix(".npz")]
    if out.suffix == ".csv":
        files.append(write_lines(out, lines_of(surfaces)))
    elif out.suffix != ".npz":
        files.append(_figure(out, surfaces, config))
    return files, []


def _figure(path: Path, surfaces: dict[str, LandscapeResult], config: LandscapeConfig) -> Path:
    options: dict[str, Any] = {"log": config.log_z, "vmin": config.vmin, "vmax": config.vmax}
    if path.suffix == ".html":
        from sharpkit.figures.interactive import page

        text = page(surfaces, **options)
        write_atomically(path, lambda file: file.write(text.encode()))
        return path
    from sharpkit.figures.landscape import landscape as figure

    return write_figure(path, figure(surfaces, style=config.style, levels=config.levels, **options))

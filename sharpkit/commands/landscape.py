"""`sharpkit landscape`: the losses around one or several checkpoints, on a common grid along common directions."""

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
from sharpkit.commands.landscape_config import LandscapeConfig
from sharpkit.commands.landscape_files import arrays_of, document_of, interpolated, write_table
from sharpkit.commands.landscape_planes import axes_of, plane_of
from sharpkit.commands.landscape_store import Store, fingerprint
from sharpkit.commands.train import peak_mb
from sharpkit.diagnostics.landscape import landscape
from sharpkit.diagnostics.landscape_result import LandscapeResult
from sharpkit.engine import rundir, runtime
from sharpkit.engine.checkpoint import write_atomically
from sharpkit.engine.runtime import StopRequest
from sharpkit.engine.trained import Trained
from sharpkit.errors import InputError, SharpkitError

_SUFFIXES = (*FIGURES, ".html", ".npz", ".csv")
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


@dataclass(frozen=True)
class LandscapesResult:
    """The surfaces of checkpoints.

    Args:
        surfaces: By the name that was given.
        failed: What is wrong with the checkpoints that have no surface.
        files: What was written.
        signal_number: The signal that stopped it, 0 for none.
        args: The configuration.
        env: Versions and device.
        cost: Evaluations, seconds, peak memory.
        warnings: What a reader should know.
    """

    surfaces: dict[str, LandscapeResult]
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
        radius, level = self.args["radius"], self.args["level"]
        results = [{"ckpt": name, **document_of(result, radius, level)} for name, result in self.surfaces.items()]
        return checkpoints.document_of_checkpoints("landscape", self, results)


def run(
    names: Sequence[str],
    config: LandscapeConfig,
    out: Path | None = None,
    *,
    overwrite: bool = False,
    plot: bool = True,
    observer: Observer | None = None,
) -> LandscapesResult:
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
    checkpoints.check_arguments(names, out, _SUFFIXES)
    told = observer or Quiet()
    start = time.perf_counter()
    names = list(dict.fromkeys(names))
    common = None if out is None else Store(out.with_suffix(".npz"), names, overwrite=overwrite)
    surfaces: dict[str, LandscapeResult] = {}
    failed: dict[str, SharpkitError] = {}
    env: dict[str, Any] = {}
    files: list[Path] = []
    runtime.keep_freed_memory()
    with StopRequest() as stop:
        for name, trained in loaded(names, config, failed, stop, told):
            with noted(name, failed, told):
                store = common or Store(beside(name, f"{_called(config)}.npz"), [name], overwrite=overwrite)
                surfaces[name] = _of_one(name, trained, config, store, stop, told)
                env = rundir.environment(trained.device)
                if store.path not in files:
                    files.append(store.path)
    if not surfaces:
        raise next(iter(failed.values()))
    drawn, warnings = _draw(surfaces, config, out, plot)
    warnings += [f"{name}: {note}" for name, result in surfaces.items() for note in result.notes]
    cost = {
        "evaluations": float(sum(r.evaluations for r in surfaces.values())),
        "forwards": float(sum(r.evaluations * r.samples for r in surfaces.values())),
        "wall_s": round(time.perf_counter() - start, 3),
        "peak_mb": round(peak_mb(torch.device(env["device"])), 1),
    }
    args = {"checkpoints": names, **asdict(config)}
    written = [str(f) for f in (*files, *drawn)]
    return LandscapesResult(surfaces, failed, written, int(stop.signal_number), args, env, cost, warnings)


def _called(config: LandscapeConfig) -> str:
    """Return the name of the files of a kind of directions, so that surfaces along others stand beside each other."""
    shape = "profile" if config.profile else "landscape"
    return shape if config.kind == "random" else f"{shape}-{config.kind}"


def _of_one(
    name: str, trained: Trained, config: LandscapeConfig, store: Store, stop: StopRequest, told: Observer
) -> LandscapeResult:
    recomputed = config.bn_mode == "recompute"
    batches = trained.batches(_even(len(trained.samples), config.batch_size) if recomputed else _BATCH)
    probe = batches[0].select_range(0, min(_PROBE, batches[0].size))
    _, sentence = runtime.pick_threads(config.threads, trained.model, trained.task, probe, trained.device)
    told.note(sentence)
    plane = plane_of(trained, config)
    smoothing = trained.config.smoothing
    cells = store.cells(
        name,
        fingerprint(
            trained.model,
            batches,
            plane,
            bn_mode=f"recomputed {batches[0].size}" if recomputed else "eval",
            amp=config.amp,
            loss=f"cross-entropy, smoothing {smoothing:g}",
        ),
    )
    if len(cells):
        told.note(f"{store.path}: goes on with {len(cells)} known points")
    x, y = axes_of(config, plane)

    def watch(known: int, wanted: int, loss: float) -> bool:
        told.point(known, wanted, loss)
        store.tick()
        return not stop.signal_number

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
        )
        result.mean_rise(config.radius)  # refuses a radius beyond the grid
        store.done(name, arrays_of(result))
        told.note(f"evaluated in {result.how}")
        if config.amp != "off":
            told.note(f"{config.amp}: relative error of the loss up to {result.amp_error:.2g}, measured on some cells")
        if result.interpolation is not None and result.interpolation.accepted:
            told.note(interpolated(result))
    finally:
        store.write()
    return result


def _even(samples: int, given: int | None) -> int:
    """Return the size of batches for statistics: about 256 samples, so that the last is not left with a few."""
    if given is not None:
        return given
    return -(-samples // -(-samples // _STATISTICS))


def _draw(
    surfaces: dict[str, LandscapeResult], config: LandscapeConfig, out: Path | None, plot: bool
) -> tuple[list[Path], list[str]]:
    """Draw or list what was computed; return the files, and why there is no figure where none was asked for by name."""
    if out is not None:
        if out.suffix == ".csv":
            return [write_table(out, surfaces)], []
        return ([] if out.suffix == ".npz" else [_figure(out, surfaces, config)]), []
    if not plot:
        return [], []
    try:
        return [_figure(beside_all(list(surfaces), f"{_called(config)}.png"), surfaces, config)], []
    except InputError as error:
        return [], [f"no figure was drawn: {error.message}; {error.hint}"]


def _figure(path: Path, surfaces: dict[str, LandscapeResult], config: LandscapeConfig) -> Path:
    options: dict[str, Any] = {"log": config.log_z, "vmin": config.vmin, "vmax": config.vmax}
    if path.suffix == ".html":
        from sharpkit.figures.interactive import page

        text = page(surfaces, **options)
        write_atomically(path, lambda file: file.write(text.encode()))
        return path
    from sharpkit.figures.landscape import landscape as figure

    return write_figure(path, figure(surfaces, style=config.style, levels=config.levels, **options))

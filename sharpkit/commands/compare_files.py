"""The files of a comparison: its document, its rows, its figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from sharpkit.commands.compare_formats import as_csv
from sharpkit.commands.compare_metrics import metric_of
from sharpkit.commands.compare_result import CompareResult
from sharpkit.commands.curves import averaged, read_run
from sharpkit.commands.figure_files import FIGURES, write_figure
from sharpkit.commands.ownership import check_replaceable
from sharpkit.engine.documents import to_json
from sharpkit.engine.rundir import RunDir, write_text
from sharpkit.engine.runs import Run
from sharpkit.errors import UsageError
from sharpkit.figures.curves import Curve
from sharpkit.libraries import imported
from sharpkit.statistics.comparison import Settings

CURVES = ("train_loss", "train_acc", "val_acc")


def check_figures(plot: Path | None, plot_vs: str | None, curves: Path | None) -> None:
    """Refuse figures that cannot be drawn, before anything is run for them.

    Raises:
        UsageError: If the ending of a file is no figure's, or there is no file.
        InputError: If matplotlib is not installed.
    """
    if plot_vs is not None and plot is None:
        raise UsageError("--plot-vs is given without --plot", "name the figure with --plot FILE")
    for option, path in (("plot", plot), ("curves", curves)):
        if path is None:
            continue
        if path.suffix not in FIGURES:
            raise UsageError(f"--{option} is {path}, allowed endings are {', '.join(FIGURES)}", "give another name")
        check_replaceable([path])
        imported("matplotlib", "a figure", f"leave --{option} out")


def write(result: CompareResult, folder: Path) -> None:
    """Write compare.json and compare.csv into a folder, and note them in the result."""
    document, table = folder / "compare.json", folder / "compare.csv"
    folder.mkdir(parents=True, exist_ok=True)
    check_replaceable([document, table])
    result.files.extend([str(document), str(table)])
    write_text(table, as_csv(result))
    write_text(document, to_json(result.document()))


def draw(result: CompareResult, path: Path, against: str | None) -> None:
    """Draw all seeds, or the first metric against a key, and note the file in the result.

    Raises:
        UsageError: If the key is none of the rows'.
    """
    from sharpkit.figures import comparison

    name = result.metrics[0]
    title = metric_of(name).title
    if against is None:
        figure = comparison.seeds(result.rows, name, title, result.config.ci)
    else:
        figure = comparison.against(result.rows, against, name, title)
    result.files.append(str(write_figure(path, figure)))


def draw_curves(result: CompareResult, path: Path) -> None:
    """Draw losses and accuracies over the epochs, and note the file in the result."""
    from sharpkit.figures.comparison_curves import over_epochs

    groups: dict[Settings, dict[str, list[Path]]] = {}
    for run in (run for run in result.runs if run.lost is None):
        groups.setdefault(run.settings, {}).setdefault(run.label, []).append(run.folder)
    places = {_place(at, result.runs): list(_curves(by_label)) for at, by_label in groups.items()}
    result.files.append(str(write_figure(path, over_epochs(places))))


def _place(settings: Settings, runs: Sequence[Run]) -> str:
    """Return what a row of panels is called: its settings, and of which recipe runs have no result."""
    told = [f"{key} {value}" for key, value in settings]
    outcomes: dict[str, list[bool]] = {}
    for run in runs:
        if run.settings == settings:
            outcomes.setdefault(run.label, []).append(run.lost is None)
    told += [f"{label}: {sum(there)} of {len(there)} runs" for label, there in outcomes.items() if not all(there)]
    return ", ".join(told)


def _curves(folders: Mapping[str, Sequence[Path]]) -> Iterator[Curve]:
    for label, of in folders.items():
        runs = [read_run(str(folder), RunDir(folder)) for folder in of]
        for metric in CURVES:
            curve = averaged(label, runs, metric, "epoch")
            if curve is not None and curve.count.any():
                yield curve

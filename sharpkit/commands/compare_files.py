"""The files of a comparison: its document, its rows, its figure."""

from __future__ import annotations

from pathlib import Path

from sharpkit.commands.checkpoints import FIGURES, write_figure
from sharpkit.commands.compare import CompareResult
from sharpkit.commands.compare_formats import as_csv
from sharpkit.commands.compare_metrics import metric_of
from sharpkit.engine.documents import to_json
from sharpkit.engine.rundir import write_text
from sharpkit.errors import UsageError


def write(result: CompareResult, folder: Path) -> None:
    """Write compare.json and compare.csv beside the runs, and note them in the result."""
    document, table = folder / "compare.json", folder / "compare.csv"
    result.files.extend([str(document), str(table)])
    write_text(table, as_csv(result))
    write_text(document, to_json(result.document()))


def draw(result: CompareResult, path: Path, against: str | None) -> None:
    """Draw all seeds, or the metric against a key, and note the file in the result.

    Raises:
        UsageError: If the file's ending is no figure's, or the key is none of the rows'.
        InputError: If matplotlib is not installed.
    """
    from sharpkit.figures import comparison

    if path.suffix not in FIGURES:
        raise UsageError(f"--plot is {path}, allowed endings are {', '.join(FIGURES)}", "give another name")
    name = result.metrics[0]
    title = metric_of(name).title
    if against is None:
        figure = comparison.seeds(result.rows, name, title, result.config.ci)
    else:
        figure = comparison.against(result.rows, against, name, title)
    result.files.append(str(write_figure(path, figure)))

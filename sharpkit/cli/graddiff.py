"""`sharpkit graddiff`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from sharpkit.cli.measuring import Call, OutFile, checkpoint_command
from sharpkit.cli.terminal import Terminal
from sharpkit.commands.graddiff_config import PANELS, GradDiffConfig

if TYPE_CHECKING:
    from sharpkit.diagnostics.gradients.gradient_difference import GradDiffResult
    from sharpkit.diagnostics.gradients.relative import Grid, Tally


@checkpoint_command("graddiff", GradDiffConfig, PANELS)
def graddiff(call: Call[GradDiffConfig], *, out: OutFile = None) -> None:
    """How much does the perturbation change the gradient: r = log|(g_SAM - g_SGD) / g_SGD| of every parameter.

    Example: sharpkit graddiff runs/digits-cnn-sam-s0 --rho 0.05
    """
    from sharpkit.cli.work_progress import WorkProgress
    from sharpkit.commands import graddiff as command

    options = call.options
    result = call.measured(command.run, WorkProgress, out=out)
    factor = command.factor(options)

    def tables(results: Mapping[str, GradDiffResult], terminal: Terminal) -> None:
        _table(results, terminal, factor)
        if options.per_layer:
            for name, found in results.items():
                _parts(found.by_layer(), found.grid, factor, "layer", f"layers of {name}", terminal)
                _parts(found.by_kind(), found.grid, factor, "kind", f"kinds of parameters of {name}", terminal)

    call.tell(result, lambda found: _line(found, factor), tables)


def _line(result: GradDiffResult, factor: float) -> dict[str, str]:
    total = result.total
    return {
        "n": str(total.counted),
        "fraction_negative": f"{total.fraction_negative:.8g}",
        "error": f"{result.error:.3g}",
        **{name: f"{value:.6g}" for name, value in _quantiles(total, result.grid, factor).items()},
        "excluded": str(total.excluded),
        "zero": str(total.zero),
        "both_zero": str(total.both_zero),
        "denormal": str(total.denormal),
        "same": str(total.same),
        "below_floor": f"{total.fraction_below_floor:.4g}",
        "cosine": f"{result.cosines.mean():.8g}",
        "batches": str(result.batches),
        "batch_size": str(result.samples),
        "bn_mode": result.bn_mode,
        "rule": result.rule,
    }


def _quantiles(tally: Tally, grid: Grid, factor: float) -> dict[str, float]:
    from sharpkit.commands.graddiff import QUANTILES

    return {name: tally.quantile(q, grid) / factor for name, q in QUANTILES.items()}


def _table(results: Mapping[str, GradDiffResult], terminal: Terminal, factor: float) -> None:
    """Write what is usually read, a column a checkpoint."""
    found = list(results.values())
    first = found[0]
    rows = [["parameters with r < 0", *(_share(r) for r in found)]]
    for name in _quantiles(first.total, first.grid, factor):
        label = {"median": "median of r"}.get(name, f"{int(name[1:])} % quantile of r" if name[0] == "q" else name)
        rows.append([label, *(f"{_quantiles(r.total, r.grid, factor)[name]:.3f}" for r in found)])
    rows += [
        ["cosine of the gradients", *(f"{r.cosines.mean():.5f}" for r in found)],
        ["|g_SGD|", *(f"{r.clean_norms.mean():.4g}" for r in found)],
        ["|g_SAM - g_SGD|", *(f"{r.difference_norms.mean():.4g}" for r in found)],
        ["entries", *(f"{r.total.entries:,}" for r in found)],
        ["excluded: both zero", *(f"{r.total.both_zero:,}" for r in found)],
        ["excluded: g_SGD zero", *(f"{r.total.zero:,}" for r in found)],
        ["excluded: g_SGD denormal", *(f"{r.total.denormal:,}" for r in found)],
    ]
    if first.eps:
        rows.append([f"excluded: up to {first.eps:g}", *(f"{r.total.below_eps:,}" for r in found)])
    rows.append(["difference within rounding", *(f"{100 * r.total.fraction_below_floor:.3g}%" for r in found)])
    base = "natural logarithm" if factor == 1 else "logarithm to base 10"
    title = (
        f"r = log|(g_SAM - g_SGD) / g_SGD|, {base}, {first.rule}, {first.batches} x {first.samples} samples, "
        f"batch norm in {first.bn_mode} mode, no augmentation, {first.dtype}"
    )
    terminal.rows(["", *results], rows, title)


def _share(result: GradDiffResult) -> str:
    error = f" ± {100 * result.error:.2g}" if result.error == result.error else ""
    return f"{100 * result.total.fraction_negative:.3f}{error} %"


def _parts(tallies: Mapping[str, Tally], grid: Grid, factor: float, what: str, title: str, terminal: Terminal) -> None:
    rows = [
        [name, f"{t.entries:,}", f"{100 * t.fraction_negative:.2f} %", f"{t.quantile(0.5, grid) / factor:.3f}",
         f"{t.excluded:,}"]
        for name, t in tallies.items()
    ]  # fmt: skip
    terminal.rows([what, "entries", "r < 0", "median of r", "excluded"], rows, title)

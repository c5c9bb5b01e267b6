"""`sharpkit gradnorm-qq`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from sharpkit.cli.measuring import Call, OutFile, checkpoint_command
from sharpkit.cli.terminal import Terminal
from sharpkit.commands.gradnorm_qq_config import PANELS, GradNormConfig

if TYPE_CHECKING:
    from sharpkit.diagnostics.gradients.gradient_norms import GradNormResult


@checkpoint_command("gradnorm-qq", GradNormConfig, PANELS)
def gradnorm_qq(call: Call[GradNormConfig], *, out: OutFile = None) -> None:
    """Are squared stochastic gradient norms normal: Q-Q plot, tests, and what it means for AE-SAM.

    Example: sharpkit gradnorm-qq runs/digits-cnn-ae-sam-s0
    """
    from sharpkit.cli.work_progress import WorkProgress
    from sharpkit.commands import gradnorm_qq as command

    options = call.options
    result = call.measured(command.run, WorkProgress, out=out)
    call.tell(
        result,
        lambda found: _line(found, options.test),
        lambda results, terminal: _table(results, terminal, options.test),
    )


def _line(result: GradNormResult, test: str) -> dict[str, str]:
    found, share = result.normality, result.share
    row = {
        "n": str(len(result.values)),
        "mean": f"{found.mean:.8g}",
        "var": f"{found.std**2:.6g}",
        "skewness": f"{found.skewness:.5g}",
        "kurtosis": f"{found.kurtosis:.5g}",
        "r_qq": f"{found.r_qq:.6f}",
    }
    if test in ("both", "shapiro"):
        row |= {"W": f"{found.shapiro.statistic:.6f}", "p": f"{found.shapiro.p:.4g}"}
    if test in ("both", "anderson"):
        row |= {"A2": f"{found.anderson.statistic:.5g}", "p_anderson": f"{found.anderson.p:.4g}"}
    return row | {
        "pct_sam_nominal": f"{100 * share.nominal_averaged:.2f}",
        "pct_sam": f"{100 * share.empirical_averaged:.2f}",
        "batch_size": str(result.samples),
        "bn_mode": result.bn_mode,
        "verdict": found.verdict,
    }


def _table(results: Mapping[str, GradNormResult], terminal: Terminal, test: str) -> None:
    """Write what is usually read, a column a checkpoint."""
    every = list(results.values())
    found, shares, first = [r.normality for r in every], [r.share for r in every], every[0]
    rows = [
        ["mean", *(f"{f.mean:.5g}" for f in found)],
        ["standard deviation", *(f"{f.std:.4g}" for f in found)],
        ["skewness (normal: 0)", *(f"{f.skewness:.3f}" for f in found)],
        ["kurtosis - 3 (normal: 0)", *(f"{f.kurtosis:.3f}" for f in found)],
        ["r_qq (normal: 1)", *(f"{f.r_qq:.5f}" for f in found)],
    ]
    if test in ("both", "shapiro"):
        rows.append(["Shapiro-Wilk W", *(f"{f.shapiro.statistic:.5f} (p = {f.shapiro.p:.2g})" for f in found)])
        if any(f.shapiro_count < len(f.ordered) for f in found):
            rows.append(["numbers it used, at random", *(f"{f.shapiro_count:,} of {len(f.ordered):,}" for f in found)])
    if test in ("both", "anderson"):
        rows.append(["Anderson-Darling A²", *(f"{f.anderson.statistic:.4f} (p = {f.anderson.p:.2g})" for f in found)])
    rows += [
        ["outside the 95 % envelope", *(f"{f.outside} of {len(f.ordered)}" for f in found)],
        ["%SAM, if they were normal", *(f"{100 * s.nominal_averaged:.1f}" for s in shares)],
        [
            "%SAM, as they are (± of the simulation)",
            *(f"{100 * s.empirical_averaged:.1f} ± {100 * s.error:.1f}" for s in shares),
        ],
        ["verdict", *(f.verdict for f in found)],
    ]
    share = shares[0]
    title = (
        f"squared norms of the gradients of {len(first.values)} batches of {first.samples}, batch norm in "
        f"{first.bn_mode} mode, "
        f"no augmentation, no weight decay, {first.dtype}; %SAM of AE-SAM with lam1 {share.lam1:g}, lam2 {share.lam2:g}"
    )
    terminal.rows(["", *results], rows, title)

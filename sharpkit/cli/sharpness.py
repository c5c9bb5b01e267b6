"""`sharpkit sharpness`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from sharpkit.cli.measuring import Call, OutFile, checkpoint_command
from sharpkit.cli.terminal import Terminal
from sharpkit.commands.sharpness_config import PANELS, SharpnessConfig

if TYPE_CHECKING:
    from sharpkit.diagnostics.sharpness import Estimate, SharpnessResult


@checkpoint_command("sharpness", SharpnessConfig, PANELS)
def sharpness(call: Call[SharpnessConfig], *, out: OutFile = None) -> None:
    """How much does the loss rise around the weights: lower bounds of the worst case, of all or few samples; the mean.

    Example: sharpkit sharpness runs/digits-cnn-sam-s0 --rho 0.05 --m 128
    """
    from sharpkit.cli.work_progress import WorkProgress
    from sharpkit.commands import sharpness as command

    result = call.measured(command.run, WorkProgress, out=out)
    call.tell(result, _line, _table)


def _line(result: SharpnessResult) -> dict[str, str]:
    row = {"rule": result.rule, "rho": f"{result.radius:g}", "loss": f"{result.loss:.8g}"}
    for name in ("one_step", "ascent", "average", "m_sharpness"):
        found: Estimate | None = getattr(result, name)
        row |= {name: f"{found.value:.8g}" if found else "", f"{name}_error": f"{found.error:.3g}" if found else ""}
    return row | {
        "bound": "lower",  # of the worst cases: one_step, ascent and m_sharpness
        "m": str(result.m or ""),
        "samples": str(result.samples),
        "bn_mode": result.bn_mode,
        "gradients": f"{result.gradients:g}",
    }


def _table(results: Mapping[str, SharpnessResult], terminal: Terminal) -> None:
    """Write one table, a column a checkpoint."""
    every = list(results.values())
    first = every[0]
    rows = [
        ["worst case, one step (lower bound)", *(_value(r.one_step) for r in every)],
        [f"worst case, {first.steps} steps (lower bound)", *(_value(r.ascent) for r in every)],
    ]
    if first.m_sharpness is not None:
        steps = "one step" if first.m_steps == 1 else f"{first.m_steps} steps"
        rows.append(
            [f"worst case of {first.m} samples, {steps} (lower bound)", *(_value(r.m_sharpness) for r in every)]
        )
    if len(first.directions):
        rows.append([f"average of {len(first.directions)} directions", *(_value(r.average) for r in every)])
    rows += [["loss", *(f"{r.loss:.5g}" for r in every)], ["gradients", *(f"{r.gradients:g}" for r in every)]]
    title = (
        f"rise of the loss, {first.rule}, {first.samples} samples, batch norm in {first.bn_mode} mode, "
        f"no augmentation, {first.dtype}"
    )
    terminal.rows(["", *results], rows, title)


def _value(found: Estimate | None) -> str:
    if found is None or found.value != found.value:
        return ""
    return f"{found.value:.5g}" + (f" ± {found.error:.2g}" if found.error == found.error else "")

"""A table of optimizers over seeds: means, spreads, differences to the baseline, and a sentence on each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from sharpkit.statistics.difference import Correction, Difference, TestName, adjusted, difference

LEVEL = 0.05
"""The level at which a difference is called significant."""

Settings = tuple[tuple[str, str], ...]
"""Names and values of the options that differ between rows, beside the optimizer."""


@dataclass(frozen=True)
class Group:
    """The runs of one optimizer with one setting, over seeds.

    Args:
        label: The optimizer, as it was asked for.
        settings: The varied options.
        values: Metric by name, a value by seed.
        note: The recipe that was chosen, where the label stands for several.
    """

    label: str
    settings: Settings
    values: Mapping[str, Mapping[int, float]]
    note: str = ""


@dataclass(frozen=True)
class Row:
    """A group with its statistics.

    Args:
        group: The runs.
        n: Seeds that have the first metric.
        means: By metric.
        stds: Standard deviations over seeds, by metric; NaN for a single one.
        baseline: Whether the others are compared with it.
        difference: To the baseline of the same settings; None for the baseline itself and where there is none.
        p_adjusted: Of the difference, corrected for all comparisons of the table.
    """

    group: Group
    n: int
    means: Mapping[str, float]
    stds: Mapping[str, float]
    baseline: bool
    difference: Difference | None
    p_adjusted: float

    @property
    def significant(self) -> bool:
        """Whether the corrected p-value is below 0.05."""
        return self.p_adjusted < LEVEL


def compared(
    groups: Sequence[Group],
    baseline: str,
    metric: str,
    *,
    test: TestName = "paired-t",
    correction: Correction = "holm",
    level: float = 0.95,
) -> list[Row]:
    """Return a row for every group, with its difference to the baseline that has the same settings.

    Args:
        groups: In the order of the rows.
        baseline: The label of the baseline.
        metric: What is tested.
        test: See `difference`.
        correction: See `adjusted`; over all rows.
        level: Of the confidence intervals.
    """
    bases = {group.settings: group for group in groups if group.label == baseline}
    rows: list[Row] = []
    for group in groups:
        base = bases.get(group.settings)
        own = group.values.get(metric, {})
        found = None
        if base is not None and base is not group and own:
            found = difference(own, base.values.get(metric, {}), test=test, level=level)
        rows.append(
            Row(
                group=group,
                n=len(own),
                means={name: _mean(values) for name, values in group.values.items()},
                stds={name: _std(values) for name, values in group.values.items()},
                baseline=base is group,
                difference=found,
                p_adjusted=math.nan,
            )
        )
    corrected = adjusted([row.difference.p if row.difference else math.nan for row in rows], correction)
    return [replace(row, p_adjusted=p) for row, p in zip(rows, corrected, strict=True)]


def _mean(values: Mapping[int, float]) -> float:
    return float(np.mean(list(values.values()))) if values else math.nan


def _std(values: Mapping[int, float]) -> float:
    return float(np.std(list(values.values()), ddof=1)) if len(values) > 1 else math.nan


def sentence(row: Row, unit: str, digits: int = 2, *, corrected: bool = True) -> str:
    """Return what the difference means, in plain words.

    Args:
        row: Of a table.
        unit: Of the metric, such as `points`.
        digits: After the point.
        corrected: Whether the p-value is corrected for the number of comparisons.
    """
    found = row.difference
    if row.baseline:
        return "the baseline"
    if found is None or not found.n:
        return "no baseline with these settings" if found is None else found.reason
    size = f"{found.mean:+.{digits}f} {unit}".rstrip()
    if math.isnan(found.p):
        return f"{size}; {found.reason}"
    interval = "" if math.isnan(found.low) else f" [{found.low:+.{digits}f}, {found.high:+.{digits}f}]"
    told = p_text(row.p_adjusted)
    p = f"{'p_adj' if corrected else 'p'} {told if told.startswith('<') else f'= {told}'}"
    if row.significant:
        return f"{size}{interval}, {p}"
    more = f"; about {found.needed} seeds would show it" if found.needed and found.needed > found.n else ""
    return f"no significant difference ({size}{interval}, {p}{more})"


def p_text(p: float) -> str:
    """Return a p-value with two digits, or that it is very small."""
    if math.isnan(p):
        return ""
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}" if p < 0.1 else f"{p:.2f}"

"""`--require`: conditions under which a comparison passes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sharpkit.commands.compare_config import CompareConfig
from sharpkit.errors import UsageError
from sharpkit.statistics.comparison import LEVEL, Group
from sharpkit.statistics.difference import difference


@dataclass(frozen=True)
class Verdict:
    """What became of a requirement in one setting.

    Args:
        text: The requirement, and the setting.
        met: Whether it holds.
        reason: The numbers.
    """

    text: str
    met: bool
    reason: str


def judged(
    requirements: Sequence[tuple[str, str, str]], groups: Sequence[Group], config: CompareConfig
) -> list[Verdict]:
    """Return the verdict on each requirement, in every setting that has both optimizers.

    `A>=B`: the mean of A over seeds is not below that of B. `A>B`: A is above B and the test's p-value, which is not
    corrected, is below 0.05.

    Raises:
        UsageError: If an optimizer is not in the table.
    """
    metric = config.metrics[0]
    found: list[Verdict] = []
    for a, relation, b in requirements:
        labels = [group.label for group in groups]
        for name in (a, b):
            if labels and name not in labels:
                raise UsageError(
                    f"require names {name!r}, allowed are {', '.join(dict.fromkeys(labels))}", "correct --require"
                )
        by_setting = {group.settings: group for group in groups if group.label == b}
        for ours in (group for group in groups if group.label == a and group.settings in by_setting):
            base = by_setting[ours.settings]
            test = "paired-t" if config.test == "none" else config.test
            seen = difference(ours.values.get(metric, {}), base.values.get(metric, {}), test=test, level=config.ci)
            met = seen.mean >= 0 if relation == ">=" else seen.mean > 0 and seen.p < LEVEL
            place = "".join(f", {key} {value}" for key, value in ours.settings)
            p = "" if relation == ">=" else f", {seen.reason}" if seen.reason else f", p = {seen.p:.2g}"
            found.append(Verdict(f"{a}{relation}{b}{place}", met, f"{metric}: {seen.mean:+.4g}{p}"))
    return found

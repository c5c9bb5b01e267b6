"""`--require`: conditions under which a comparison passes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sharpkit.commands.compare_config import CompareConfig
from sharpkit.errors import UsageError
from sharpkit.recipes.grid import named
from sharpkit.statistics.comparison import LEVEL, Group, counted, pairs
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


def check_named(config: CompareConfig, labels: Sequence[str]) -> None:
    """Refuse a baseline or a requirement on an optimizer that is not compared.

    Raises:
        UsageError: If there is one.
    """
    places = [("baseline", config.baseline)] if config.baseline is not None else []
    places += [("require", name) for a, _, b in config.requirements for name in (a, b)]
    for option, name in places:
        if named(name, labels) is None:
            raise UsageError(
                f"{option} names {name!r}, allowed are {', '.join(dict.fromkeys(labels))}", f"correct --{option}"
            )


def judged(config: CompareConfig, groups: Sequence[Group]) -> list[Verdict]:
    """Return the verdict on each requirement, in every setting that has both optimizers.

    `A>=B`: the mean of A over seeds is not below that of B. `A>B`: A is above B and the test's p-value, which is not
    corrected, is below 0.05. Means are those over the seeds that both have. A requirement is not met where a run of
    either diverged or failed, nor where no setting has runs of both.
    """
    labels = list(dict.fromkeys(group.label for group in groups))
    found: list[Verdict] = []
    for a, relation, b in config.requirements:
        by_setting = {group.settings: group for group in groups if group.label == named(b, labels)}
        pairs = [
            (group, by_setting[group.settings])
            for group in groups
            if group.label == named(a, labels) and group.settings in by_setting
        ]
        found += [_verdict(f"{a}{relation}{b}", relation, ours, base, config) for ours, base in pairs]
        if not pairs:
            found.append(Verdict(f"{a}{relation}{b}", False, "there are no runs of both with the same settings"))
    return found


def _verdict(text: str, relation: str, ours: Group, base: Group, config: CompareConfig) -> Verdict:
    metric = config.metrics[0]
    test = "paired-t" if config.test == "none" else config.test
    place = "".join(f", {key} {value}" for key, value in ours.settings)
    for group in (ours, base):
        if {"diverged", "failed"} & set(group.lost.values()):
            return Verdict(
                f"{text}{place}", False, f"{group.label}: {counted(len(group.values.get(metric, {})), group)}"
            )
    seen = difference(ours.values.get(metric, {}), base.values.get(metric, {}), test=test, level=config.ci)
    met = seen.mean >= 0 if relation == ">=" else seen.mean > 0 and seen.p < LEVEL
    p = "" if relation == ">=" else f", {seen.reason}" if seen.reason else f", p = {seen.p:.2g}"
    told = f"{metric}: {seen.mean:+.4g}{p}, {pairs(seen)}" if seen.n else seen.reason
    return Verdict(f"{text}{place}", met, told)

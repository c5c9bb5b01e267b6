"""`--select val`: of every grid of hyperparameters the values with the best validation accuracy, never the test's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from sharpkit.recipes.grammar import pieces
from sharpkit.statistics.comparison import Group, Settings


def selected(groups: Sequence[Group]) -> tuple[list[Group], list[str]]:
    """Return one group for every recipe and setting, and how it was chosen.

    Recipes of the same names belong to one grid, which is called by what its members share: the grid of
    `sampa:lam=0.2:rho=0.05` and `sampa:lam=0.2:rho=0.1` is `sampa:lam=0.2`. A grid with a member that has no validation
    accuracy is kept as it is.
    """
    grids: dict[str, dict[Settings, list[Group]]] = {}
    for group in groups:
        grids.setdefault(pieces(group.label)[0], {}).setdefault(group.settings, []).append(group)
    kept: dict[str, Group] = {}
    notes: list[str] = []
    for by_setting in grids.values():
        labels = [group.label for members in by_setting.values() for group in members]
        shared = _shared(labels)
        for settings, members in by_setting.items():
            scores = [_score(group) for group in members]
            if len(set(labels)) == 1 or not np.isfinite(scores).all():
                kept |= {f"{group.label}{settings}": group for group in members}
                continue
            best = members[int(np.argmax(scores))]
            place = "".join(f", {key} {value}" for key, value in settings)
            notes.append(
                f"{shared}{place}: {best.label} is the best of {len(members)} by validation accuracy "
                f"({max(scores):.2f} %); the test set had no part in it"
            )
            kept[f"{best.label}{settings}"] = replace(best, label=shared, note=best.label)
    return [kept[key] for group in groups if (key := f"{group.label}{group.settings}") in kept], notes


def _shared(labels: Sequence[str]) -> str:
    """Return the name of a grid: the recipe, and the parameters that all its members have alike."""
    head, *items = pieces(labels[0])
    return ":".join([head, *(item for item in items if all(item in pieces(label) for label in labels))])


def _score(group: Group) -> float:
    values = list(group.values.get("val_acc", {}).values())
    return float(np.mean(values)) if values else float("nan")

"""`--select val`: of every grid of hyperparameters the values with the best validation accuracy, never the test's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from sharpkit.recipes.grammar import pieces
from sharpkit.statistics.comparison import Group, Settings


def selected(groups: Sequence[Group]) -> tuple[list[Group], list[str]]:
    """Return one group for every recipe and setting, and how it was chosen.

    Recipes of the same names belong to one grid. A group without validation accuracy is kept as it is.
    """
    grids: dict[tuple[str, Settings], list[Group]] = {}
    for group in groups:
        grids.setdefault((pieces(group.label)[0], group.settings), []).append(group)
    kept: list[Group] = []
    notes: list[str] = []
    for (name, settings), members in grids.items():
        scores = [_score(group) for group in members]
        if len(members) == 1 or not np.isfinite(scores).all():
            kept += members
            continue
        best = int(np.argmax(scores))
        note = f"best of {len(members)} by validation accuracy ({scores[best]:.2f} %)"
        place = "".join(f", {key} {value}" for key, value in settings)
        notes.append(f"{name}{place}: {members[best].label} is the {note}; the test set had no part in it")
        kept.append(replace(members[best], note=note))
    return kept, notes


def _score(group: Group) -> float:
    values = list(group.values.get("val_acc", {}).values())
    return float(np.mean(values)) if values else float("nan")

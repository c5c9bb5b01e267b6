"""`--select val`: of every grid of hyperparameters the values with the best validation accuracy, never the test's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from sharpkit.recipes.grammar import pieces
from sharpkit.statistics.comparison import Group, Settings

_METRIC = "val_acc"


def selected(groups: Sequence[Group]) -> tuple[list[Group], list[str]]:
    """Return one group for every recipe and setting, and how it was chosen.

    Recipes of the same names belong to one grid, which is called by what its members share: the grid of
    `sampa:lam=0.2:rho=0.05` and `sampa:lam=0.2:rho=0.1` is `sampa:lam=0.2`. Those with the fewest runs that diverged or
    failed come first, and of these the best mean of the validation accuracy over the seeds that all of them have.
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
            if len(set(labels)) == 1:
                kept |= {f"{group.label}{settings}": group for group in members}
                continue
            best, told = _best(members)
            place = shared + "".join(f", {key} {value}" for key, value in settings)
            notes += [f"{place}: {sentence}" for sentence in told]
            if best is None:
                kept |= {f"{group.label}{settings}": group for group in members}
            else:
                kept[f"{best.label}{settings}"] = replace(best, label=shared, note=best.label)
    return [kept[key] for group in groups if (key := f"{group.label}{group.settings}") in kept], notes


def _best(members: Sequence[Group]) -> tuple[Group | None, list[str]]:
    """Return the group that is chosen, None where there is nothing to choose by, and what is to be said of it."""
    told: list[str] = []
    seen = [group for group in members if group.values.get(_METRIC)]
    without = [group.label + (f" ({_why(group)})" if _broken(group) else "") for group in members if group not in seen]
    if not seen:
        return None, ["all are shown, for none has a validation accuracy to choose by"]
    if without:
        told.append(f"passed over without a validation accuracy: {', '.join(without)}")
    fewest = min(map(_broken, seen))
    sound = [group for group in seen if _broken(group) == fewest]
    told.extend(f"passed over: {group.label}, of which {_why(group)}" for group in seen if group not in sound)
    seeds = [seed for seed in sound[0].values[_METRIC] if all(seed in group.values[_METRIC] for group in sound)]
    if not seeds:
        return None, [*told, f"all are shown, for {', '.join(group.label for group in sound)} have no seed in common"]
    scores = [float(np.mean([group.values[_METRIC][seed] for seed in seeds])) for group in sound]
    best = sound[int(np.argmax(scores))]
    every = all(len(group.values[_METRIC]) == len(seeds) for group in sound)
    over = "" if every else f" over the seeds that all have ({', '.join(map(str, sorted(seeds)))})"
    chosen = f"{best.label} is the best of {len(sound)} by validation accuracy{over} ({max(scores):.2f} %)"
    return best, [*told, f"{chosen}; the test set had no part in it"]


def _broken(group: Group) -> int:
    """Return how many runs diverged or failed."""
    counts = group.counts()
    return counts["diverged"] + counts["failed"]


def _why(group: Group) -> str:
    counts = group.counts()
    return " and ".join(f"{counts[reason]} {reason}" for reason in ("diverged", "failed") if counts[reason])


def _shared(labels: Sequence[str]) -> str:
    """Return the name of a grid: the recipe, and the parameters that all its members have alike."""
    head, *items = pieces(labels[0])
    return ":".join([head, *(item for item in items if all(item in pieces(label) for label in labels))])

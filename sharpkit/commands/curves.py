"""What runs measured while they trained, as curves, and their mean over seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharpkit.engine.rundir import RunDir, read_config
from sharpkit.errors import InputError, UsageError
from sharpkit.figures.curves import Curve

Array = NDArray[np.float64]

NOT_COMPARED = (
    "seed", "device", "threads", "workers", "data_dir", "download", "channels_last", "compile", "cuda_graphs",
    "sampa_streams", "probe", "probe_every",
)  # fmt: skip
"""Options in which the runs of a group may differ."""

_NO_METRIC = ("kind", "step", "epoch", "gradients", "sequential", "critical", "forwards", "backwards", "seconds")


@dataclass(frozen=True)
class Run:
    """A run as it is on disk.

    Args:
        name: As it was given.
        config: Its options.
        records: Its lines, by kind.
    """

    name: str
    config: Mapping[str, Any]
    records: Mapping[str, list[dict[str, Any]]]

    @property
    def group(self) -> str:
        """What the runs that differ only in their seed have in common."""
        return repr(sorted((k, v) for k, v in self.config.items() if k not in NOT_COMPARED))

    def kind_of(self, metric: str) -> str | None:
        """Return the kind of line that has a metric: of a probe or an epoch, and only then of a step."""
        for kind in ("probe", "epoch", "step"):
            if any(metric in record for record in self.records.get(kind, [])):
                return kind
        return None

    def curve(self, metric: str, x: str) -> tuple[Array, Array]:
        """Return where a metric was measured and its values, NaN where it is no number.

        Raises:
            UsageError: If the lines of that metric have no such x.
        """
        kind = self.kind_of(metric)
        lines = [r for r in self.records.get(kind or "", []) if metric in r]
        at = [self._place(record, x, metric) for record in lines]
        order = np.argsort(at, kind="stable")
        values = [math.nan if r[metric] is None else float(r[metric]) for r in lines]
        return np.array(at, dtype=np.float64)[order], np.array(values, dtype=np.float64)[order]

    def _place(self, record: Mapping[str, Any], x: str, metric: str) -> float:
        if x in ("gradients", "seconds") and record["kind"] != "epoch":
            # A probe's own seconds are its cost; where it stands in the run the epochs around it say.
            epochs = self.records.get("epoch", [])
            steps = [0.0, *(float(r["step"]) for r in epochs)]
            return float(np.interp(float(record["step"]), steps, [0.0, *(float(r[x]) for r in epochs)]))
        if x not in record:
            raise UsageError(f"{metric} of {self.name} has no {x}", "use --x step")
        if x == "epoch" and record["kind"] == "step":
            per_epoch = self._steps_per_epoch
            return float(record["step"]) / per_epoch if per_epoch else float(record["epoch"])
        return float(record[x])

    @property
    def _steps_per_epoch(self) -> float:
        epochs = self.records.get("epoch", [])
        return float(epochs[0]["step"]) / float(epochs[0]["epoch"]) if epochs else 0.0


def read_run(name: str, run: RunDir) -> Run:
    """Read the options and metrics of a run.

    Raises:
        InputError: If there are none.
    """
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for record in run.records():
        by_kind.setdefault(str(record.get("kind")), []).append(record)
    if not by_kind:
        raise InputError(f"{run.metrics} has no line yet", "wait for the first epoch, or give another run")
    config = read_config(run.config) if run.config.is_file() else {}
    return Run(name, config, by_kind)


def named_groups(runs: Sequence[Run], *, by_run: bool = False) -> dict[str, list[Run]]:
    """Return runs by a name of what their group does not share with all the others."""
    if by_run:
        return {run.name: [run] for run in runs}
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.group, []).append(run)
    members = list(groups.values())
    keys = [key for run in runs for key in run.config if key not in NOT_COMPARED]
    differ = [key for key in dict.fromkeys(keys) if len({repr(m[0].config.get(key)) for m in members}) > 1]
    named: dict[str, list[Run]] = {}
    for group in members:
        first = group[0].config
        # Options that follow from others would only lengthen the name.
        words = [str(first["opt"])] if "opt" in differ or not differ else []
        words += [f"{key.replace('_', '-')} {first.get(key)}" for key in differ if key != "opt"]
        named[", ".join(words) if first else group[0].name] = group
    return named


def metrics_of(runs: Sequence[Run]) -> list[str]:
    """Return every key that is a metric."""
    keys = [key for run in runs for kind in ("epoch", "probe", "step") for r in run.records.get(kind, []) for key in r]
    return [key for key in dict.fromkeys(keys) if key not in _NO_METRIC]


def averaged(group: str, runs: Sequence[Run], metric: str, x: str) -> Curve | None:
    """Return the mean of a metric over runs at every x that any of them has; None where none has the metric.

    Runs that differ in their seed have the same steps; where they do not share x, as seconds, the k-th points of all
    are taken together, at the mean of their x.
    """
    curves = [run.curve(metric, x) for run in runs if run.kind_of(metric) is not None]
    curves = [(at, values) for at, values in curves if len(at)]
    if not curves:
        return None
    longest = max(len(at) for at, _ in curves)
    places, values = np.full((2, len(curves), longest), math.nan)
    for row, (at, of) in enumerate(curves):
        places[row, : len(at)], values[row, : len(of)] = at, of
    there = np.isfinite(values)
    count = there.sum(0)
    kept = np.isfinite(places).any(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(there, values, 0).sum(0) / count
        spread = np.sqrt(np.where(there, (values - mean) ** 2, 0).sum(0) / (count - 1))
        at = np.where(np.isfinite(places), places, 0).sum(0) / np.isfinite(places).sum(0)
    low = np.where(there, values, np.inf).min(0)
    high = np.where(there, values, -np.inf).max(0)
    return Curve(group, metric, *(v[kept] for v in (at, mean, np.where(count > 1, spread, math.nan), low, high, count)))

"""The result of `sharpkit compare`, its exit code and its JSON document."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from sharpkit.commands.compare_config import CompareConfig
from sharpkit.commands.compare_metrics import metric_of
from sharpkit.commands.origins import Origins, documents
from sharpkit.commands.pool import Failure
from sharpkit.commands.requirements import Verdict
from sharpkit.engine.documents import document
from sharpkit.engine.provenance import Setting
from sharpkit.engine.published_tables import Entry
from sharpkit.engine.runs import Run
from sharpkit.statistics.comparison import Row, Settings, sentence

Printed = dict[tuple[str, Settings], dict[str, Entry]]
"""Numbers of a paper by recipe, setting and metric."""


@dataclass(frozen=True)
class CompareResult:
    """A comparison.

    Args:
        rows: In the order of the table.
        runs: What it is made of, those without a result too.
        metrics: Names of the columns; the first is tested.
        config: How it was made.
        failed: Why cells have no result, by name.
        missing: Cells that were not run, because it was stopped.
        verdicts: What became of the requirements.
        notes: What a reader must know: what was passed over, how values were chosen.
        files: What was written.
        signal_number: The signal that stopped it, 0 for none.
        args: Recipes, options and configuration.
        env: Versions and device.
        cost: Of all runs in the table, and the seconds of this call.
        printed: What a paper says, by recipe, setting and metric.
        origins: Who says the settings of a reproduction, by recipe and setting.
    """

    rows: list[Row]
    runs: list[Run]
    metrics: list[str]
    config: CompareConfig
    failed: dict[str, Failure]
    missing: int
    verdicts: list[Verdict]
    notes: list[str]
    files: list[str]
    signal_number: int
    args: dict[str, Any]
    env: dict[str, Any]
    cost: dict[str, float]
    printed: Printed
    origins: Origins = field(default_factory=dict[tuple[str, Settings], Sequence[Setting]])

    @property
    def exit_code(self) -> int:
        """0, 5 where cells failed, 6 where a requirement is not met, 128 plus the number of a signal."""
        if self.signal_number:
            return 128 + self.signal_number
        if self.failed or self.missing:
            return 5
        return 0 if all(verdict.met for verdict in self.verdicts) else 6

    def sentence(self, row: Row) -> str:
        """Return what a row says, in plain words."""
        tested = metric_of(self.metrics[0])
        return sentence(row, tested.unit, tested.digits, corrected=self.config.correct != "none")

    def document(self) -> dict[str, Any]:
        """Return the JSON document of the command."""
        body = {
            "args": self.args,
            "seed": None,
            "device": self.env["device"],
            "metrics": self.metrics,
            "rows": [self._row(row) for row in self.rows],
            "requirements": [asdict(verdict) for verdict in self.verdicts],
            "failed": [{"cell": name, **asdict(failure)} for name, failure in self.failed.items()],
            "missing": self.missing,
            "env": self.env,
            "cost": self.cost,
            "files": self.files,
            "warnings": self.notes,
        }
        return document("compare", body, ok=self.exit_code == 0)

    def _row(self, row: Row) -> dict[str, Any]:
        return {
            "opt": row.group.label,
            "chosen": row.group.note or None,
            "settings": dict(row.group.settings),
            "n": row.n,
            "planned": row.planned,
            **row.group.counts(),
            "baseline": row.baseline,
            "metrics": {name: _measured(row, name) for name in self.metrics if name in row.means},
            "difference": None if row.difference is None else _there(asdict(row.difference)),
            "p_adjusted": _there({"p": row.p_adjusted})["p"],
            "detectable": None if math.isinf(row.detectable) else _there({"d": row.detectable})["d"],
            "significant": row.significant,
            "sentence": self.sentence(row),
            "paper": {name: _as_printed(entry) for name, entry in self.paper(row).items()},
            "origins": documents(self.settings(row)),
        }

    def paper(self, row: Row) -> Mapping[str, Entry]:
        """Return what a paper says of a row, by metric."""
        return self.printed.get((row.group.label, row.group.settings), {})

    def settings(self, row: Row) -> Sequence[Setting]:
        """Return the settings of a reproduced row with who says each, nothing of another comparison."""
        return self.origins.get((row.group.label, row.group.settings), ())


def _as_printed(entry: Entry) -> dict[str, Any]:
    return {"value": entry.value, "spread": entry.spread, "printed": entry.printed, "note": entry.note}


def _measured(row: Row, name: str) -> dict[str, Any]:
    values = {str(seed): value for seed, value in row.group.values[name].items()}
    return {**_there({"mean": row.means[name], "std": row.stds[name]}), "values": values}


def _there(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return None for what there is not: NaN is no number that went wrong here."""
    return {key: None if isinstance(v, float) and math.isnan(v) else v for key, v in values.items()}


def cost_of(summaries: Iterable[Mapping[str, Any]], seconds: float) -> dict[str, float]:
    """Return the work of all runs together, their greatest memory, and the seconds of this call."""
    costs = [summary["cost"] for summary in summaries]
    sums = {name: math.fsum(cost[name] for cost in costs) for name in ("grads", "grads_sequential", "forwards")}
    return {
        "runs": float(len(costs)),
        **sums,
        "backwards": math.fsum(cost["backwards"] for cost in costs),
        "runs_wall_s": round(math.fsum(cost["wall_s"] for cost in costs), 3),
        "wall_s": round(seconds, 3),
        "peak_mb": max((cost["peak_mb"] for cost in costs), default=0.0),
    }

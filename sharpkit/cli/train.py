"""`sharpkit train`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from sharpkit.cli.options import flag, given_by_name
from sharpkit.cli.shared import OUTPUT, ConfigFile, Json, NoColor, Traceback, from_file
from sharpkit.cli.terminal import Terminal, pairs
from sharpkit.engine.config import MAY_DIFFER, TrainConfig, to_mapping
from sharpkit.engine.documents import to_json
from sharpkit.engine.presets import Applied, apply
from sharpkit.errors import UsageError

if TYPE_CHECKING:
    from sharpkit.cli.progress import TrainProgress
    from sharpkit.commands.train import TrainPlan, TrainResult

T = TypeVar("T")


def train(
    context: typer.Context,
    *,
    config: ConfigFile = None,
    resume: Annotated[
        str | None,
        typer.Option(
            "--resume",
            metavar="RUN|auto",
            help="Go on with a run; auto finds the one of these options, or starts it.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="DIR",
            help="Run directory (default: runs/<data>-<model>-<opt>-s<seed>).",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the run in --out.", rich_help_panel=OUTPUT)
    ] = False,
    trust_code: Annotated[
        bool,
        typer.Option(
            "--trust-code",
            help="UNSAFE: with --resume, run whatever code the checkpoint names as model, data or base optimizer.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Check everything, say what would be done.", rich_help_panel=OUTPUT)
    ] = False,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print the resolved options as TOML.", rich_help_panel=OUTPUT)
    ] = False,
    json: Json = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print the checkpoint's path only.", rich_help_panel=OUTPUT)
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Print all resolved options first.", rich_help_panel=OUTPUT)
    ] = False,
    no_progress: Annotated[
        bool, typer.Option("--no-progress", help="One line an epoch in place of a bar.", rich_help_panel=OUTPUT)
    ] = False,
    no_color: NoColor = False,
    traceback: Traceback = False,
    **given: Any,
) -> None:
    """Train one model with one optimizer; on a pipe, print the checkpoint's path.

    Example: sharpkit train --opt sampa --label-noise 0.4
    """
    terminal = Terminal(json=json, quiet=quiet, progress=not no_progress, color=not no_color)
    if resume is not None and overwrite:
        raise UsageError("--resume and --overwrite are both given", "give one of them")
    if resume not in (None, "auto") and out is not None:
        raise UsageError("--resume RUN goes on in RUN, and --out is given", "leave --out out")
    if trust_code and resume is None:
        raise UsageError(
            "--trust-code is given, and there is no --resume: the code of a new run is what you name", "leave it out"
        )
    options = {k: v for k, v in given.items() if v is not None}
    if resume not in (None, "auto"):  # the run says what it is; the environment may say where it goes on
        named = given_by_name(context, given)
        options = {k: v for k, v in options.items() if k in named or k in MAY_DIFFER}
    if config is not None:
        options = _over(options, from_file(config))
    request = _Request(apply(options), resume=resume, out=out, overwrite=overwrite, trust_code=trust_code)
    if dry_run or print_config:
        _show_plan(_aside(lambda: request.plan(terminal, verbose)), terminal, print_config)
    else:
        _render(_aside(lambda: request.run(terminal, verbose)), terminal)


@dataclass(frozen=True)
class _Request:
    """What is to be run: the options given, on the command line, in a file or by a preset, and the run directory."""

    applied: Applied
    resume: str | None
    out: Path | None
    overwrite: bool
    trust_code: bool

    def plan(self, terminal: Terminal, verbose: bool) -> TrainPlan:
        from sharpkit.commands import train as command

        found = self._found()
        if found is not None:
            return command.plan_resume(found, self._contradictable, **self._permitted)
        self._introduce(terminal.say, verbose)
        return command.plan(self._config, self.out, overwrite=self.overwrite)

    def run(self, terminal: Terminal, verbose: bool) -> TrainResult:
        from sharpkit.cli.progress import TrainProgress
        from sharpkit.commands import train as command

        with TrainProgress(terminal) as progress:
            found = self._found(progress)
            if found is not None:
                return command.resume(found, self._contradictable, observer=progress, **self._permitted)
            self._introduce(progress.note, verbose)
            return command.run(self._config, self.out, overwrite=self.overwrite, observer=progress)

    def _introduce(self, say: Callable[[str], None], verbose: bool) -> None:
        """Say which preset is applied; with `verbose`, every option, and where the preset's values come from."""
        if self.applied.note:
            say(self.applied.note)
        if verbose:
            sources = {name: f"  # {source}" for name, source in self.applied.sources.items()}
            say("\n".join(f"{k} = {v}{sources.get(k, '')}" for k, v in to_mapping(self._config).items()))

    @property
    def _config(self) -> TrainConfig:
        return TrainConfig(**self.applied.given)

    @property
    def _contradictable(self) -> dict[str, Any]:
        """What may contradict the run that is gone on with; nothing where it was found by these very options."""
        given = {} if self.resume == "auto" else self.applied.given
        return {name: value for name, value in given.items() if name != "preset"}

    @property
    def _permitted(self) -> dict[str, Any]:
        """The code that may run: what these options name, and with --trust-code what the checkpoint names."""
        from sharpkit.engine.trusted_code import names_of

        requested = names_of(self._config) if self.resume == "auto" else []
        return {"requested": requested, "trust_code": self.trust_code}

    def _found(self, observer: TrainProgress | None = None) -> Path | None:
        """Return the run to go on with, if there is one."""
        from sharpkit.commands.train import find_resumable

        if self.resume != "auto":
            return None if self.resume is None else Path(self.resume)
        return find_resumable(self._config, self.out, observer=observer)


def _aside(call: Callable[[], T]) -> T:
    """Send what a user's own files print to stderr, so that it does not mix with the output."""
    with redirect_stdout(sys.stderr):
        return call()


def _over(given: dict[str, Any], stored: dict[str, Any]) -> dict[str, Any]:
    """Return a file's options with those on the command line over them; --rho replaces the radius in the file's opt."""
    if "rho" in given and "opt" in stored and "opt" not in given:
        kept = [item for item in stored["opt"].split(":") if not item.startswith("rho=")]
        stored = {**stored, "opt": ":".join(kept)}
    if "opt" in given and "rho" not in given:
        stored = {name: value for name, value in stored.items() if name != "rho"}
    return {**stored, **given}


def _show_plan(planned: TrainPlan, terminal: Terminal, as_config: bool) -> None:
    import tomli_w

    if terminal.json:
        print(to_json(planned.document()), end="")
    elif as_config:
        print(tomli_w.dumps(planned.config), end="")
    else:
        terminal.rows(("option", "value"), pairs({**planned.config, **planned.plan}), "what would be done")


def _render(result: TrainResult, terminal: Terminal) -> None:
    for warning in result.warnings:
        terminal.say(f"warning: {warning}")
    if terminal.json:
        print(to_json(result.document()), end="")
    elif terminal.person:
        terminal.rows(("result", "value"), _summary(result), f"{result.config['opt']}, seed {result.config['seed']}")
    else:
        print(result.checkpoint)
    terminal.say(f"next: {_next(result)}")


def _summary(result: TrainResult) -> list[tuple[str, str]]:
    from sharpkit.engine.records import NOTES

    metrics, cost = result.metrics, result.cost
    steps = cost["steps"]
    rows = [
        *_judged(metrics),
        ("test loss", f"{metrics['test_loss']:.4f}"),
        ("steps with perturbation", f"{metrics['pct_sam']:.1f}%"),
        ("gradients", f"{cost['grads']:g} ({cost['grads'] / steps:.2f} a step)"),
        ("sequential gradients", _sequential(cost, steps)),
        ("wall time", f"{cost['wall_s']:.1f} s ({1e3 * cost['wall_s'] / steps:.1f} ms a step)"),
        ("peak memory", f"{cost['peak_mb']:.0f} MB"),
        *[(text, f"{metrics[name]:.4g}") for name, text in NOTES.items() if name in metrics],
        ("checkpoint", result.checkpoint),
    ]
    for kind, told in (("acc", "accuracy"), ("score", "score")):
        if f"best_test_{kind}" in metrics:
            found = [_percent(metrics[f"best_{part}_{kind}"]) for part in ("test", "val")]
            rows.insert(1, (f"test {told} of best.pt", f"{found[0]} (validation {found[1]})"))
    return rows


def _judged(metrics: dict[str, float]) -> list[tuple[str, str]]:
    """Return what the data are judged by: of tests, of further tests by their names, of validation and training."""
    from sharpkit.engine.metrics import METRICS

    parts = [key.removesuffix("_loss") for key in metrics if key.startswith("test") and key.endswith("_loss")]
    told = {"val": "validation", "train": "training"}
    rows: list[tuple[str, str]] = []
    for part in (*parts, *told):
        if part == "val" and "test_score" in metrics:
            rows.append(("test score", f"{metrics['test_score']:.4f}"))
        for name, metric in METRICS.items():
            if f"{part}_{name}" in metrics:
                title = f"{told.get(part, part.replace('_', ' '))} {metric.title}"
                value = metrics[f"{part}_{name}"]
                rows.append((title, _percent(value) if name == "acc" else f"{value:.4f}"))
    return rows


def _sequential(cost: dict[str, float], steps: float) -> str:
    text = f"{cost['grads_sequential']:g} ({cost['grads_sequential'] / steps:.2f} a step)"
    if cost["grads_critical"] < cost["grads_sequential"]:
        text += f"; {cost['grads_critical']:g} with two devices"
    return text


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.2f}%" if fraction == fraction else "none held out"


def _next(result: TrainResult) -> str:
    """Return the run to compare this one with: the baseline, or plain SAM after the baseline."""
    plain = str(result.config["opt"]).split(":")[0] == "sgd"
    words = ["sharpkit", "train", "--opt", "sam" if plain else "sgd"]
    for name, value in result.asked.items():
        if name in ("opt", "rho"):
            continue
        words += [flag(name)] if value is True else [flag(f"no_{name}")] if value is False else [flag(name), str(value)]
    return shlex.join(words) + f"  # {'plain SAM' if plain else 'the baseline'} to compare with"

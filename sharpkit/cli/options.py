"""Command-line options derived from a configuration class, so that each is declared once."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import typer

from sharpkit.engine.config import TrainConfig, kinds, options

PANELS: dict[str, tuple[str, ...]] = {
    "Preset": ("preset",),
    "Optimizer": (
        "opt",
        "base",
        "rho",
        "rho_sched",
        "rho_warmup_epochs",
        "lr",
        "wd",
        "wd_in_loss",
        "momentum",
        "nesterov",
    ),
    "Data": ("data", "data_dir", "download", "label_noise", "noise_kind", "val_frac", "augment", "limit", "max_length"),
    "Model": ("model", "init", "partial", "trust_checkpoint"),
    "Training": ("epochs", "batch_size", "sched", "warmup_epochs", "smoothing", "smoothing_over", "clip", "accum"),
    "Numerics": ("amp", "tf32", "rng", "bn_stats"),
    "Probes": ("probe", "probe_every", "probe_samples", "probe_rho"),
    "Several processes": ("ascent_scope", "sync_bn", "sampa_devices", "sampa_streams", "timeout"),
    "Run": (
        *("seed", "save_every", "device", "threads", "workers"),
        *("compile", "cuda_graphs", "channels_last", "deterministic"),
    ),
}


def flag(name: str) -> str:
    """Return how an option is written on the command line."""
    return "--" + name.replace("_", "-")


def parameters(of: type[Any], panels: Mapping[str, tuple[str, ...]]) -> list[inspect.Parameter]:
    """Return one keyword-only parameter for every option of a configuration; None means not given."""
    types, declared = kinds(of), options(of)
    return [
        _parameter(name, types[name], declared[name].default, declared[name].metadata, panel)
        for panel, names in panels.items()
        for name in names
    ]


def _parameter(name: str, kind: Any, default: Any, metadata: Mapping[str, Any], panel: str) -> inspect.Parameter:
    written = flag(name)
    if kind is bool:
        written = f"{written}/--no-{name.replace('_', '-')}"
    shown = metadata["shown"] or ("off" if default is False else str(default))
    declared = typer.Option(
        None,
        written,
        *metadata["flags"],
        help=f"{metadata['help'].removesuffix('.')} (default: {shown}).",
        show_default=False,
        envvar=f"SHARPKIT_{name.upper()}",
        show_envvar=False,
        rich_help_panel=panel,
        autocompletion=(lambda: list(completions)) if (completions := metadata["completions"]) else None,
    )
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=declared, annotation=kind | None)


def given_by_name(context: typer.Context, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that were given on the command line, without those of the environment.

    A variable such as SHARPKIT_DATA_DIR is a default for all commands, and no request of this one.

    Args:
        context: Of the command.
        given: Its options, None where not given.
    """
    named = {name: value for name, value in given.items() if value is not None}
    sources = {name: context.get_parameter_source(name) for name in named}
    return {name: value for name, value in named.items() if getattr(sources[name], "name", "") != "ENVIRONMENT"}


def with_options(
    function: Callable[..., Any], of: type[Any] = TrainConfig, panels: Mapping[str, tuple[str, ...]] = PANELS
) -> Callable[..., Any]:
    """Give a command function the options of a configuration, by default of a training run, for its `**given`."""
    return with_parameters(function, parameters(of, panels))


def with_parameters(function: Callable[..., Any], added: Sequence[inspect.Parameter]) -> Callable[..., Any]:
    """Give a command function further options for its `**given`."""
    own = [p for p in inspect.signature(function, eval_str=True).parameters.values() if p.kind is not p.VAR_KEYWORD]
    signature = inspect.Signature([*own, *added])

    def command(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    command.__name__ = function.__name__
    command.__doc__ = function.__doc__
    command.__annotations__ = {name: p.annotation for name, p in signature.parameters.items()}
    command.__signature__ = signature  # pyright: ignore[reportFunctionMemberAccess]
    return command

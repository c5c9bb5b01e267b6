"""From a configuration to the objects of a run: data, model, task, optimizer, schedule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from sharpkit.core.batch_norm import synchronise
from sharpkit.core.comm import ALONE, Comm
from sharpkit.core.optimizer import SharpnessAware
from sharpkit.core.products import set_tf32
from sharpkit.core.rule import Rule
from sharpkit.core.streams import check_streams
from sharpkit.core.task import Supervised
from sharpkit.data.dataset import Dataset
from sharpkit.data.loader import Loader
from sharpkit.data.part import Part, Share, drawn
from sharpkit.data.split import Splits
from sharpkit.engine import external, ranks, runtime, schedules
from sharpkit.engine.agreement import on_first
from sharpkit.engine.augmentation import parse_augmentation
from sharpkit.engine.bases import build_base, default_lr
from sharpkit.engine.compiling import check_graphs, compiled
from sharpkit.engine.config import TrainConfig, with_radius
from sharpkit.engine.datasets import load_dataset, split_dataset
from sharpkit.engine.evaluate import Score, evaluate
from sharpkit.engine.layout import pick_layout
from sharpkit.engine.objective import check_rule, loss_of
from sharpkit.engine.probe_names import check_probes
from sharpkit.engine.rehearsal import materialise, rehearse
from sharpkit.engine.weights import load_weights
from sharpkit.errors import InputError, UsageError, check_count, one_line
from sharpkit.models import MODELS
from sharpkit.models.huggingface import PREFIX, is_hugging_face, notes_of
from sharpkit.models.libraries import from_library
from sharpkit.recipes.grammar import parse

_RANKS_APART = 1_000_003


@dataclass(frozen=True)
class Session:
    """What a run works with.

    Args:
        config: The configuration with every choice made.
        asked: The configuration as it was given.
    """

    config: TrainConfig
    asked: TrainConfig
    device: torch.device
    dataset: Dataset
    splits: Splits
    loader: Loader
    model: nn.Module
    test_task: Supervised
    optimizer: SharpnessAware
    scheduler: LambdaLR
    notes: tuple[str, ...]
    comm: Comm = ALONE  # all processes
    parts: Comm = ALONE  # those that a batch lies on

    @property
    def steps_per_epoch(self) -> int:
        """Steps in an epoch."""
        return len(self.loader)

    @property
    def total_steps(self) -> int:
        """Steps in the run."""
        return self.config.epochs * len(self.loader)

    def score(self, part: Part) -> Score:
        """Return loss and metrics of the model on held-out samples."""
        return evaluate(self.model, self.test_task, part, self.dataset.metrics, self.comm)


def build(config: TrainConfig, *, asked: TrainConfig | None = None) -> Session:
    """Build a run, deterministically from the configuration.

    Args:
        config: What is built.
        asked: Of a run that goes on, what its user asked for at its start; its starting weights are not loaded again.

    Raises:
        UsageError: If names or values are not allowed.
        InputError: If data, model or initial weights cannot be had or do not fit.
    """
    rule = parse(with_radius(config.opt, config.rho))
    comm = ranks.join(config.device, config.timeout)
    device = runtime.pick_device(config.device)
    if config.cuda_graphs:
        check_graphs(device, compiles=config.compile)
    if config.sampa_streams:
        check_streams(device, graphs=config.cuda_graphs)
    runtime.set_determinism(config.deterministic)
    set_tf32(config.tf32)
    runtime.keep_freed_memory()
    dataset = load_dataset(config)
    parts = split_dataset(config, dataset)
    splits = parts.to(device)
    if config.save_every == "best" and not len(parts.val):
        raise UsageError("save-every is best, and no validation data are held out", "raise --val-frac")
    check_rule(rule, dataset)
    loss = loss_of(dataset, config.smoothing, config.smoothing_over)
    augment = parse_augmentation(dataset.augment if config.augment == "auto" else config.augment)
    spread, pair = ranks.roles(config.sampa_devices, independent=_is_parallel(rule, config), timeout=config.timeout)
    share = Share(spread.rank, spread.size, rule.shards or 1)
    loader = Loader(
        splits.train, config.batch_size, config.seed, dataset, cast("Any", augment.kind), share,
        cutout=augment.size, prob=augment.prob,
    )  # fmt: skip
    check_probes(
        config.probe,
        rule.name,
        ahead="past" in rule.needs(),
        samples=check_count("probe-samples", config.probe_samples, "all") or len(parts.train),
        available=len(parts.train),
        batch_size=config.batch_size,
    )
    chosen = _model_of(config, dataset)
    external.seed(config.seed)
    model = _on(device, build_model(chosen, dataset))
    task = Supervised(model, loss)
    probe = next(loader.epoch(0, stop=1))
    materialise(model, task, probe)
    notes = list(notes_of(model)) if config.init is None and asked is None else []
    if config.init is not None and asked is None:
        trust = config.trust_checkpoint
        load_weights(model, Path(config.init), partial=config.partial, trust=trust, note=notes.append)
    rehearse(model, task, probe, dataset.classes)
    threads, sentence = runtime.pick_threads(config.threads, model, task, probe, device)
    plain, wanted, how = task, config.channels_last, {"deterministic": config.deterministic}
    if comm.size > 1:  # one choice for all, since the order of sums depends on it
        wanted = on_first(lambda: pick_layout(wanted, plain, probe, config.amp, **how)[1])
    task, layout, told = pick_layout(wanted, plain, probe, config.amp, **how)
    notes += [sentence, *told]
    if device.type == "cuda" and config.amp == "off":
        notes.append(f"tf32: {'on' if config.tf32 else 'off; --tf32 or --amp bf16 is faster'}")
    if config.compile:
        task, sentence = compiled(task, probe, graphs=config.cuda_graphs)
        notes.append(sentence)
    if config.sync_bn and spread.size > 1:
        synchronise(model, spread)
    comm.broadcast_([t.detach() for t in (*model.parameters(), *model.buffers())])
    base = build_base(replace(config, wd=0.0) if config.wd_in_loss else config, model.parameters())
    optimizer = SharpnessAware(
        model,
        base,
        rule,
        loss=task,
        total_steps=config.epochs * len(loader),
        steps_per_epoch=len(loader),
        seed=config.seed,
        rng=config.rng,
        bn_stats=config.bn_stats,
        clip=config.clip,
        accumulate=config.accum,
        precision=config.amp,
        comm=spread,
        pair=pair,
        streams=config.sampa_streams,
        ascent_scope=config.ascent_scope,
        samples=int(dataset.train.indices.max()) + 1,
        draw=partial(drawn, splits.train),
        loss_decay=config.wd if config.wd_in_loss else 0.0,
        rho_schedule=config.rho_sched,
        rho_warmup=_warmup_steps(config, len(loader)),
    )
    if spread.rank:
        external.seed(config.seed + _RANKS_APART * spread.rank)  # its samples have dropout masks of their own
    resolved = replace(
        config,
        preset=None,  # its values are in this configuration, and must not be applied once more over others
        opt=rule.text,
        rho=None,
        lr=default_lr(config.base) if config.lr is None else config.lr,
        model=chosen,
        augment=augment.text,
        device=str(device),
        threads=str(threads),
        channels_last=cast("Any", layout),
    )
    return Session(
        config=resolved,
        asked=asked or config,
        device=device,
        dataset=dataset,
        splits=splits,
        loader=loader,
        model=model,
        test_task=Supervised(model, loss_of(dataset)),
        optimizer=optimizer,
        scheduler=schedules.attach(base, config, len(loader)),
        notes=tuple(notes),
        comm=comm,
        parts=spread,
    )


def check_parts(config: TrainConfig) -> None:
    """Make the data and the model of a run, without a pass, and forget them.

    Raises:
        UsageError: If there is none of that name.
        InputError: If they cannot be had or do not fit.
    """
    dataset = load_dataset(config)
    split_dataset(config, dataset)
    external.seed(config.seed)
    build_model(_model_of(config, dataset), dataset)


def _is_parallel(rule: Rule, config: TrainConfig) -> bool:
    """Return whether two gradients of a step can be computed at once."""
    parallel = rule.descent is not None and rule.descent.independent
    return parallel and config.rng == "same" and config.bn_stats != "both"


def _model_of(config: TrainConfig, dataset: Dataset) -> str:
    """Return the model's name with the choice made that `auto` stands for."""
    if config.model != "auto":
        return config.model
    return "cnn" if len(dataset.shape) == 3 else "mlp"


def _warmup_steps(config: TrainConfig, steps_per_epoch: int) -> int | None:
    epochs = config.rho_warmup_epochs
    return None if epochs is None else max(1, round(epochs * steps_per_epoch))


def build_model(name: str, dataset: Dataset) -> nn.Module:
    """Return a model by name, of a library, or from the user's function.

    Raises:
        UsageError: If there is no model of that name, or it does not take such inputs.
        InputError: If the user's function returns no module, or the library cannot be used.
    """
    if external.is_file_reference(name):
        function: Callable[..., Any] = external.from_file(name, "--model")
        model = external.call(function, name, dataset.shape, dataset.classes)
        if not isinstance(model, nn.Module):
            raise InputError(
                f"{name} returned {type(model).__name__}, allowed is a torch.nn.Module", "return the model"
            )
        return model
    more = "torchvision:NAME, timm:NAME, hf:DIR or file.py:function"
    builder = from_library(name) or external.choose(name, MODELS, "model", more)
    return builder(dataset.shape, dataset.classes)


def model_name(name: str) -> str:
    """Return the short form of a model's name, for the run directory."""
    if is_hugging_face(name):
        return f"hf-{Path(name.removeprefix(PREFIX)).expanduser().resolve().name}"
    return external.short_name(name) if external.is_file_reference(name) else name


def _on(device: torch.device, model: nn.Module) -> nn.Module:
    try:
        return model.to(device)
    except (RuntimeError, NotImplementedError) as error:
        raise InputError(f"the model cannot be put on {device}: {one_line(error)}", "give another --model") from error

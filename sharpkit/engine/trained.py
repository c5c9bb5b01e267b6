"""A trained model with its data, from a checkpoint: what every diagnostic starts from."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from sharpkit.core.products import set_tf32
from sharpkit.core.task import Batch, Supervised
from sharpkit.data.augment import PLAIN
from sharpkit.data.dataset import Dataset
from sharpkit.data.part import Part, at_random, in_order
from sharpkit.engine import checkpoint, external, runtime, trusted_code
from sharpkit.engine.config import TrainConfig, from_mapping
from sharpkit.engine.datasets import load_dataset, split_dataset
from sharpkit.engine.objective import loss_of
from sharpkit.engine.rehearsal import materialise
from sharpkit.engine.session import build_model
from sharpkit.engine.weights import load_weights
from sharpkit.errors import InputError, SharpkitError, UsageError, one_line

Split = Literal["train", "val", "test"]
"""Which samples: those trained on (with their label noise), those held out for validation, or the test samples."""


@dataclass(frozen=True)
class Trained:
    """A model at the weights of a checkpoint, and the samples of a split, without augmentation.

    Args:
        path: The checkpoint file.
        config: The configuration of its run.
        model: On the device.
        task: The loss that was minimised, with its label smoothing.
        samples: On the device.
        device: Where.
        notes: What was done to weights of others that the model took.
    """

    path: Path
    config: TrainConfig
    model: nn.Module
    task: Supervised
    samples: Part
    device: torch.device
    notes: tuple[str, ...] = ()

    def batches(self, size: int) -> list[Batch]:
        """Return all samples in order, in batches of a size; the last one may be smaller."""
        return list(self.samples.batches(in_order(len(self.samples), size), PLAIN))

    def random_batches(self, size: int, count: int, *, seed: int = 0, replacement: bool = False) -> Iterator[Batch]:
        """Yield random batches of a size; without replacement, those of a pass have no sample in common.

        Raises:
            UsageError: If there are fewer samples than a batch has.
        """
        generator = torch.Generator().manual_seed(seed)
        plan = at_random(len(self.samples), size, count, generator, replacement=replacement)
        return self.samples.batches(plan, PLAIN)


def load(
    path: Path,
    *,
    part: Split = "train",
    count: int | None = None,
    seed: int = 0,
    device: str = "auto",
    data: str | None = None,
    data_dir: str | None = None,
    model: str | None = None,
    trust_code: bool = False,
    requested: Collection[str] = (),
) -> Trained:
    """Return the model of a checkpoint with its data.

    Args:
        path: A checkpoint or a run directory.
        part: Which samples.
        count: Only so many of them, drawn without replacement; None takes all.
        seed: Of that draw.
        device: Where to put both.
        data: The data set, in place of the one that the checkpoint names.
        data_dir: Where data sets are looked for, in place of the folder that the checkpoint names.
        model: The model, in place of the one that the checkpoint names.
        trust_code: Whether code that the checkpoint names may run, whosever it is; see `sharpkit.engine.trusted_code`.
        requested: Names of user-supplied code that the user gave for this run, beside `data` and `model`.

    Raises:
        InputError: If the checkpoint is missing or damaged, does not fit model or data, or names code that the user has
            not permitted.
        UsageError: If a plain state dict comes without `data` and `model`, or the split is empty.
    """
    file = checkpoint.located(path)
    content = checkpoint.read(file)
    ours = content.get("format") == checkpoint.FORMAT
    if not ours and (data is None or model is None):
        raise UsageError(f"{file} does not say its data and model", "give --data and --model")
    where, notes = runtime.pick_device(device), list[str]()
    names = [*requested, data, model]
    set_tf32(False)
    try:
        config = _config(checkpoint.load(file) if ours else None, file)
        folder = data_dir or config.data_dir
        config = replace(config, data=data or config.data, data_dir=folder, model=model or config.model)
        with trusted_code.named_by(file, names, trust=trust_code):
            dataset = load_dataset(config)
        if ours and data is None and content["data"] != dataset.checksum:
            raise InputError(f"the data {config.data} are not those that {file} was trained on", "give --data")
        external.seed(config.seed)
        with trusted_code.named_by(file, names, trust=trust_code):
            network = build_model(config.model, dataset).to(where)
        samples = _samples(dataset, config, part, count, seed).to(where)
        task = Supervised(network, loss_of(dataset, config.smoothing, config.smoothing_over))
        materialise(network, task, next(samples.batches(in_order(min(2, len(samples)), 2))))
        load_weights(network, file, note=notes.append)
    except SharpkitError:
        raise
    except Exception as error:  # a field is missing, or is not what this version writes
        raise InputError(
            f"{file} is no complete checkpoint: {type(error).__name__}: {one_line(error)}", "give another checkpoint"
        ) from error
    return Trained(file, config, network, task, samples, where, tuple(notes))


def _config(content: dict[str, Any] | None, file: Path) -> TrainConfig:
    return TrainConfig() if content is None else TrainConfig(**from_mapping(content["config"], str(file)))


def _samples(dataset: Dataset, config: TrainConfig, part: Split, count: int | None, seed: int) -> Part:
    parts = split_dataset(config, dataset)
    samples = {"train": parts.train, "val": parts.val, "test": parts.test}[part]
    if not len(samples):
        raise UsageError(f"split is {part}, which is empty in this run", "give --split train")
    if count is None or count >= len(samples):
        return samples
    return samples.take(torch.randperm(len(samples), generator=torch.Generator().manual_seed(seed))[:count])

"""The data that a configuration names."""

from __future__ import annotations

import os
from pathlib import Path

from sharpkit.data import DATASETS
from sharpkit.data.dataset import Dataset, from_user
from sharpkit.data.folder import image_folder
from sharpkit.data.source import Access
from sharpkit.data.split import Splits, split
from sharpkit.engine import external
from sharpkit.engine.config import TrainConfig
from sharpkit.errors import InputError, one_line

_MOST_WORKERS = 16


def load_dataset(config: TrainConfig) -> Dataset:
    """Return a data set by name, from a folder, or from the user's function.

    Raises:
        UsageError: If there is none of that name.
        InputError: If it is missing or cannot be read.
    """
    name, access = config.data, access_of(config)
    if external.is_file_reference(name):
        # What it draws is the same in every run, whatever the run's seed: the data are no part of the randomness.
        external.seed(0)
        function = external.from_file(name)
        return from_user(external.short_name(name), external.call(function, name))
    if is_folder(name):
        try:
            return image_folder(Path(name).expanduser(), access)
        except OSError as error:
            raise InputError(f"the folder {name} cannot be read: {one_line(error)}", "give another --data") from error
    return external.choose(name, DATASETS, "data set", "a folder of images or file.py:function")(access)


def split_dataset(config: TrainConfig, dataset: Dataset) -> Splits:
    """Return the parts that a configuration trains on, validates on and tests on."""
    return split(
        dataset,
        val_frac=config.val_frac,
        label_noise=config.label_noise,
        limit=config.limit,
        seed=config.seed,
        noise_kind=config.noise_kind,
    )


def data_name(name: str) -> str:
    """Return the short form of a data set's name, for the run directory."""
    if external.is_file_reference(name):
        return external.short_name(name)
    return Path(name).expanduser().resolve().name if is_folder(name) else name


def is_folder(name: str) -> bool:
    """Return whether data of that name are a folder; a data set's name stands for the data set."""
    return name not in DATASETS and (Path(name).expanduser().is_dir() or os.sep in name)


def access_of(config: TrainConfig) -> Access:
    """Return how a configuration gets at its data."""
    here = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    workers = min(len(here), _MOST_WORKERS) if config.workers == "auto" else int(config.workers)
    return Access(Path(config.data_dir), config.download, workers)

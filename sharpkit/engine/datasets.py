"""The data that a configuration names."""

from __future__ import annotations

import os
from pathlib import Path

from sharpkit.data import DATASETS
from sharpkit.data.dataset import Dataset, from_user
from sharpkit.data.folder import image_folder
from sharpkit.data.glue import canonical
from sharpkit.data.source import Access
from sharpkit.data.split import Splits, split
from sharpkit.data.text import Corpus
from sharpkit.data.tokens import tokenised
from sharpkit.data.tsv import ENDING, is_text_folder, text_files
from sharpkit.data.user_texts import holds_texts, texts_from_user
from sharpkit.engine import external
from sharpkit.engine.config import TrainConfig
from sharpkit.errors import InputError, UsageError, one_line
from sharpkit.models.huggingface import is_hugging_face, tokenizer

_MOST_WORKERS = 16


def load_dataset(config: TrainConfig) -> Dataset:
    """Return a data set by name, from a folder, or from the user's function.

    Raises:
        UsageError: If there is none of that name.
        InputError: If it is missing or cannot be read.
    """
    found = _named(config.data, access_of(config))
    reads_texts = is_hugging_face(config.model)
    if isinstance(found, Corpus):
        if not reads_texts:
            raise UsageError(
                f"the data {config.data} are texts, and the model {config.model} reads numbers",
                "give --model hf:DIR, whose tokenizer makes numbers of them",
            )
        return tokenised(found, tokenizer(config.model), config.max_length, even=config.compile)
    if reads_texts:
        raise UsageError(
            f"the model {config.model} reads texts, and the data {config.data} are none",
            "give texts with --data, see sharpkit ls data, or another --model",
        )
    return found


def _named(name: str, access: Access) -> Dataset | Corpus:
    """Return a data set by name, from a file or folder, or from the user's function."""
    if external.is_file_reference(name):
        # What it draws is the same in every run, whatever the run's seed: the data are no part of the randomness.
        external.seed(0)
        function = external.from_file(name, "--data")
        returned = external.call(function, name)
        make = texts_from_user if holds_texts(returned) else from_user
        return make(external.short_name(name), returned)
    path = Path(name).expanduser()
    if is_text_file(name):
        return text_files(path)
    if is_folder(name):
        try:
            return text_files(path) if is_text_folder(path) else image_folder(path, access)
        except OSError as error:
            raise InputError(f"the folder {name} cannot be read: {one_line(error)}", "give another --data") from error
    more = "a folder of images or texts, FILE.tsv or file.py:function"
    return external.choose(canonical(name), DATASETS, "data set", more)(access)


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
    if is_text_file(name):
        return Path(name).stem
    return Path(name).expanduser().resolve().name if is_folder(name) else name


def is_text_file(name: str) -> bool:
    """Return whether data of that name are a file of texts."""
    return name.endswith(ENDING)


def is_folder(name: str) -> bool:
    """Return whether data of that name are a folder; a data set's name stands for the data set."""
    return name not in DATASETS and (Path(name).expanduser().is_dir() or os.sep in name)


def access_of(config: TrainConfig) -> Access:
    """Return how a configuration gets at its data."""
    here = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    workers = min(len(here), _MOST_WORKERS) if config.workers == "auto" else int(config.workers)
    return Access(Path(config.data_dir), config.download, workers)

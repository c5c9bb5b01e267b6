"""Sequence classifiers of Hugging Face transformers from a local folder: `hf:DIR`. Nothing is ever downloaded.

The folder is what `save_pretrained` writes: config.json, the weights (model.safetensors, or pytorch_model.bin, which is
read without running code) and the tokenizer's files. Weights are read as float32. Attention is the eager one of
transformers, a plain softmax of products, because the fused kernels have no second derivative. Dropout stays as
config.json has it. A folder without a classification head, or with one for another number of classes, gets a new
head, from the global random stream.
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from sharpkit.errors import InputError, UsageError, one_line
from sharpkit.libraries import broken, imported

PREFIX = "hf:"

_IDS, _TYPES = "input_ids", "token_type_ids"
_SHOWN = 4


class Classifier(nn.Module):
    """A sequence classifier that returns its logits alone.

    Args:
        module: The classifier of transformers. It is called `module`, as in data-parallel wrappers, so that checkpoints
            go into it and out of it by its own names.
        notes: What a person would like to know of how it was made.
    """

    def __init__(self, module: nn.Module, notes: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.module = module
        self.notes = notes

    def forward(self, **inputs: Tensor) -> Tensor:
        """Map token numbers, (B, L), and what belongs to them to logits, (B, C)."""
        return self.module(**inputs).logits


def is_hugging_face(name: str) -> bool:
    """Return whether a model's name has the form hf:DIR."""
    return name.startswith(PREFIX)


def folder_of(name: str) -> Path:
    """Return the folder that `hf:DIR` names.

    Raises:
        InputError: If it is not there, or holds no model.
    """
    folder = Path(name.removeprefix(PREFIX)).expanduser()
    if not folder.is_dir():
        raise InputError(f"the folder of the model {name} does not exist", "give hf:DIR with a folder that is there")
    if not (folder / "config.json").is_file():
        raise InputError(
            f"the folder of the model {name} has no config.json",
            "give hf:DIR with a folder that save_pretrained of transformers wrote",
        )
    return folder


def huggingface(name: str, shape: tuple[int, ...], classes: int) -> nn.Module:
    """Return the sequence classifier in a folder, with its weights.

    Args:
        name: `hf:DIR`.
        shape: (L,) tokens of the longest text.
        classes: Outputs; 1 for a number that is to be predicted.

    Raises:
        UsageError: If the inputs are no texts.
        InputError: If transformers is missing, or the folder holds no classifier that can be read.
    """
    folder = folder_of(name)
    if len(shape) != 1:
        raise UsageError(f"the model {name} needs texts, the data have shape {shape}", "give texts, or another --model")
    library = _transformers(name)
    try:
        with _silent(library):
            made, report = library.AutoModelForSequenceClassification.from_pretrained(
                str(folder.resolve()),
                num_labels=classes,
                local_files_only=True,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                attn_implementation="eager",
                dtype=torch.float32,
            )
    except Exception as error:  # of transformers, safetensors or torch, each with errors of its own
        raise _unreadable(name, "be read", error) from error
    made.config.use_cache = False
    return Classifier(made, (*_told(name, made, report), *_without))


_without: list[str] = []
"""What is said of libraries that transformers does without."""


def _transformers(name: str) -> Any:
    """Return the library, which imports torchvision for every model, or does without one that does not load."""
    if "transformers" not in sys.modules and (why := broken("torchvision")) is not None:
        sys.modules["torchvision"] = cast("Any", None)  # taken for not installed
        _without.append(f"torchvision cannot be imported, and texts do without it: {why}")
    return imported("transformers", f"the model {name}")


def _told(name: str, made: Any, report: Mapping[str, Any]) -> list[str]:
    """Return what was not in the file; refuse a file that lacks more than a head."""
    reshaped = [str(name) for name, *_ in report["mismatched_keys"]]
    new = sorted({*map(str, report["missing_keys"]), *reshaped})
    body = f"{made.base_model_prefix}."
    lacking = [key for key in new if key.startswith(body) and ".pooler." not in key]
    if lacking:
        more = ", ..." if len(lacking) > _SHOWN else ""
        raise InputError(
            f"the weights of the model {name} lack {len(lacking)} tensors, or have them in another shape: "
            f"{', '.join(lacking[:_SHOWN])}{more}",
            "give a folder whose weights belong to its config.json",
        )
    if not new:
        return []
    why = "another number of classes" if reshaped else "no such tensors"
    return [f"{name}: a new head ({', '.join(new)}), since the folder has {why}"]


@dataclass(frozen=True)
class FolderTokenizer:
    """The tokenizer in a model's folder.

    Args:
        tokenizer: Of transformers.
        fields: What the model takes.
        longest: The most tokens that it takes.
    """

    tokenizer: Any
    fields: tuple[str, ...]
    longest: int

    @property
    def padding(self) -> Mapping[str, int]:
        """What fills a shorter text up."""
        return {_IDS: int(self.tokenizer.pad_token_id), _TYPES: int(self.tokenizer.pad_token_type_id)}

    def __call__(
        self, first: Sequence[str], second: Sequence[str] | None, length: int
    ) -> Mapping[str, Sequence[Sequence[int]]]:
        """Return token numbers, and where the model tells the texts of a pair apart which one each token is of."""
        pairs = None if second is None else list(second)
        made = self.tokenizer(list(first), pairs, truncation=True, max_length=length, padding=False)
        return {name: made[name] for name in self.fields}


def tokenizer(name: str) -> FolderTokenizer:
    """Return the tokenizer of `hf:DIR`.

    Raises:
        InputError: If transformers is missing, or the folder holds no tokenizer that can fill texts up.
    """
    folder = folder_of(name)
    library = _transformers(name)
    place = str(folder.resolve())
    try:
        with _silent(library):
            made = library.AutoTokenizer.from_pretrained(place, local_files_only=True, trust_remote_code=False)
            config = library.AutoConfig.from_pretrained(place, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # as above
        raise _unreadable(name, "have its tokenizer read", error) from error
    _check_tokenizer(name, made, config)
    fields = tuple(field for field in (_IDS, _TYPES) if field in made.model_input_names)
    most = getattr(config, "max_position_embeddings", None) or made.model_max_length
    return FolderTokenizer(made, fields, int(min(most, made.model_max_length)))


def _check_tokenizer(name: str, made: Any, config: Any) -> None:
    """Refuse a tokenizer of another model, or one without a vocabulary: transformers makes it where files lack."""
    vocabulary: Mapping[str, int] = made.get_vocab()
    if set(vocabulary) <= set(made.all_special_tokens):
        raise InputError(
            f"the folder of the model {name} has no tokenizer", "add the tokenizer's files, such as tokenizer.json"
        )
    if made.pad_token_id is None:
        raise InputError(f"the tokenizer of the model {name} has no padding token", "add pad_token to its files")
    known = getattr(config, "vocab_size", None)
    if known is not None and max(vocabulary.values()) >= known:
        raise InputError(
            f"the tokenizer of the model {name} has numbers up to {max(vocabulary.values())}, the model knows {known}",
            "give a folder whose tokenizer belongs to its model",
        )


def _unreadable(name: str, what: str, error: Exception) -> InputError:
    return InputError(
        f"the model {name} cannot {what}: {type(error).__name__}: {one_line(error)[:300]}",
        "give hf:DIR with config.json, the weights and the tokenizer that save_pretrained of transformers wrote",
    )


@contextmanager
def _silent(library: Any) -> Generator[None]:
    """Keep progress bars and reports of transformers off stderr; what matters of them is told in our words."""
    logging = library.utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def notes_of(model: nn.Module) -> tuple[str, ...]:
    """Return what a person would like to know of how a model was made."""
    return cast("tuple[str, ...]", getattr(model, "notes", ())) if isinstance(model, Classifier) else ()

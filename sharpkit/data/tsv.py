"""A user's own labelled texts, in files of columns divided by tabs."""

from __future__ import annotations

from pathlib import Path

from sharpkit.data.images import unreadable
from sharpkit.data.text import Corpus, Table, Texts, class_numbers, read_table
from sharpkit.errors import InputError

ENDING = ".tsv"

_LABEL = "label"
_TEXTS = (("text",), ("sentence",), ("text1", "text2"), ("sentence1", "sentence2"))
_TESTS = ("test.tsv", "dev.tsv")


def text_files(path: Path) -> Corpus:
    """Return a user's texts.

    Args:
        path: A file with a header that names the columns `label`, and `text` or `sentence`, or `text1` and `text2`, or
            `sentence1` and `sentence2`, of which a third of every class becomes the test set; or a folder with
            `train.tsv` and `test.tsv` or `dev.tsv`. Classes are numbered in the order of their names.

    Raises:
        InputError: If a file is missing, or does not hold what it should.
    """
    if path.suffix == ENDING:
        if not path.is_file():
            raise InputError(f"the file {path} does not exist", "give another --data")
        table = read_table(path)
        numbers = _classes(table)
        return Corpus(path.stem, _read(table, numbers), None, len(numbers))
    test = next((path / name for name in _TESTS if (path / name).is_file()), None)
    if test is None:
        raise InputError(
            f"{path} has train.tsv and neither test.tsv nor dev.tsv", f"add one of them, or give {path / 'train.tsv'}"
        )
    table = read_table(path / "train.tsv")
    numbers = _classes(table)
    return Corpus(path.resolve().name, _read(table, numbers), _read(read_table(test), numbers), len(numbers))


def is_text_folder(path: Path) -> bool:
    """Return whether a folder holds texts for training."""
    return (path / "train.tsv").is_file()


def _classes(table: Table) -> dict[str, int]:
    if _LABEL not in table.columns:
        raise unreadable(table.path, f"it has no column {_LABEL!r}, its columns are {', '.join(table.columns)}")
    place = table.columns.index(_LABEL)
    numbers = class_numbers([row[place].strip() for _, row in table.rows if len(row) > place])
    if not 2 <= len(numbers) < len(table.rows):
        raise unreadable(
            table.path, f"{len(table.rows)} rows have {len(numbers)} different labels, allowed are two or more"
        )
    return numbers


def _read(table: Table, numbers: dict[str, int]) -> Texts:
    columns = next((names for names in _TEXTS if set(names) <= set(table.columns)), None)
    if columns is None:
        raise unreadable(table.path, f"it has no column 'text', its columns are {', '.join(table.columns)}")
    return table.texts(columns[0], columns[1] if len(columns) == 2 else None, _LABEL, numbers.__getitem__)

"""20 Newsgroups as its archive has it, in folders, or as scikit-learn keeps it."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch

from sharpkit.data.images import unreadable
from sharpkit.data.pickles import unpickled
from sharpkit.data.source import Access, Size, Stored
from sharpkit.data.text import Corpus, Texts
from sharpkit.errors import one_line

_CACHE = "20news-bydate_py3.pkz"
_PARTS = {"train": "20news-bydate-train", "test": "20news-bydate-test"}

_Post = tuple[str, str, str]
"""The group, the number and the text."""


def newsgroups_by_date(folder: Path, access: Access) -> Corpus:
    """Return 20 Newsgroups, sorted by date: 18,846 posts to 20 groups with their headers, as scikit-learn has them.

    K. Lang (1995), "NewsWeeder: Learning to Filter Netnews"; the version by date of J. Rennie. Texts are those of
    scikit-learn's `fetch_20newsgroups` without `remove`, ordered by group and number.

    Args:
        folder: Holds the folders 20news-bydate-train and 20news-bydate-test, with a folder for each group and a file
            for each post, or scikit-learn's 20news-bydate_py3.pkz.
        access: Not used.

    Raises:
        InputError: If the files do not hold what they should.
    """
    in_folders = all((folder / name).is_dir() for name in _PARTS.values())
    place = folder if in_folders else folder / _CACHE
    found = {part: list(_posts(folder / name)) for part, name in _PARTS.items()} if in_folders else _cached(place)
    groups = sorted({group for group, _, _ in found["train"]})
    foreign = sorted({group for group, _, _ in found["test"]} - set(groups))
    if len(groups) < 2 or foreign:
        what = f"the group {foreign[0]!r} is not among" if foreign else f"there are {len(groups)} groups of"
        raise unreadable(place, f"{what} the training posts")
    train, test = (_texts(found[part], groups) for part in _PARTS)
    return Corpus("20news-bydate", train, test, len(groups))


def _posts(folder: Path) -> Iterator[_Post]:
    for group in folder.iterdir():
        if group.is_dir():
            for file in group.iterdir():
                yield group.name, file.name, file.read_bytes().decode("latin1")


def _cached(path: Path) -> dict[str, list[_Post]]:
    """Return the posts in the file that scikit-learn keeps: a compressed pickle, read without running code."""
    try:
        content = zlib.decompress(path.read_bytes())
    except zlib.error as error:
        raise unreadable(path, one_line(error)) from error
    document = unpickled(content, path)
    return {part: list(_listed(document.get(part), path)) for part in _PARTS}


def _listed(part: Any, path: Path) -> Iterator[_Post]:
    try:
        names, texts = (list(part[key]) for key in ("filenames", "data"))
        if len(names) != len(texts) or not all(isinstance(text, str) for text in texts):
            raise TypeError
        for name, text in zip(names, cast("list[str]", texts), strict=True):
            group, number = re.split(r"[\\/]", str(name))[-2:]
            yield group, number, text
    except (TypeError, KeyError, ValueError):
        raise unreadable(path, "it holds no texts with the names of their files") from None


def _texts(posts: list[_Post], groups: list[str]) -> Texts:
    numbers = {group: i for i, group in enumerate(groups)}
    ordered = sorted(posts, key=lambda post: (post[0], int(post[1]) if post[1].isdecimal() else -1, post[1]))
    targets = torch.tensor([numbers[group] for group, _, _ in ordered], dtype=torch.long)
    return Texts(tuple(text for _, _, text in ordered), None, targets)


NEWSGROUPS_BY_DATE = Stored(
    "20news-bydate",
    newsgroups_by_date,
    Size(11_314, 7532, (), 20),
    files=tuple((name, _CACHE) for name in _PARTS.values()),
    remedy=f"its folders {' and '.join(_PARTS.values())}, or scikit-learn's {_CACHE},",
    by_hand="python -c \"from sklearn.datasets import fetch_20newsgroups as f; f(data_home='{folder}')\" gets it",
)

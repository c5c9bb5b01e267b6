"""The package as a whole: what importing it costs, its names, and `python -m sharpkit`."""

import os
import subprocess
import sys

import pytest

import sharpkit


def python(*arguments):
    paths = os.pathsep.join(p for p in sys.path if p)
    environment = {**os.environ, "PYTHONPATH": paths}
    return subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def test_importing_the_package_does_not_import_torch():
    done = python("-c", "import sys, sharpkit; dir(sharpkit); sharpkit.__version__; print('torch' in sys.modules)")
    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr


def test_every_public_name_is_there():
    assert sorted(sharpkit.__all__) == dir(sharpkit)
    for name in sharpkit.__all__:
        assert getattr(sharpkit, name) is not None
    assert set(sharpkit.RECIPES) >= {"sgd", "sam", "asam", "sampa"}
    assert isinstance(sharpkit.parse("sam"), sharpkit.Rule)


def test_other_names_are_not():
    with pytest.raises(AttributeError, match="module 'sharpkit' has no attribute 'Sharp'"):
        sharpkit.Sharp  # noqa: B018


def test_python_m_sharpkit():
    done = python("-m", "sharpkit", "--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"sharpkit {sharpkit.__version__}\n", "")
    failed = python("-m", "sharpkit", "trian")
    assert failed.returncode == 2
    assert failed.stderr.startswith("sharpkit: ")

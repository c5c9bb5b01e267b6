"""Every example of the documents runs: Python and plain commands in this process, other commands by a shell."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from sybil import Sybil
from sybil.document import Document
from sybil.example import Example
from sybil.parsers.myst import CodeBlockParser, PythonCodeBlockParser

from sharpkit.cli.main import run

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    [ROOT / "README.md", *(p for p in (ROOT / "docs").rglob("*.md") if "_build" not in p.parts)],
    key=lambda path: path.relative_to(ROOT),
)

SECONDS = 60
"""How long one command may take."""

COMMAND = re.compile(
    r"(SHARPKIT_[A-Z_]+=\S+ )*"
    r"(torchrun --standalone --nproc-per-node 2 -m (-- )?sharpkit|sharpkit|python -m sharpkit)( |$)"
)
"""What is run; everything after the name is the shell's."""

PLAIN = re.compile(r"sharpkit( [\w.:=+,/-]+)*")
"""A command of which a shell makes nothing but a list of words."""

NOT_RUN = {"pip install .", 'pip install ".[mnist]"', 'pip install ".[test]"', 'pip install -e ".[dev]"', "pytest"}
"""What would change the environment that the tests run in, or run the tests within the tests."""

LANGUAGES = {"python", "bash", "text", "toml", "json", "console"}
"""Python and bash are run, the rest is not; another name would let an example escape."""


def commands(block: str) -> list[str]:
    """Return the commands of a block: comments and empty lines left out, continued lines joined, `a && b` cut."""
    lines = block.replace("\\\n", " ").splitlines()
    kept = [line for line in lines if line.strip() and not line.lstrip().startswith("#")]
    return [command.strip() for line in kept for command in line.split(" && ")]


def refusal(command: str) -> str | None:
    """Say what is wrong with the form of a command, if anything."""
    if command in NOT_RUN or COMMAND.match(command):
        return None
    return f"{command!r} is neither a sharpkit command nor one that is known and not run"


def by_the_shell(command: str) -> tuple[int, str]:
    """Run a command as a user would type it; return its exit code and what it wrote."""
    try:
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", command],
            capture_output=True,
            text=True,
            timeout=SECONDS,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return 1, f"took more than {SECONDS} s"
    return done.returncode, done.stdout + done.stderr


def here(command: str) -> tuple[int, str]:
    """Run a command that needs no shell without starting a process, which would import torch once more."""
    if PLAIN.fullmatch(command) is None:
        return by_the_shell(command)
    written, started = io.StringIO(), time.monotonic()
    with contextlib.redirect_stdout(written), contextlib.redirect_stderr(written):
        code = run(shlex.split(command)[1:])
    return (1, f"took more than {SECONDS} s") if time.monotonic() - started > SECONDS else (code, written.getvalue())


def run_commands(example: Example, call: Callable[[str], tuple[int, str]]) -> str | None:
    """Run the commands of a bash block in the current directory; return what failed."""
    for command in commands(str(example.parsed)):
        if problem := refusal(command):
            return problem
        if command in NOT_RUN:
            continue
        code, written = call(command)
        if code != 0:
            return f"{command!r} exited with {code}\n{written}"
    return None


PYTHON = Sybil(parsers=[PythonCodeBlockParser()])
TYPED, COMMANDS = (
    Sybil(parsers=[CodeBlockParser(language="bash", evaluator=partial(run_commands, call=call))])
    for call in (by_the_shell, here)
)


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.fixture
def workplace(alone: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory in which `sharpkit` and `python` are those of this interpreter."""
    tools, workplace = tmp_path / "tools", tmp_path / "work"
    tools.mkdir()
    workplace.mkdir()
    python = shlex.quote(sys.executable)
    for tool, target in (("sharpkit", f"{python} -m sharpkit"), ("python", python)):
        script = tools / tool
        script.write_text(f'#!/bin/sh\nexec {target} "$@"\n')
        script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    for variable in [v for v in os.environ if v.startswith("SHARPKIT_") and v != "SHARPKIT_STATE_DIR"]:
        monkeypatch.delenv(variable)
    monkeypatch.chdir(workplace)
    return workplace


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
@pytest.mark.usefixtures("workplace")
def test_the_python_of_a_document_runs_from_top_to_bottom(path: Path) -> None:
    document: Document = PYTHON.parse(path)
    for example in document.examples():
        example.evaluate()


@pytest.mark.slow
@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
@pytest.mark.usefixtures("workplace")
def test_the_commands_of_a_document_run_one_after_the_other(path: Path) -> None:
    """Those of README.md as processes, whatever they are."""
    document: Document = (TYPED if path.name == "README.md" else COMMANDS).parse(path)
    for example in document.examples():
        example.evaluate()


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_every_code_block_has_a_language_that_says_whether_it_is_run(path: Path) -> None:
    fences = re.findall(r"^ *(`{3,})(.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    opening = [info.strip() for _, info in fences[::2]]
    assert all(info == "" for _, info in fences[1::2])
    assert [info for info in opening if info not in LANGUAGES and not info.startswith("{")] == []


@pytest.mark.parametrize(
    "command",
    ["rm -rf .", "sharpkitten", "cd /tmp", "pip install sharpkit", "python train.py", "./sharpkit"],
)
def test_another_command_than_ours_is_refused(command: str) -> None:
    assert refusal(command) is not None


@pytest.mark.parametrize(
    "command", ["sharpkit", "sharpkit train --opt sam", "python -m sharpkit --version", "SHARPKIT_LR=1 sharpkit train"]
)
def test_our_commands_are_accepted(command: str) -> None:
    assert refusal(command) is None


def test_a_block_is_cut_into_commands() -> None:
    block = "# first\nsharpkit train \\\n--opt sam\n\npip install . && sharpkit ls\n"
    assert commands(block) == ["sharpkit train  --opt sam", "pip install .", "sharpkit ls"]


@pytest.mark.parametrize("parser", [TYPED, COMMANDS], ids=["shell", "here"])
@pytest.mark.parametrize("command", ["sharpkit no-such-command", "sharpkit --help > nowhere/file"])
def test_a_command_that_fails_fails_the_test(workplace: Path, parser: Sybil, command: str) -> None:
    page = workplace / "page.md"
    page.write_text(f"```bash\n{command}\n```\n")
    (example,) = parser.parse(page).examples()
    with pytest.raises(Exception, match="exited with"):
        example.evaluate()

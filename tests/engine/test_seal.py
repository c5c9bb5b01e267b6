"""A run that was changed after its end is not trusted."""

import json

import pytest

from sharpkit.engine.rundir import RunDir
from sharpkit.engine.seal import fault, holds, seal_also, sealed, summary_of, unseal
from sharpkit.errors import InputError
from tests.engine.finished import finished

FILES = ("config.toml", "metrics.jsonl", "summary.json", "ckpt.pt")


@pytest.fixture
def run(tmp_path):
    return finished(tmp_path / "run")


def test_a_finished_run_is_trusted(run):
    assert fault(run) is None
    assert summary_of(run)["metrics"]["test_acc"] == 0.9


@pytest.mark.parametrize("name", FILES)
def test_one_other_byte_anywhere(run, name):
    content = bytearray((run / name).read_bytes())
    content[len(content) // 2] ^= 1
    (run / name).write_bytes(content)
    assert fault(run) == f"has another {name} than it ended with"


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file(run, name):
    (run / name).unlink()
    assert fault(run) == f"has no {name}"


def test_numbers_do_without_the_checkpoint(run):
    (run / "ckpt.pt").unlink()
    assert fault(run, checkpoint=False) is None


@pytest.mark.parametrize("content", ["", "{", "[]", "3", '{"sha256": 3}', '{"sha256": ["a"]}', '{"other": {}}'])
def test_a_seal_that_is_none(run, content):
    (run / "seal.json").write_text(content)
    assert "has a seal that cannot be read" in fault(run)
    assert sealed(run)


def test_a_run_that_goes_on_has_no_seal(run):
    unseal(RunDir(run))
    assert fault(run) == "is not finished"
    assert not holds(run, "ckpt.pt")


def test_a_file_that_came_later_is_under_the_seal_too(run):
    (run / "sharpness.json").write_text("{}")
    assert not holds(run, "sharpness.json")
    seal_also(run, "sharpness.json")
    assert holds(run, "sharpness.json")
    assert fault(run) is None
    (run / "sharpness.json").write_text("{ }")
    assert fault(run) == "has another sharpness.json than it ended with"


def test_a_summary_that_is_gone(run):
    (run / "summary.json").write_text(json.dumps({})[:-1])
    with pytest.raises(InputError, match=r"summary\.json cannot be read"):
        summary_of(run)

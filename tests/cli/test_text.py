"""Texts on the command line: trained on, resumed, looked at, judged by GLUE's metrics, and refused in one line."""

import json
import math
from pathlib import Path

import pytest
import torch

from sharpkit.data.glue import TASKS
from tests.data import texts
from tests.models.tiny import write_model

pytest.importorskip("transformers")

WORDS = ("--base", "adamw", "--lr", "0.003", "--epochs", "2", "-b", "8", "--threads", "1", "--max-length", "16")


@pytest.fixture
def model(tmp_path):
    return write_model(tmp_path / "tiny")


@pytest.fixture
def mine(tmp_path):
    return str(texts.write_tsv(tmp_path / "mine.tsv"))


def test_a_users_texts_from_training_to_the_hessian(sharpkit, model, mine):
    done = sharpkit("train", "--opt", "sampa:lam=0.1", "--model", model, "--data", mine, *WORDS, "--json")
    assert done.code == 0, done.stderr
    assert "a new head (classifier.bias, classifier.weight), since the folder has no such tensors" in done.stderr
    result = done.json
    assert result["run_dir"] == "runs/mine-hf-tiny-sampa_lam=0.1-s0"
    assert (result["args"]["model"], result["args"]["max_length"]) == (model, 16)
    assert 0 <= result["metrics"]["test_acc"] <= 1
    assert "test_score" not in result["metrics"]
    spectrum = sharpkit("hessian", result["run_dir"], "--top", "2", "--no-density", "--trace", "none", "--json")
    assert spectrum.code == 0, spectrum.stderr
    assert all(math.isfinite(value) for value in spectrum.json["results"][0]["eigenvalues"])


def test_texts_of_a_function_train_as_those_of_a_file(sharpkit, model, mine):
    Path("mine.py").write_text(
        "from pathlib import Path\n\n"
        "def texts():\n"
        "    rows = [line.split('\\t') for line in Path('mine.tsv').read_text().splitlines()[1:]]\n"
        "    return [text for _, text in rows], [label for label, _ in rows]\n"
    )
    words = ("--model", model, *WORDS, "--epochs", "1", "--json")
    of_file = sharpkit("train", "--data", mine, *words)
    of_function = sharpkit("train", "--data", "mine.py:texts", *words)
    assert of_function.code == 0, of_function.stderr
    assert of_function.json["run_dir"] == "runs/mine.texts-hf-tiny-sam-s0"
    assert of_function.json["metrics"]["test_loss"] == of_file.json["metrics"]["test_loss"]
    done = sharpkit("train", "--data", "mine.py:texts", "--model", "mlp", *WORDS)
    assert (done.code, "are texts, and the model mlp reads numbers" in done.told) == (2, True)


def test_a_run_that_is_gone_on_with_is_the_run_that_was_not_interrupted(sharpkit, model, mine):
    words = ("--model", model, "--data", mine, *WORDS)
    assert sharpkit("train", *words, "--out", "whole").code == 0
    assert sharpkit("train", *words, "--save-every", "1", "--out", "cut").code == 0
    Path("cut/epoch-1.pt").rename("cut/ckpt.pt")
    done = sharpkit("train", "--resume", "cut")
    assert done.code == 0, done.stderr
    assert "a new head" not in done.stderr
    whole, cut = (torch.load(f"{run}/ckpt.pt", weights_only=True)["model"] for run in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    Path("mine.tsv").write_text(Path("mine.tsv").read_text().replace("pos\tgood", "neg\tgood", 1))
    assert "are not those" in sharpkit("train", "--resume", "cut").told


def test_a_folder_of_the_library_is_a_checkpoint_and_a_checkpoint_goes_back(sharpkit, model, mine, tmp_path):
    """--init reads the library's names, and the library reads those of a checkpoint without `module.`."""
    from transformers import AutoModelForSequenceClassification

    write_model(tmp_path / "other", classes=2)
    words = ("--model", model, "--data", mine, *WORDS, "--init", tmp_path / "other/model.safetensors")
    done = sharpkit("train", *words, "--lr", "1e-12", "--wd", "0", "--opt", "sgd", "--out", "r")
    assert done.code == 0, done.stderr
    assert "a new head" not in done.stderr
    stored = torch.load("r/ckpt.pt", weights_only=True)["model"]
    there = AutoModelForSequenceClassification.from_pretrained(tmp_path / "other")
    for name, value in there.named_parameters():
        torch.testing.assert_close(stored[f"module.{name}"], value.detach(), rtol=0, atol=1e-9)
    there.load_state_dict({name.removeprefix("module."): value for name, value in stored.items()})


@pytest.mark.parametrize("task", TASKS)
def test_glue_is_judged_as_glue_judges_it(sharpkit, model, task, tmp_path):
    texts.write_glue(tmp_path / "data/glue", TASKS[task].folder)
    words = ("--data", f"glue:{TASKS[task].folder}", "--data-dir", "data", "--out", "r", "--epochs", "1")
    done = sharpkit("train", "--model", model, *WORDS, *words, "--json")
    assert done.code == 0, done.stderr
    metrics = done.json["metrics"]
    judged = {f"test_{name}" for name in TASKS[task].metrics} | ({"test_mismatched_acc"} if task == "mnli" else set())
    assert judged <= set(metrics)
    assert json.loads(Path("r/summary.json").read_text())["metrics"] == metrics
    if judged == {"test_acc"}:
        assert "test_score" not in metrics
    else:
        assert metrics["test_score"] == pytest.approx(sum(metrics[name] for name in judged) / len(judged), abs=1e-15)
    assert ("test_acc" in metrics) is (task != "stsb")
    assert [w for w in done.json["warnings"] if "finite" in w] == []


def test_a_person_sees_the_tasks_metrics(terminal, model, tmp_path):
    texts.write_glue(tmp_path / "data/glue", "STS-B")
    words = ("--model", model, "--data", "glue:stsb", "--data-dir", "data", *WORDS, "--save-every", "best")
    seen = terminal("train", *words, "--no-progress")
    assert seen.code == 0, seen.stderr
    for line in (
        "test Pearson correlation",
        "test Spearman correlation",
        "validation Pearson",
        "test score of best.pt",
    ):
        assert line in seen.stdout
    assert "accuracy" not in seen.stdout
    assert "nan" not in seen.stdout + seen.stderr
    assert "val pearson" in seen.stderr


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (
            ("--data", "mine.tsv", "--model", "cnn"),
            2,
            "are texts, and the model cnn reads numbers; give --model hf:DIR",
        ),
        (("--data", "mine.tsv"), 2, "the model auto reads numbers"),
        (("--data", "digits", "--model", "hf:tiny"), 2, "reads texts, and the data digits are none"),
        (("--data", "mine.tsv", "--model", "hf:nowhere"), 3, "hf:nowhere does not exist"),
        (("--data", "mine.tsv", "--model", "hf:."), 3, "has no config.json"),
        (("--data", "none.tsv", "--model", "hf:tiny"), 3, "the file none.tsv does not exist"),
        (("--data", "mine.tsv", "--model", "hf:tiny", "--max-length", "129"), 2, "the model takes 128 tokens at most"),
        (("--data", "mine.tsv", "--model", "hf:tiny", "--max-length", "3"), 2, "max-length is 3"),
        (("--data", "mine.tsv", "--model", "hf:tiny", "--augment", "basic"), 2, "augmentation basic needs images"),
        (("--data", "glue:cola", "--model", "hf:tiny"), 3, "there is no CoLA/train.tsv in"),
        (("--data", "glue:ax", "--model", "hf:tiny"), 2, "unknown data set"),
        (("--data", "glue:stsb", "--model", "hf:tiny", "--smoothing", "0.1"), 2, "are numbers, not classes"),
        (("--data", "glue:stsb", "--model", "hf:tiny", "--label-noise", "0.1"), 2, "at least two classes"),
        (
            ("--data", "glue:stsb", "--model", "hf:tiny", "--opt", "bisam-log"),
            2,
            "compares the probabilities of classes",
        ),
        (
            ("--data", "glue:stsb", "--model", "hf:tiny", "--opt", "sam+mesa"),
            2,
            "compares the probabilities of classes",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(fails, mine, tmp_path, words, code, told):
    write_model(tmp_path / "tiny")
    texts.write_glue(tmp_path / "data/glue", "STS-B")
    assert told in fails(code, "train", *words, "--data-dir", "data")
    assert not Path("runs").exists()


def test_names_are_listed(sharpkit):
    header, *rows = [line.split("\t") for line in sharpkit("ls", "data").stdout.splitlines()]
    listed = {row[0]: dict(zip(header, row, strict=True)) for row in rows}
    assert (listed["glue:mnli"]["training"], listed["glue:mnli"]["shape"], listed["glue:stsb"]["classes"]) == (
        "392702",
        "text",
        "1",
    )
    assert {"vader-movie", "reuters8", "20newsgroups"} < set(listed)
    assert "hf:DIR" in sharpkit("ls", "models").stdout

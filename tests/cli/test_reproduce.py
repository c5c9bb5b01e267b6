"""`sharpkit compare --reproduce`: a paper's grid, its numbers beside ours, and what is said of what cannot be run."""

import csv
import io
import json
from pathlib import Path

import pytest

from tests.data.formats import write_cifar10

SCALED = ("--scale", "0.01", "--data-dir", ".", "--seeds", "2", "--threads", "1")


def plan(done):
    assert done.code == 0, done.stderr
    return list(csv.DictReader(io.StringIO(done.stdout), delimiter="\t"))


@pytest.mark.slow
def test_the_grid_of_a_table_is_the_papers(sharpkit, tmp_path):
    write_cifar10(tmp_path)
    rows = plan(sharpkit("compare", "--reproduce", "sampa/table1", "--data-dir", ".", "--seeds", "1", "-n"))
    chosen = {(row["optimizer"], row["epochs"]) for row in rows}
    assert chosen == {
        ("sgd", "400"), ("sam", "200"), ("sampa:lam=0", "200"),
        ("sampa:lam=0.2, 200 epochs", "200"), ("sampa:lam=0.2, 400 epochs", "400"),
    }  # fmt: skip
    assert len(rows) == 5 * 5
    assert {row["run"].split("model=")[1].split("-s0")[0] for row in rows} == {
        "densenet121", "resnet56", "vgg19-bn", "wrn34-2", "wrn34-10"
    }  # fmt: skip


def test_scale_is_said_loudly_and_some_entries_can_be_chosen(sharpkit, tmp_path):
    write_cifar10(tmp_path, each=200)
    done = sharpkit("compare", "sgd", "sam", "--reproduce", "sampa/table7", "--label-noise", "0.2,0.4", *SCALED, "-n")
    rows = plan(done)
    assert len(rows) == 2 * 2 * 2
    assert {row["epochs"] for row in rows} == {"2"}
    assert (
        "SCALED by 0.01: 2 of 200 epochs, 10 of 1000 samples of cifar10. These are not the paper's settings."
        in done.stderr
    )


def test_what_cannot_be_run_is_told_with_its_reason(sharpkit, tmp_path):
    write_cifar10(tmp_path)
    done = sharpkit("compare", "--reproduce", "ssam/table1", "--data-dir", ".", "--seeds", "1", "-n")
    rows = plan(done)
    assert {row["optimizer"] for row in rows} >= {"sgd", "sam", "ssam-f:sparsity=0.5", "ssam-d:sparsity=0.99"}
    assert "numbers are left out: the data set cifar100 is missing" in done.stderr


def planned(sharpkit, *arguments):
    done = sharpkit("compare", *arguments, "--data-dir", ".", "--seeds", "1", "-n", "--json")
    assert done.code == 0, done.stderr
    return done.json


def test_a_plan_says_who_says_each_setting(sharpkit, tmp_path):
    write_cifar10(tmp_path, each=200)
    document = planned(sharpkit, "sgd", "sam", "--reproduce", "sampa/table7", "--label-noise", "0.4")
    (sgd, sam) = document["origins"]
    assert (sgd["opt"], sam["opt"]) == ("sgd", "sam")
    found = {one["name"]: (one["value"], one["origin"]) for one in sam["origins"]}
    assert found["rho"] == (0.1, "ours")
    assert found["lr"] == (0.1, "authors' code")
    assert found["augment"] == ("cutout:size=16:prob=0.5", "authors' code")
    assert found["label_noise"] == (0.4, "paper")
    assert found["epochs"] == (200, "authors' code")
    assert found["bn_stats"] == ("clean", "ours")
    done = sharpkit("compare", "sam", "--reproduce", "sampa/table7", "--label-noise", "0.4", *SCALED, "-n")
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("settings of sam: ")]
    paper, code, ours = line.removeprefix("settings of sam: ").split("; ")
    assert paper == "paper: data=cifar10, label_noise=0.4, model=resnet32"
    assert code.startswith("authors' code: val_frac=0.1, ")
    assert ours.startswith("ours: rho=0.1, ")
    assert "epochs=2" in ours


def test_a_network_is_found_by_the_papers_name_and_by_ours(sharpkit, tmp_path):
    write_cifar10(tmp_path)
    runs = [
        planned(sharpkit, "sam", "--reproduce", "sampa/table1", "--model", name)["cells"]
        for name in ("wrn28-2", "wrn34-2")
    ]
    assert runs[0] == runs[1]
    assert len(runs[0]) == 1


def test_radii_that_differ_and_are_ours_are_said(sharpkit, tmp_path):
    write_cifar10(tmp_path)
    told = planned(sharpkit, "--reproduce", "sampa/table8")["warnings"]
    (note,) = [text for text in told if text.startswith("radii differ between recipes, and not all by the paper: ")]
    assert "0.5 for asam and sampa+asam:lam=0.2 and sam-on" in note
    told = planned(sharpkit, "--reproduce", "sampa/table7")["warnings"]
    assert not [text for text in told if text.startswith("radii differ")]


@pytest.mark.slow
def test_the_papers_numbers_stand_beside_ours(sharpkit, tmp_path):
    write_cifar10(tmp_path, each=400)
    call = ("compare", "sgd", "sam", "--reproduce", "sampa/table7", "--label-noise", "0.4", *SCALED)
    done = sharpkit(*call)
    assert done.code == 0, done.stderr
    assert "note: SCALED by 0.01" in done.stderr
    sgd, sam = csv.DictReader(io.StringIO(done.stdout), delimiter="\t")
    assert (sgd["opt"], sam["opt"], sgd["n"]) == ("sgd", "sam", "2")
    assert (float(sgd["best_acc_paper"]), float(sam["best_acc_paper"])) == (84.24, 89.78)
    assert "rho=0.1" in sam["from_ours"].split()
    assert "smoothing_over=others" in sam["from_code"].split()
    assert sam["from_paper"] == "data=cifar10 label_noise=0.4 model=resnet32"
    assert "best_acc is the test accuracy of the best validation accuracy" in done.stderr
    document = sharpkit(*call, "--json").json
    (row,) = (one for one in document["rows"] if one["opt"] == "sgd")
    folders = sorted(Path("runs/compare").glob("sgd*"))
    best = [json.loads((folder / "summary.json").read_text())["metrics"]["best_test_acc"] for folder in folders]
    assert row["metrics"]["best_acc"]["mean"] == pytest.approx(100 * sum(best) / len(best))
    assert {one["origin"] for one in row["origins"]} == {"paper", "authors' code", "ours"}
    paper = document["rows"][0]["paper"]["best_acc"]
    assert f"{paper['value']:.2f} ± {paper['spread']:.2f}" == paper["printed"]
    assert any(text.startswith("SCALED") for text in document["warnings"])
    shown = sharpkit(*call, "--format", "md").stdout
    assert "test accuracy at best validation, %: paper" in shown
    assert "Settings, by who says them:" in shown
    assert "- `sam`: **paper**: data=cifar10, label_noise=0.4, model=resnet32; **authors' code**: " in shown
    assert f"{paper['printed']} (ours -" in shown

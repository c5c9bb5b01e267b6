"""What each command imports: libraries that take seconds are imported by what needs them, and by nothing else."""

import pytest

from sharpkit.cli import catalogue
from sharpkit.cli.main import run

HEAVY = ("torch", "torch._dynamo", "torch._inductor", "scipy.stats", "sklearn", "pandas", "matplotlib", "torchvision",
         "pyhessian", "transformers", "timm")  # fmt: skip
"""Libraries that take a third of a second or more to import."""

LISTS = ("ls", "ls opts", "ls unions", "ls models", "ls data", "ls presets", "ls opts --json")

DIAGNOSTICS = {
    "hessian": "--top 1 --no-density --trace-tol 1",
    "sharpness": "--samples 20",
    "landscape": "--x=-1:1:3 --y=-1:1:3",
    "graddiff": "--batch-size 32",
    "gradnorm-qq": "--batches 8 --batch-size 8",
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run of the default network and data set."""
    out = tmp_path_factory.mktemp("startup") / "run"
    assert run(["train", "--epochs", "1", "--limit", "100", "--threads", "1", "--out", str(out), "-q"]) == 0
    return out


@pytest.fixture
def imports(process):
    """Return which of the heavy libraries a command imports."""

    def of(command):
        done = process(f"""python - <<'END'
import sys
from sharpkit.cli.main import run
code = run({command.split()!r})
print("imported", *[name for name in {HEAVY!r} if name in sys.modules])
sys.exit(code)
END""")
        assert done.code == 0, done.stderr
        return set(done.stdout.splitlines()[-1].split()[1:])

    return of


@pytest.mark.parametrize("command", LISTS)
def test_ls_imports_nothing_heavy(imports, command):
    assert imports(command) == set()


@pytest.mark.slow
def test_plot_of_finished_runs_imports_matplotlib_alone(imports, trained, tmp_path):
    assert imports(f"plot {trained} -o {tmp_path}/c.csv") == set()
    assert imports(f"plot {trained} -o {tmp_path}/c.png") == {"matplotlib"}


@pytest.mark.slow
@pytest.mark.parametrize("command", DIAGNOSTICS)
def test_diagnostics_import_torch_alone(imports, trained, tmp_path, command):
    """Neither the compiler, which building an optimizer imports, nor what reads a table or draws."""
    found = imports(f"{command} {trained} {DIAGNOSTICS[command]} --threads 1 --no-plot -q -o {tmp_path}/out.csv")
    statistics = {"scipy.stats"} if command == "gradnorm-qq" else set()  # Shapiro and Wilk's test
    assert found == {"torch"} | statistics


@pytest.mark.slow
def test_training_imports_what_its_base_optimizer_imports(imports, tmp_path):
    found = imports(f"train --epochs 1 --limit 100 --threads 1 --out {tmp_path}/run -q")
    assert not found & {"scipy.stats", "sklearn", "matplotlib", "torchvision", "pyhessian", "transformers", "timm"}


def test_the_catalogue_says_what_recipes_and_data_sets_say():
    assert catalogue.FILE.read_text(encoding="utf-8") == catalogue.text(), "run python -m sharpkit.cli.catalogue"

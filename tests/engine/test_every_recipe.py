"""Every recipe and every union that is allowed trains on the default data, with nothing but its name."""

import math

import pytest
import torch

from sharpkit import RECIPES
from sharpkit.commands.train import run
from sharpkit.engine.config import TrainConfig
from sharpkit.engine.observer import Quiet
from sharpkit.engine.records import NOTES
from sharpkit.recipes.grammar import parameters
from sharpkit.recipes.unions import refusals

UNIONS = ["+".join(pair) for pair, why in refusals().items() if not why]


class Warned(Quiet):
    """Keeps the records of the epochs."""

    def __init__(self):
        self.records = []

    def epoch(self, record):
        self.records.append(record)


def trained(opt, folder, **options):
    """The result and the epochs of a short run on digits; what starts late is told to start at once."""
    own = {key for name in opt.split("+") for key in parameters(RECIPES[name])}
    early = [f"{key}={value}" for key, value in (("start", 0), ("lag", 1), ("nf", 20)) if key in own]
    observer = Warned()
    config = TrainConfig(opt=":".join([opt, *early]), epochs=2, limit=250, batch_size=50, threads="1", **options)
    return run(config, folder / "run", observer=observer), observer.records


@pytest.mark.parametrize("model", ["cnn", "mlp"])
@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_trains_on_the_default_data(name, model, tmp_path):
    """Counts what it computes, logs what it notes, and says so if it could do nothing."""
    if name == "sam-on" and model == "mlp":
        return  # which has no normalisation layer
    result, records = trained(name, tmp_path, model=model)
    assert result.warnings == []
    assert math.isfinite(result.metrics["test_loss"])
    assert result.cost["steps"] == 10
    assert result.cost["grads"] >= 10
    assert result.cost["grads_critical"] <= result.cost["grads"]
    assert result.cost["forwards"] >= result.cost["backwards"] >= 10 * 25
    perturbed = result.metrics["pct_sam"] > 0
    assert perturbed is (name not in ("sgd", "saf", "mesa"))
    assert ("epsilon_norm" in result.metrics) is perturbed
    assert {key: value for key, value in result.metrics.items() if key in NOTES} == {
        key: value for key, value in records[-1].items() if key in NOTES
    }
    assert torch.load(result.checkpoint, weights_only=True)["step"] == 10


@pytest.mark.slow
@pytest.mark.parametrize("union", UNIONS)
def test_every_union_trains_on_the_default_data(union, tmp_path):
    clash = "gnp" in union or "rho" in {k for n in union.split("+") for k in parameters(RECIPES[n])}
    result, _ = trained(union, tmp_path, model="cnn", rho=0.1 if clash else None)
    assert math.isfinite(result.metrics["test_loss"])
    assert result.cost["steps"] == 10


@pytest.mark.parametrize(
    ("opt", "noted"),
    [
        ("sam", {"ascent_norm", "epsilon_norm"}),
        ("ssam-d", {"ascent_norm", "epsilon_norm", "mask_density", "mask_churn"}),
        ("sampa", {"ascent_norm", "epsilon_norm", "cosine"}),
        ("ae-sam", {"ascent_norm", "epsilon_norm", "z_score"}),
        ("looksam", {"ascent_norm", "epsilon_norm", "age_of_v"}),
    ],
)
def test_what_each_notes(opt, noted, tmp_path):
    result, _ = trained(opt, tmp_path, model="mlp")
    assert {key for key in result.metrics if key in NOTES} == noted
    if opt in ("sam", "looksam"):
        assert result.metrics["epsilon_norm"] == pytest.approx({"sam": 0.05, "looksam": 0.1}[opt], rel=1e-5)
    if opt == "ssam-d":
        assert result.metrics["mask_density"] == pytest.approx(0.5, abs=1e-4)
        assert 0 < result.metrics["epsilon_norm"] < 0.1
    if opt == "sampa":
        assert -1 <= result.metrics["cosine"] <= 1

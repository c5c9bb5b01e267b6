"""Measurements during a run: the run does not notice them, and they are what they are called."""

import json
import random

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from sharpkit.commands.train import run
from sharpkit.core.task import Batch
from sharpkit.engine import fit, probes
from sharpkit.engine.config import TrainConfig
from sharpkit.engine.trained import load
from sharpkit.errors import InterruptedRunError, UsageError
from tests.engine.support import Stopper, resume, small, untimed

ALL = "grad-norm,grad-var,full-grad,lambda-max,sharpness"


def content(path):
    stored = torch.load(path / "ckpt.pt", weights_only=True)
    for key in ("config", "asked", "probed", "probe_seconds"):
        stored.pop(key)
    return stored


def same(a, b):
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b or (a != a and b != b)


def records(path, kind="probe"):
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


@pytest.mark.parametrize(
    ("opt", "probe"),
    [
        ("sampa+msam:m=2:rho=0.1", ALL + ",xy-grad,cosine"),
        pytest.param("ae-sam", ALL, marks=pytest.mark.slow),
        pytest.param("esam", "grad-var,sharpness", marks=pytest.mark.slow),
    ],
)
def test_a_run_does_not_notice_its_probes(tmp_path, opt, probe):
    options = {"opt": opt, "epochs": 2}
    run(small(tmp_path, **options), tmp_path / "plain")
    run(small(tmp_path, **options, probe=probe, probe_every=4, probe_samples="64"), tmp_path / "probed")
    plain, probed = (content(tmp_path / name) for name in ("plain", "probed"))
    assert same(untimed(plain), untimed(probed))
    assert untimed(records(tmp_path / "plain", "epoch")) == untimed(records(tmp_path / "probed", "epoch"))
    assert [r["step"] for r in records(tmp_path / "probed")] == [0, 4, 8, 12]
    costs = [json.loads((tmp_path / name / "summary.json").read_text())["cost"] for name in ("plain", "probed")]
    assert costs[1].pop("probe_s") > 0
    assert untimed(costs[0]) == untimed(costs[1])


TABLE = """
import random
import torch
from torch import nn

class Tokens(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.table, self.norm = nn.Embedding(17, 4, max_norm=0.3), nn.BatchNorm1d(4, momentum=None)
        self.out = nn.Linear(4, classes)
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))
    def forward(self, x):
        self.calls += 1
        kept = random.random() < 0.5 if self.training else True
        tokens = self.table((16 * x.flatten(1)).round().long().clamp(0, 16)).mean(1)
        return self.out(self.norm(tokens) if kept else tokens)

def make(shape, classes):
    return Tokens(classes)
"""
"""Scales its table in place, averages statistics over all passes, counts them, and draws from Python's stream."""


def test_a_model_that_writes_to_itself_does_not_notice_its_probes(tmp_path):
    (tmp_path / "tokens.py").write_text(TABLE)
    options = {"model": f"{tmp_path / 'tokens.py'}:make", "opt": "sampa:rho=0.1"}
    for name, more in {"plain": {}, "probed": {"probe": ALL + ",xy-grad", "probe_every": 2}}.items():
        random.seed(5)
        run(small(tmp_path, **options, **more), tmp_path / name)
    assert same(*(untimed(content(tmp_path / name)) for name in ("plain", "probed")))


def of_checkpoint(path):
    trained = load(path)
    model = trained.model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.eval()
    return model, trained.samples


def flat_gradient(model, x, y):
    params = [p for p in model.parameters() if p.requires_grad]
    grads = torch.autograd.grad(F.cross_entropy(model(x), y), params)
    return torch.cat([g.flatten() for g in grads]).double()


def test_values_are_those_of_the_checkpoint(tmp_path):
    config = TrainConfig(model="mlp", limit=200, batch_size=45, epochs=1, threads="1", probe=ALL, probe_rho=0.1)
    run(config, tmp_path / "r")
    last = records(tmp_path / "r")[-1]
    assert (last["step"], last["epoch"]) == (4, 1.0)
    model, samples = of_checkpoint(tmp_path / "r")
    whole = flat_gradient(model, samples.inputs, samples.targets)
    assert last["full_grad_sq"] == pytest.approx(float(whole @ whole), rel=1e-4)
    assert last["grad_var"] == pytest.approx(last["grad_norm_sq"] - last["full_grad_sq"], rel=1e-9)
    assert last["grad_norm_sq"] > last["full_grad_sq"] > 0
    params = [p for p in model.parameters() if p.requires_grad]
    with torch.no_grad():
        before = F.cross_entropy(model(samples.inputs), samples.targets)
        offset = 0.1 * whole.float() / whole.norm().float()
        for p, e in zip(params, offset.split([p.numel() for p in params]), strict=True):
            p.add_(e.view_as(p))
        after = F.cross_entropy(model(samples.inputs), samples.targets)
    assert last["sharpness_one_step"] == pytest.approx(float(after - before), rel=1e-3)
    assert last["sharpness_worst"] >= last["sharpness_one_step"]
    from sharpkit.diagnostics import hessian

    model, samples = of_checkpoint(tmp_path / "r")
    found = hessian(model, F.cross_entropy, [(samples.inputs, samples.targets)], top=1)
    assert last["lambda_max"] == pytest.approx(float(found.eigenvalues[0]), rel=1e-3)


def test_moments_from_a_part_of_the_samples_are_those_of_all_training_samples(tmp_path):
    """Against the formulas of sampling without replacement, in numpy."""
    config = TrainConfig(
        model="mlp", limit=200, batch_size=45, epochs=1, threads="1", probe="grad-norm,grad-var,full-grad",
        probe_samples="100",
    )  # fmt: skip
    seen = []
    original = probes.Probes.__init__

    def spy(self, session):
        original(self, session)
        seen.append((self._samples, self._plan, len(session.splits.train)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probes.Probes, "__init__", spy)
        run(config, tmp_path / "r")
    last = records(tmp_path / "r")[-1]
    ((part, plan, population),) = seen
    model, _ = of_checkpoint(tmp_path / "r")
    batches = [batch for batch in part.batches(plan) if batch.size == 45]
    g = np.stack([flat_gradient(model, batch.inputs, batch.targets).numpy() for batch in batches])
    spread = g.var(0, ddof=1).sum()
    assert (len(g), population) == (2, 180)
    assert last["grad_norm_sq"] == pytest.approx((g**2).sum(1).mean(), rel=1e-4)
    assert last["grad_var"] == pytest.approx((1 - 45 / 180) * spread, rel=1e-4)
    assert last["full_grad_sq"] == pytest.approx(g[0] @ g[1] + 45 / 180 * spread, rel=1e-3)


def test_the_look_ahead_gradient_is_compared_on_its_own_batch(tmp_path):
    config = TrainConfig(
        model="mlp", limit=200, batch_size=45, epochs=1, threads="1", opt="sampa", probe="xy-grad,cosine"
    )
    run(config, tmp_path / "r")
    first, last = records(tmp_path / "r")
    assert (first["xy_distance"], first["xy_cosine"]) == (None, None)
    memory = torch.load(tmp_path / "r/ckpt.pt", weights_only=True)["optimizer"]["memory"]
    q = torch.cat([t.flatten() for t in memory["0/sampa.q"]]).double()
    batch = Batch.unpack(memory["0/sampa.batch"])
    model, _ = of_checkpoint(tmp_path / "r")
    g = flat_gradient(model, batch.inputs, batch.targets)
    assert last["xy_distance"] == pytest.approx(float((g - q).norm()), rel=1e-4)
    assert last["xy_cosine"] == pytest.approx(float(g @ q / g.norm() / q.norm()), rel=1e-5)
    assert last["xy_cosine"] > 0.5


def test_a_run_that_goes_on_makes_up_for_what_a_signal_cut_off(tmp_path):
    config = small(tmp_path, probe="grad-norm,lambda-max", probe_every=3, epochs=2)
    run(config, tmp_path / "whole")
    with pytest.raises(InterruptedRunError):
        run(config, tmp_path / "cut", observer=Stopper(3))
    assert [r["step"] for r in records(tmp_path / "cut")] == [0]
    resume(tmp_path / "cut")
    assert untimed(records(tmp_path / "cut")) == untimed(records(tmp_path / "whole"))


def test_the_time_of_a_probe_is_not_the_time_of_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(probes.Probes, "measure", lambda *_: ({"grad_norm_sq": 1.0}, 1000.0))
    result = run(small(tmp_path, probe="grad-norm", epochs=1), tmp_path / "r")
    assert result.cost["probe_s"] == 2000
    assert result.cost["wall_s"] < -1900
    assert result.metrics["grad_norm_sq"] == 1


def test_what_cannot_be_computed_is_null_and_the_run_goes_on(tmp_path, monkeypatch):
    def diverged(*_, **__):
        from sharpkit.errors import DivergedError

        raise DivergedError("no number")

    monkeypatch.setattr(probes, "sharpness", diverged)
    run(small(tmp_path, probe="sharpness,grad-norm", epochs=1), tmp_path / "r")
    for record in records(tmp_path / "r"):
        assert record["sharpness_worst"] is None
        assert np.isfinite(record["grad_norm_sq"])


def test_what_is_not_allowed(tmp_path):
    assert fit.Probes is probes.Probes
    for options, message in (
        ({"probe": "grad-nrom"}, "unknown probe"),
        ({"probe_every": 3}, "no --probe"),
        ({"probe": "grad-norm", "probe_every": 0}, "probe-every"),
        ({"probe": "grad-norm", "probe_samples": "some"}, "probe-samples"),
        ({"probe": "sharpness", "probe_rho": 0.0}, "probe-rho"),
    ):
        with pytest.raises(UsageError, match=message):
            small(tmp_path, **options)
    with pytest.raises(UsageError, match="look-ahead point"):
        run(small(tmp_path, probe="xy-grad"), tmp_path / "a")
    with pytest.raises(UsageError, match="two batches"):
        run(small(tmp_path, probe="grad-var", probe_samples="40", opt="sgd"), tmp_path / "b")
    assert not (tmp_path / "a").exists()

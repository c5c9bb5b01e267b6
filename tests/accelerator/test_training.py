"""Training on another device than the CPU: nothing is left on the CPU, and the host waits once an epoch."""

import pytest
import torch
from torch.utils._pytree import tree_leaves

from sharpkit import RECIPES
from sharpkit.engine.session import build
from sharpkit.errors import InterruptedRunError
from tests.accelerator.pretended import NAME
from tests.core.support import bits
from tests.engine.support import Stopper, outcome, resume, run, small

UNIONS = ["sampa+asam", "ae-sam+ssam-f", "msam+vasso:rho=0.1", "sampa+bisam-tanh:rho=0.1", "gsam+bisam-log:rho=0.1"]
PLAIN = [{"opt": name} for name in [*RECIPES, *UNIONS]]
OPTIONS = [
    {"opt": "sam", "accum": 3},
    {"opt": "sampa", "clip": 0.05},
    {"opt": "sampa", "base": "adamw", "lr": 0.01},
    {"opt": "asam", "base": "adam", "wd_in_loss": True},
    {"opt": "sam", "augment": "cutout", "nesterov": True},
    {"opt": "ssam-d", "label_noise": 0.2, "rho_sched": "with-lr"},
]


def trained(folder, **options):
    """All state after two epochs of two steps, but for that of random generators, and what the steps reported."""
    session = build(small(folder, limit=70, epochs=2, **options))
    reports = []
    for epoch in range(2):
        session.model.train()
        for b in session.loader.epoch(epoch):
            report = session.optimizer.step((b.inputs, b.targets, b.indices))
            reports.append((float(report.loss), report.forward_samples, report.backward_samples))
    assert session.device == torch.device(options["device"])
    leaves = tree_leaves([session.model.state_dict(), session.optimizer.state_dict(), reports])
    kept = [leaf for leaf in leaves if leaf is not None and getattr(leaf, "dtype", None) != torch.uint8]
    return bits([leaf.cpu() if isinstance(leaf, torch.Tensor) else leaf for leaf in kept])


@pytest.mark.parametrize("options", PLAIN + OPTIONS, ids=lambda o: ", ".join(f"{k}={v}" for k, v in o.items()))
def test_the_steps_are_those_of_the_cpu(tmp_path, device, options):
    assert trained(tmp_path, device=NAME, **options) == trained(tmp_path, device="cpu", **options)


@pytest.mark.parametrize("opt", ["sgd", "sam", "asam", "sampa", "sampa+asam", "msam", "gsam", "esam", "saf", "mesa"])
def test_longer_epochs_make_the_host_wait_no_more(tmp_path, device, opt):
    """What is read is read at the ends of epochs: losses, the test score, the checkpoint."""
    waited = []
    for limit in (140, 280):
        before = device.reads
        run(small(tmp_path, opt=opt, limit=limit, epochs=1, device=NAME), tmp_path / str(limit))
        waited.append(device.reads - before)
    assert 0 < waited[0] == waited[1]


def test_a_run_goes_on_bit_by_bit(tmp_path, device):
    config = small(tmp_path, opt="sampa", epochs=2, device=NAME)
    expected = outcome(tmp_path / "a", run(config, tmp_path / "a"))
    with pytest.raises(InterruptedRunError):
        run(config, tmp_path / "b", observer=Stopper(8))
    assert outcome(tmp_path / "b", resume(tmp_path / "b")) == expected

"""Counts that the command reports, by hand."""

import pytest

# 200 samples, of which 20 are held out; two epochs of a batch of 128 and one of 52.
STEPS, SAMPLES, LAST = 4, 360, 52

COSTS = {
    "sgd": {"grads": STEPS, "critical": STEPS, "forwards": SAMPLES, "perturbed": 0},
    "sam": {"grads": 2 * STEPS, "critical": 2 * STEPS, "forwards": 2 * SAMPLES, "perturbed": STEPS},
    "asam": {"grads": 2 * STEPS, "critical": 2 * STEPS, "forwards": 2 * SAMPLES, "perturbed": STEPS},
    # The first step is plain; every other evaluates the batch before and its own, independently.
    "sampa": {"grads": 2 * STEPS - 1, "critical": STEPS, "forwards": 2 * SAMPLES - LAST, "perturbed": STEPS - 1},
}
COSTS["sampa+asam"] = COSTS["sampa"]


@pytest.mark.parametrize("opt", COSTS)
@pytest.mark.parametrize("options", [(), ("--accum", "3")])
def test_gradients_and_samples(train, opt, options):
    document = train("--json", "--opt", opt, *options).json
    expected, cost = COSTS[opt], document["cost"]
    assert cost["steps"] == STEPS
    assert cost["grads"] == cost["grads_sequential"] == expected["grads"]
    assert cost["grads_critical"] == expected["critical"]
    assert cost["grads_per_step"] == expected["grads"] / STEPS
    assert cost["forwards"] == cost["backwards"] == expected["forwards"]
    assert document["metrics"]["pct_sam"] == 100 * expected["perturbed"] / STEPS
    assert document["warnings"] == []
    assert 0 < cost["wall_s"] < 60
    assert 50 < cost["peak_mb"] < 20_000


def test_a_person_reads_the_same(terminal):
    done = terminal(
        "train", "--epochs", "2", "--limit", "200", "--model", "mlp", "--threads", "1", "--opt", "sampa", on=("stdout",)
    )
    assert "7 (1.75 a step)" in done.stdout
    assert "4 with two devices" in " ".join(done.stdout.replace("│", " ").split())


def test_label_noise_is_told(train):
    done = train("--label-noise", "0.25", "--seed", "1")
    assert "180 training (45 labels replaced), 20 validation, 599 test samples" in done.stderr


def test_label_noise_is_in_the_plan(train):
    document = train("--label-noise", "0.25", "--dry-run", "--json").json
    assert document["plan"]["noisy_labels"] == 45


def test_a_zero_gradient_is_warned_of(sharpkit, tmp_path):
    (tmp_path / "d.py").write_text(
        "import torch\n\n\ndef f():\n    return torch.zeros(60, 4), torch.arange(60) % 2\n"
        "\n\ndef m(shape, classes):\n    net = torch.nn.Linear(4, classes, bias=False)\n    return net\n"
    )
    done = sharpkit("train", "--data", "d.py:f", "--model", "d.py:m", "--epochs", "1", "-b", "20", "--json")
    assert done.json["warnings"] == ["2 steps had a zero gradient and were taken without a perturbation"]
    assert "warning: 2 steps had a zero gradient" in done.stderr

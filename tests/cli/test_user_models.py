"""A user's model file: what works, and what is refused in one line before anything is trained."""

from pathlib import Path

import pytest

from tests.cli.conftest import write

NET = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 10)

    def forward(self, x):
        {body}


def f(shape, classes):
    return Net()
"""


@pytest.mark.parametrize(
    "body",
    [
        "raise ValueError",
        "raise ValueError('two\\nlines')",
        "raise KeyError('x')",
        "assert x is None",
        "raise AttributeError('x')",
        "return 1 / 0",
        "return None",
        "return (self.linear(x.flatten(1)), 1)",
        "return {'logits': self.linear(x.flatten(1))}",
        "return self.linear(x.flatten(1))[:1]",
        "return self.linear(x.flatten(1))[:, :9]",
        "return self.linear(x.flatten(1)).sum()",
        "return self.linear(x.flatten(1)).view(-1, 2, 5)",
        "return self.linear(x.flatten(1)).detach()",
        "return self.linear(x.flatten(1)).argmax(1)",
        "return self.linear(x.flatten(1)) / 0 * 0",
        "raise NotImplementedError",
    ],
)
def test_a_model_whose_outputs_cannot_be_used(refused, body):
    write(NET.format(body=body))
    assert "model" in refused("--model")


@pytest.mark.parametrize("body", ["raise RuntimeError('boom')", "raise KeyError('boom')"])
def test_a_model_that_fails_in_training_mode_only(refused, body):
    write(NET.format(body=f"if self.training:\n            {body}\n        return self.linear(x.flatten(1))"))
    assert "boom" in refused("--model")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def f(shape, classes):\n    return nn.Linear\n", "allowed is a torch.nn.Module"),
        ("def f(shape, classes):\n    return None\n", "allowed is a torch.nn.Module"),
        ("def f(shape, classes):\n    raise ValueError('two\\nlines')\n", "u.py:f raised ValueError: two"),
        ("def f(shape, classes):\n    raise SystemExit(0)\n", "u.py:f raised SystemExit"),
        ("raise ValueError('two\\nlines')\n", "u.py failed on import: ValueError: two"),
        ("import sys\nsys.exit(0)\n", "u.py failed on import: SystemExit"),
        ("def f(:\n", "u.py failed on import: SyntaxError"),
        ("import no_such_module\n", "No module named 'no_such_module'"),
        ("f = 3\n", "u.py has no function 'f'"),
        ("def ff():\n    pass\n", "did you mean 'ff'"),
        ("def f(a, b, c):\n    pass\n", "missing 1 required positional argument"),
        ("def f(*, shape, classes):\n    pass\n", "missing 2 required keyword-only arguments"),
        ("def f(shape, classes):\n    return nn.Flatten()\n", "parameter"),
        ("def f(shape, classes):\n    return nn.Sequential(nn.Flatten(), nn.Linear(9, 10))\n", "(1, 8, 8)"),
        ("def f(shape, classes):\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).double()\n", "dtype"),
        ("def f(s, c):\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10, device='meta'))\n", "meta"),
    ],
    ids=range(16),
)
def test_a_model_file_that_gives_no_model(refused, source, message):
    write(source)
    assert message in refused("--model")


def test_a_model_that_is_frozen_altogether(fails):
    write("def f(s, c):\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).requires_grad_(False)\n")
    assert "trainable parameter" in fails(2, "train", "--model", "u.py:f", "--threads", "1")


def test_a_batch_of_one_with_batch_norm_is_refused_before_the_run(refused):
    write("def f(s, c):\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.BatchNorm1d(10))\n")
    assert "batch" in refused("--model", "-b", "1")
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    "source",
    [
        "def f(s, c):\n    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Linear(8, 10))\n"
        "    net[1].requires_grad_(False)\n    return net\n",
        "class f(nn.Module):\n    def __init__(self, shape, classes):\n        super().__init__()\n"
        "        self.l = nn.Linear(64, classes)\n        self.unused = nn.Linear(2, 2)\n\n"
        "    def forward(self, x):\n        return self.l(x.flatten(1))\n",
        "def f(shape, classes=None):\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))\n",
        "def f(*given):\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, given[1]))\n",
        "import neighbour\n\n\ndef f(s, c):\n    return neighbour.net(c)\n",
        "def f(s, c):\n    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
        "    net.cache = net[1].weight * 2\n    return net\n",
    ],
    ids=["partly frozen", "a class, unused weights", "a default", "any arguments", "a file beside it", "not copyable"],
)
@pytest.mark.parametrize("threads", ["1", "auto"])
def test_unusual_models_that_work(sharpkit, monkeypatch, source, threads):
    from sharpkit.engine import runtime

    monkeypatch.setattr(runtime, "_ALL_THREADS", 2)
    write(source, "models/u.py")
    write("def net(classes):\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))\n", "models/neighbour.py")
    words = ("--epochs", "1", "--limit", "60", "--opt", "sampa+asam", "--model", "models/u.py:f", "--threads", threads)
    done = sharpkit("train", *words)
    assert done.code == 0, done.stderr

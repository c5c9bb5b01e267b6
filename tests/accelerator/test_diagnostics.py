"""Every diagnostic on another device than the CPU: the same numbers, and the host waits as seldom as it can."""

import numpy as np
import pytest

from sharpkit.cli.main import run as call
from tests.accelerator.pretended import NAME
from tests.engine.support import run, small

FEW = "--samples 60 --threads 1 --no-plot"
COMMANDS = {
    "hessian": f"hessian {FEW} --steps 12 -k 3",
    "Gauss-Newton": f"hessian {FEW} --steps 12 --matrix ggn --params 0.*",
    "both ends": f"hessian {FEW} --both-ends -k 1 --no-density --tol 0.05 --trace none",
    "layers": f"hessian {FEW} --per-layer -k 1 --no-density --tol 0.05 --trace hutch++",
    "ARPACK": f"hessian {FEW} --backend scipy -k 2 --no-density --trace none",
    "landscape": f"landscape {FEW} --x -1:1:4 --y -1:1:3",
    "adaptive": f"landscape {FEW} --x -1:1:9 --y -1:1:9 --adaptive 0.1",
    "along eigenvectors": f"landscape {FEW} --x -1:1:4 --y -1:1:3 --dirs hessian",
    "a line": f"landscape {FEW} --x -1:1:5",
    "sharpness": f"sharpness {FEW} --opt asam",
    "sharpness of shards": f"sharpness {FEW} --m 20",
    "graddiff": "graddiff --threads 1 --no-plot --opt sam --batches 2",
    "gradnorm-qq": "gradnorm-qq --threads 1 --no-plot --batches 12",
}


@pytest.fixture
def a_run(tmp_path):
    """The folder of a run with convolutions, batch norm and dropout."""
    folder = tmp_path / "r"
    run(small(tmp_path, opt="sam", epochs=1, device="cpu"), folder)
    return folder


def measured(folder, place, command):
    """The arrays that a diagnostic writes."""
    kind, *options = command.split()
    assert call([kind, str(folder), *options, "--device", place]) == 0
    (file,) = folder.glob("*.npz")
    arrays = dict(np.load(file))
    file.unlink()
    return arrays


QUICK = ("hessian", "landscape", "sharpness", "graddiff", "gradnorm-qq")
NAMES = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in COMMANDS]


@pytest.mark.parametrize("name", NAMES)
def test_the_numbers_are_those_of_the_cpu(a_run, device, name):
    """Lanczos goes further there, for it looks at convergence more seldom, and the trace is another estimate then."""
    rtol = 2e-3 if "--tol" in COMMANDS[name] else 1e-4
    expected = measured(a_run, "cpu", COMMANDS[name])
    found = measured(a_run, NAME, COMMANDS[name])
    assert list(found) == list(expected)
    for key, value in expected.items():
        if key == "trace":
            assert abs(found[key][0] - value[0]) < 4 * np.hypot(found[key][1], value[1])
        elif value.dtype.kind == "f" and not key.startswith("trace") and not key.endswith("residuals"):
            np.testing.assert_allclose(found[key], value, rtol=rtol, atol=1e-5, err_msg=key)


@pytest.mark.parametrize("name", ["graddiff", "gradnorm-qq"])
def test_more_batches_make_the_host_wait_no_more(a_run, device, name):
    waited = []
    for command in (COMMANDS[name], COMMANDS[name] + "0"):
        before = device.reads
        measured(a_run, NAME, command)
        waited.append(device.reads - before)
    assert 0 < waited[0] == waited[1]

"""A run on a folder of images that is stopped and goes on is, bit for bit, the run that never stopped."""

import signal
from dataclasses import replace
from functools import partial

import pytest

from sharpkit.engine.config import TrainConfig
from sharpkit.errors import InterruptedRunError
from tests.data import formats
from tests.data.torchvision import torchvision  # noqa: F401
from tests.engine.support import Stopper, outcome, resume, run

pytestmark = [
    pytest.mark.usefixtures("torchvision"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]

MODEL = """
from torch import nn


def net(shape, classes):
    return nn.Sequential(
        nn.AvgPool2d(16), nn.Flatten(), nn.Linear(588, 8), nn.BatchNorm1d(8), nn.Dropout(0.4), nn.Linear(8, classes)
    )
"""


@pytest.fixture
def config(tmp_path):
    formats.write_images(tmp_path / "pictures/train", each=10)
    formats.write_images(tmp_path / "pictures/val", each=3, first=10)
    (tmp_path / "net.py").write_text(MODEL)
    return TrainConfig(
        data=str(tmp_path / "pictures"), model=f"{tmp_path}/net.py:net", batch_size=7, epochs=3, threads="1",
        augment="cutout", label_noise=0.2, val_frac=0.2, workers="2",
    )  # fmt: skip


@pytest.mark.parametrize(
    "opt", ["sam", "sampa", *(pytest.param(opt, marks=pytest.mark.slow) for opt in ("ssam-f:nf=10", "saf"))]
)
def test_it_goes_on_as_if_nothing_had_happened(tmp_path, config, opt):
    config = replace(config, opt=opt)
    whole = outcome(tmp_path / "a", run(config, tmp_path / "a"))
    for number, step in ((signal.SIGTERM, 2), (signal.SIGINT, 4), (signal.SIGTERM, 7)):
        observer = Stopper(step, number=number)
        sitting = partial(run, config) if step == 2 else resume
        with pytest.raises(InterruptedRunError):
            sitting(tmp_path / "b", observer=observer)
    assert outcome(tmp_path / "b", resume(tmp_path / "b")) == whole


def test_the_number_of_readers_changes_nothing_and_may_change_when_a_run_goes_on(tmp_path, config):
    def compared(folder, result):
        told = outcome(folder, result)
        told["args"].pop("workers")
        return {key: told[key] for key in ("metrics", "numbers", "args")}

    whole = compared(tmp_path / "a", run(config, tmp_path / "a"))
    alone = compared(tmp_path / "b", run(replace(config, workers="0"), tmp_path / "b"))
    assert alone == whole
    with pytest.raises(InterruptedRunError):
        run(config, tmp_path / "c", observer=Stopper(5))
    assert compared(tmp_path / "c", resume(tmp_path / "c", {"workers": "1"})) == whole

"""The grammar of `--augment`, and that its size and probability reach the images."""

import pytest
import torch

from sharpkit.data.dataset import Dataset
from sharpkit.data.loader import Loader
from sharpkit.data.samples import Samples
from sharpkit.engine.augmentation import Augmentation, parse_augmentation
from sharpkit.engine.config import TrainConfig
from sharpkit.engine.session import build
from sharpkit.errors import UsageError


@pytest.mark.parametrize(
    ("text", "expected", "canonical"),
    [
        ("auto", Augmentation("auto"), "auto"),
        ("basic", Augmentation("basic"), "basic"),
        ("cutout", Augmentation("cutout"), "cutout"),
        ("cutout:size=16:prob=0.5", Augmentation("cutout", 16, 0.5), "cutout:size=16:prob=0.5"),
        ("cutout: prob = 0.5 : size = 16", Augmentation("cutout", 16, 0.5), "cutout:size=16:prob=0.5"),
        ("cutout:prob=1.0", Augmentation("cutout"), "cutout"),
        ("cutout:size=8", Augmentation("cutout", 8), "cutout:size=8"),
    ],
)
def test_augmentation_parses_to_its_parameters_and_has_one_canonical_form(text, expected, canonical):
    found = parse_augmentation(text)
    assert found == expected
    assert found.text == canonical
    assert parse_augmentation(canonical) == found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("strong", r"augment is 'strong', allowed are auto, none, basic and cutout\[:size=PIXELS\]\[:prob=P\]"),
        ("", "augment is ''"),
        ("basic:size=3", "with 'size=3'"),
        ("cutout:16", "with '16'"),
        ("cutout:p=0.5", "with 'p=0.5'"),
        ("cutout:size=3:size=4", "sets size twice"),
        ("cutout:size=0", "size is '0', allowed are 1, 2"),
        ("cutout:size=2.5", "size is '2.5'"),
        ("cutout:prob=0", r"prob is 0, allowed is \(0, 1\]"),
        ("cutout:prob=1.5", r"prob is 1.5, allowed is \(0, 1\]"),
        ("cutout:prob=nan", r"prob is nan"),
        ("cutout:prob=half", "prob is 'half'"),
    ],
)
def test_augmentations_outside_the_grammar_are_refused(text, message):
    with pytest.raises(UsageError, match=message):
        TrainConfig(augment=text)


def holes(**options):
    """The number of blank pixels of each of 4,000 images of ones, one epoch of one batch."""
    images = torch.ones(4000, 1, 16, 16)
    data = Samples(images, torch.arange(4000) % 2, torch.arange(4000))
    (batch,) = Loader(data, 4000, 0, Dataset("x", data, data, 2, cutout=6), "cutout", **options).epoch(0)
    return (batch.inputs == 0).flatten(1).sum(1)


def test_cutout_is_applied_with_its_probability():
    """4 standard deviations of a binomial proportion."""
    for prob in (0.25, 0.5):
        share = float((holes(prob=prob) > 0).double().mean())
        assert abs(share - prob) < 4 * (prob * (1 - prob) / 4000) ** 0.5
    assert bool((holes() > 0).all())


def test_cutout_has_the_given_size_or_the_data_sets():
    assert int(holes().max()) == 36
    assert int(holes(cutout=10).max()) == 100


def test_a_session_cuts_out_what_its_configuration_says():
    """Digits are 8x8 and their cutout is 3: a hole of 5 is larger than any of those."""
    config = TrainConfig(
        data="digits", model="cnn", augment="cutout:prob=0.5:size=5", limit=400, batch_size=200, epochs=1, threads="1"
    )
    session = build(config)
    assert session.config.augment == "cutout:size=5:prob=0.5"
    assert (session.loader.cutout, session.loader.prob) == (5, 0.5)

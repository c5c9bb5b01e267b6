"""What several papers share."""

CIFAR = ("cifar10", "cifar100")
NOISE = (0.2, 0.4, 0.6, 0.8)
CUTOUT = "cutout:size=16:prob=0.5"
"""Cutout of 16 pixels of every second image, CIFAR-100's too: the code of ESAM, SSAM, VaSSO, BiSAM and SAMPa."""


def noisy(noise: float) -> str:
    """Return the data part of the name of a preset with label noise."""
    return f"cifar10-noise{100 * noise:.0f}"

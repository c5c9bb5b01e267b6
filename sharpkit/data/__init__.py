"""Data sets by name, and the user's own."""

from __future__ import annotations

from collections.abc import Callable

from sharpkit.data.dataset import Dataset
from sharpkit.data.digits import digits
from sharpkit.data.mnist5k import mnist5k

DATASETS: dict[str, Callable[[], Dataset]] = {"digits": digits, "mnist5k": mnist5k}

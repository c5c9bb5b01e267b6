"""`PRESETS`: what papers and their authors' code say they trained with, and what is ours where they say nothing.

Every value has an origin: the paper, the authors' code, or ours with the reason for it. Where text and code disagree,
the source says so and which of them is followed. Every value of a paper or of code was read in the place that its
source names. What is neither here nor in the source is the default of the recipe or option, and hence ours too.
"""

from __future__ import annotations

from sharpkit.engine.papers import aesam, asam, bisam, esam, gnp, sampa, ssam, vasso
from sharpkit.engine.published import Preset

_ALL = (ssam, aesam, sampa, asam, esam, vasso, bisam, gnp)

PRESETS: dict[str, Preset] = {preset.name: preset for paper in _ALL for preset in paper.presets()}

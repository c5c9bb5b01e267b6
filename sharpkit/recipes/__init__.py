"""The named variants: `RECIPES` maps a name to the function that builds its rule."""

from __future__ import annotations

from collections.abc import Callable

from sharpkit.core.rule import Rule
from sharpkit.recipes.ae_sam import ae_looksam, ae_sam
from sharpkit.recipes.asam import asam
from sharpkit.recipes.bisam import bisam_log, bisam_tanh
from sharpkit.recipes.esam import esam
from sharpkit.recipes.fisher_sam import fisher_sam
from sharpkit.recipes.gnp import gnp
from sharpkit.recipes.gsam import gsam
from sharpkit.recipes.looksam import looksam
from sharpkit.recipes.msam import msam
from sharpkit.recipes.saf import mesa, saf
from sharpkit.recipes.sam import sam
from sharpkit.recipes.sam_on import sam_on
from sharpkit.recipes.sampa import sampa
from sharpkit.recipes.sgd import sgd
from sharpkit.recipes.ss_sam import ss_sam
from sharpkit.recipes.ssam import ssam_d, ssam_f
from sharpkit.recipes.vasso import vasso

RECIPES: dict[str, Callable[..., Rule]] = {
    "sgd": sgd,
    "sam": sam,
    "asam": asam,
    "fisher-sam": fisher_sam,
    "sam-on": sam_on,
    "ssam-f": ssam_f,
    "ssam-d": ssam_d,
    "bisam-tanh": bisam_tanh,
    "bisam-log": bisam_log,
    "vasso": vasso,
    "gsam": gsam,
    "gnp": gnp,
    "esam": esam,
    "msam": msam,
    "sampa": sampa,
    "ss-sam": ss_sam,
    "looksam": looksam,
    "ae-sam": ae_sam,
    "ae-looksam": ae_looksam,
    "saf": saf,
    "mesa": mesa,
}

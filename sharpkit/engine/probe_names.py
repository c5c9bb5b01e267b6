"""What `--probe` can measure; torch is not imported here, so that `--help` answers at once."""

from __future__ import annotations

import difflib

from sharpkit.errors import UsageError

PROBES = {
    "grad-norm": "E |g_B|^2, the mean squared norm of a batch's gradient",
    "grad-var": "Var(g_B) = E |g_B|^2 - |grad L(D)|^2",
    "full-grad": "|grad L(D)|^2, the squared norm of the gradient of all training samples",
    "xy-grad": "|grad f(x) - grad f(y)|, x the weights and y SAMPa's look-ahead point, same batch",
    "cosine": "cosine of grad f(x) and grad f(y)",
    "lambda-max": "largest eigenvalue of the Hessian",
    "sharpness": "rise of the loss at distance --probe-rho: one step, ascent, random directions",
}
"""Names and what they are."""

KEYS = {
    "grad-norm": ("grad_norm_sq",),
    "grad-var": ("grad_var",),
    "full-grad": ("full_grad_sq",),
    "xy-grad": ("xy_distance",),
    "cosine": ("xy_cosine",),
    "lambda-max": ("lambda_max",),
    "sharpness": ("sharpness_one_step", "sharpness_worst", "sharpness_average"),
}
"""What every probe is called in metrics.jsonl."""

MOMENTS = ("grad-norm", "grad-var", "full-grad")
"""Those that need all batches."""

AHEAD = ("xy-grad", "cosine")
"""Those that need a look-ahead point."""


def probe_names(text: str | None) -> tuple[str, ...]:
    """Return the probes that a list names, in its order.

    Raises:
        UsageError: If one is unknown.
    """
    names = tuple(dict.fromkeys(name.strip() for name in (text or "").split(",") if name.strip()))
    for name in names:
        if name not in PROBES:
            close = difflib.get_close_matches(name, PROBES, n=1)
            guess = f"did you mean {close[0]!r}? " if close else ""
            raise UsageError(f"unknown probe {name!r}", f"{guess}allowed: {', '.join(PROBES)}")
    return names


def check_probes(text: str | None, recipe: str, *, ahead: bool, samples: int, available: int, batch_size: int) -> None:
    """Refuse probes that a run cannot make.

    Args:
        text: The list of probes.
        recipe: The recipe's name.
        ahead: Whether the recipe has a look-ahead point.
        samples: How many samples are measured with.
        available: How many the run trains on.
        batch_size: Samples a batch.

    Raises:
        UsageError: If there is one.
    """
    names = set(probe_names(text))
    if names & set(AHEAD) and not ahead:
        raise UsageError(
            f"the recipe {recipe} has no look-ahead point y to compare the gradient at",
            "use --opt sampa, or leave xy-grad and cosine out of --probe",
        )
    if names & set(MOMENTS) and samples < min(available, 2 * batch_size):
        raise UsageError(
            f"probe-samples is {samples}, and moments of the gradient need two batches of {batch_size}",
            "raise --probe-samples",
        )

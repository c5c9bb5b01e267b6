"""Measurements during a run, which the run does not notice."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch

from sharpkit.core import vec
from sharpkit.core.task import Batch, Supervised
from sharpkit.core.undisturbed import undisturbed
from sharpkit.data.part import in_order
from sharpkit.diagnostics.curvature.spectrum import hessian
from sharpkit.diagnostics.gradients.gradient_variance import gradient_variance
from sharpkit.diagnostics.sharpness import sharpness
from sharpkit.engine.objective import loss_of
from sharpkit.engine.probe_names import AHEAD, KEYS, MOMENTS, probe_names
from sharpkit.engine.session import Session
from sharpkit.errors import DivergedError, check_count

_STEPS, _DIRECTIONS = 10, 10
_TOLERANCE = 1e-3
_SEED = 77_003
"""Apart from the seeds of the run's own choices."""


class Probes:
    """What a run measures on the way, with samples and random choices of its own.

    The model is looked at without augmentation and dropout, in its own precision. Moments of the gradient are those of
    training, with the batch statistics of batch norm; lambda_max and sharpness use the stored ones. The batches are the
    same at every probe. Weights, buffers, gradients, modes and random streams are put back.

    Args:
        session: The run.
    """

    def __init__(self, session: Session) -> None:
        config = session.config
        self.names = probe_names(config.probe)
        self._session = session
        self._every = config.probe_every or session.steps_per_epoch
        loss = loss_of(session.dataset, config.smoothing, config.smoothing_over)
        self._task = Supervised(session.model, loss)
        generator = torch.Generator().manual_seed((config.seed + _SEED) % 2**63)
        count = check_count("probe-samples", config.probe_samples, "all")
        samples = session.splits.train
        self._population = len(samples)
        self._exact = count is None or count >= len(samples)
        if not self._exact:
            samples = samples.take(torch.randperm(len(samples), generator=generator)[:count])
        self._samples = samples
        size = min(config.batch_size, len(samples))
        order = torch.randperm(len(samples), generator=generator)
        self._plan = [(order[i : i + size], 0) for i in range(0, len(samples), size)]

    def due(self, step: int) -> bool:
        """Return whether it is time for a measurement after so many steps."""
        return step % self._every == 0

    def measure(self, go_on: Callable[[], bool]) -> tuple[dict[str, float], float] | None:
        """Return the values by key, and the seconds they took; None where somebody did not want to go on.

        What cannot be computed because the run diverges is NaN.
        """
        if self._session.device.type != "cpu":
            torch.accelerator.synchronize()
        start = time.perf_counter()
        values = {key: math.nan for name in self.names for key in KEYS[name]}
        stopped = False

        def watch(*_: object) -> bool:
            nonlocal stopped
            stopped = stopped or not go_on()
            return not stopped

        with undisturbed(self._session.model, self._session.device):
            for some, of in ((MOMENTS, self._moments), (AHEAD, self._ahead), (("lambda-max",), self._largest),
                             (("sharpness",), self._sharpness)):  # fmt: skip
                if set(some) & set(self.names) and not stopped:
                    try:
                        values |= {key: value for key, value in of(watch).items() if key in values}
                    except DivergedError:
                        continue
        return None if stopped else (values, time.perf_counter() - start)

    def _moments(self, watch: Callable[..., bool]) -> dict[str, float]:
        found = gradient_variance(
            self._session.model,
            self._task,
            self._samples.batches(self._plan),
            exact=self._exact,
            population=self._population,
            watch=watch,
        )
        return {"grad_norm_sq": found.norm, "grad_var": found.variance, "full_grad_sq": found.full}

    def _ahead(self, watch: Callable[..., bool]) -> dict[str, float]:
        optimizer = self._session.optimizer
        pairs = optimizer.ahead()
        if not pairs:
            return {}
        shares = [work.share for _, work in pairs]
        y = vec.weighted_sum([q for q, _ in pairs], shares)
        x = vec.weighted_sum([optimizer.gradient(work) for _, work in pairs], shares)
        return {"xy_distance": float(vec.norm(vec.sub(x, y))), "xy_cosine": float(vec.cosine(x, y))}

    def _largest(self, watch: Callable[..., bool]) -> dict[str, float]:
        found = hessian(self._session.model, self._task, self._batches(), top=1, tol=_TOLERANCE, watch=watch)
        return {"lambda_max": float(found.eigenvalues[0]) if len(found.eigenvalues) else math.nan}

    def _sharpness(self, watch: Callable[..., bool]) -> dict[str, float]:
        found = sharpness(
            self._session.model,
            self._task,
            self._batches(),
            f"sam:rho={self._session.config.probe_rho!r}",
            steps=_STEPS,
            restarts=0,
            directions=_DIRECTIONS,
            seed=_SEED,
            watch=watch,
        )
        return {
            "sharpness_one_step": found.one_step.value,
            "sharpness_worst": found.ascent.value,
            "sharpness_average": found.average.value,
        }

    def _batches(self) -> list[Batch]:
        return list(self._samples.batches(in_order(len(self._samples), 256)))

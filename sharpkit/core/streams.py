"""Evaluations of one step that do not depend on each other, on streams of one accelerator."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, nullcontext

import torch
from torch import Tensor, nn

from sharpkit.core import vec
from sharpkit.core.buffers import Buffers
from sharpkit.core.independent import Asked
from sharpkit.core.oracle import Oracle
from sharpkit.core.passes import Objective
from sharpkit.core.point import Point, swapped
from sharpkit.core.vec import Vec
from sharpkit.errors import UsageError

_WITH_STREAMS = ("cuda", "xpu")


def check_streams(device: torch.device, *, graphs: bool) -> None:
    """Refuse streams where the device has none, or where passes are replayed from graphs, which have a stream.

    Raises:
        UsageError: If so.
    """
    if device.type not in _WITH_STREAMS:
        raise UsageError(
            f"sampa-streams is set and the device is {device}, allowed are {', '.join(_WITH_STREAMS)}",
            "leave it out, or start two processes",
        )
    if graphs:
        raise UsageError("sampa-streams and cuda-graphs are both set", "leave one of them out")


class OnStreams:
    """Evaluations issued one after the other, each on a stream of its own, so that their kernels may overlap.

    Kernels of one are still to run when the next one is issued. So every evaluation has weights of its own, w + offset
    in fresh tensors that the parameters point to while it is issued, and buffers of its own unless it is the one whose
    buffers are kept. All of these live until the streams have met again. Activations of all evaluations are held at
    once. On the CPU, where there are no streams, it is one evaluation after the other.

    Args:
        oracle: What evaluates.
        model: Holds the buffers.
        params: What gradients are aligned with.
    """

    def __init__(self, oracle: Oracle, model: nn.Module, params: Sequence[Tensor]) -> None:
        self.places = 1
        self._oracle = oracle
        self._model = model
        self._params = list(params)
        self._device = self._params[0].device
        self._streams: list[torch.Stream] = []

    def evaluate(self, asked: Sequence[Asked]) -> list[float]:
        """Evaluate every point."""
        # What several streams read is made before any of them starts: the kept pass writes to the buffers.
        weights = [self._weights(point) for point, _ in asked]
        lent = [None if self._oracle.updates.keeps(point.role) else Buffers.of(self._model) for point, _ in asked]
        streams = self._started(len(asked))
        costs: list[float] = []
        with ExitStack() as end:
            for stream in streams:
                end.callback(self._join, stream)
            for i, (point, objectives) in enumerate(asked):
                before = self._oracle.cost.gradients
                own = lent[i]
                with streams[i] if streams else nullcontext(), own.lent() if own else nullcontext():
                    self._fill(point, objectives, weights[i])
                costs.append(self._oracle.cost.gradients - before)
        return costs

    def _weights(self, point: Point) -> Vec | None:
        return None if point.offset is None else vec.add([p.data for p in self._params], point.offset)

    def _fill(self, point: Point, objectives: Sequence[Objective | None], weights: Vec | None) -> None:
        if missing := point.missing(objectives):
            role = point.role
            result = swapped(self._params, weights, lambda: self._oracle.evaluate(point.work, role, missing))
            point.fill(missing, result)

    def _started(self, count: int) -> list[torch.Stream]:
        """Return as many streams, which begin where the current one stands; none where the device has none."""
        if self._device.type not in _WITH_STREAMS:
            return []
        self._streams += [torch.Stream(self._device) for _ in range(count - len(self._streams))]
        current = torch.accelerator.current_stream(self._device)
        for stream in self._streams[:count]:
            stream.wait_stream(current)
        return self._streams[:count]

    def _join(self, stream: torch.Stream) -> None:
        torch.accelerator.current_stream(self._device).wait_stream(stream)

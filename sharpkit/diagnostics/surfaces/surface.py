"""Loss and accuracy at the points of a plane: one pass over all samples for each, as fast as the machine allows."""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn

from sharpkit.core.buffers import evaluating
from sharpkit.core.comm import ALONE, Comm
from sharpkit.core.precision import Mode, Precision
from sharpkit.core.task import Batch, LossFunction, Task, as_task, map_tensors
from sharpkit.diagnostics.problem import as_batches
from sharpkit.diagnostics.reductions import wide
from sharpkit.diagnostics.sharing import portion, require_alike
from sharpkit.diagnostics.surfaces import tuning
from sharpkit.diagnostics.surfaces.along import along
from sharpkit.diagnostics.surfaces.displaced import Displaced, displaced
from sharpkit.diagnostics.surfaces.frozen import Frozen, frozen
from sharpkit.diagnostics.surfaces.plane import Plane
from sharpkit.diagnostics.surfaces.stacked import Stacked
from sharpkit.diagnostics.surfaces.statistics import recompute
from sharpkit.errors import DivergedError, InputError, UsageError

BnMode = Literal["eval", "recompute"]
"""Whether batch norm uses its stored statistics at every point, or those that the samples have there."""

Point = tuple[float, float]
"""Coordinates a, b in the plane."""

_EQUAL = 1e-6
"""How far the loss at the centre may be from the checkpoint's, absolutely or relative to it."""

_FEW = 8
"""Samples that the model is looked at with."""


@dataclass(frozen=True)
class Cell:
    """What is known of a point.

    Args:
        loss: The mean loss of the samples.
        accuracy: The fraction of them that are classified right; NaN where outputs are no classes.
        error: The standard error of the loss over the samples.
    """

    loss: float
    accuracy: float
    error: float


class Surface:
    """Evaluates the loss at points of a plane; see `opened_surface`.

    Args:
        task: Outputs and losses.
        model: Of the task.
        batches: All samples, each once.
        moved: Moves the model.
        folds: Batch norm folded into the layers before it.
        bn_mode: Which statistics batch norm uses.
        amp: Precision of the passes.
        comm: The ranks that share the samples of a point out among them.
    """

    def __init__(
        self,
        task: Task,
        model: nn.Module,
        batches: Sequence[Batch],
        moved: Displaced,
        folds: Frozen,
        bn_mode: BnMode,
        amp: Mode,
        comm: Comm = ALONE,
    ) -> None:
        self.checkpoint = self.centre = Cell(math.nan, math.nan, math.nan)
        self.notes: list[str] = []
        self.samples = sum(batch.size for batch in batches)
        self.chunk = max(batch.size for batch in batches)
        self._task, self._model, self._comm = task, model, comm
        self._first = batches[0]
        whole = bn_mode == "recompute"  # statistics are means over those of batches
        self._batches = [batch for _, batch in portion(batches, self.samples, comm, whole=whole)]
        self._moved, self._folds, self._bn_mode = moved, folds, bn_mode
        device = next(model.parameters()).device
        self._precision = Precision(amp, device)
        self._sums = torch.zeros(3, dtype=wide(device), device=device)
        self._chunks = list(self._batches)
        self.here = sum(batch.size for batch in self._batches)
        self.together = 1
        self.stackable = bn_mode == "eval" and not moved.plane.buffers

    @property
    def form(self) -> torch.memory_format:
        """The memory format of images and their weights."""
        return self._moved.form

    @property
    def how(self) -> str:
        """How points are evaluated, in words."""
        form = "channels last" if self.form is torch.channels_last else "usual memory format"
        folded = f", {self._folds.how}" if self._folds.how else ""
        together = f", {self.together} points at once" if self.together > 1 else ""
        return f"chunks of {self.chunk}, {form}{folded if self.together == 1 else ''}{together}"

    def at(self, a: float, b: float = 0.0) -> Cell:
        """Return loss and accuracy at w + a d1 + b d2."""
        self._moved.move(a, b)
        if self._bn_mode == "recompute":
            self._folds.active = False
            recompute(self._model, self._task, self._batches, self._comm)
            self._folds.active = True
        self._folds.refresh()
        return self._pass()

    def many(self, points: Sequence[Point]) -> Iterator[tuple[Point, Cell]]:
        """Yield the cells of points, in their order, as many at a time as `together` says."""
        if self.together == 1:
            yield from ((point, self.at(*point)) for point in points)
            return
        for start in range(0, len(points), self.together):
            group = points[start : start + self.together]
            yield from zip(group, self.at_once(group), strict=True)

    def at_once(self, points: Sequence[Point]) -> list[Cell]:
        """Return the cells of points that are evaluated in one pass; batch norm uses its stored statistics."""
        sums = self._sums_at(points)
        self._comm.sum_([sums])
        return [_cell(totals, self.samples) for totals in cast("list[list[float]]", sums.tolist())]

    def _sums_at(self, points: Sequence[Point]) -> Tensor:
        """Return the sums over the samples that are here at every point, (K, 3)."""
        self._moved.move(0.0)
        stacked = Stacked(self._model, self._moved.start, self._moved.plane, self._sums_of)
        folding, self._folds.active = self._folds.active, False
        try:
            with torch.no_grad(), self._precision.autocast():
                return stacked.totals(points, self._chunks).contiguous()
        finally:
            self._folds.active = folding

    @contextmanager
    def precise(self) -> Generator[None]:
        """Evaluate in the model's own precision while the context lasts."""
        precision, dtype = self._precision, self._folds.dtype
        self._precision, self._folds.dtype = Precision("off", self._sums.device), None
        try:
            yield
        finally:
            self._precision, self._folds.dtype = precision, dtype

    def use(self, form: torch.memory_format, chunk: int) -> None:
        """Evaluate in a memory format and in passes of so many samples."""
        if form is not self.form:
            self._moved.store(form)
        self.chunk = min(chunk, self.samples)
        self._chunks = [_inputs_formed(part, form) for batch in self._batches for part in cut(batch, chunk)]
        self._folds.refresh()

    def plainly(self) -> None:
        """Evaluate as the model itself would: nothing folded, usual memory format, the batches as they are."""
        self._folds.pairs.clear()
        self._folds.refused, self._folds.active = (), False
        self.use(torch.contiguous_format, self.samples)

    def seconds(self, form: torch.memory_format, chunk: int) -> float:
        """Return the time of one pass of so many samples, or of the first batch where it is smaller, a sample."""
        if form is not self.form:
            self._moved.store(form)
            self._folds.refresh()
        first = self._first
        one = [_inputs_formed(first.select_range(0, min(chunk, first.size)), form)]
        # On a CPU the time that other programs take does not count.
        clock = time.process_time if self._sums.device.type == "cpu" else time.perf_counter
        start = clock()
        self._add(one).tolist()
        return (clock() - start) / one[0].size

    def seconds_of(self, count: int) -> float:
        """Return the time of so many points on the slowest rank, at once unless it is one; infinite if it fails."""
        taken = math.inf
        with suppress(RuntimeError, NotImplementedError):  # an operation that vmap does not know, or no memory
            for _ in range(2):
                start = time.perf_counter()
                (self._add(self._chunks) if count == 1 else self._sums_at([(0.0, 0.0)] * count)).tolist()
                taken = time.perf_counter() - start
        return max(self._comm.objects(taken))

    def _pass(self) -> Cell:
        self._add(self._chunks)
        self._comm.sum_([self._sums])
        return _cell(cast("list[float]", self._sums.tolist()), self.samples)

    def _add(self, chunks: Sequence[Batch]) -> Tensor:
        """Return the sums over some samples, (3,); overwritten by the next call."""
        self._sums.zero_()
        # Not inference_mode: what a model caches in it cannot be used in training afterwards.
        with torch.no_grad(), self._precision.autocast():
            for chunk in chunks:
                self._sums += self._sums_of(chunk)
        return self._sums

    def _sums_of(self, batch: Batch) -> Tensor:
        """Return the sums of losses, of their squares, and of samples classified right or NaN, (3,)."""
        outputs, like = self._task.outputs(batch), self._sums
        losses = self._task.losses(outputs if outputs.dtype == torch.float64 else outputs.float(), batch).to(like.dtype)
        hits = torch.full((), math.nan, dtype=like.dtype, device=like.device)
        targets: Any = batch.targets
        if (
            isinstance(targets, Tensor)
            and targets.dim() == 1
            and outputs.dim() == 2
            and not targets.is_floating_point()
        ):
            hits = (outputs.argmax(1) == targets).sum().to(like.dtype)
        return torch.stack([losses.sum(), losses.square().sum(), hits])


def _cell(totals: Sequence[float], samples: int) -> Cell:
    total, squares, hits = totals
    mean = total / samples
    if not math.isfinite(squares) or samples < 2:
        return Cell(mean, hits / samples, math.nan)
    variance = max(0.0, squares - samples * mean * mean) / (samples - 1)
    return Cell(mean, hits / samples, math.sqrt(variance / samples))


def cut(batch: Batch, size: int) -> list[Batch]:
    """Cut a batch into pieces of a size; the last one may be smaller."""
    return [batch.select_range(start, min(start + size, batch.size)) for start in range(0, batch.size, size)]


def _inputs_formed(batch: Batch, form: torch.memory_format) -> Batch:
    def formed(values: Tensor) -> Tensor:
        return values.contiguous(memory_format=form) if values.dim() == 4 else values

    return Batch(map_tensors(formed, batch.inputs), batch.targets, batch.indices)


@contextmanager
def opened_surface(
    model: nn.Module,
    loss: LossFunction | Task,
    batches: Iterable[Any],
    plane: Plane,
    *,
    bn_mode: BnMode = "eval",
    amp: Mode = "off",
    chunk: int | None = None,
    points: int = 1,
    comm: Comm = ALONE,
) -> Generator[Surface]:
    """Make a model ready for evaluations over a plane, and leave it as it was at the end.

    The loss at w is computed plainly first. That at the centre of the plane, evaluated as all other points are, must be
    equal to 1e-6; otherwise everything is evaluated plainly, and if that is not equal either, model or data are random.

    Args:
        model: At w, on the device of the batches.
        loss: `(outputs, targets, reduction="none") -> (B,)`, or a task.
        batches: `(inputs, targets)` or `Batch`, of any sizes.
        plane: Of this model.
        bn_mode: `eval` uses the stored statistics; `recompute` takes those of the batches at every point.
        amp: `bf16` evaluates under autocast.
        chunk: Samples evaluated at once; None measures.
        points: How many are going to be evaluated, which decides how long measuring is worth it.
        comm: The ranks that share the samples of a point out among them; all are given the same.

    Raises:
        UsageError: If there is no batch, a mode is unknown, or ranks were given different batches or weights.
        DivergedError: If the loss at w is not finite.
        InputError: If the loss at the centre is not that of the checkpoint.
    """
    if bn_mode not in get_args(BnMode):
        raise UsageError(f"bn-mode is {bn_mode!r}, allowed are {', '.join(get_args(BnMode))}", "use eval")
    task = as_task(model, loss)
    with ExitStack() as stack:
        notes = stack.enter_context(along(model, plane))
        given = as_batches(batches)
        require_alike(model, given, comm)
        stack.enter_context(evaluating(model))
        moved = stack.enter_context(displaced(model, plane))
        plain = Surface(task, model, given, moved, Frozen([]), bn_mode, "off", comm)
        checkpoint = plain.at(0.0)
        if not math.isfinite(checkpoint.loss):
            raise DivergedError(
                f"the loss is {checkpoint.loss:g}, allowed is a finite number", "give a model that has not diverged"
            )
        notes += moved.written()
        moved.move(0.0)
        few = given[0].select_range(0, min(_FEW, given[0].size))
        folds = stack.enter_context(frozen(model, task, few, torch.bfloat16 if amp == "bf16" else None))
        surface = Surface(task, model, given, moved, folds, bn_mode, amp, comm)
        surface.checkpoint = checkpoint
        surface.notes += notes
        tuning.choose(surface, model, chunk, points)
        if amp == "off":
            _check_centre(surface)
        else:
            surface.centre = surface.at(0.0)
        yield surface


def _check_centre(surface: Surface) -> None:
    """Compare the centre with the checkpoint; evaluate plainly where rounding makes a difference."""
    wanted = surface.checkpoint.loss
    for plain in (False, True):
        if plain:
            surface.plainly()
            surface.notes.append("evaluated plainly: folded batch norm or another memory format changed the loss")
        surface.centre = surface.at(0.0)
        found = surface.centre.loss
        if abs(found - wanted) <= _EQUAL * max(1.0, abs(wanted)):
            return
    raise InputError(
        f"the loss is {wanted:.8g} and, evaluated again, {found:.8g}: model or data are random",
        "remove dropout that acts in evaluation mode, and augmentation",
    )

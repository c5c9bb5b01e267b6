"""The machine a run uses: device, threads, determinism, memory allocator, signals."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import statistics
import sys
import time
from types import FrameType, TracebackType
from typing import Any

import torch
from torch import nn

from sharpkit.core.task import Batch, Task
from sharpkit.core.undisturbed import undisturbed
from sharpkit.engine.world import world
from sharpkit.errors import InputError, UsageError

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGE = 1 << 30
_CLEARLY_FASTER = 0.85
_LONG = 0.25  # seconds of a pass
_ALL_THREADS = torch.get_num_threads()  # before any run has chosen


def pick_device(name: str) -> torch.device:
    """Return the device that a name stands for; `auto` is the accelerator if there is one.

    Raises:
        UsageError: If torch knows no such device.
        InputError: If this machine does not have it.
    """
    if name == "auto":
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        name = "cpu" if accelerator is None else str(accelerator)
    if name == "cuda" and world().local_size > 1:
        name = f"cuda:{world().local_rank}"  # a device each
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"unknown device {name!r}", "allowed: auto, cpu, cuda, cuda:1, mps") from None
    try:
        torch.zeros((), device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError, ImportError, AttributeError):
        raise InputError(f"the device {name} is not there", "use --device cpu, or auto") from None
    return device


def set_determinism(wanted: bool) -> None:
    """Allow only deterministic algorithms, or choose the fastest."""
    if torch.are_deterministic_algorithms_enabled() != wanted:  # setting it imports the compiler, which takes seconds
        torch.use_deterministic_algorithms(wanted)
    torch.backends.cudnn.benchmark = not wanted
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def keep_freed_memory() -> None:
    """Have glibc keep large freed blocks for the next pass instead of returning them to the system.

    Returning and fetching activations anew costs up to 40 % of a forward pass on a CPU. Elsewhere than on glibc this
    does nothing.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGE)
        libc.mallopt(_M_TRIM_THRESHOLD, _LARGE)
    except (OSError, AttributeError):
        return


def pick_threads(wanted: str, model: nn.Module, task: Task, batch: Batch, device: torch.device) -> tuple[int, str]:
    """Set the number of CPU threads and return it with a sentence on how it was chosen.

    `auto` times a forward and backward pass with all threads and, if it is short, with one; small models are faster
    with one, and one is preferred unless all are clearly faster, so that the choice is stable. A long pass is made of
    large products, which all threads share well.

    Args:
        wanted: `auto` or a number.
        model: Comes back as it was.
        task: Outputs and losses of the model.
        batch: One training batch.
        device: Where the model runs; elsewhere than on a CPU nothing is measured.
    """
    most = local_threads(_ALL_THREADS)
    if wanted != "auto":
        torch.set_num_threads(int(wanted))
        return int(wanted), f"threads: {wanted}, as given"
    if most == 1 or device.type != "cpu" or world().size > 1:
        torch.set_num_threads(most)
        return most, f"threads: {most}"
    torch.set_num_threads(most)
    with undisturbed(model, device):
        first = _passes(task, model, batch, most, 1)
        if first > _LONG:
            return most, f"threads: {most} (a pass of {first:.1f} s keeps all busy)"
        times = {threads: _passes(task, model, batch, threads, 5) for threads in (1, most)}
    chosen = most if times[most] < _CLEARLY_FASTER * times[1] else 1
    torch.set_num_threads(chosen)
    measured = ", ".join(f"{1e3 * t:.1f} ms with {n}" for n, t in times.items())
    return chosen, f"threads: {chosen} (measured {measured})"


def _passes(task: Task, model: nn.Module, batch: Batch, threads: int, count: int) -> float:
    """Return the median time of `count` passes."""
    torch.set_num_threads(threads)
    times: list[float] = []
    for _ in range(count):
        start = time.perf_counter()
        task.losses(task.outputs(batch), batch).mean().backward()  # pyright: ignore[reportUnknownMemberType]
        times.append(time.perf_counter() - start)
        model.zero_grad()
    return statistics.median(times)


def local_threads(most: int) -> int:
    """Return how many of the CPU threads are this process's part, where several share the machine."""
    here = world()
    if here.local_size == 1 or "OMP_NUM_THREADS" in os.environ:
        return most
    ours = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    bound = ours < (os.cpu_count() or 1)  # a batch system has given this process its own
    return max(1, min(most, ours if bound else ours // here.local_size))


def peak_mb(device: torch.device) -> float:
    """Return the most memory that was in use, in MB: of the accelerator, or of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


class StopRequest:
    """A context in which SIGINT and SIGTERM are noted instead of raised, so that a step can finish first.

    A second SIGINT raises KeyboardInterrupt as usual. What the caller has the process ignore, as `nohup` and the
    background jobs of a shell script do, stays ignored.
    """

    def __init__(self) -> None:
        self.signal_number = 0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is signal.SIG_IGN:
                continue
            try:
                self._previous[number] = signal.signal(number, self._note)
            except ValueError:  # signals can be handled in the main thread only; elsewhere the caller handles them
                break
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal_number and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal_number = number

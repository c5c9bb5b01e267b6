"""The usual way to train, in a process of its own: torch's DataLoader over PIL images, and a bare loop.

SAM is made parameter by parameter, and `loss.item()` is called in every step. The memory allocator, the memory format
and the transform of single images are as they come. For every line on stdin the process trains one epoch and prints
its seconds, and the seconds of processor time with those of its workers. `throughput.py` starts it.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time

import images
import torch
from images import Pictures
from loops import RHO, StepFunction, base_of, sgd_step
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

from sharpkit.models import MODELS


def sam_step(model: nn.Module, base: torch.optim.Optimizer) -> StepFunction:
    """Return SAM parameter by parameter, as the most used port does it."""
    params = list(model.parameters())

    def step(x: Tensor, y: Tensor) -> Tensor:
        base.zero_grad()
        loss = functional.cross_entropy(model(x), y)
        loss.backward()
        with torch.no_grad():
            norm = torch.norm(torch.stack([p.grad.norm(p=2) for p in params]), p=2)  # pyright: ignore
            saved = {p: p.data.clone() for p in params}
            for p in params:
                p.add_(p.grad * (RHO / (norm + 1e-12)))  # pyright: ignore
        base.zero_grad()
        functional.cross_entropy(model(x), y).backward()
        for p in params:
            p.data = saved[p]
        base.step()
        return loss.detach()

    return step


def processor_time() -> float:
    """Return the seconds of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def main() -> None:
    """Train an epoch for every line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("model")
    parser.add_argument("batch", type=int)
    parser.add_argument("recipe", choices=("sgd", "sam"))
    parser.add_argument("workers", type=int)
    parser.add_argument("threads", type=int)
    parser.add_argument("device", nargs="?", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    data = getattr(images, options.data)()
    model = MODELS[options.model](data.shape, data.classes).train().to(options.device)
    base = base_of(model)
    step = (sgd_step if options.recipe == "sgd" else sam_step)(model, base)
    scheduler = LambdaLR(base, lambda _: 1.0)
    loader = DataLoader(Pictures(data), options.batch, shuffle=True, num_workers=options.workers)
    for _ in sys.stdin:
        wall, processor = time.perf_counter(), processor_time()
        total = 0.0
        for x, y in loader:
            total += step(x.to(options.device), y.to(options.device)).item()
            scheduler.step()
        print(time.perf_counter() - wall, processor_time() - processor, flush=True)


if __name__ == "__main__":
    main()

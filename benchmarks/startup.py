"""How long commands take beside their work: processor time and time by the clock, over that of `import torch`.

Run: OMP_NUM_THREADS=1 python benchmarks/startup.py [--rounds N]

Every command is a process of its own, and they take turns. The peers are `python -c "import torch"` and the same with
one step of `torch.optim.SGD`, whose first use imports torch's compiler. The work of a command is measured inside a
process that has done the same before, and taken off.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from turns import machine, turns

TORCH = "import torch"
STEP = """import torch
model = torch.nn.Linear(64, 10)
base = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
torch.nn.functional.cross_entropy(model(torch.ones(8, 64)), torch.zeros(8, dtype=torch.long)).backward()
base.step()
"""
TRAIN = "train --epochs 1 --limit 200 --threads 1 --quiet --out {out}/new --overwrite"
COMMANDS = {
    "--help": "",
    "ls": "",
    "plot {out}/run -o {out}/c.png": "",
    "plot {out}/run -o {out}/c.csv": "",
    "hessian {out}/run --top 1 --no-density --trace none --threads 1 -q --no-plot": "torch",
    "sharpness {out}/run --samples 20 --threads 1 -q --no-plot": "torch",
    "landscape {out}/run --x=-1:1:3 --y=-1:1:3 --threads 1 -q --no-plot --overwrite": "torch",
    "graddiff {out}/run --threads 1 -q --no-plot": "torch",
    "gradnorm-qq {out}/run --batches 8 --batch-size 8 --threads 1 -q --no-plot": "torch",
    TRAIN: "step",
}
"""Every command, and the peer that it is compared with."""

TWICE = """import sys, time, contextlib, io
from sharpkit.cli.main import run
with contextlib.redirect_stdout(io.StringIO()):
    run(sys.argv[1:])
    start = time.process_time()
    run(sys.argv[1:])
sys.stderr.write(repr(time.process_time() - start))
"""


def process(words: list[str]) -> Callable[[], tuple[float, float]]:
    """Return a turn that runs a process and tells its processor time and its time by the clock."""

    def turn() -> tuple[float, float]:
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return used, time.perf_counter() - start

    return turn


def work_of(words: list[str]) -> float:
    """Return the processor time of a command where everything is imported and done once already."""
    done = subprocess.run([sys.executable, "-c", TWICE, *words], check=True, capture_output=True, text=True)
    return float(done.stderr.strip().splitlines()[-1])


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as out:
        program = [sys.executable, "-m", "sharpkit"]
        process([*program, *TRAIN.format(out=out).replace("/new --overwrite", "/run").split()])()
        commands = {name: name.format(out=out).split() for name in COMMANDS}
        contenders = {"torch": process([sys.executable, "-c", TORCH]), "step": process([sys.executable, "-c", STEP])}
        contenders |= {name: process([*program, *words]) for name, words in commands.items()}
        taken = turns(contenders, rounds)
        print(machine(1, "torch", "sharpkit"))
        print("| command | processor time, s | by the clock, s | its work, s | beside its peer and its work, s |")
        print("|---|---|---|---|---|")
        for name in taken:
            used, clock = (statistics.median(t[i] for t in taken[name]) for i in (0, 1))
            work, beyond = "", ""
            if peer := COMMANDS.get(name):
                own = work_of(commands[name])
                over = [a[0] - b[0] for a, b in zip(taken[name], taken[peer], strict=True)]
                work, beyond = f"{own:.2f}", f"{statistics.median(over) - own:.2f} (over {peer})"
            label = name.replace("{out}/", "").split(" --threads")[0]
            print(f"| `{Path(label)}` | {used:.2f} | {clock:.2f} | {work} | {beyond} |")


if __name__ == "__main__":
    main()

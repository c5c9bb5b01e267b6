"""Does sharpness-aware training help when training labels are wrong, and is the difference larger than the noise?

Trains every optimizer with every seed through the library that `sharpkit train` calls, and prints a Markdown table of
test accuracy of the final weights: mean and sample standard deviation over seeds, the difference to the first
optimizer paired by seed with its standard error, what early stopping on the validation data would have given, and the
cost. Run it with

    python benchmarks/label_noise.py --seeds 5 --noise 0.4 --model cnn mlp --opt sgd sam:rho=0.1 --figure curves.png

An optimizer may carry its own number of epochs, as in `sgd@40`, to give SGD as many gradients as SAM has. The figure
shows accuracy over epochs, mean and standard deviation over the seeds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import MaxNLocator

from sharpkit.commands import train
from sharpkit.commands.train import TrainResult
from sharpkit.engine.config import TrainConfig


@dataclass(frozen=True)
class Cell:
    """One optimizer on one model, over all seeds."""

    opt: str
    epochs: int
    accuracies: list[float]  # test accuracy of each seed, final weights, in percent
    stopped: list[float]  # the same of the weights that were best on the validation data
    seconds: float  # mean of a run
    gradients: float  # of a run
    train_curves: list[list[float]]  # training accuracy of each seed and epoch, in percent
    val_curves: list[list[float]]  # validation accuracy of each seed and epoch, in percent


def run_cell(model: str, opt: str, noise: float, seeds: int, epochs: int, out: Path) -> Cell:
    """Train an optimizer with every seed."""
    opt, _, own = opt.partition("@")
    epochs = int(own) if own else epochs
    results: list[TrainResult] = []
    for seed in range(seeds):
        config = TrainConfig(
            opt=opt, model=model, label_noise=noise, seed=seed, epochs=epochs, threads="1", save_every="best"
        )
        results.append(train.run(config, out / f"{model}-{opt}-{epochs}-{seed}"))
    return Cell(
        opt,
        epochs,
        [100 * r.metrics["test_acc"] for r in results],
        [100 * r.metrics["best_test_acc"] for r in results],
        statistics.mean(r.cost["wall_s"] for r in results),
        results[0].cost["grads"],
        [curve(r, "train_acc") for r in results],
        [curve(r, "val_acc") for r in results],
    )


def curve(result: TrainResult, key: str) -> list[float]:
    """Return a value of every epoch, in percent."""
    lines = (Path(result.run_dir) / "metrics.jsonl").read_text().splitlines()
    return [100 * record[key] for record in map(json.loads, lines) if record["kind"] == "epoch"]


def row(model: str, cell: Cell, baseline: Cell) -> str:
    """Return one line of the table."""
    found = cell.accuracies
    gains = [a - b for a, b in zip(found, baseline.accuracies, strict=True)]
    gain, wins = "", ""
    if cell is not baseline:
        gain = f"{statistics.mean(gains):+.2f} ± {statistics.stdev(gains) / len(gains) ** 0.5:.2f}"
        wins = f"{sum(g > 0 for g in gains)} of {len(gains)}"
    cost = f"{cell.gradients:.0f} | {cell.seconds:.1f}"
    result = f"{spread(found)} | {gain} | {wins} | {spread(cell.stopped)}"
    return f"| {model} | `{cell.opt}` | {cell.epochs} | {result} | {cost} |"


def spread(values: list[float]) -> str:
    """Return mean and sample standard deviation."""
    return f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}"


def draw(cells: list[Cell], title: str, path: Path) -> None:
    """Draw training and validation accuracy over epochs, mean and standard deviation over seeds."""
    plt.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.4), sharex=True, layout="constrained")
    for panel, key, name in zip(
        panels, ("train_curves", "val_curves"), ("training (noisy labels)", "validation (clean labels)"), strict=True
    ):
        for color, style, cell in zip(
            ("#0072B2", "#D55E00", "#009E73", "#CC79A7"), ("-", "--", "-.", ":"), cells, strict=False
        ):
            values = np.array(getattr(cell, key))
            epochs = np.arange(1, values.shape[1] + 1)
            mean, deviation = values.mean(0), values.std(0, ddof=1)
            panel.plot(epochs, mean, style, color=color, label=cell.opt)
            panel.fill_between(epochs, mean - deviation, mean + deviation, color=color, alpha=0.15, linewidth=0)
        panel.set(xlabel="epoch", ylabel="accuracy, %", title=name, ylim=(0, 100))
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.grid(alpha=0.25)
    panels[1].legend(loc="lower right", frameon=False)
    figure.suptitle(title, fontsize=11)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Run the comparison and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--opt", nargs="+", default=["sgd", "sam:rho=0.1", "asam", "sampa", "sampa+asam"])
    parser.add_argument("--model", nargs="+", default=["cnn", "mlp"])
    parser.add_argument("--noise", type=float, default=0.4)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--figure", type=Path, help="draw the curves of the first model here")
    options = parser.parse_args()
    title = f"digits, {100 * options.noise:g} % symmetric label noise, {options.seeds} seeds"
    print(f"{title}\n")
    print("| model | optimizer | epochs | test accuracy, % | gain, points | seeds that gain ", end="")
    print("| best-validation epoch, % | gradients | seconds a run |\n|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for model in options.model:
            cells: list[Cell] = []
            for opt in options.opt:
                cells.append(run_cell(model, opt, options.noise, options.seeds, options.epochs, Path(folder)))
                print(row(model, cells[-1], cells[0]), flush=True)
            if options.figure and model == options.model[0]:
                same_length = [cell for cell in cells if cell.epochs == cells[0].epochs]
                draw(same_length, f"{title}, model {model}: mean and standard deviation", options.figure)


if __name__ == "__main__":
    main()

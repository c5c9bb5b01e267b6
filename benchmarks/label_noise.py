"""Does sharpness-aware training help when training labels are wrong, and is the difference larger than the noise?

Trains every optimizer with every seed through the library that `sharpkit train` calls, and prints a Markdown table of
test accuracy of the final weights: mean and sample standard deviation over seeds, the difference to the first
optimizer paired by seed with its standard error, and the cost. Run it with

    python benchmarks/label_noise.py --seeds 5 --noise 0.4 --model cnn mlp --opt sgd sam:rho=0.1
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

from sharpkit.commands import train
from sharpkit.engine.config import TrainConfig


def accuracies(model: str, opt: str, noise: float, seeds: int, epochs: int, out: Path) -> tuple[list[float], float]:
    """Return the test accuracy in percent of every seed, and the wall seconds of all."""
    found: list[float] = []
    seconds = 0.0
    for seed in range(seeds):
        config = TrainConfig(opt=opt, model=model, label_noise=noise, seed=seed, epochs=epochs, threads="1")
        result = train.run(config, out / f"{model}-{opt}-{seed}")
        found.append(100 * result.metrics["test_acc"])
        seconds += result.cost["wall_s"]
    return found, seconds


def row(model: str, opt: str, found: list[float], baseline: list[float], seconds: float) -> str:
    """Return one line of the table."""
    spread = statistics.stdev(found) if len(found) > 1 else 0.0
    gains = [a - b for a, b in zip(found, baseline, strict=True)]
    error = statistics.stdev(gains) / len(gains) ** 0.5 if len(gains) > 1 else 0.0
    gain = "" if found is baseline else f"{statistics.mean(gains):+.2f} ± {error:.2f}"
    wins = "" if found is baseline else f"{sum(g > 0 for g in gains)} of {len(gains)}"
    mean = f"{statistics.mean(found):.2f} ± {spread:.2f}"
    return f"| {model} | `{opt}` | {mean} | {gain} | {wins} | {seconds / len(found):.1f} |"


def main() -> None:
    """Run the comparison and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--opt", nargs="+", default=["sgd", "sam:rho=0.1", "asam", "sampa", "sampa+asam"])
    parser.add_argument("--model", nargs="+", default=["cnn", "mlp"])
    parser.add_argument("--noise", type=float, default=0.4)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=20)
    options = parser.parse_args()
    print(f"digits, {100 * options.noise:g} % symmetric label noise, {options.epochs} epochs, {options.seeds} seeds\n")
    print("| model | optimizer | test accuracy, % | gain over the first, points | seeds that gain | seconds a run |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for model in options.model:
            baseline: list[float] | None = None
            for opt in options.opt:
                found, seconds = accuracies(
                    model, opt, options.noise, options.seeds, options.epochs, Path(folder)
                )
                baseline = found if baseline is None else baseline
                print(row(model, opt, found, baseline, seconds), flush=True)


if __name__ == "__main__":
    main()

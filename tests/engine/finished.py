"""Finished runs that nobody trained: their files with numbers of our choice, under a seal."""

import json

import tomli_w

from sharpkit import parse
from sharpkit.engine.config import TrainConfig, to_mapping
from sharpkit.engine.rundir import RunDir
from sharpkit.engine.seal import seal


def finished(folder, opt="sgd", seed=0, acc=0.9, *, val_acc=0.9, wall_s=2.0, **options):
    """Write a run directory."""
    config = {**to_mapping(TrainConfig(seed=seed, model="mlp", lr=0.1, **options)), "opt": parse(opt).text}
    run = RunDir(folder)
    folder.mkdir(parents=True)
    run.config.write_text(tomli_w.dumps(config))
    epochs = [
        {"kind": "epoch", "epoch": e, "step": 9 * e, "seconds": e * wall_s / 2, "train_loss": 1 / e, "train_acc": acc,
         "val_acc": val_acc}
        for e in (1, 2)
    ]  # fmt: skip
    run.metrics.write_text("".join(json.dumps(line) + "\n" for line in epochs))
    metrics = {"test_acc": acc, "val_acc": val_acc, "train_acc": acc, "test_loss": 0.5, "train_loss": 0.4,
               "pct_sam": 0.0 if opt == "sgd" else 100.0, "epochs": 2.0}  # fmt: skip
    cost = {"grads": 18.0, "grads_sequential": 18.0, "grads_critical": 18.0, "forwards": 180.0, "backwards": 180.0,
            "steps": 18.0, "wall_s": wall_s, "peak_mb": 100.0}  # fmt: skip
    run.summary.write_text(json.dumps({"args": config, "device": "cpu", "metrics": metrics, "cost": cost}))
    run.checkpoint.write_bytes(b"weights")
    seal(run)
    return folder

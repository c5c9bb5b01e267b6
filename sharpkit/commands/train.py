"""`sharpkit train`: one model, one optimizer, one run directory."""

from __future__ import annotations

from collections.abc import Collection, Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sharpkit.engine import checkpoint, lock, replacing, rundir, runtime, trusted_code
from sharpkit.engine.agreement import on_first
from sharpkit.engine.config import TrainConfig, to_mapping
from sharpkit.engine.datasets import data_name
from sharpkit.engine.documents import document, to_json
from sharpkit.engine.environment import environment
from sharpkit.engine.fit import Fit
from sharpkit.engine.observer import Observer, Quiet
from sharpkit.engine.papers import PRESETS
from sharpkit.engine.presets import configured
from sharpkit.engine.records import NOTES
from sharpkit.engine.resume import find, resumed
from sharpkit.engine.rundir import RunDir
from sharpkit.engine.runtime import StopRequest
from sharpkit.engine.seal import seal, unseal
from sharpkit.engine.session import Session, build, model_name
from sharpkit.engine.trusted_code import Code
from sharpkit.engine.weights import load_state
from sharpkit.engine.world import world
from sharpkit.errors import InputError, UsageError

ROOT = Path("runs")


@dataclass(frozen=True)
class TrainResult:
    """What a run gave.

    Accuracies and other metrics are fractions, not percent; losses are means per sample without label smoothing, but
    for the training loss, which is the one that was minimised. `config` has every choice made, `asked` what differs
    from the defaults and was asked for.
    """

    run_dir: str
    checkpoint: str
    metrics: dict[str, float]
    cost: dict[str, float]
    config: dict[str, Any]
    asked: dict[str, Any]
    env: dict[str, Any]
    files: list[str]
    warnings: list[str]

    def document(self) -> dict[str, Any]:
        """Return the JSON document of the command."""
        body = asdict(self)
        del body["asked"]
        return document("train", {**_arguments(body.pop("config")), **body})


@dataclass(frozen=True)
class TrainPlan:
    """What a run would do: its configuration with every choice made, and its size."""

    config: dict[str, Any]
    plan: dict[str, Any]

    def document(self) -> dict[str, Any]:
        """Return the JSON document of a dry run."""
        return document("train", {**_arguments(self.config), "plan": self.plan})


def _arguments(config: dict[str, Any]) -> dict[str, Any]:
    return {"args": config, "seed": config["seed"], "device": config["device"]}


def run(
    config: TrainConfig, out: Path | None = None, *, overwrite: bool = False, observer: Observer | None = None
) -> TrainResult:
    """Train from the beginning.

    Args:
        config: What to train.
        out: The run directory; else runs/<data>-<model>-<opt>-s<seed>.
        overwrite: Whether `out` may hold an earlier run, which this one replaces after its first epoch.
        observer: Is told how it goes.

    Raises:
        SharpkitError: As the errors of `sharpkit.errors` say.
    """
    with trusted_code.collected() as codes:
        session = build(config)
    with _place(session, out, overwrite) as (folder, goal):
        run_dir = RunDir(folder, writes=session.comm.rank == 0, goal=goal)
        fit = Fit(session, run_dir, observer or Quiet())
        try:
            fit.save()  # from here on there is always a checkpoint to go on with
            _record(codes, fit.observer)
            return _train(fit)
        finally:
            if run_dir.goal is not None and run_dir.writes:
                replacing.discard(run_dir.goal)


@contextmanager
def _place(session: Session, out: Path | None, overwrite: bool) -> Generator[tuple[Path, Path | None]]:
    """Keep the directory of a new run for these processes; the first of them does."""
    with ExitStack() as held:
        new = rundir.new(ROOT, _name(session), out, overwrite)
        yield on_first(lambda: held.enter_context(new))


@contextmanager
def _kept(folder: Path) -> Generator[None]:
    """Keep a run's directory for these processes, and end a replacement in it that was broken off.

    The first process does, before any of them has joined the others.
    """
    if world().rank or not folder.is_dir():
        yield
        return
    with lock.claimed(folder):
        replacing.settle(folder)
        yield


def resume(
    path: Path,
    given: Mapping[str, Any] | None = None,
    *,
    observer: Observer | None = None,
    requested: Collection[str] = (),
    trust_code: bool = False,
) -> TrainResult:
    """Go on with a run exactly as if it had never stopped.

    Args:
        path: The run directory or its checkpoint.
        given: Options given again; those of the machine may differ from the run's, others must be the same.
        observer: Is told how it goes.
        requested: Names of user-supplied code that the user gave, beside those in `given`.
        trust_code: Whether all code that the checkpoint names may run.

    Raises:
        SharpkitError: As the errors of `sharpkit.errors` say.
    """
    folder = path if path.is_dir() else path.parent
    with _kept(folder):
        with trusted_code.collected() as codes:
            fit = resumed(path, given or {}, observer or Quiet(), requested=requested, trust_code=trust_code)
        _record(codes, fit.observer)
        return _train(fit)


def find_resumable(config: TrainConfig, out: Path | None, *, observer: Observer | None = None) -> Path | None:
    """Return the newest run of exactly this configuration, finished or not, for `--resume auto`.

    Raises:
        UsageError: If `out` holds another run.
    """
    session = build(config)
    folders = [out] if out is not None else list(ROOT.glob(f"{_name(session)}*"))
    found = on_first(lambda: find(session.config, session.asked, folders, observer or Quiet()))
    if found is None and out is not None and out.is_dir() and not replacing.is_empty(out):
        raise UsageError(
            f"{out} holds a run of other options, or one that cannot be gone on with", "give another --out"
        )
    return found


def plan(config: TrainConfig, out: Path | None = None, *, overwrite: bool = False) -> TrainPlan:
    """Return what `run` would do, after all its checks, without writing anything."""
    session = build(config)
    return _plan(session, rundir.planned(ROOT, _name(session), out, overwrite), 0)


def plan_resume(
    path: Path,
    given: Mapping[str, Any] | None = None,
    *,
    requested: Collection[str] = (),
    trust_code: bool = False,
) -> TrainPlan:
    """Return what `resume` would do, after all its checks, without writing anything."""
    fit = resumed(path, given or {}, Quiet(), requested=requested, trust_code=trust_code)
    return _plan(fit.session, fit.run.path, fit.position)


def _plan(session: Session, folder: Path, done: int) -> TrainPlan:
    sizes = {
        "training_samples": len(session.splits.train),
        "validation_samples": len(session.splits.val),
        "test_samples": len(session.splits.test),
        "noisy_labels": session.splits.noisy_labels,
        "parameters": sum(p.numel() for p in session.optimizer.params),
        "steps": session.total_steps,
        "steps_done": done,
        "run_dir": str(folder),
    }
    return TrainPlan(to_mapping(session.config), sizes)


def _record(codes: list[Code], observer: Observer) -> None:
    """Record the user's own code, so that commands on the checkpoint may run it."""
    if (reason := trusted_code.record(codes)) is not None:
        observer.note(
            f"the code of this run could not be recorded ({reason}); commands on its checkpoint need its names again, "
            "or --trust-code"
        )


def _train(fit: Fit) -> TrainResult:
    for note in fit.session.notes:
        fit.observer.note(note)
    on_first(lambda: _begin(fit))
    with StopRequest() as stop:
        fit.train(stop)
    result = _result(fit)
    on_first(lambda: _finish(fit, result))
    return result


def _begin(fit: Fit) -> None:
    """Write what a run is asked for, after its first checkpoint: a run without one can simply be started again."""
    if not fit.run.config.is_file():
        fit.run.create(fit.session.config, environment(fit.session.device), fit.session.asked.preset)
    unseal(fit.run)


def _finish(fit: Fit, result: TrainResult) -> None:
    """Seal a run, if its files are still those that this process wrote.

    Raises:
        InputError: If somebody else changed them meanwhile.
    """
    if (changed := fit.run.changed(fit.session.config, fit.written)) is not None:
        raise InputError(
            f"{changed} was changed by somebody else while the run wrote it", "run it again in a new --out"
        )
    rundir.write_text(fit.run.summary, to_json(result.document()))
    seal(fit.run)


def _result(fit: Fit) -> TrainResult:
    session, counters = fit.session, fit.session.optimizer.counters()
    metrics = {key: float(fit.last[key]) for key in ("train_loss", "train_acc", "val_loss", "val_acc", "pct_sam")}
    metrics |= {f"val_{name}": float(fit.last[f"val_{name}"]) for name in session.dataset.metrics}
    metrics |= {**_tested(session), "epochs": float(session.config.epochs)}
    if session.dataset.regression:
        metrics = {name: value for name, value in metrics.items() if not name.endswith("_acc")}
    metrics |= {name: float(fit.last[name]) for name in NOTES if name in fit.last}
    metrics |= {name: float(value) for name, value in fit.probed.items()}
    run = fit.run
    files = [run.checkpoint, run.config, run.path / "env.json", run.metrics, run.summary, run.path / "seal.json"]
    best = fit.run.path / "best.pt"
    if session.config.save_every == "best" and best.is_file():
        judged = "acc" if session.dataset.metrics == ("acc",) else "score"
        metrics[f"best_val_{judged}"] = fit.best
        metrics[f"best_test_{judged}"] = _score_of(best, session)
        files.append(best)
    files += sorted(fit.run.path.glob("epoch-*.pt"))
    steps = counters["steps"]
    cost = {
        "grads": counters["gradients"],
        "grads_per_step": counters["gradients"] / steps,
        "grads_sequential": counters["sequential"],
        "grads_critical": counters["critical"],
        "forwards": counters["forward_samples"],
        "backwards": counters["backward_samples"],
        "steps": steps,
        "wall_s": round(fit.elapsed, 3),
        "peak_mb": round(runtime.peak_mb(session.device), 1),
        **({"probe_s": round(fit.probe_seconds, 3)} if fit.probes is not None else {}),
    }
    return TrainResult(
        run_dir=str(fit.run.path),
        checkpoint=str(fit.run.checkpoint),
        metrics=metrics,
        cost=cost,
        config=to_mapping(session.config),
        asked=_not_default(session.asked),
        env=environment(session.device),
        files=[str(path) for path in files],
        warnings=_warnings(counters),
    )


def _tested(session: Session) -> dict[str, float]:
    """Return loss and metrics on the test samples; those of further ones have their names in the middle.

    `test_score` is the mean of what the data set is judged by, where that is more than one accuracy.
    """
    found: dict[str, float] = {}
    mains: list[float] = []
    for name, part in (("test", session.splits.test), *session.splits.further.items()):
        score = session.score(part)
        key = name if name == "test" else f"test_{name}"
        found |= {f"{key}_loss": score.loss, f"{key}_acc": score.accuracy}
        found |= {f"{key}_{metric}": value for metric, value in score.named.items()}
        mains.append(score.main)
    if len(mains) > 1 or session.dataset.metrics != ("acc",):
        found["test_score"] = sum(mains) / len(mains)
    return found


def _score_of(path: Path, session: Session) -> float:
    """Return the test score of a stored model, leaving the session's model as it is."""
    kept = {name: value.clone() for name, value in session.model.state_dict().items()}
    try:
        load_state(session.model, on_first(lambda: checkpoint.load(path)["model"]), str(path))
        return session.score(session.splits.test).main
    finally:
        session.model.load_state_dict(kept)


def _warnings(counters: dict[str, float]) -> list[str]:
    told = {
        "zero_norm": "steps had a zero gradient and were taken without a perturbation",
        "nonfinite_norm": "steps had a gradient norm that is not finite and were taken without a perturbation",
        "dropped": "steps overflowed in fp16 and were not taken",
    }
    warnings = [f"{counters[name]:g} {text}" for name, text in told.items() if counters[name]]
    if counters.get("auxiliary") == 0:
        warnings.append("no epoch was late enough for the recipe to add to the loss; give :start=0 or more epochs")
    return warnings


def _name(session: Session) -> str:
    asked, model = session.asked, model_name(session.config.model)
    opt = asked.opt if asked.rho is None else f"{asked.opt}:rho={asked.rho:g}"
    return rundir.run_name(data_name(asked.data), model, opt, asked.seed)


def _not_default(config: TrainConfig) -> dict[str, Any]:
    """Return what a user would have to ask for: the preset, and what differs from its values and the defaults."""
    named = {"preset": config.preset} if config.preset in PRESETS else {}
    default = to_mapping(configured({**named, "opt": config.opt}))
    differs = {name: value for name, value in to_mapping(config).items() if value != default.get(name)}
    return {**named, "opt": config.opt, **differs}

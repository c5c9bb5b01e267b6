"""The training loop."""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Generator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from sharpkit.core import randomness
from sharpkit.core.report import StepReport
from sharpkit.core.task import Batch
from sharpkit.engine import checkpoint, replacing, weights
from sharpkit.engine.agreement import Stops, on_first
from sharpkit.engine.config import to_mapping
from sharpkit.engine.external import is_file_reference
from sharpkit.engine.observer import Observer
from sharpkit.engine.probes import Probes
from sharpkit.engine.records import Records
from sharpkit.engine.rundir import DIVERGED, RunDir, version
from sharpkit.engine.runtime import StopRequest
from sharpkit.engine.session import Session
from sharpkit.errors import DivergedError, InputError, InterruptedRunError, SharpkitError, one_line

LOG_EVERY = 50


class Fit:
    """One run, from its current position to the end.

    Args:
        session: Data, model, optimizer, schedule.
        run: Where metrics and checkpoints go.
        observer: Is told how it goes.
    """

    def __init__(self, session: Session, run: RunDir, observer: Observer) -> None:
        self.session = session
        self.run = run
        self.observer = observer
        self.position = 0  # steps done
        self.elapsed = 0.0  # seconds of training, over all sittings
        self.records = Records()
        self.best = -math.inf  # by what the data set is judged by, in general accuracy
        self.last: dict[str, Any] = {}  # the latest epoch's record
        self.probes = Probes(session) if session.config.probe else None
        self.probed: dict[str, float] = {}  # the latest measurements
        self.probe_seconds = 0.0
        self._started = 0.0
        self._saved = "no checkpoint was written yet"
        self.written: tuple[int, ...] = ()  # which version of the checkpoint is this process's

    def train(self, stop: StopRequest) -> None:
        """Train to the end, saving after every epoch and when asked to stop.

        Raises:
            DivergedError: If a loss or a weight is not finite; the last good checkpoint is kept.
            InterruptedRunError: If a signal asked to stop; the state is saved.
        """
        session, loader = self.session, self.session.loader
        stops = Stops(stop, session.comm)
        self.run.cut_metrics(self.position)
        self.observer.begin(session, self.position)
        session.model.train()
        self._started = time.perf_counter() - self.elapsed
        if not self._probed(stop):
            self._stop(stop.signal_number)
        while self.position < session.total_steps:
            epoch, start = divmod(self.position, session.steps_per_epoch)
            measured = True
            with closing(loader.epoch(epoch, start)) as batches:  # whoever reads ahead ends with the loop
                for batch in batches:
                    self._step(batch, epoch)
                    measured = self._probed(stop)
                    number = stops.heard()
                    if (number or not measured) and self.position % session.steps_per_epoch:
                        self._stop(number)
            self._end_epoch(epoch + 1)
            number = stops.heard()
            if not measured or (number and self.position < session.total_steps):
                self._stop(number)
        if session.optimizer.totals.dropped == session.total_steps:
            self._diverged("every step overflowed in fp16, and none was taken")
        self.save()

    def _step(self, batch: Batch, epoch: int) -> None:
        report = self._stepped(batch)
        if not report.dropped:
            self.session.scheduler.step()
        self.position += 1
        self.records.add(self.position, report, batch)
        self.observer.step(self.position, batch.size)
        if self.position % LOG_EVERY == 0:
            self._log_step(epoch)

    def _stepped(self, batch: Batch) -> StepReport:
        try:
            with self._of_users(f"at step {self.position + 1}"):
                return self.session.optimizer.step(batch)
        except DivergedError as error:
            self._diverged(f"{error.message}, at step {self.position + 1}")

    @contextmanager
    def _of_users(self, where: str) -> Generator[None]:
        """Tell of what a user's own model raises as an error of the input."""
        try:
            yield
        except SharpkitError:
            raise
        except Exception as error:
            if not is_file_reference(self.session.config.model):
                raise
            raise InputError(
                f"the model fails {where}: {type(error).__name__}: {one_line(error)}",
                f"correct {self.session.config.model}; {self._saved}",
            ) from error

    # ------------------------------------------------------------------ measurements

    def _probed(self, stop: StopRequest) -> bool:
        """Measure if it is time and was not done yet; the clock of the run stands still meanwhile.

        Returns False where a signal ended the measurement: then the run stops, and makes up for it when it goes on, so
        that no number is ever that of an earlier step.
        """
        if self.probes is None or not self.probes.due(self.position) or on_first(self._was_probed):
            return True
        alone = self.session.comm.size == 1  # several must not end a measurement apart
        found = self.probes.measure(lambda: not (alone and stop.signal_number))
        if found is None:
            return False
        self.probed, seconds = found
        self._started += seconds
        self.probe_seconds += seconds
        epoch = self.position / self.session.steps_per_epoch
        self.run.append([
            {"kind": "probe", "step": self.position, "epoch": epoch, **self.probed, "seconds": round(seconds, 3)}
        ])  # fmt: skip
        return True

    def _was_probed(self) -> bool:
        return self.run.has("probe", self.position)

    def _collect(self) -> None:
        bad = self.records.collect(self.session.parts)
        if bad is not None:
            self._diverged(f"the loss is {bad[1]} at step {bad[0]} (epoch {self._epoch_of(bad[0])})")

    def _log_step(self, epoch: int) -> None:
        self._collect()
        record = {
            "kind": "step",
            "step": self.position,
            "epoch": epoch + 1,
            "lr": self._lr(),
            **self.records.take_window(),
        }
        self.run.append([record])
        self.observer.live(self._so_far())

    def _end_epoch(self, epoch: int) -> None:
        self._collect()
        if self.session.comm.size > 1:
            self.session.optimizer.check_replicas()
        self.elapsed = time.perf_counter() - self._started
        session, records = self.session, self.records
        with self._of_users(f"in the evaluation after step {self.position}"):
            val = session.score(session.splits.val)
        if len(session.splits.val) and not math.isfinite(val.loss):
            self._diverged(f"the validation loss is {val.loss} after step {self.position} (epoch {epoch})")
        counters = session.optimizer.counters()
        self.last = {
            "kind": "epoch",
            "step": self.position,
            "epoch": epoch,
            "train_loss": records.mean_loss(),
            "train_acc": records.accuracy(),
            "val_loss": val.loss,
            "val_acc": val.accuracy,
            **{f"val_{name}": value for name, value in val.named.items() if name != "acc"},
            "lr": self._lr(),
            "pct_sam": 100 * counters["perturbed"] / counters["steps"],
            "gradients": counters["gradients"],
            "sequential": counters["sequential"],
            "critical": counters["critical"],
            "forwards": counters["forward_samples"],
            "backwards": counters["backward_samples"],
            **records.notes.values(),
            "seconds": round(self.elapsed, 3),
            "samples_per_s": round(records.seen / max(1e-9, self.elapsed - records.seconds), 1),
        }
        self.run.append([self.last])
        self.records = records.next_epoch(self.elapsed)
        self.observer.epoch(self.last)
        self._keep(epoch, val.main)

    def _so_far(self) -> dict[str, float]:
        totals = self.session.optimizer.totals
        return {
            "loss": self.records.mean_loss(),
            "acc": self.records.accuracy(),
            "pct_sam": 100 * totals.perturbed / max(1, totals.steps),
        }

    def _lr(self) -> float:
        return float(self.session.optimizer.base.param_groups[0]["lr"])

    def _epoch_of(self, step: int) -> int:
        return (step - 1) // self.session.steps_per_epoch + 1

    # ------------------------------------------------------------------ checkpoints

    def _keep(self, epoch: int, score: float) -> None:
        wanted = self.session.config.save_every
        if wanted == "best" and (score > self.best or epoch == 1):
            self.best = score
            self.save(self.run.path / "best.pt")
        elif wanted.isdigit() and epoch % int(wanted) == 0:
            self.save(self.run.path / f"epoch-{epoch}.pt")
        self.save()

    def save(self, path: Path | None = None) -> None:
        """Write everything that the rest of the run depends on."""
        self._collect()
        session = self.session
        if not weights.all_finite(session.model):
            self._diverged(f"a weight or buffer is not finite after step {self.position}")
        target = path or self.run.checkpoint
        streams = session.comm.objects(randomness.capture(session.device))
        content = {
            "config": to_mapping(session.config),
            "asked": to_mapping(session.asked),
            "shape": list(session.dataset.shape),
            "classes": session.dataset.classes,
            "data": session.dataset.checksum,
            "model": weights.state_of(session.model),
            "optimizer": session.optimizer.state_dict(),
            "scheduler": session.scheduler.state_dict(),
            "randomness": streams[0],
            "ranks": streams[1:],
            "step": self.position,
            "records": self.records.state_dict(),
            "elapsed": self.elapsed,
            "best": self.best,
            "last": self.last,
            "probe_seconds": self.probe_seconds,
            "probed": self.probed,
        }
        on_first(lambda: self._write(target, content))
        if path is None and self.position:
            self._replace_earlier()
        self._saved = f"the last good checkpoint is {path or self.run.checkpoint} (step {self.position})"

    def _write(self, target: Path, content: dict[str, Any]) -> None:
        checkpoint.save(target, content)
        if target == self.run.checkpoint:
            self.written = version(target)

    def _replace_earlier(self) -> None:
        """Take the place of the run that is to be overwritten, now that there is something to replace it."""
        if (goal := self.run.goal) is not None:
            on_first(lambda: replacing.replace(goal))
            self.run.moved()

    def restore(self, content: dict[str, Any]) -> None:
        """Go on from a checkpoint's content.

        Raises:
            InputError: If it does not fit this run.
        """
        session = self.session
        where = str(self.run.checkpoint)
        if content["data"] != session.dataset.checksum:
            raise InputError(
                f"the data {session.config.data} are not those that {where} was trained on",
                "give the same data, or start a new run from its weights with --init",
            )
        weights.load_state(session.model, content["model"], where)
        if content["step"] > session.total_steps:
            raise InputError(
                f"{where} is at step {content['step']}, the run has {session.total_steps}", "start a new run"
            )
        session.optimizer.load_state_dict(content["optimizer"])
        session.scheduler.load_state_dict(content["scheduler"])
        streams = [content["randomness"], *content.get("ranks", [])]
        if session.comm.rank < len(streams):  # one that was not there goes on from its own seed
            randomness.restore(randomness.of_stored(streams[session.comm.rank]), session.device)
        self.position = content["step"]
        self.records = Records.of(content["records"])
        self.elapsed = content["elapsed"]
        self.best = content["best"]
        self.last = content["last"]
        self.probe_seconds = content.get("probe_seconds", 0.0)
        self.probed = content.get("probed", {})
        self._saved = f"the last good checkpoint is {where} (step {self.position})"

    # ------------------------------------------------------------------ endings

    def _stop(self, number: int) -> None:
        self.elapsed = time.perf_counter() - self._started
        self.save()
        if self.run.goal is not None:
            kept = f"the run in {self.run.goal} is as it was"
            raise InterruptedRunError(f"stopped by signal {number} before a step; {kept}", "start it again", number)
        raise InterruptedRunError(
            f"stopped by signal {number} after step {self.position}; saved {self.run.checkpoint}",
            f"go on with: sharpkit train --resume {shlex.quote(str(self.run.path))}",
            number,
        )

    def _diverged(self, what: str) -> NoReturn:
        config = self.session.config
        radius = getattr(self.session.optimizer.rule.radius, "rho", None)
        second = "" if radius is None or not self.session.optimizer.totals.perturbed else f" or rho (now {radius:g})"
        if self.run.goal is not None:
            self._saved = f"the run in {self.run.goal} is as it was"
            raise DivergedError(what, f"lower --lr (now {config.lr:g}){second}; {self._saved}")
        with suppress(InputError):  # a full disk must not hide why it ends
            self.run.append([{"kind": DIVERGED, "step": self.position, "message": what}])
        raise DivergedError(what, f"lower --lr (now {config.lr:g}){second}; {self._saved}, for --init in a new run")

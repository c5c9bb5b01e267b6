"""The process that trains the cells of a comparison: a line of JSON in is a cell, lines of JSON out tell how it goes.

It ends when nobody writes to it any more, so that it does not outlive whoever started it.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from sharpkit.commands.cell import finish
from sharpkit.commands.final_sharpness import measure
from sharpkit.engine.config import TrainConfig
from sharpkit.engine.observer import Quiet
from sharpkit.engine.session import Session
from sharpkit.errors import InterruptedRunError, SharpkitError, one_line


class Wire(Quiet):
    """Tells the process at the other end how a run goes."""

    def __init__(self) -> None:
        # What a user's own files print goes to stderr and not into the protocol.
        self._out = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
        os.dup2(2, 1)

    def send(self, event: str, **content: Any) -> None:
        """Send one event."""
        self._out.write(json.dumps({"event": event, **content}) + "\n")

    def begin(self, session: Session, step: int) -> None:
        """Tell where the run begins."""
        self.send("begin", epoch=step / session.steps_per_epoch, epochs=session.config.epochs)

    def epoch(self, record: dict[str, Any]) -> None:
        """Tell that an epoch is done."""
        self.send("epoch", epoch=record["epoch"])

    def tell(self, text: str) -> None:
        """Say what whoever compares must know; notes of the run itself are in its folder."""
        self.send("told", text=text)


def main() -> None:
    """Train cells until stdin ends."""
    wire, waiting = Wire(), queue.Queue[str | None]()
    threading.Thread(target=_read, args=(waiting,), daemon=True).start()
    while (line := waiting.get()) is not None:
        job = json.loads(line)
        try:
            folder, config = Path(job["folder"]), TrainConfig(**job["config"])
            finish(folder, config, wire, wire.tell)
            if job["sharpness"]:
                measure(folder, job["sharpness"], config)
        except InterruptedRunError as error:
            wire.send("stopped", message=error.message)
            sys.exit(error.exit_code)
        except SharpkitError as error:
            wire.send("failed", code=error.code, exit_code=error.exit_code, message=error.message, hint=error.hint)
        except Exception as error:
            told = f"{type(error).__name__}: {one_line(error)}"
            wire.send("failed", code="unexpected", exit_code=1, message=told, hint="run the cell's own command")
        else:
            wire.send("done")


def _read(waiting: queue.Queue[str | None]) -> None:
    for line in sys.stdin:
        waiting.put(line)
    waiting.put(None)
    os.kill(os.getpid(), signal.SIGTERM)  # a run notes it, saves and ends; without one the process ends


if __name__ == "__main__":
    main()

"""Which of several processes this one is, as torchrun or Slurm say in the environment. Does not import torch."""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass

from sharpkit.errors import UsageError

TIMEOUT = 600.0
"""Seconds that a process waits for another, unless told otherwise."""

_PORTS = 20_000, 10_000  # the first, and how many, that a job number chooses among


@dataclass(frozen=True)
class World:
    """This process among all.

    Args:
        rank: Its number, from 0.
        size: How many processes there are.
        local_rank: Its number on this machine.
        local_size: How many there are on this machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that prints and writes."""
        return self.rank == 0


def world(environment: Mapping[str, str] | None = None) -> World:
    """Return which process this is; a single one where nobody started several.

    torchrun sets RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE. srun sets SLURM_PROCID and SLURM_LOCALID in every
    task of a step; the shell of a batch script has the job's numbers but is no task, hence SLURM_STEP_NUM_TASKS.

    Raises:
        UsageError: If the variables contradict each other.
    """
    given = os.environ if environment is None else environment
    if "RANK" in given and "WORLD_SIZE" in given:
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        rank, size = _number(given, "RANK"), _number(given, "WORLD_SIZE")
        found = World(rank, size, _number(given, names[2], rank), _number(given, names[3], size))
    elif int(given.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        size = _number(given, "SLURM_STEP_NUM_TASKS")
        nodes = _number(given, "SLURM_STEP_NUM_NODES", 1)
        found = World(_number(given, "SLURM_PROCID"), size, _number(given, "SLURM_LOCALID"), -(-size // nodes))
    else:
        return World()
    if not 0 <= found.rank < found.size:
        raise UsageError(f"the rank is {found.rank} and there are {found.size}", "start with torchrun or srun")
    return found


def complete(environment: MutableMapping[str, str], found: World) -> None:
    """Add to an environment of Slurm what torch.distributed meets by: RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT.

    Raises:
        UsageError: If the tasks are on several machines and nobody said on which they meet.
    """
    environment.setdefault("RANK", str(found.rank))
    environment.setdefault("WORLD_SIZE", str(found.size))
    if "MASTER_ADDR" not in environment:
        if found.local_size < found.size:
            raise UsageError(
                f"{found.size} tasks on several machines do not know where to meet",
                "export MASTER_ADDR=$(scontrol show hostnames | head -n 1) before srun",
            )
        environment["MASTER_ADDR"] = "127.0.0.1"
    first, many = _PORTS
    environment.setdefault("MASTER_PORT", str(first + int(environment.get("SLURM_JOB_ID", "0")) % many))


def _number(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = environment.get(name, "" if default is None else str(default))
    if not text.isdecimal():
        raise UsageError(f"{name} is {text!r}, allowed is a number", "start with torchrun or srun")
    return int(text)

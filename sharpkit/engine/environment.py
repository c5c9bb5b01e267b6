"""What a run ran on: versions, device and source state."""

from __future__ import annotations

import platform
import subprocess
import sys
from typing import Any

import torch

from sharpkit import __version__
from sharpkit.engine.world import world


def environment(device: torch.device) -> dict[str, Any]:
    """Return versions, device and source state, for env.json and the JSON document."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "sharpkit": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "platform": platform.platform(),
        "device": str(device),
        "device_name": name,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "threads": torch.get_num_threads(),
        "world_size": world().size,
        "git": _git_state(),
        "argv": sys.argv,
    }


def _git_state() -> str | None:
    """Return the commit of the working directory, with + behind it if anything is changed."""
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True)
        changed = subprocess.run(
            ["git", "status", "--porcelain"], capture_output=True, text=True, timeout=5, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")

"""How sharp the minimum of a finished run is, as it was measured once and kept beside the checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

from sharpkit.engine import seal

FILE = "sharpness.json"


def read(folder: Path) -> dict[str, float | None]:
    """Return what was measured, None where it is no number; nothing where the file is not under the run's seal."""
    if not seal.holds(folder, FILE):
        return {}
    return json.loads((folder / FILE).read_text(encoding="utf-8"))

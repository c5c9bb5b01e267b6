"""JSON documents: what every one of them starts with, and numbers that JSON cannot hold."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any, cast

from sharpkit import __version__


def document(command: str, body: Mapping[str, Any], *, ok: bool = True) -> dict[str, Any]:
    """Return the document of a command: schema, outcome, command and version, then its own content."""
    return {"schema": f"sharpkit.{command}/1", "ok": ok, "command": command, "version": __version__, **body}


def to_json(document: Mapping[str, Any]) -> str:
    """Return one JSON document; numbers that are not finite become null, and a warning names them."""
    lost = list(_not_finite(document))
    if lost:
        document = {**document, "warnings": [*document.get("warnings", []), f"not a finite number: {', '.join(lost)}"]}
    return json.dumps(finite(document), indent=2, allow_nan=False) + "\n"


def _not_finite(value: Any, path: str = "") -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, inner in cast("Mapping[str, Any]", value).items():
            yield from _not_finite(inner, f"{path}.{key}" if path else key)
    elif isinstance(value, list | tuple):
        for i, inner in enumerate(cast("list[Any]", value)):
            yield from _not_finite(inner, f"{path}[{i}]")
    elif isinstance(value, float) and not math.isfinite(value):
        yield path


def finite(value: Any) -> Any:
    """Return a JSON-ready value in which numbers that are not finite are None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(k): finite(v) for k, v in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in cast("list[Any]", value)]
    return value

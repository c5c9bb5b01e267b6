"""Surfaces as one web page that can be turned, with no other file and no network."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from sharpkit.diagnostics.surfaces.landscape_result import LandscapeResult
from sharpkit.figures.landscape import scale_of
from sharpkit.libraries import imported

_HOVER = (
    "a = %{x:.4g}<br>b = %{y:.4g}<br>loss %{customdata[0]:.5g} ± %{customdata[1]:.2g}<br>accuracy %{customdata[2]:.2%}"
)


def page(
    results: Mapping[str, LandscapeResult], *, log: bool = False, vmin: float | None = None, vmax: float | None = None
) -> str:
    """Return a page with a surface for every result, or of profiles a line, on one colour scale.

    The script that draws is part of the page, about 5 MB.

    Args:
        results: By name; all surfaces, or all profiles.
        log: Logarithmic loss.
        vmin: Lowest loss of the colours; None is the lowest of all results.
        vmax: Highest loss of the colours; None is the highest of all.

    Raises:
        InputError: If plotly is not installed.
        UsageError: If a logarithmic scale has nothing positive to show.
    """
    go = imported("plotly.graph_objects", "a page", "give --out FILE.png")
    flat = all(result.profile for result in results.values())
    figure = _lines(go, results, log, vmin, vmax) if flat else _surfaces(go, results, log, vmin, vmax)
    figure.update_layout(
        title={"text": "Loss around the weights", "x": 0.5},
        template="plotly_white",
        margin={"l": 20, "r": 20, "t": 70, "b": 20},
    )
    return str(figure.to_html(include_plotlyjs=True, full_html=True, config={"displaylogo": False, "responsive": True}))


def _surfaces(
    go: Any, results: Mapping[str, LandscapeResult], log: bool, vmin: float | None, vmax: float | None
) -> Any:
    scale = scale_of(list(results.values()), log, vmin, vmax)
    low, high = (math.log10(scale.low), math.log10(scale.high)) if log else (scale.low, scale.high)
    figure: Any = go.Figure()
    count = len(results)
    scenes: dict[str, Any] = {}
    for i, (name, result) in enumerate(results.items()):
        with np.errstate(divide="ignore", invalid="ignore"):
            height = np.log10(result.loss) if log else result.loss
        height = np.clip(np.where(np.isfinite(height), height, np.nan), low, high)
        scene = "scene" if i == 0 else f"scene{i + 1}"
        told = np.stack([result.loss, result.error, result.accuracy], -1)
        figure.add_trace(
            go.Surface(
                x=result.x, y=result.y, z=height, customdata=told, hovertemplate=_HOVER + "<extra></extra>",
                colorscale="Viridis", cmin=low, cmax=high, scene=scene, name=name, showscale=i == 0,
                colorbar={"title": "loss", **_ticks(low, high, log)},
                contours={"z": {"show": True, "usecolormap": True, "project_z": True}},
            )
        )  # fmt: skip
        z_axis = {"title": "", "range": [low - 0.3 * (high - low), high], **_ticks(low, high, log)}
        scenes[scene] = {
            "domain": {"x": [i / count, (i + 1) / count], "y": [0, 1]},
            "xaxis": {"title": "a"}, "yaxis": {"title": "b"}, "zaxis": z_axis,
        }  # fmt: skip
        figure.add_annotation(
            text=f"{name}<br>loss {result.centre.loss:.4g} at the centre", showarrow=False,
            x=(i + 0.5) / count, y=1.0, xref="paper", yref="paper", yanchor="bottom",
        )  # fmt: skip
    figure.update_layout(**scenes)
    return figure


def _ticks(low: float, high: float, log: bool) -> dict[str, Any]:
    """Return where an axis of heights has its numbers: heights are logarithms where the loss is logarithmic."""
    places = np.linspace(low, high, 6)
    return {"tickvals": places.tolist(), "ticktext": [f"{10**p if log else p:.3g}" for p in places]}


def _lines(go: Any, results: Mapping[str, LandscapeResult], log: bool, vmin: float | None, vmax: float | None) -> Any:
    figure: Any = go.Figure()
    for name, result in results.items():
        bars = {"type": "data", "array": result.error[0], "thickness": 0.7, "width": 0}
        figure.add_trace(go.Scatter(x=result.x, y=result.loss[0], error_y=bars, mode="lines", name=name))
    figure.update_xaxes(title="a")
    figure.update_yaxes(title="loss", type="log" if log else "linear")
    if vmin is not None and vmax is not None:
        figure.update_yaxes(range=[math.log10(vmin), math.log10(vmax)] if log else [vmin, vmax])
    return figure

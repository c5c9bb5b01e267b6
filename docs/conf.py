"""Sphinx configuration. Figures are drawn by the recipes, and tables read off the code, on every build."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import figures  # noqa: E402
import spectra  # noqa: E402
import surfaces  # noqa: E402
import tables  # noqa: E402

import sharpkit  # noqa: E402

project = "sharpkit"
copyright = "the sharpkit authors"  # noqa: A001
author = "the sharpkit authors"
version = release = sharpkit.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
exclude_patterns = ["_build", "_generated"]
myst_enable_extensions = ["dollarmath", "amsmath", "deflist"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = f"sharpkit {release}"
html_theme_options = {"navigation_with_keys": True}

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

_CODE = re.compile(r"(`[^`]*`)")


def docstring_to_rst(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are plain text with `code` in single backquotes; give them to Sphinx as that."""
    for i, line in enumerate(lines):
        if re.match(r"\s*:\w+", line):  # a field that napoleon has made
            head, colon, rest = line.partition(": ")
            lines[i] = head + colon + _literal(rest)
        else:
            lines[i] = _literal(line)


def _literal(text: str) -> str:
    pieces = _CODE.split(text)
    for k, piece in enumerate(pieces):
        if k % 2:
            pieces[k] = piece if _within(pieces, k, "`") else f"`{piece}`"
        else:
            pieces[k] = re.sub(r"([|])", r"\\\1", re.sub(r"(?<=\w)_(?!\w)", r"\_", piece))
    return "".join(pieces)


def _within(pieces: list[str], k: int, mark: str) -> bool:
    """Whether the code is already in double backquotes, or is a role's argument."""
    before, after = pieces[k - 1], pieces[k + 1] if k + 1 < len(pieces) else ""
    return before.endswith((mark, ":")) or after.startswith(mark)


def generate(app: Any) -> None:
    figures.draw_all(HERE / "_generated")
    spectra.draw(HERE / "_generated" / "hessian.png")
    surfaces.draw(HERE / "_generated" / "landscape.png")
    tables.write_all(HERE / "_generated")


def setup(app: Any) -> None:
    app.connect("autodoc-process-docstring", docstring_to_rst, priority=900)  # after napoleon
    app.connect("builder-inited", generate)

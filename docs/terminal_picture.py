"""Draw a real terminal session as an SVG: python docs/terminal_picture.py OUT.svg -- sharpkit train --opt sampa.

The command runs in a pseudo-terminal, a terminal emulator (pyte) replays what it wrote, and rich draws the screen.
"""

from __future__ import annotations

import os
import pty
import sys
from itertools import groupby

import pyte
from rich.console import Console
from rich.style import Style
from rich.text import Text

COLUMNS, ROWS = 108, 60
_COLORS = {"brown": "yellow", "default": None}
_SVG = """<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  font-size: {char_height}px; line-height: {line_height}px; font-variant-east-asian: full-width; }}
.{unique_id}-title {{ font-size: 18px; font-weight: bold; font-family: sans-serif; }}
{styles}
</style>
<defs><clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" /></clipPath>{lines}</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">{matrix}</g>
</g>
</svg>
"""


def record(command: list[str]) -> bytes:
    """Return everything that a command writes to a terminal of COLUMNS x ROWS."""
    written = bytearray()

    def keep(descriptor: int) -> bytes:
        data = os.read(descriptor, 65536)
        written.extend(data)
        return data

    os.environ |= {"COLUMNS": str(COLUMNS), "LINES": str(ROWS), "TERM": "xterm-256color"}
    pty.spawn(command, keep)
    return bytes(written)


def screen_of(written: bytes) -> pyte.Screen:
    """Return the screen after a terminal has shown what was written."""
    screen = pyte.Screen(COLUMNS, ROWS)
    pyte.ByteStream(screen).feed(written)
    return screen


def line_of(screen: pyte.Screen, row: int) -> Text:
    """Return one line of the screen with its colours."""
    text = Text()
    cells = [screen.buffer[row][column] for column in range(COLUMNS)]
    for (fg, bold), run in groupby(cells, key=lambda cell: (cell.fg, cell.bold)):
        color = _COLORS.get(fg, fg)
        is_rgb = color is not None and len(color) == 6 and any(letter.isdigit() for letter in color)
        text.append("".join(cell.data for cell in run), Style(color=f"#{color}" if is_rgb else color, bold=bold))
    text.rstrip()
    return text


def main() -> None:
    """Record, replay and draw."""
    out, command = sys.argv[1], sys.argv[sys.argv.index("--") + 1 :]
    screen = screen_of(record(command))
    lines = [line_of(screen, row) for row in range(ROWS)]
    while lines and not lines[-1].plain.strip():
        lines.pop()
    console = Console(record=True, width=COLUMNS, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123
    console.print(Text.assemble(("$ ", "bold green"), " ".join(command)))
    for line in lines:
        console.print(line, overflow="ignore", no_wrap=True)
    console.save_svg(out, title="sharpkit", code_format=_SVG)


if __name__ == "__main__":
    main()

"""`bwexporter status --watch`: the live view on the terminal.

Turns a URL into a screen that follows the program until `q`. Knows: the terminal's keys, how often to ask. Does not
know: what is shown.
"""

from __future__ import annotations

import os
import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from bwexporter.cli import asking
from bwexporter.cli.asking import Place
from bwexporter.cli.table import console, lanes_table
from bwexporter.cli.view import Rates, View, looked, pressed, screen
from bwexporter.errors import BwexporterError

ASK_SECONDS = 1.0
PRINT_SECONDS = 2.0
_SEQUENCES: Mapping[bytes, str] = {
    b"\x1b[A": "up",
    b"\x1b[B": "down",
    b"\x1bOA": "up",
    b"\x1bOB": "down",
    b"\x1b": "escape",
    b"\r": "enter",
    b"\n": "enter",
    b"\x7f": "backspace",
    b"\x08": "backspace",
}


def watch(place: Place | str, view: View) -> None:
    """Watch on a terminal until `q` or Ctrl-C, off one print the table again and again; the silent are asked again."""
    with suppress(KeyboardInterrupt):
        if sys.stdin.isatty() and sys.stdout.isatty():
            _follow(place, view)
        else:
            _print(place, view)


def _follow(place: Place | str, view: View) -> None:
    rates, terminal = Rates(), Console()
    answer, trouble = _asked(place, None)
    with _keys() as key, Live(console=terminal, auto_refresh=False, screen=True) as live:
        while not view.ended:
            shown: RenderableType = Text(trouble, style="red")
            if answer is not None:
                rates.hear(answer)
                view, rows = looked(view, answer, rates)
                size = terminal.size
                shown = screen(view, answer, rows, rates, width=size.width, height=size.height, trouble=trouble)
            live.update(shown, refresh=True)
            found = key(ASK_SECONDS)
            if found:
                view = pressed(view, found)
            else:
                answer, trouble = _asked(place, answer)


def _print(place: Place | str, view: View) -> None:
    terminal = console()
    while True:
        answer, trouble = _asked(place, None)
        terminal.print(
            trouble
            if answer is None
            else lanes_table(
                answer,
                width=terminal.width,
                now_seconds=answer["taken_at"],
                slice_name=view.search or None,
            ),
        )
        sys.stdout.flush()
        time.sleep(PRINT_SECONDS)


def _asked(place: Place | str, before: dict[str, Any] | None) -> tuple[dict[str, Any] | None, str]:
    """Return a new answer, or the one before and why there is no new one."""
    try:
        return {**_timed(asking.slices(place)), "stopped": asking.stopped(place)}, ""
    except BwexporterError as error:
        return before, str(error)


def _timed(answer: dict[str, Any]) -> dict[str, Any]:
    """Return the answer with its time in each row."""
    return {**answer, "slices": [{**row, "taken_at": answer["taken_at"]} for row in answer["slices"]]}


@contextmanager
def _keys() -> Iterator[Callable[[float], str]]:
    """Give what waits for a key for so many seconds and returns its name, nothing where none came."""
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)

    def key(seconds: float) -> str:
        if not select.select([descriptor], [], [], seconds)[0]:
            return ""
        read = os.read(descriptor, 8)
        return _SEQUENCES.get(read) or read.decode(errors="ignore")[:1]

    try:
        tty.setcbreak(descriptor)
        yield key
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)

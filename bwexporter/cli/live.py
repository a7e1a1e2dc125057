"""`bwexporter status --watch`: the table, again and again.

Turns seconds into tables on the terminal. Knows: when to ask and draw. Does not know: what the table shows.
"""

from __future__ import annotations

import sys
import time
from contextlib import suppress

from rich.live import Live
from rich.table import Table
from rich.text import Text

from bwexporter.cli import asking
from bwexporter.cli.asking import Place
from bwexporter.cli.table import console, lanes_table
from bwexporter.errors import BwexporterError

DRAW_SECONDS = 2.0


def watch(place: Place | str, slice_name: str | None) -> None:
    """Draw the table again and again until Ctrl-C, off a terminal print it; who does not answer is asked again."""
    terminal = console()
    with suppress(KeyboardInterrupt), Live(console=terminal, auto_refresh=False) as live:
        while True:
            drawn = _drawn(place, slice_name, terminal.width)
            if terminal.is_terminal:
                live.update(drawn, refresh=True)
            else:
                terminal.print(drawn)
                sys.stdout.flush()
            time.sleep(DRAW_SECONDS)


def _drawn(place: Place | str, slice_name: str | None, width: int) -> Table | Text:
    try:
        answer = asking.slices(place)
    except BwexporterError as error:
        return Text(str(error), style="red")
    return lanes_table(answer, width=width, now_seconds=answer["taken_at"], slice_name=slice_name)

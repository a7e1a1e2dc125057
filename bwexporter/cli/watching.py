"""`bwexporter demo`: a live table of what the node publishes.

Turns seconds into a show on the terminal, or into a table at the end where there is no terminal. Knows: when to draw.
Does not know: how the node is made.
"""

from __future__ import annotations

import signal
import sys
import time
from types import FrameType
from typing import Any

import click
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from bwexporter.cli import asking, table
from bwexporter.demo import stage
from bwexporter.errors import BwexporterError
from bwexporter.web.listening import bind

DRAW_SECONDS = 0.5


@click.command(short_help="Watch it work in a private network namespace.")
@click.option("--seconds", type=click.FloatRange(min=1), help="End after so many seconds, with exit code 0.")
@click.option("--listen", default="127.0.0.1:10099", show_default=True, help="Where /metrics answers, host:port.")
def demo(*, seconds: float | None, listen: str) -> None:
    """Watch it work: a node with real HTB and real traffic, in a private network namespace.

    Eight slices with different habits live through days of two minutes: greedy ones pass their threshold, are capped so
    that they land on their allowance, and get their full rate back when the day ends. It is the very daemon, a process
    of its own; its /metrics answers on this machine meanwhile. Needs no root where user namespaces are allowed, and
    leaves nothing behind, also on Ctrl-C.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    console = table.console()
    with bind(listen) as listening, stage.node(listening) as node:
        console.print(f"A node comes up in a private network namespace. Its metrics: {node.url}/metrics")
        try:
            stage.wait_until(lambda: _answer(node.url) is not None, node)
            _show(console, node, time.monotonic() + (seconds or float("inf")))
        except KeyboardInterrupt:
            console.print("Ended; nothing is left behind.")


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _show(console: Console, node: stage.Node, until_monotonic: float) -> None:
    """Draw twice a second on a terminal; elsewhere print the table once a minute and at the end."""
    if not sys.stdout.isatty():
        _print_now_and_then(console, node, until_monotonic)
        return
    with Live(console=console, auto_refresh=False, screen=False) as live:
        while time.monotonic() < until_monotonic:
            node.fail_if_ended()
            answer = _answer(node.url)
            if answer is not None:
                live.update(_screen(answer, node, console.width), refresh=True)
            time.sleep(DRAW_SECONDS)


def _print_now_and_then(console: Console, node: stage.Node, until_monotonic: float) -> None:
    while True:
        left = until_monotonic - time.monotonic()
        time.sleep(max(0.0, min(60.0, left)))
        node.fail_if_ended()
        answer = _answer(node.url)
        if answer is not None:
            console.print(_screen(answer, node, console.width))
        if time.monotonic() >= until_monotonic:
            return


def _screen(answer: dict[str, Any], node: stage.Node, width: int) -> Group:
    hint = f"{node.url}/metrics   a day is two minutes here   Ctrl-C ends"
    return Group(table.lanes_table(answer, width=width, now_seconds=time.time()), Text(hint, style="dim"))


def _answer(url: str) -> dict[str, Any] | None:
    try:
        return asking.slices(url)
    except BwexporterError:
        return None

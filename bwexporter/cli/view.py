"""What `status --watch` shows: lanes that are sorted, filtered and chosen, and one of them in full.

Turns answers of the API and pressed keys into a screen. Knows: sorts, filters, sparklines. Does not know: the terminal,
when to ask.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from bwexporter import explain, telling
from bwexporter.cli.table import coloured, lanes_title
from bwexporter.units import print_duration, print_rate, print_volume

MOST_POINTS = 120
HEAD_LINES = 6
_BARS = "▁▂▃▄▅▆▇█"
_HINT = "s sort  r reverse  c capped only  / filter  up, down choose  enter one slice  q end"
_HINT_OF_ONE = "esc, enter back  q end"
_HINT_OF_TYPING = "type a part of a name, then enter; esc takes it back"

Row = Mapping[str, Any]
LaneKey = tuple[str, str, str]


def key_of(row: Row) -> LaneKey:
    """Return what tells a lane from others."""
    return row["device"], row["slice"], row["traffic"]


class Rates:
    """The rates of each lane between answers, of late."""

    def __init__(self) -> None:
        self._points: dict[LaneKey, deque[float]] = {}
        self._last: dict[LaneKey, tuple[float, int]] = {}

    def hear(self, answer: Row) -> None:
        """Take over an answer; one that is the same as before says nothing new."""
        at = float(answer["taken_at"])
        for row in answer["slices"]:
            lane, sent = key_of(row), int(row["sent_bytes_total"])
            before, self._last[lane] = self._last.get(lane), (at, sent)
            if before is not None and at > before[0]:
                points = self._points.setdefault(lane, deque(maxlen=MOST_POINTS))
                points.append(max(0, sent - before[1]) / (at - before[0]))

    def of(self, lane: LaneKey) -> list[float]:
        """Return the rates of a lane, oldest first."""
        return list(self._points.get(lane, ()))

    def now(self, lane: LaneKey) -> float:
        """Return the newest rate."""
        points = self._points.get(lane)
        return points[-1] if points else 0.0


def sparkline(rates: list[float], cells: int) -> str:
    """Draw the newest rates against the highest of them.

    >>> sparkline([0.0, 50.0, 100.0], 5)
    '▁▅█'
    """
    shown = rates[-cells:]
    most = max(shown, default=0.0)
    return "".join(_BARS[round((len(_BARS) - 1) * rate / most)] if most else _BARS[0] for rate in shown)


SORTS: Mapping[str, Callable[[Row, Rates], Any]] = {
    "slice": lambda row, _: (row["slice"].casefold(), row["traffic"]),
    "rate": lambda row, rates: -rates.now(key_of(row)),
    "used": lambda row, _: -row["period_used_bytes"],
    "share": lambda row, _: -(row["period_used_bytes"] / (row["period_allowance_bytes"] or float("inf"))),
    "ceiling": lambda row, _: row["ceiling_bytes_per_second"] or 0,
    "verdict": lambda row, _: row["verdict"],
}


@dataclass(frozen=True)
class View:
    """What is looked at, and how."""

    sort: str = "slice"
    backwards: bool = False
    capped_only: bool = False
    search: str = ""
    typing: bool = False
    chosen: LaneKey | None = None
    in_full: bool = False
    ended: bool = False
    order: tuple[LaneKey, ...] = field(default=())  # as last shown


def pressed(view: View, key: str) -> View:
    """Return the view after a key: a character, or `up`, `down`, `enter`, `escape`, `backspace`."""
    if view.typing:
        return _typed(view, key)
    changed: dict[str, Any] = {}
    match key:
        case "q" | "\x03":
            changed = {"ended": True}
        case "escape":
            changed = {"in_full": False}
        case "enter":
            changed = {"in_full": not view.in_full and view.chosen is not None}
        case "s":
            names = list(SORTS)
            changed = {"sort": names[(names.index(view.sort) + 1) % len(names)]}
        case "r":
            changed = {"backwards": not view.backwards}
        case "c":
            changed = {"capped_only": not view.capped_only}
        case "/":
            changed = {"typing": True, "search": ""}
        case "up" | "down" if view.order:
            changed = {"chosen": _beside(view, -1 if key == "up" else 1)}
    return replace(view, **changed)


def _beside(view: View, step: int) -> LaneKey:
    at = view.order.index(view.chosen) if view.chosen in view.order else -1
    return view.order[max(0, min(len(view.order) - 1, at + step))]


def _typed(view: View, key: str) -> View:
    match key:
        case "enter":
            return replace(view, typing=False)
        case "escape":
            return replace(view, typing=False, search="")
        case "backspace":
            return replace(view, search=view.search[:-1])
        case _ if len(key) == 1 and key.isprintable():
            return replace(view, search=view.search + key)
    return view


def looked(view: View, answer: Row, rates: Rates) -> tuple[View, list[Row]]:
    """Return the rows that the view shows, in its order, and the view that knows them."""
    rows = [row for row in answer["slices"] if view.search.casefold() in row["slice"].casefold()]
    rows = [row for row in rows if row["capped"] or not view.capped_only]
    rows = [row for row in rows if row["period_allowance_bytes"] is not None or row["period_used_bytes"]]
    rows.sort(key=lambda row: SORTS[view.sort](row, rates), reverse=view.backwards)
    order = tuple(key_of(row) for row in rows)
    chosen = view.chosen if view.chosen in order else next(iter(order), None)
    return replace(view, order=order, chosen=chosen), rows


def screen(view: View, answer: Row, rows: list[Row], rates: Rates, *, width: int, height: int, trouble: str) -> Group:
    """Draw what the view shows; `trouble` says why the answer is not a new one."""
    head: list[Any] = [lanes_title(answer)]
    if trouble:
        head.append(Text(trouble, style="red"))
    head += [Text(order["sentence"], style="magenta") for order in answer.get("by_hand", ()) if order["slice"] is None]
    one = next((row for row in rows if key_of(row) == view.chosen), None)
    if view.in_full and one is not None:
        return Group(*head, *_one(one, answer, rates, width), Text(_HINT_OF_ONE, style="dim"))
    how = f"by {view.sort}{', reversed' if view.backwards else ''}{', capped only' if view.capped_only else ''}"
    how += f', names with "{view.search}"' if view.search or view.typing else ""
    hint = _HINT_OF_TYPING if view.typing else _HINT
    return Group(*head, Text(how, style="dim"), _table(view, rows, rates, width, height), Text(hint, style="dim"))


def _table(view: View, rows: list[Row], rates: Rates, width: int, height: int) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("slice", no_wrap=True, max_width=24)
    table.add_column("traffic", no_wrap=True)
    for heading in ("used", "of", "rate"):
        table.add_column(heading, justify="right", no_wrap=True)
    cells = max(8, min(40, width - 96))
    table.add_column("", no_wrap=True, min_width=cells)
    for heading in ("ceiling", "verdict", "ends in"):
        table.add_column(heading, justify="left" if heading == "verdict" else "right", no_wrap=True)
    most = max(1, height - HEAD_LINES)
    at = next((number for number, row in enumerate(rows) if key_of(row) == view.chosen), 0)
    first = max(0, min(at - most // 2, len(rows) - most))
    for row in rows[first : first + most]:
        table.add_row(*_cells(row, rates, cells), style="reverse" if key_of(row) == view.chosen else "")
    return table


def _cells(row: Row, rates: Rates, cells: int) -> list[Text | str]:
    ceiling, allowance = row["ceiling_bytes_per_second"], row["period_allowance_bytes"]
    lane = key_of(row)
    return [
        row["slice"],
        row["traffic"],
        print_volume(row["period_used_bytes"]),
        "no limit" if allowance is None else print_volume(allowance),
        print_rate(int(rates.now(lane))),
        Text(sparkline(rates.of(lane), cells), style="cyan"),
        "none" if ceiling is None else print_rate(ceiling),
        coloured(row["verdict"]),
        telling.ends_in(row, row["taken_at"]),
    ]


def _outlasts(row: Row) -> str:
    window = row.get("window_seconds")
    if window:
        return f"what it sends is free again after {print_duration(window)}"
    return f"its period ends in {telling.ends_in(row, row['taken_at'])}"


def _one(row: Row, answer: Row, rates: Rates, width: int) -> list[Text]:
    lane = key_of(row)
    orders = [order for order in answer.get("by_hand", ()) if order["slice"] == row["slice"]]
    return [
        Text(f"{row['slice']} {row['traffic']} on {row['device']}", style="bold"),
        Text(explain.sentence(explain.of_row(row, answer))),
        *([Text(row["would_be"]["sentence"])] if row.get("would_be") else []),
        *(Text(order["sentence"], style="magenta") for order in orders if order["traffic"] == row["traffic"]),
        Text(f"sends {print_rate(int(rates.now(lane)))}, {_outlasts(row)}"),
        Text(sparkline(rates.of(lane), max(10, width - 2)), style="cyan"),
    ]

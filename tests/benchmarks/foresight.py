"""How far an outlook is off: of recorded traffic, and of simulated traffic with habits.

Turns errors into tables, and into JSON. Knows: what stands beside what. Does not know: how an outlook is made.
"""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from tests import habits
from tests.habits import Figures


def measure() -> dict[str, Figures]:
    """Return the median and the 90th percentile of the errors of each way, as parts of a day's use."""
    return {"recorded": habits.measured_on_record(), "simulated": habits.measured()}


def show(console: Console, figures: dict[str, Figures]) -> None:
    """Print the figures."""
    for traffic, of_ways in figures.items():
        title = (
            f"Expected use at the day's end, looked at once an hour, {traffic} traffic: off by so much of the day's use"
        )
        table = Table(title=title)
        for heading in ("from", "half of them less than", "nine in ten less than"):
            table.add_column(heading, justify="left" if heading == "from" else "right")
        for name, (median, most) in of_ways.items():
            table.add_row(name, f"{median:.1%}", f"{most:.1%}")
        console.print(table)


def as_json(figures: dict[str, Figures]) -> dict[str, object]:
    """Return the figures by traffic and name."""
    return {
        "outlook_errors": {
            traffic: {name: {"median": median, "p90": most} for name, (median, most) in of_ways.items()}
            for traffic, of_ways in figures.items()
        }
    }

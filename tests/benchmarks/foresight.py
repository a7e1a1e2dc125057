"""How far an outlook is off: traffic with habits, simulated.

Turns errors into a table, and into JSON. Knows: what stands beside what. Does not know: how an outlook is made.
"""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from tests.habits import measured

Figures = dict[str, tuple[float, float]]


def measure() -> Figures:
    """Return the median and the 90th percentile of the errors of each way, as parts of a day's use."""
    return measured()


def show(console: Console, figures: Figures) -> None:
    """Print the figures."""
    table = Table(title="Expected use at the day's end, looked at once an hour: off by so much of the day's use")
    for heading in ("from", "half of them less than", "nine in ten less than"):
        table.add_column(heading, justify="left" if heading == "from" else "right")
    for name, (median, most) in figures.items():
        table.add_row(name, f"{median:.1%}", f"{most:.1%}")
    console.print(table)


def as_json(figures: Figures) -> dict[str, object]:
    """Return the figures by name."""
    return {"outlook_errors": {name: {"median": median, "p90": most} for name, (median, most) in figures.items()}}

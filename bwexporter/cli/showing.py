"""`bwexporter status`: answers, drawn.

Turns an answer of the API into a table. Knows: columns and units for people. Does not know: accounts, the kernel.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bwexporter.cli.table import console, lanes_table


def status(answer: Mapping[str, Any], slice_name: str | None) -> None:
    """Print an answer of the API as a table."""
    terminal = console()
    table = lanes_table(answer, width=terminal.width, now_seconds=answer["taken_at"], slice_name=slice_name)
    terminal.print(table)
    for order in answer.get("by_hand", ()):
        if order["slice"] is None or slice_name in {None, order["slice"], order.get("borrower")}:
            place = " ".join(order[part] for part in ("device", "slice", "traffic") if order[part])
            terminal.print(f"{place or 'the node'}: {order['sentence']}", markup=False, highlight=False, soft_wrap=True)

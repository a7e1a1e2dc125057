"""`bwexporter tree show`: the tree as the kernel has it, with whose classes they are.

Turns what stands on a node into a drawing for people, or into rows for programs. Knows: which lane has which class,
how the trunk is called. Does not know: how the kernel is asked, what a class should be like.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from rich.text import Text
from rich.tree import Tree

from bwexporter.cli.looking import Standing
from bwexporter.core.lanes import UNLIMITED, Lane, Snapshot
from bwexporter.core.policies import counting
from bwexporter.desk import Desk
from bwexporter.units import print_rate, print_volume

Row = Mapping[str, Any]

TRUNK = {"1:1": "line rate", "1:10": "node cap: normal lanes", "1:20": "exempt lanes"}
"""The classes above the lanes of a managed tree."""


class _Account(NamedTuple):
    used_bytes: int
    allowance_bytes: int | None


def rows(found: Standing) -> list[Row]:
    """Return each device with its classes, in the order of their handles; bytes and bytes per second."""
    return [_device_row(desk) for desk in found.desks.values()]


def draw(devices: Sequence[Row], *, slice_name: str | None = None) -> Iterator[Tree]:
    """Draw each device's tree; with a slice's name only what leads to its classes."""
    for device in devices:
        top = Tree(_heading(device), guide_style="dim")
        children: dict[str, list[Row]] = {}
        for row in device["classes"]:
            children.setdefault(row["parent"], []).append(row)
        roots = [parent for parent in children if parent.endswith(":")]
        for root in roots:
            # Somebody else may have a tree below each hardware queue.
            at = top if len(roots) == 1 else Tree(Text(root, style="cyan"), guide_style="dim")
            if _grow(at, children, root, slice_name) and at is not top:
                top.children.append(at)
        yield top


def class_text(handle: int) -> str:
    """Write a class as tc does.

    >>> class_text(0x11001)
    '1:1001'
    """
    return f"{handle >> 16:x}:" + (f"{handle & 0xFFFF:x}" if handle & 0xFFFF else "")


def _device_row(desk: Desk) -> Row:
    snapshot = desk.unread
    assert snapshot is not None  # noqa: S101  # a desk that stands has been looked at
    return {
        "device": desk.device,
        "tree_present": snapshot.tree_present,
        "root": f"{int(snapshot.classes.handle[0]) >> 16:x}" if len(snapshot.classes) else "1",
        "sent_bytes": snapshot.tree_sent_bytes,
        "direct_packets": snapshot.direct_packets,
        "classes": list(_class_rows(desk, snapshot)),
    }


def _class_rows(desk: Desk, snapshot: Snapshot) -> Iterator[Row]:
    lanes, accounts = lanes_of(desk), _accounts(desk)
    classes, counts = snapshot.classes, snapshot.counts
    for row, (handle, parent) in enumerate(zip(classes.handle.tolist(), classes.parent.tolist(), strict=True)):
        lane = lanes.get(handle)
        account = accounts.get(lane) if lane else None
        yield {
            "class": class_text(handle),
            "parent": class_text(parent),
            "slice": lane.slice_name if lane else None,
            "traffic": lane.traffic.value if lane else None,
            "trunk": TRUNK.get(class_text(handle)) if desk.tree.builds else None,
            "rate_bytes_per_second": int(classes.rate_bytes_per_second[row]),
            "ceiling_bytes_per_second": int(classes.ceiling_bytes_per_second[row]),
            "quantum_bytes": int(classes.quantum_bytes[row]),
            "sent_bytes": int(counts.sent_bytes[row]),
            "sent_packets": int(counts.sent_packets[row]),
            "dropped_packets": int(counts.dropped_packets[row]),
            "backlog_bytes": int(snapshot.backlog_bytes[row]),
            "used_bytes": account.used_bytes if account else None,
            "allowance_bytes": account.allowance_bytes if account else None,
        }


def lanes_of(desk: Desk) -> dict[int, Lane]:
    """Return whose each class is, by handle."""
    handles = desk.tree.handles(desk.tariffs).tolist()
    counters, lanes = desk.ledger.counters, desk.ledger.lanes
    # Classes of removed slices are still those of their accounts.
    before = {
        handle: lanes[row] for handle, row in zip(counters.handle.tolist(), counters.account.tolist(), strict=True)
    }
    return {**before, **dict(zip(handles, desk.tariffs.lanes, strict=True))}


def _accounts(desk: Desk) -> dict[Lane, _Account]:
    used = dict(zip(desk.ledger.lanes, counting(desk.ledger).accounts.used_bytes.tolist(), strict=True))
    allowances = dict(zip(desk.tariffs.lanes, desk.tariffs.allowance_bytes.tolist(), strict=True))
    return {
        lane: _Account(
            used.get(lane, 0), allowance if (allowance := allowances.get(lane, UNLIMITED)) < UNLIMITED else None
        )
        for lane in {*used, *allowances}
    }


def _heading(device: Row) -> Text:
    if not device["tree_present"]:
        return Text.assemble((device["device"], "bold"), "  no tree")
    heading = Text.assemble((device["device"], "bold"), f"  sent {print_volume(device['sent_bytes'])}")
    if device["direct_packets"]:
        heading.append(f", {device['direct_packets']} packets passed unshaped", style="red")
    return heading


def _grow(at: Tree, children: Mapping[str, Sequence[Row]], parent: str, slice_name: str | None) -> bool:
    """Hang the classes below a parent; say whether any was wanted."""
    found = False
    for row in children.get(parent, ()):
        branch = Tree(_label(row), guide_style="dim")
        below = _grow(branch, children, row["class"], slice_name)
        if slice_name is None or below or row["slice"] == slice_name:
            at.children.append(branch)
            found = True
    return found


def _label(row: Row) -> Text:
    name = row["slice"] or row["trunk"]
    label = Text.assemble((f"{row['class']:<7}", "cyan"), " ", (name or "of nobody", "bold" if row["slice"] else "dim"))
    if row["traffic"]:
        label.append(f" {row['traffic']}", style="blue" if row["traffic"] == "exempt" else "")
    label.append(f"  rate {print_rate(row['rate_bytes_per_second'])}")
    label.append(f"  ceiling {print_rate(row['ceiling_bytes_per_second'])}")
    label.append(f"  sent {print_volume(row['sent_bytes'])}")
    if row["backlog_bytes"]:
        label.append(f"  queued {print_volume(row['backlog_bytes'])}", style="yellow")
    if row["used_bytes"] is not None:
        allowance = row["allowance_bytes"]
        label.append(f"  used {print_volume(row['used_bytes'])}")
        label.append(f" of {print_volume(allowance)}" if allowance is not None else "", style="")
    return label

"""The classifier's rules, for commands that look and change nothing.

Turns what stands on a node into the rules that its records ask for, and into what the next turn would change of the
kernel's. Knows: which devices are sorted, that a node may have nothing to sort. Does not know: what a rule says.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from bwexporter.cli.looking import Standing
from bwexporter.errors import DeviceRefused, KernelUnreadable
from bwexporter.kernel.claims import tells_apart, wanted
from bwexporter.kernel.classifier import Classifier
from bwexporter.kernel.rules import Rules

Row = Mapping[str, Any]


def is_sorted(found: Standing) -> bool:
    """Say whether the daemon makes rules on this node."""
    return bool(found.roll.built) and tells_apart(found.roll.claims, found.roll.exempt_prefixes)


def rules_for(found: Standing, existing: Collection[int]) -> Rules:
    """Return the rules that the records ask for where these classes exist."""
    roll = found.roll
    return wanted(roll.claims, roll.built, roll.exempt_prefixes, existing=existing)


def foreseen(found: Standing, existing: Collection[int], *, take_over: bool) -> tuple[list[Row], list[str]]:
    """Return what the next turn would change of the rules, and why that could not be found out."""
    if not is_sorted(found):
        return [], []
    try:
        edits = Classifier(take_over=take_over).foresee(rules_for(found, existing))
    except (DeviceRefused, KernelUnreadable) as trouble:
        return [], [f"rules of the classifier are left out: {trouble}"]
    return [{"act": "rule", "table": edit.family, "edit": str(edit)} for edit in edits], []

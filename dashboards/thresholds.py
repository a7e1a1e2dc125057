"""The thresholds of the alert rules, for lines and colours.

Turns the rules file into numbers by alert. Knows: that a threshold is the number at the end of an alert's expression.
Does not know: panels.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import yaml

RULES_FILE = Path(__file__).parent.parent / "deploy" / "prometheus" / "bwexporter.rules.yml"

_AT_THE_END = re.compile(r"(?:>=|<=|==|>|<)\s*(\d+(?:\.\d+)?)\s*$")


def threshold(alert: str) -> float:
    """Return the number that an alert compares with; an alert without one is a mistake of the caller (KeyError)."""
    return _thresholds()[alert]


@cache
def _thresholds() -> dict[str, float]:
    groups = yaml.safe_load(RULES_FILE.read_text())["groups"]
    alerts = {rule["alert"]: rule["expr"] for group in groups for rule in group["rules"] if "alert" in rule}
    found = {name: _AT_THE_END.search(expression) for name, expression in alerts.items()}
    return {name: float(match[1]) for name, match in found.items() if match}

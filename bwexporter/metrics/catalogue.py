"""The catalogue: every metric there is, in the order of the exposition.

Turns the families of each subject into one list, and that into the README's table. Knows: which subjects there are.
Does not know: any figure, any text format but the table's.
"""

from __future__ import annotations

from bwexporter.metrics.families import Family
from bwexporter.metrics.of_lanes import LANE_FAMILIES
from bwexporter.metrics.of_node import STANDING_FAMILIES, info_family
from bwexporter.metrics.of_program import OWN_FAMILIES


def every_family() -> tuple[Family, ...]:
    """Return every family in the order of the exposition, the info metric with its optional label."""
    return (
        *LANE_FAMILIES,
        info_family(owner_email=True, record_labels=()),
        *STANDING_FAMILIES,
        *OWN_FAMILIES,
    )


def metrics_table() -> str:
    """Return the catalogue as the Markdown table of the README."""
    rows = ["| metric | type | labels | meaning |", "| --- | --- | --- | --- |"]
    for family in every_family():
        labels = ", ".join(f"`{label}`" for label in family.labels)
        rows.append(f"| `{family.name}` | {family.kind.value} | {labels} | {family.text} |")
    return "\n".join(rows) + "\n"

"""The shape of the code: arrows, doors, headers, and the names that others rely on."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

import bwexporter
from bwexporter.metrics import every_family
from bwexporter.metrics.families import Family, Kind

PACKAGE = Path(bwexporter.__file__).parent
ROOT = PACKAGE.parent
MODULES = {
    ".".join((PACKAGE.name, *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}

ROOMS = [
    name
    for name, path in MODULES.items()
    if len(path.read_text().splitlines()) > 10 and name != "bwexporter.errors"  # a tree of names
]
"""Modules that do something; a package's front page with a line or two is none."""

DOORS = {
    "apscheduler": {"bwexporter.daemon"},
    "httpx": {"bwexporter.fetch"},
    "psutil": {"bwexporter.apmon"},
    "bcrypt": {"bwexporter.web"},
    "h11": {"bwexporter.web"},
    "jinja2": {"bwexporter.web"},
    "markupsafe": {"bwexporter.chart", "bwexporter.svg", "bwexporter.web"},
    "PIL": {"bwexporter.png"},
    "prometheus_client": {"bwexporter.metrics"},
    "pyroute2": {"bwexporter.kernel", "bwexporter.demo"},
    "sqlite3": {"bwexporter.state"},
    "starlette": {"bwexporter.web"},
    "uvicorn": {"bwexporter.web"},
    "watchfiles": {"bwexporter.slices"},
    "yaml": {"bwexporter.yamlfile", "bwexporter.demo"},
    "click": {"bwexporter.cli"},
    "rich": {"bwexporter.cli", "bwexporter.demo"},
    "pydantic_core": {"bwexporter.written"},
    "pydantic": {
        "bwexporter.control",
        "bwexporter.keys",
        "bwexporter.planned",
        "bwexporter.schema",
        "bwexporter.settings",
        "bwexporter.slices",
        "bwexporter.sources",
        "bwexporter.written",
        "bwexporter.pushes",
        "bwexporter.web",
    },
}
"""Which rooms may import a library; where it says one room, that is the library's only door."""

LANE = """slice_sent_bytes_total slice_sent_packets_total slice_dropped_packets_total slice_overlimit_total
slice_backlog_bytes slice_period_used_bytes slice_period_allowance_bytes slice_period_threshold_bytes
slice_period_start_timestamp_seconds slice_period_end_timestamp_seconds slice_full_rate_bytes_per_second
slice_guarantee_bytes_per_second slice_floor_bytes_per_second slice_ceiling_bytes_per_second
slice_intended_ceiling_bytes_per_second slice_capped slice_shadow slice_seconds_to_threshold
slice_seconds_to_allowance"""
DEVICE = """device_cap_bytes_per_second device_line_rate_bytes_per_second device_guarantees_admitted_ratio
device_direct_sent_packets_total"""
TURN = """turn_duration_seconds turn_stage_duration_seconds turns_total turn_failures_total turn_misfires_total
last_turn_timestamp_seconds up frozen clock_steps_total"""
CHANGE = """changes_total change_failures_total drift_repairs_total orphans_removed_total
implausible_readings_total"""
OTHERS = """slice_hand_until_timestamp_seconds slice_info control_refusals_total source_up source_slices
source_last_success_timestamp_seconds source_problems config_last_reload_successful
config_last_reload_success_timestamp_seconds state_last_save_timestamp_seconds state_failures_total build_info
apmon_datagrams_total apmon_dropped_datagrams_total apmon_last_success_timestamp_seconds"""


def catalogued() -> dict[str, Family]:
    """Return every family of the catalogue by its name."""
    return {family.name: family for family in every_family()}


def imports_of(path: Path) -> set[str]:
    """Return the modules that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
    return found


def room_of(module: str) -> str:
    """Return the room that a module belongs to: the package below ours, or the module."""
    return ".".join(module.split(".")[:2])


def test_the_arrows_point_one_way() -> None:
    """import-linter keeps the layers, and the purity of the core."""
    command = "import sys; from importlinter.cli import lint_imports_command; sys.exit(lint_imports_command())"
    linted = subprocess.run(
        [sys.executable, "-c", command, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert linted.returncode == 0, linted.stdout + linted.stderr


@pytest.mark.parametrize("library", sorted(DOORS))
def test_a_library_is_imported_by_its_door_alone(library: str) -> None:
    """Whoever replaces a library has one room to change."""
    importers = {
        room_of(module)
        for module, path in MODULES.items()
        if any(name.split(".")[0] == library for name in imports_of(path))
    }

    assert importers
    assert importers <= DOORS[library]


def test_every_third_party_library_has_a_door() -> None:
    """A new one is named above, or stays out; NumPy is everywhere."""
    known = {*DOORS, "numpy", "bwexporter", *sys.stdlib_module_names}
    strangers = defaultdict(list)
    for module, path in MODULES.items():
        for name in imports_of(path):
            if name.split(".")[0] not in known:
                strangers[name].append(module)

    assert {} == strangers


@pytest.mark.parametrize("module", sorted(ROOMS))
def test_every_room_says_what_it_knows_and_what_it_does_not_know(module: str) -> None:
    """The header is where a reader learns which lines belong here."""
    header = " ".join((ast.get_docstring(ast.parse(MODULES[module].read_text())) or "").split())

    assert "Knows:" in header
    assert "Does not know:" in header
    assert "Turns " in header


@pytest.mark.parametrize("module", sorted(MODULES))
def test_every_module_has_a_header(module: str) -> None:
    """Also those that only name a package."""
    assert ast.get_docstring(ast.parse(MODULES[module].read_text()))


@pytest.mark.parametrize("module", sorted(name for name in MODULES if name.startswith("bwexporter.core")))
def test_the_core_imports_values_alone(module: str) -> None:
    """No clock, no file, no log: NumPy, ourselves and the value modules of the standard library."""
    values = {
        "calendar", "collections.abc", "contextlib", "dataclasses", "datetime", "enum", "errno", "functools",
        "itertools", "math", "operator", "typing", "zoneinfo", "__future__", "numpy", "numpy.typing",
    }  # fmt: skip
    others = {name for name in imports_of(MODULES[module]) if not name.startswith("bwexporter.core")} - values

    assert set() == others


@pytest.mark.parametrize("name", [f"bwexporter_{name}" for name in f"{LANE} {DEVICE} {TURN} {CHANGE}".split()])
def test_every_metric_that_dashboards_rely_on_is_in_the_catalogue(name: str) -> None:
    """The lane, device, turn and change families, by their exact names."""
    family = catalogued()[name]

    assert name.endswith("_total") == (family.kind is Kind.COUNTER)
    assert name.removeprefix("bwexporter_") not in LANE.split() or family.labels == ("device", "slice", "traffic")


def test_the_catalogue_has_no_metric_that_nobody_was_told_of() -> None:
    """Names are promises: a new one is written down first."""
    known = {f"bwexporter_{name}" for name in f"{LANE} {DEVICE} {TURN} {CHANGE} {OTHERS}".split()}

    assert set() == set(catalogued()) - known


def test_no_test_patches_anything() -> None:
    """Fakes are small honest machines."""
    words = ("mock" + ".patch", "monkeypatch" + ".setattr", "Magic" + "Mock")
    patched = [path.name for path in (ROOT / "tests").rglob("*.py") if any(word in path.read_text() for word in words)]

    assert [] == patched

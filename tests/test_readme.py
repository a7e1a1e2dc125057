"""The README tells the truth: its tables, its worked day, its commands and its examples."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from bwexporter.cli.main import cli
from bwexporter.config import load_config
from bwexporter.core import policy
from bwexporter.core.lanes import Reason
from bwexporter.slices.file import FileSource
from bwexporter.units import print_rate
from tests import reference
from tests.builders import DAY_SECONDS, GIGABIT, NOON, make_accounts, make_ledger, make_tariffs

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
FULL = 12_500_000

ROW = re.compile(r"^\| (\d\d):(\d\d):(\d\d) \| ([\d.]+) GB \| (\w[\w.]*) \| (\w+[ \w]*?):", re.MULTILINE)
WORKED_DAY = [
    (3600 * int(hours) + 60 * int(minutes) + int(seconds), float(used), ceiling, reason.replace(" ", "_"))
    for hours, minutes, seconds, used, ceiling, reason in ROW.findall(README)
]


def test_the_table_of_metrics_is_the_catalogue() -> None:
    """`make reference` writes it anew, and changes nothing."""
    assert reference.readme() == README


def test_the_worked_day_has_its_rows() -> None:
    """The pattern finds every row of the table."""
    assert 7 == len(WORKED_DAY)


@pytest.mark.parametrize(("seconds", "used_gb", "ceiling", "reason"), WORKED_DAY)
def test_the_worked_day_is_what_the_law_says(seconds: int, used_gb: float, ceiling: str, reason: str) -> None:
    """Every row of the worked day is a verdict of the law."""
    seconds %= int(DAY_SECONDS)
    accounts = make_accounts(
        used_bytes=int(used_gb * 1e9),
        period_start_at=NOON,
        period_end_at=NOON + DAY_SECONDS,
        recent_bytes=1,
    )
    ledger = make_ledger(accounts, ledger_seconds=NOON + seconds)
    tariffs = make_tariffs(full_bytes_per_second=FULL)
    times = {"interval_seconds": 10.0, "shortest_interval_seconds": 1.0, "look_margin_seconds": 2.0}

    verdict = policy.judge(
        ledger,
        tariffs,
        period_seconds=np.array([DAY_SECONDS]),
        held_ceiling_bytes_per_second=np.array([FULL]),
        cap_bytes_per_second=FULL,
        line_rate_bytes_per_second=GIGABIT,
        next_look_seconds=policy.next_look_seconds(ledger, tariffs, **times),
        look_margin_seconds=2.0,
        frozen=False,
    )

    assert reason == Reason(int(verdict.reason[0])).name.lower()
    assert ceiling == print_rate(int(verdict.ceiling_bytes_per_second[0]))


def test_every_command_that_the_readme_names_exists() -> None:
    """`bwexporter WORD` in the README is a command, `make WORD` a verb of the Makefile."""
    makefile = (ROOT / "Makefile").read_text()

    named = set(re.findall(r"`bwexporter (\w+)", README)) | set(re.findall(r"bin/bwexporter (\w+)", README))
    assert named <= set(cli.commands)
    assert {"run", "check", "slices", "status", "demo"} <= named
    for verb in set(re.findall(r"`make (\w+)", README)):
        assert re.search(rf"^{verb}:", makefile, re.MULTILINE), verb


def test_the_least_configuration_works(tmp_path: Path) -> None:
    """The two smallest files of the README are a configuration without a problem."""
    config, slices = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    (tmp_path / "bwexporter.yml").write_text(config)
    (tmp_path / "slices.yml").write_text(slices)

    loaded = load_config(tmp_path / "bwexporter.yml")
    read = FileSource(loaded.slice_files[0]).read()

    assert ("princeton_codeen", ()) == (read.records[0].name, read.problems)


def test_links_lead_somewhere() -> None:
    """Every relative link of the README is a file of the project."""
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target

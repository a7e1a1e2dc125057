"""docs/apmon.md: what it shows works."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from bwexporter.apmon.channel import Drop
from bwexporter.apmon.destinations import read_text
from bwexporter.apmon.rows import FIGURES
from bwexporter.cli.main import main
from tests.apmon_ground import Receiver

DOCS = (Path(__file__).parent.parent / "docs" / "apmon.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", DOCS, re.DOTALL | re.MULTILINE)
PYTHON = [block for language, block in BLOCKS if language == "python"]
COMMANDS = re.findall(r"^bwexporter (apmon .*)$", DOCS, re.MULTILINE)


@pytest.mark.parametrize("code", PYTHON)
def test_the_examples_run_and_send(code: str) -> None:
    """To a receiver at another port."""
    with Receiver() as receiver:
        exec(compile(code.replace("8884", str(receiver.port)), "docs/apmon.md", "exec"), {})  # noqa: S102
        assert "cluster" == receiver.wait_for(1)[0].cluster


def test_the_file_is_read_without_a_problem() -> None:
    """Strictly."""
    (text,) = [block for language, block in BLOCKS if not language and "xApMon" in block]
    reading = read_text(text, name="docs")

    assert ((), ()) == (reading.problems, reading.warnings)
    assert 2 == len(reading.setup.destinations)


def test_the_shown_datagram_is_decoded(capsys: pytest.CaptureFixture[str]) -> None:
    """And every command shown takes the options it is shown with."""
    (decoding,) = [command for command in COMMANDS if "0000" in command]
    with pytest.raises(SystemExit) as ended:
        main(shlex.split(decoding))
    assert 0 == ended.value.code
    assert [["p", 2, 5]] == json.loads(capsys.readouterr().out)["parameters"]
    for command in COMMANDS:
        words = shlex.split(command)
        main([*words[:2], "--help"])
        said = capsys.readouterr().out
        assert {word for word in words if word.startswith("--")} <= set(re.findall(r"--[\w-]+", said))


def test_every_figure_and_every_reason_is_in_the_tables() -> None:
    """And the tables name no other."""
    named = set(re.findall(r"`(\w+)`", DOCS.partition("| figure | meaning |")[2].partition("\n\n")[0]))
    reasons = set(re.findall(r"`(\w+)`", DOCS.partition("| reason |")[2].partition("\n\n")[0]))

    assert {*FIGURES, "verdict"} == named
    assert {drop.value for drop in Drop} == reasons

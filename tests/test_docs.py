"""The documentation tells the truth: its commands, targets, files and keys exist."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from bwexporter.cli.main import cli
from bwexporter.metrics import catalogue
from tests import reference
from tests.test_architecture import OTHERS, catalogued

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "deploy").rglob("*.md"))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]

_BLOCK = re.compile(r"^```(?:sh|console|bash)?\n(.*?)^```", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`(bwexporter [^`]+)`")
_METRIC = re.compile(r"\bbwexporter_[a-z0-9_]+[a-z0-9]\b(?!:)")
_LINK = re.compile(r"\]\((?!https?://|mailto:|#)([^)#\s]+)[^)]*\)")
_SUFFIXES = ("_bucket", "_sum", "_count")


def commands(text: str) -> Iterator[list[str]]:
    """Yield the words of each call of ours in code, up to where a shell would end it."""
    text = text.replace("\\|", "|")
    lines = [line for block in _BLOCK.findall(text) for line in block.replace("\\\n", " ").splitlines()]
    for line in [*lines, *_INLINE.findall(text)]:
        found = re.search(r"(?:^|[\s/])bwexporter\s+(?=[a-z|-]+(?:\s|$))(.*)", line.split("#")[0])
        if found and not line.lstrip().startswith(("docker", "useradd", "install", "systemctl", "cp", "ln", "apt")):
            yield shlex.split(re.split(r"[|>;&]|\s{2,}\(", found[1])[0].replace("`", ""))


def assert_is_a_call(words: list[str]) -> None:
    """See that commands and options exist; values are anything."""
    command: click.Command = cli
    for word in words:
        if isinstance(command, click.Group) and not word.startswith("-"):
            names = word.split("|")
            assert all(name in command.commands for name in names), f"{word} is no command of {command.name}"
            command = command.commands[names[0]]
        elif word.startswith("-"):
            options = {
                option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)
            }
            assert word.split("=")[0] in {*options, "-h", "--help", "--version"}, (
                f"{word} is no option of {command.name}"
            )


@pytest.mark.parametrize("name", NAMES)
def test_the_commands_that_a_page_shows_exist(name: str) -> None:
    """With every option that it gives them."""
    for words in commands((ROOT / name).read_text()):
        assert_is_a_call(words)


def test_commands_are_found_at_all() -> None:
    """The patterns above see what people see."""
    assert len([words for page in PAGES for words in commands(page.read_text())]) > 20
    with pytest.raises(AssertionError, match="no option"):
        assert_is_a_call(["run", "--no-such-option"])
    with pytest.raises(AssertionError, match="no command"):
        assert_is_a_call(["no-such-command"])


@pytest.mark.parametrize("name", NAMES)
def test_the_make_targets_that_a_page_names_exist(name: str) -> None:
    """`make demo` and the others."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make ([a-z-]+)", (ROOT / name).read_text(), re.MULTILINE)) <= targets


@pytest.mark.parametrize("name", NAMES)
def test_the_files_that_a_page_links_to_exist(name: str) -> None:
    """Relative to the page."""
    page = ROOT / name
    assert [] == [link for link in _LINK.findall(page.read_text()) if not (page.parent / link).exists()]


@pytest.mark.parametrize("name", NAMES)
def test_the_metrics_that_a_page_names_are_published(name: str) -> None:
    """A name in prose is relied on as one in a dashboard is."""
    known = {*catalogued(), *(f"bwexporter_{other}" for other in OTHERS.split())}
    known |= {family + suffix for family in known for suffix in _SUFFIXES}
    assert set() == set(_METRIC.findall((ROOT / name).read_text())) - known
    assert catalogue.LANE_FAMILIES


def test_the_reference_of_the_files_is_that_of_their_schemas() -> None:
    """`make reference` writes it anew."""
    assert reference.page() == reference.PAGE.read_text()

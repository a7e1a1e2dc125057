"""The documentation tells the truth: its commands, targets, files and keys exist."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from bwexporter.cli.main import cli
from bwexporter.yamlfile import parse_yaml
from tests import reference
from tests.certificates import Authority
from tests.documented import PAGES, ROOT
from tests.test_architecture import OTHERS, catalogued

NAMES = [str(page.relative_to(ROOT)) for page in PAGES]

_BLOCK = re.compile(r"^```([a-z]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_SHELLS = ("", "sh", "console", "bash")
_INLINE = re.compile(r"`(bwexporter [^`]+)`")
_METRIC = re.compile(r"\bbwexporter_[a-z0-9_]+[a-z0-9]\b(?!:)")
_LINK = re.compile(r"\]\((?!https?://|mailto:|#)([^)#\s]+)[^)]*\)")
_SUFFIXES = ("_bucket", "_sum", "_count")

A_HASH = "$2y$10$" + "a" * 53  # of no password


def commands(text: str) -> Iterator[list[str]]:
    """Yield the words of each call of ours in code, up to where a shell would end it."""
    text = text.replace("\\|", "|")
    blocks = [block for language, block in _BLOCK.findall(text) if language in _SHELLS]
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
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


NO_CONFIGURATION_OF_OURS = {"apiVersion": "Grafana's own", "tasks": "a play of Ansible, which make install-check runs"}
"""Blocks of YAML of other programs, by a key of theirs."""


def yaml_blocks() -> Iterator[tuple[str, Any]]:
    """Yield each block of YAML with its page."""
    for page in PAGES:
        for block in re.findall(r"(?s)^```yaml\n(.*?)^```", page.read_text(), re.MULTILINE):
            yield str(page.relative_to(ROOT)), parse_yaml(block.encode(), file=page.name).data


@pytest.mark.parametrize(("name", "data"), [pytest.param(*one, id=f"{one[0]}") for one in yaml_blocks()])
def test_the_configuration_that_a_page_shows_is_good(name: str, data: Any, tmp_path: Path) -> None:
    """`check` finds nothing wrong with it, completed with what it leaves out; Prometheus' own tools likewise."""
    keys = set().union(*data) if isinstance(data, list) else set(data)
    if keys & NO_CONFIGURATION_OF_OURS.keys():
        return
    if "scrape_configs" in keys:
        (tmp_path / "prometheus.yml").write_text(json.dumps(data))
        subprocess.run(["promtool", "check", "config", str(tmp_path / "prometheus.yml")], check=True)
    elif "tls_server_config" in keys:
        check_web(data, tmp_path)
    else:
        check_ours(data, tmp_path, name)


def check_ours(data: dict[str, Any], folder: Path, page: str) -> None:
    """Let `check` look at a configuration, or at slices, in a folder with the files that it names."""
    of_slices = any("name" in one for one in data.get("slices", [])) or "nodes" in data
    config: dict[str, Any] = {
        "devices": [{"name": "eth0", "cap": "100mbit", "line_rate": "1gbit"}],
        "state": "state.db",
        "slices": [{"file": "slices.yml"}],
    }
    if of_slices and any("class" in one for one in data["slices"]):
        config["devices"] = [{"name": "eth0", "tree": "existing", "line_rate": "1gbit"}]
    config |= {} if of_slices else data
    authority = Authority(folder, "clients").certificate
    written = {
        "bwexporter.yml": json.dumps(config),
        "slices.yml": json.dumps(data if of_slices else {"slices": []}),
        "slices.token": "secret",
        "plc-auth.yml": "AuthMethod: anonymous",
        "ca.pem": authority.read_text(),
        "apmon.conf": "127.0.0.1:8884 password",
    }
    for file, text in written.items():
        (folder / file).write_text(text)
    (folder / "web.yml").touch()
    checked = CliRunner().invoke(cli, ["check", str(folder / "bwexporter.yml")])
    assert checked.exit_code == 0, (page, checked.output)


def check_web(data: dict[str, Any], folder: Path) -> None:
    """Let both programs that read such a file look at it, with a hash where the page has dots."""
    clients = Authority(folder, "clients")
    clients.sign("server")
    users = dict.fromkeys(data["basic_auth_users"], A_HASH)
    (folder / "web.yml").write_text(json.dumps({**data, "basic_auth_users": users}))
    subprocess.run(["promtool", "check", "web-config", str(folder / "web.yml")], check=True)
    check_ours({"web": {"config_file": "web.yml"}}, folder, "docs/web.md")


def test_the_reference_of_the_files_is_that_of_their_schemas() -> None:
    """`make reference` writes it anew."""
    assert reference.page() == reference.PAGE.read_text()

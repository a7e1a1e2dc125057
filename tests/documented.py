"""What the documentation tells people to type: the command lines of its pages.

Turns Markdown into lines to run, each with what a page shows as its answer. Knows: which blocks and code spans hold
commands, what stands for a name of the reader's. Does not know: what runs them, and which of them cannot be run here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "deploy").rglob("*.md"))]
PROGRAMS = re.compile(
    "amtool|ansible-doc|ansible-playbook|apt|apt-get|bwexporter|cp|curl|docker|editor|git|install|ip|journalctl|kubectl|"
    "ln|make|mkdir|nft|openssl|pip|pipx|podman|promtool|python3|sed|systemctl|tc|useradd"
)
STANDS_FOR = {
    "SLICE": "princeton_codeen",
    "NAME": "princeton_codeen",
    "DEVICE": "eth0",
    "check FILE": "check /etc/bwexporter/bwexporter.yml",
    "2d": "5m",  # a node that was made a moment ago has no days behind it
    "7d": "5m",
    "SHELL": "bash",
    "WHY": "'ticket 4711'",
    "config|slices": "config",
}
"""What a page writes where the reader writes something else."""

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`\n]+)`")


@dataclass(frozen=True, slots=True)
class Line:
    """A command line, and the lines that the page shows as its answer."""

    page: str
    text: str
    answer: tuple[str, ...] = ()


def lines_of(path: Path) -> Iterator[Line]:
    """Yield the command lines of a page, those of blocks first."""
    page, text = str(path.relative_to(ROOT)), path.read_text()
    for language, block in _BLOCK.findall(text):
        if language in {"sh", "bash", "console"} or (not language and PROGRAMS.fullmatch(_program(block))):
            yield from _of_block(page, block)
    for span in _SPAN.findall(_BLOCK.sub("", text).replace("\\|", "|")):
        if " " in span and PROGRAMS.fullmatch(_program(span)):
            yield Line(page, _filled_in(span))


def _program(text: str) -> str:
    """Return the first word, without a prompt and a folder."""
    words = text.removeprefix("$ ").split(maxsplit=1)
    return words[0].rpartition("/")[2] if words else ""


def _of_block(page: str, block: str) -> Iterator[Line]:
    written = block.replace("\\\n", " ").splitlines()
    starts = [at for at, line in enumerate(written) if line.startswith("$ ")]
    if not starts:
        yield from (Line(page, _filled_in(line)) for line in written if line.strip())
        return
    for at, end in zip(starts, [*starts[1:], len(written)], strict=True):
        answer = tuple(line for line in written[at + 1 : end] if line.strip() not in {"", "..."})
        yield Line(page, _filled_in(written[at].removeprefix("$ ")), answer)


def _filled_in(line: str) -> str:
    """Return the line as a reader would type it: optional names given, comments gone, blanks in line."""
    line = re.sub(r"\s+#.*$", "", line)
    line = re.sub(r"\[([A-Z]+)\]", r"\1", line)
    for word, meant in STANDS_FOR.items():
        line = re.sub(rf"(?<![\w$]){re.escape(word)}(?!\w)", meant, line)
    return re.sub(r"(?<=\S) {2,}", " ", line).strip()

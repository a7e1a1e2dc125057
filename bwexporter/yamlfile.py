"""YAML with line numbers: from a file to plain data that remembers where each value stands.

Turns bytes into mappings, lists and scalars, and the path of a value into its line. Knows: YAML, its traps (duplicate
keys, aliases that multiply, tags, `no` that becomes false) and the limits set to them. Does not know: any key.

Scalars are resolved as YAML 1.2's core schema says (https://yaml.org/spec/1.2.2/#103-core-schema): only `true` and
`false` are truth values. JSON is YAML.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from bwexporter.errors import ConfigError, Problem
from bwexporter.regular import open_regular

LARGEST_FILE_BYTES = 16 * 1024 * 1024
MOST_VALUES = 2_000_000
DEEPEST = 32
MOST_PARTS = 100
"""Top keys up to which a file that is not YAML as a whole is read key by key."""

Step = str | int
KeyPath = tuple[Step, ...]

_INTEGER = re.compile(r"[-+]?[0-9]{1,300}")
_OTHER_BASE = re.compile(r"0x[0-9a-fA-F]{1,60}|0o[0-7]{1,60}")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]{1,300}|[0-9]{1,300}(?:\.[0-9]{0,300})?)(?:[eE][-+]?[0-9]{1,9})?")
_WORDS: Mapping[str, object] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}
_TOP_KEY = re.compile(rb"^([A-Za-z_][A-Za-z0-9_-]*)[ \t]*:(?=\s|$)", re.MULTILINE)
_ANCHORED = re.compile(rb"(?:^|[\s\[{,:-])[&*][^\s]", re.MULTILINE)
_MAY_BE_NO_TEXT = frozenset("0123456789+-.~ntfNTF")
_PLAIN_TAGS = {"!", "tag:yaml.org,2002:str", "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"}
# libyaml reads some ten times as fast; PyYAML may have been built without it.
_Parser = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True)
class Document:
    """Plain data (dict, list, str, int, float, bool, None) and the line of each key and list item in it."""

    file: str
    data: object
    lines: Mapping[int, Mapping[Step, int]] = field(repr=False)  # by id() of a container, which `data` keeps alive

    def line_of(self, path: KeyPath) -> int:
        """Return the line (from 1) at which a path stands; of a path that is not there, the line of what holds it.

        0 where lines are not known.
        """
        line, value = min(len(self.lines), 1), self.data
        for step in path:
            known = self.lines.get(id(value), {})
            if step not in known or not isinstance(value, (dict, list)):
                break
            line = known[step]
            value = value[step]  # type: ignore[index]  # a container has just the steps whose lines are known
        return line

    def problem(self, path: KeyPath, text: str) -> Problem:
        """Return a problem at a path."""
        return Problem(self.file, self.line_of(path), key_of(path), text)


def load_yaml(path: Path) -> Document:
    """Read one file. ConfigError names everything wrong with it as YAML, or why it cannot be read."""
    return parse_yaml(read_content(path), file=str(path))


def read_content(path: Path) -> bytes:
    """Return the bytes of a file, one more than it may have at most; ConfigError where it cannot be read."""
    try:
        with open_regular(path) as stream:
            return stream.read(LARGEST_FILE_BYTES + 1)
    except OSError as trouble:
        reason = trouble.strerror or "unknown trouble"
        raise ConfigError([Problem(str(path), 0, "", f"cannot be read: {reason}")]) from trouble


def parse_yaml(content: bytes, *, file: str) -> Document:
    """Read the content of a file; `file` is the name that problems are given. ConfigError as in `load_yaml`."""
    _refuse_unreadable(content, file)
    found = _built(content, file)
    if found.problems or found.document is None:
        raise ConfigError(found.problems)
    return found.document


@dataclass(frozen=True, slots=True)
class Survey:
    """What can be made of a file, and all that is wrong with it as YAML.

    The document is None where nothing can be made of it. Of the top keys in `doubtful` it may lack a part, or all.
    """

    document: Document | None
    problems: tuple[Problem, ...]
    doubtful: frozenset[str] = frozenset()


def survey_yaml(content: bytes, *, file: str) -> Survey:
    """Return what can be read of a file that may be no good YAML; ConfigError where it cannot be read as text.

    Where a fault is such that nothing after it can be read, each top key is read by itself, so that it costs its own
    key alone. Anchors and aliases may reach from one key to another: with any of these the file is not taken apart.
    """
    _refuse_unreadable(content, file)
    found, parts = _built(content, file), list(_TOP_KEY.finditer(content))
    if found.document is not None or not 1 < len(parts) <= MOST_PARTS or _ANCHORED.search(content):
        return found
    ends = [*(part.start() for part in parts[1:]), len(content)]
    before = content[: parts[0].start()]
    lines: dict[int, Mapping[Step, int]] = {}
    of_keys: dict[Step, int] = {}
    data: dict[str, object] = {}
    problems, doubtful = [*_built(before, file).problems], set[str]()
    for part, end in zip(parts, ends, strict=True):
        key, line = part[1].decode(), content.count(b"\n", 0, part.start())
        of_part = _built(content[part.start() : end], file, lines_before=line)
        problems += of_part.problems
        doubtful |= {key} if of_part.problems else set()
        one = of_part.document
        if key in of_keys:
            problems.append(_twice(file, line + 1, key, of_keys[key]))
            doubtful.add(key)
        elif one is not None and isinstance(one.data, dict) and key in one.data:
            data[key] = one.data[key]
            lines |= one.lines
        of_keys.setdefault(key, line + 1)
    whole = Document(file, data, {**lines, id(data): of_keys})
    return Survey(whole, tuple(problems), frozenset(doubtful))


def _refuse_unreadable(content: bytes, file: str) -> None:
    if len(content) > LARGEST_FILE_BYTES:
        raise ConfigError([Problem(file, 0, "", f"is larger than {LARGEST_FILE_BYTES >> 20} MiB")])
    try:
        content.decode()
    except UnicodeDecodeError as trouble:
        line = content.count(b"\n", 0, trouble.start) + 1
        raise ConfigError([Problem(file, line, "", "is not UTF-8 text")]) from trouble


def _built(content: bytes, file: str, *, lines_before: int = 0) -> Survey:
    """Return what can be read in one go: nothing where a fault is such that it cannot be read to its end."""
    builder = _Builder(file, lines_before)
    parser = _Parser(content)
    try:
        while not isinstance(event := parser.get_event(), yaml.StreamEndEvent):
            builder.feed(event)
    except yaml.YAMLError as trouble:
        return Survey(None, (*builder.problems, _syntax_problem(trouble, content, file, lines_before)))
    except ConfigError as fatal:
        return Survey(None, fatal.problems)
    finally:
        parser.dispose()
    return Survey(Document(file, builder.root, builder.lines), tuple(builder.problems), frozenset(builder.doubtful))


def key_of(path: KeyPath) -> str:
    """Return a path as people read it.

    >>> key_of(("devices", 0, "cap"))
    'devices[0].cap'
    """
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).removeprefix(".")


def _syntax_problem(trouble: yaml.YAMLError, content: bytes, file: str, lines_before: int) -> Problem:
    if isinstance(trouble, yaml.MarkedYAMLError):
        mark = trouble.problem_mark or trouble.context_mark
        context = f" ({trouble.context})" if trouble.context else ""
        last = content.rstrip().count(b"\n")  # nobody finds a line after the end
        line = lines_before + min(mark.line, last) + 1 if mark else 0
        return Problem(file, line, "", f"is not YAML here: {trouble.problem}{context}")
    position = getattr(trouble, "position", 0) or 0
    reason = getattr(trouble, "reason", "unreadable")
    line = lines_before + content.count(b"\n", 0, position) + 1
    return Problem(file, line, "", f"is not YAML here: {reason}")


def _twice(file: str, line: int, key: str, first_line: int) -> Problem:
    return Problem(file, line, key, f"stands here and at line {first_line}; a key may stand once")


@dataclass(slots=True)
class _Frame:
    """A mapping or list that is still open."""

    container: dict[str, object] | list[object]
    line: int
    anchor: str | None
    lines: dict[Step, int] = field(default_factory=dict)
    key: str | None = None
    key_line: int = 0
    merging: bool = False
    merged: list[object] = field(default_factory=list)
    size: int = 1  # values in it, those that its aliases stand for included


class _Builder:
    """Builds plain data from the events of a YAML parser; remembers what is wrong and goes on while it can."""

    def __init__(self, file: str, lines_before: int = 0) -> None:
        self._lines_before = lines_before
        self.problems: list[Problem] = []
        self.doubtful: set[str] = set()  # the top keys at or below which they are
        self.root: object = None
        self.lines: dict[int, Mapping[Step, int]] = {}
        self._file = file
        self._open: list[_Frame] = []
        self._anchors: dict[str, tuple[object, int] | None] = {}  # None: still open
        self._documents = 0

    def feed(self, event: yaml.Event) -> None:
        """Take one event."""
        if isinstance(event, yaml.ScalarEvent):
            self._scalar(event)
        elif isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            self._start(event)
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            self._end()
        elif isinstance(event, yaml.AliasEvent):
            self._alias(event)
        elif isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                raise self._fatal(self._line(event), "a second document begins here; there may be one only")

    def _fatal(self, line: int, text: str) -> ConfigError:
        return ConfigError([*self.problems, Problem(self._file, line, "", text)])

    def _scalar(self, event: yaml.ScalarEvent) -> None:
        line = self._line(event)
        frame = self._open[-1] if self._open else None
        plain = event.implicit[0]
        self._check_tag(event, line)
        if frame and frame.key is None and isinstance(frame.container, dict):
            frame.key, frame.key_line = event.value, line
            frame.merging = plain and event.value == "<<"
            return
        value = _resolve(event.value) if plain else event.value
        if event.anchor:
            self._anchors[event.anchor] = (value, 1)
        self._put(value, line, 1)

    def _start(self, event: yaml.MappingStartEvent | yaml.SequenceStartEvent) -> None:
        line = self._line(event)
        frame = self._open[-1] if self._open else None
        if frame and frame.key is None and isinstance(frame.container, dict):
            raise self._fatal(line, "a key must be text")
        if len(self._open) >= DEEPEST:
            raise self._fatal(line, f"is nested deeper than {DEEPEST} levels")
        self._check_tag(event, line)
        if event.anchor:
            self._anchors[event.anchor] = None
        container: dict[str, object] | list[object] = {} if isinstance(event, yaml.MappingStartEvent) else []
        self._open.append(_Frame(container, line, event.anchor))

    def _end(self) -> None:
        frame = self._open.pop()
        for merged in frame.merged:
            self._merge(merged, frame)
        self.lines[id(frame.container)] = frame.lines
        if frame.anchor:
            self._anchors[frame.anchor] = (frame.container, frame.size)
        self._put(frame.container, frame.line, frame.size)

    def _alias(self, event: yaml.AliasEvent) -> None:
        line = self._line(event)
        if event.anchor not in self._anchors:
            raise self._fatal(line, f"*{event.anchor} stands for nothing; no &{event.anchor} comes before it")
        known = self._anchors[event.anchor]
        if known is None:
            raise self._fatal(line, f"*{event.anchor} stands for something that holds it")
        frame = self._open[-1] if self._open else None
        if frame and frame.key is None and isinstance(frame.container, dict):
            raise self._fatal(line, "a key must be text")
        self._put(known[0], line, known[1])

    def _put(self, value: object, line: int, size: int) -> None:
        """Place a value that is complete into what holds it."""
        if not self._open:
            self.root = value
            return
        frame = self._open[-1]
        frame.size += size
        if frame.size > MOST_VALUES:
            raise self._fatal(line, f"holds more than {MOST_VALUES} values, those that aliases stand for included")
        if isinstance(frame.container, list):
            frame.lines[len(frame.container)] = line
            frame.container.append(value)
            return
        key, frame.key = str(frame.key), None
        if frame.merging:
            frame.merged.extend(value if isinstance(value, list) else [value])
        elif key in frame.container:
            self._note(_twice(self._file, frame.key_line, key, frame.lines[key]), key)
        else:
            frame.container[key] = value
            frame.lines[key] = frame.key_line

    def _merge(self, merged: object, frame: _Frame) -> None:
        """Take over what `<<` names, where the mapping itself does not say otherwise."""
        if not isinstance(merged, dict) or not isinstance(frame.container, dict):
            raise self._fatal(frame.line, "<< takes a mapping or a list of mappings")
        for key, value in merged.items():
            if key not in frame.container:
                frame.container[key] = value
                frame.lines[key] = self.lines[id(merged)][key]

    def _check_tag(self, event: yaml.ScalarEvent | yaml.CollectionStartEvent, line: int) -> None:
        if event.tag is not None and event.tag not in _PLAIN_TAGS:
            self._note(Problem(self._file, line, "", f"the tag {event.tag} is not known here; leave it out"))

    def _note(self, problem: Problem, key: str = "") -> None:
        """Note a problem at a key of the mapping that is open; the mapping itself has a key where it is not the top."""
        self.problems.append(problem)
        top = self._open[0].key if self._open else None
        self.doubtful |= {top or key}

    def _line(self, event: yaml.Event) -> int:
        return self._lines_before + event.start_mark.line + 1 if event.start_mark else 0


def _resolve(text: str) -> object:
    """Return what a plain scalar means in YAML 1.2's core schema."""
    if text and text[0] not in _MAY_BE_NO_TEXT:
        return text
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _OTHER_BASE.fullmatch(text):
        return int(text, 0)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text

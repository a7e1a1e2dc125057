"""The errors of bwexporter; each carries one sentence that says what is wrong and what to do.

BwexporterError
 |- ConfigError        cannot start, cannot reload: every problem of the files at once
 |- StateRefused       cannot start: the state file must not be touched (newer than the program, in use)
 |- DeviceRefused      cannot use a device: foreign queue, missing capability, another instance
 `- KernelUnreadable   cannot look: the turn is skipped for that device, accounts and caps stay
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class BwexporterError(Exception):
    """Root of all errors that a user may read; its text is for people."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong in a file that a person wrote."""

    file: str
    line: int  # counted from 1; 0 where the problem has no line
    key: str  # dotted path, as devices[0].cap
    text: str

    def __str__(self) -> str:
        """Say it as compilers do: file:line: key: text."""
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.key}: {self.text}" if self.key else f"{place}: {self.text}"


class ConfigError(BwexporterError):
    """All problems of the configuration at once."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


class StateRefused(BwexporterError):
    """The state file cannot be used and was left untouched."""


class DeviceRefused(BwexporterError):
    """A device cannot be used; nothing on it was touched."""


class KernelUnreadable(BwexporterError):
    """The kernel did not answer a look; the next turn tries again."""

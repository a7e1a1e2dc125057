"""A group of commands that are imported when they are called.

Turns a table of names into commands. Knows: where each command lies and what help says of it in a line, so that neither
help nor completion imports any. Does not know: what a command does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import click
from click.shell_completion import CompletionItem


@dataclass(frozen=True, slots=True)
class Listed:
    """Where a command lies, and what help says of it in a line; it is silent about one without such a line."""

    module: str
    attribute: str
    short_help: str = ""


class LazyGroup(click.Group):
    """A group whose commands stand in a table."""

    def __init__(self, *, listed: Mapping[str, Listed], **more: Any) -> None:
        super().__init__(**more)
        self.listed = listed
        self.commands = _Commands(listed)  # type: ignore[assignment]  # click writes to it in add_command alone

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's
        """Write a line for each command that is shown."""
        with formatter.section("Commands"):
            formatter.write_dl(list(self._shown()))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return the commands and options that a shell may offer."""
        commands = [CompletionItem(name, help=text) for name, text in self._shown() if name.startswith(incomplete)]
        return [*commands, *click.Command.shell_complete(self, ctx, incomplete)]

    def _shown(self) -> Iterator[tuple[str, str]]:
        return ((name, there.short_help) for name, there in sorted(self.listed.items()) if there.short_help)


class _Commands(Mapping[str, click.Command]):
    """The commands by their names; looking one up imports it."""

    def __init__(self, listed: Mapping[str, Listed]) -> None:
        self._listed = listed

    def __getitem__(self, name: str) -> click.Command:
        there = self._listed[name]
        command: click.Command = getattr(import_module(there.module), there.attribute)
        return command

    def __iter__(self) -> Iterator[str]:
        return iter(self._listed)

    def __len__(self) -> int:
        return len(self._listed)

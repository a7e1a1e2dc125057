"""`bwexporter manual`: the manual page, bwexporter(1), made from the help that the commands give.

Turns a click command with all below it into roff (man-pages(7), groff_man(7)). Knows: the sections of a manual page.
Does not know: any command.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from inspect import cleandoc

import click

from bwexporter import __version__

_FILES = (
    ("/etc/bwexporter/bwexporter.yml", "The configuration; `bwexporter check` says what is wrong with it."),
    ("/etc/bwexporter/slices.yml", "The slices, where the configuration names this file."),
    ("/var/lib/bwexporter/state.db", "Accounts, events and use over time."),
)
_EXIT_CODES = (("0", "Done."), ("1", "Failed."), ("2", "Wrong usage, or files that cannot be used."))


@click.command(hidden=True)
@click.pass_context
def manual(context: click.Context) -> None:
    """Print the manual page."""
    click.echo("\n".join(_page(context.find_root())))


def _page(root: click.Context) -> Iterator[str]:
    name = root.info_name or "bwexporter"
    yield f'.TH {name.upper()} 1 "" "{name} {__version__}" "User Commands"'
    yield from (".SH NAME", f"{name} \\- count and cap the traffic of slices on Linux HTB, for Prometheus")
    yield from (".SH SYNOPSIS", f".B {name}", "COMMAND [OPTIONS]")
    yield from (".SH DESCRIPTION", *_prose(root.command.help))
    yield ".SH COMMANDS"
    for command in _below(root):
        yield from _section(command)
    yield from (".SH FILES", *_terms(_FILES), ".SH EXIT STATUS", *_terms(_EXIT_CODES))


def _below(context: click.Context) -> Iterator[click.Context]:
    """Yield the context of every command that is shown, groups before what is in them."""
    if not isinstance(context.command, click.Group):
        return
    for name in context.command.list_commands(context):
        command = context.command.get_command(context, name)
        if command is not None and not command.hidden:
            inner = click.Context(command, info_name=name, parent=context)
            yield inner
            yield from _below(inner)


def _section(context: click.Context) -> Iterator[str]:
    pieces = " ".join(context.command.collect_usage_pieces(context))
    yield from (f".SS {_plain(f'{context.command_path} {pieces}')}", *_prose(context.command.help))
    records = (option.get_help_record(context) for option in context.command.get_params(context))
    yield from _terms([record for record in records if record and record[1] and not record[0].startswith("-h,")])


def _terms(pairs: tuple[tuple[str, str], ...] | list[tuple[str, str]]) -> Iterator[str]:
    for term, text in pairs:
        yield from (".TP", f"\\fB{_plain(term)}\\fR", _plain(text))


def _prose(text: str | None) -> Iterator[str]:
    """Yield the paragraphs of a help text; those that click leaves as they are stay so here."""
    for paragraph in re.split(r"\n\s*\n", cleandoc(text or "")):
        first, *others = paragraph.split("\n")
        if first.strip() == "\b":
            yield from (".PP", ".nf", *map(_plain, others), ".fi")
        else:
            yield from (".PP", _plain(" ".join([first, *others])))


def _plain(text: str) -> str:
    """Guard what roff would read as its own."""
    guarded = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{guarded}" if guarded.startswith((".", "'")) else guarded

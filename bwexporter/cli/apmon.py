"""`bwexporter apmon`: ApMon datagrams read, made and sent by hand.

Turns arguments and files into datagrams, and datagrams into JSON or text. Knows: how hex, files and standard input are
told apart, what is printed. Does not know: the layout of a datagram, how it reaches a receiver.
"""

from __future__ import annotations

import json
import re
import socket
import string
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from bwexporter.apmon import plain, wire
from bwexporter.errors import BwexporterError

_HEX = frozenset(string.hexdigits.encode() + string.whitespace.encode())
_BUFFER_BYTES = 65535


@click.group("apmon", short_help="Read, make and send ApMon (MonALISA) datagrams.")
def apmon() -> None:
    """Read, make and send ApMon datagrams, which MonALISA receives.

    `decode` shows what a datagram holds, `decode --listen` what arrives at this machine, and `encode` makes a datagram
    of the JSON that `decode --json` prints.

    \b
    See what a sender sends, as it comes:
      bwexporter apmon decode --listen 8884
    """  # noqa: D301 - \b as one character is click's mark for lines that stay as they are


@apmon.command()
@click.argument("source", metavar="HEX|FILE|-", required=False)
@click.option("--listen", metavar="[HOST:]PORT", help="Show what arrives at this UDP port; 0 takes a free one.")
@click.option("--count", type=click.IntRange(min=1), help="With --listen: end after so many datagrams.")
@click.option("--show-password", is_flag=True, help="Show the password of the header, which is hidden for people.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a datagram, the password included.")
def decode(source: str | None, listen: str | None, *, count: int | None, show_password: bool, as_json: bool) -> None:
    """Show what datagrams hold: of hex, of a file, of standard input (-), or as they arrive (--listen).

    A file holds one datagram as it is, or a datagram in hex on each line. Nothing is cleaned: what no receiver would
    take is shown as well. Exit code 1 where something is no datagram.
    """
    if (source is None) == (listen is None):
        raise click.UsageError("Give either hex, a file or -, or --listen PORT.")
    arriving = _arriving(listen, count) if listen is not None else _given(source or "")
    failed = False
    for sender, payload in arriving:
        try:
            _show(sender, payload, show_password=show_password, as_json=as_json)
        except wire.WireError as error:
            failed = True
            click.echo(f"bwexporter: {sender}not a datagram of ApMon 2.2 or later: {error}", err=True)
    sys.exit(int(failed and listen is None))


def _show(sender: str, payload: bytes, *, show_password: bool, as_json: bool) -> None:
    datagram = wire.decode(payload)
    if as_json:
        click.echo(json.dumps(plain.to_plain(datagram), allow_nan=False))
        return
    if sender:
        click.echo(f"from        {sender.removesuffix(': ')}")
    click.echo("\n".join(plain.lines(datagram, length=len(payload), show_password=show_password)))
    click.echo()


def _given(source: str) -> Iterator[tuple[str, bytes]]:
    """Yield the datagrams of an argument."""
    content = _content(source)
    if set(content) <= _HEX:
        for line in content.split(b"\n"):
            if line.strip():
                yield "", _from_hex(line)
    else:
        yield "", content


def _content(source: str) -> bytes:
    if source == "-":
        return sys.stdin.buffer.read()
    if set(source.encode("utf-8", "surrogateescape")) <= _HEX and not _is_file(source):
        return source.encode()
    try:
        return Path(source).read_bytes()
    except OSError as error:
        raise BwexporterError(f"{source} is neither hex nor a file that can be read ({error.strerror})") from error


def _is_file(name: str) -> bool:
    try:
        return Path(name).is_file()
    except OSError:  # a long text of hex is no name
        return False


def _from_hex(line: bytes) -> bytes:
    try:
        return bytes.fromhex(line.decode("ascii"))
    except ValueError:
        raise BwexporterError("the hex has an odd number of digits; each byte has two") from None


def _arriving(listen: str, count: int | None) -> Iterator[tuple[str, bytes]]:
    """Yield datagrams as they arrive, with who sent them."""
    with _listening(listen) as receiver:
        click.echo(f"listening on UDP port {receiver.getsockname()[1]}; Ctrl-C ends it", err=True)
        received = 0
        while count is None or received < count:
            payload, sender = receiver.recvfrom(_BUFFER_BYTES)
            received += 1
            host = sender[0].removeprefix("::ffff:")
            yield f"[{host}]:{sender[1]}: " if ":" in host else f"{host}:{sender[1]}: ", payload


def _listening(listen: str) -> socket.socket:
    match = re.fullmatch(r"(?:(?:\[([0-9a-fA-F:.%\w]+)\]|([^\s:\[\]]*)):)?([0-9]{1,5})", listen, re.ASCII)
    if match is None or int(match[3]) > 65535:
        raise click.BadParameter(f"{listen!r} is not a port, as 8884, or host:port", param_hint="--listen")
    host, port = match[1] or match[2] or "", int(match[3])
    try:
        if not host and socket.has_dualstack_ipv6():
            receiver = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
            receiver.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            receiver.bind(("::", port))
            return receiver
        family, kind, protocol, _, address = socket.getaddrinfo(host or None, port, type=socket.SOCK_DGRAM)[0]
        receiver = socket.socket(family, kind, protocol)
        receiver.bind(address)
    except OSError as error:
        raise BwexporterError(f"cannot listen at {listen}: {error.strerror or error}") from error
    return receiver


@apmon.command()
@click.argument("source", metavar="FILE|-")
@click.option("--json", "as_json", is_flag=True, help="The input is JSON, as decode --json prints it (the only form).")
def encode(source: str, *, as_json: bool) -> None:  # noqa: ARG001 - the form is named so that others may come
    """Make datagrams of JSON and print them in hex, one a line: the inverse of decode --json.

    The input is one JSON object, or several one after the other, with the keys header, instance_id, sequence, cluster,
    node, parameters (a list of [name, type code, value]) and timestamp (or null). Numbers that JSON lacks are written
    as "NaN", "Infinity" and "-Infinity". Nothing is cleaned.
    """
    for data in _objects(source):
        click.echo(wire.encode(plain.from_plain(data)).hex())


def _objects(source: str) -> Iterator[object]:
    try:
        text = sys.stdin.read() if source == "-" else Path(source).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BwexporterError(f"{source} cannot be read: {getattr(error, 'strerror', None) or 'not UTF-8'}") from error
    text = text.strip()
    decoder, place = json.JSONDecoder(), 0
    while place < len(text):
        try:
            data, place = decoder.raw_decode(text, place)
        except ValueError as error:
            raise BwexporterError(f"{source} is not JSON: {error}") from error
        yield data
        while place < len(text) and text[place].isspace():
            place += 1

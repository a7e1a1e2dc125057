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
import time
from collections.abc import Iterator
from pathlib import Path

import click
from rich.table import Table

from bwexporter.apmon import Delivery, Destination, Sender, plain, wire
from bwexporter.apmon.channel import Health
from bwexporter.apmon.destinations import DestinationError, Setup, split_place
from bwexporter.apmon.sender import DEFAULT_MESSAGE_BYTES, DEFAULT_RATE
from bwexporter.apmon.sources import Sources
from bwexporter.cli.table import console
from bwexporter.errors import BwexporterError
from bwexporter.units import shown

_HEX = frozenset(string.hexdigits.encode() + string.whitespace.encode())
_BUFFER_BYTES = 65535


@click.group("apmon", short_help="Read, make and send ApMon (MonALISA) datagrams.")
def apmon() -> None:
    """Read, make and send ApMon datagrams, which MonALISA receives.

    `send` sends parameters, `decode` shows what a datagram holds, `decode --listen` what arrives at this machine, and
    `encode` makes a datagram of the JSON that `decode --json` prints.

    \b
    See what a sender sends, as it comes, and send something:
      bwexporter apmon decode --listen 8884
      bwexporter apmon send --to 127.0.0.1 --cluster test --node node1 load=0.5 state=fine
    """  # noqa: D301 - \b as one character is click's mark for lines that stay as they are


@apmon.command()
@click.argument("source", metavar="HEX|FILE|-", required=False)
@click.option("--listen", metavar="[HOST:]PORT", help="Show what arrives at this UDP port; 0 takes a free one.")
@click.option("--count", type=click.IntRange(min=1), help="With --listen: end after so many datagrams.")
@click.option("--show-password", is_flag=True, help="Show the password of the header, which is hidden for people.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a datagram, the password included.")
def decode(source: str | None, listen: str | None, *, count: int | None, show_password: bool, as_json: bool) -> None:
    """Show what datagrams hold: of hex, of a file, of standard input (-), or as they arrive (--listen).

    A file holds one datagram, as it is or in hex, or a datagram in hex on each line. Nothing is cleaned: what no
    receiver would take is shown as well. Exit code 1 where something is no datagram.
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
        if _is_one(content):
            content = b"".join(content.split())
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


def _is_one(content: bytes) -> bool:
    """Say whether all lines together are one datagram: hex is often broken into lines."""
    try:
        wire.decode(bytes.fromhex(b"".join(content.split()).decode("ascii")))
    except (ValueError, wire.WireError):
        return False
    return True


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
    named = "standard input" if source == "-" else source
    try:
        text = sys.stdin.read() if source == "-" else Path(source).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BwexporterError(f"{named} cannot be read: {getattr(error, 'strerror', None) or 'not UTF-8'}") from error
    text = text.strip()
    decoder, place = json.JSONDecoder(), 0
    while place < len(text):
        try:
            data, place = decoder.raw_decode(text, place)
        except ValueError as error:
            raise BwexporterError(f"{named} is not JSON: {error}") from error
        yield data
        while place < len(text) and text[place].isspace():
            place += 1


@apmon.command()
@click.argument("parameters", metavar="NAME=VALUE...", nargs=-1, required=True)
@click.option("--to", "places", metavar="HOST[:PORT]", multiple=True, help="Send there; the port is 8884 unless given.")
@click.option(
    "--source", "sources", multiple=True, help="Send to the destinations of an ApMon file or URL; of several the first."
)
@click.option("--cluster", required=True, help="The cluster that the parameters are stored under.")
@click.option("--node", help="The node; default: this host's name.")
@click.option("--time", "timestamp", help="When it was, in Unix seconds, or now; default: when it arrives.")
@click.option("--text", "texts", metavar="NAME=VALUE", multiple=True, help="A parameter that is text, whatever it is.")
@click.option(
    "--password-file", type=click.Path(path_type=Path), help="The password for --to is this file's first line."
)
@click.option("--lenient", is_flag=True, help="Read old ApMon files as they are.")
@click.option("--allow-http", is_flag=True, help="Fetch a source without TLS.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def send(  # noqa: PLR0913 - each is an option
    parameters: tuple[str, ...],
    places: tuple[str, ...],
    sources: tuple[str, ...],
    cluster: str,
    node: str | None,
    timestamp: str | None,
    texts: tuple[str, ...],
    password_file: Path | None,
    *,
    lenient: bool,
    allow_http: bool,
    as_json: bool,
) -> None:
    """Send parameters once, and say what became of them.

    Values that look like numbers are sent as numbers, all others as text. Exit code 0 where everything was handed to
    the network (whether it arrives nobody can know: it is UDP), 1 where something was not.
    """
    if bool(places) == bool(sources):
        raise click.UsageError("Give either --to HOST[:PORT] or --source FILE.")
    pairs = [_pair(written) for written in parameters] + [_named(written) for written in texts]
    setup = (
        _places(places, password_file)
        if places
        else Sources(sources, time.monotonic, lenient=lenient, allow_http=allow_http).read_once()
    )
    for_all = setup.for_all
    with Sender(
        setup.destinations,
        rate=for_all.rate or DEFAULT_RATE,
        message_bytes=for_all.message_bytes or DEFAULT_MESSAGE_BYTES,
    ) as sender:
        try:
            delivery = sender.send(cluster, node or socket.gethostname(), pairs, _timestamp(timestamp))
        except ValueError as error:
            raise click.UsageError(f"{error}.") from error
        health = sender.health()
    _report(delivery, health, as_json=as_json)
    sys.exit(int(not delivery.complete or any(_lost(one) for one in health)))


def _named(written: str) -> tuple[str, str]:
    name, equals, value = written.partition("=")
    if not name.strip() or not equals:
        raise click.UsageError("A parameter is NAME=VALUE, as load=0.5.")
    return name, value


def _pair(written: str) -> tuple[str, object]:
    """Read NAME=VALUE; whole numbers stay whole."""
    name, value = _named(written)
    for kind in (int, float):
        try:
            return name, kind(value)
        except ValueError:
            continue
    return name, value


def _timestamp(written: str | None) -> float | None:
    if written is None:
        return None
    try:
        return time.time() if written == "now" else float(written)
    except ValueError:
        raise click.BadParameter("is neither now nor Unix seconds", param_hint="--time") from None


def _places(places: tuple[str, ...], password_file: Path | None) -> Setup:
    password = ""
    if password_file is not None:
        try:
            password = (password_file.read_text(encoding="utf-8").splitlines() or [""])[0]
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not UTF-8"
            raise BwexporterError(f"{password_file} cannot be read: {reason}") from error
    return Setup(tuple(_destination(place, password) for place in places))


def _destination(place: str, password: str) -> Destination:
    try:
        host, port = split_place(place)
        Destination(host, port)
    except DestinationError as error:
        raise click.BadParameter(f"{shown(place)}: {error}", param_hint="--to") from error
    return Destination(host, port, password)


def _lost(one: Health) -> int:
    return sum(one.dropped.values())


def _report(delivery: Delivery, health: tuple[Health, ...], *, as_json: bool) -> None:
    for name, why in delivery.skipped:
        click.echo(f"bwexporter: the parameter {plain.printable(name)} was not sent: it {why}", err=True)
    rows = [
        (one.destination, one.sent, {drop.value: count for drop, count in one.dropped.items() if count})
        for one in health
    ]
    if as_json:
        said = [{"destination": name, "datagrams": sent, "dropped": dropped} for name, sent, dropped in rows]
        skipped = [{"parameter": name, "reason": why} for name, why in delivery.skipped]
        click.echo(json.dumps({"destinations": said, "skipped": skipped}, indent=2))
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("destination", "datagrams", "dropped"):
        table.add_column(heading, no_wrap=True)
    for name, sent, dropped in rows:
        table.add_row(name, str(sent), ", ".join(f"{count} {reason}" for reason, count in dropped.items()) or "none")
    console().print(table)

"""The web surface of `run`: flags, sockets, and the server with its guard.

Turns the configuration, and what the command line says in place of it, into listening sockets and a server. Knows:
exporter-toolkit's flags, which room is handed to which. Does not know: turns, requests.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from bwexporter.config import Config, WebTerms
from bwexporter.keys import Listen, parse_listen, parse_telemetry_path
from bwexporter.slices.fleet import FleetNode
from bwexporter.targets import Scraped, groups
from bwexporter.web.app import Exposed, Options, build_app
from bwexporter.web.guard import Guard
from bwexporter.web.history import Store
from bwexporter.web.listening import bind, inherited
from bwexporter.web.owners import OwnerLinks
from bwexporter.web.server import Server
from bwexporter.web.webconfig import WebConfig, WebFile


@dataclass(frozen=True, slots=True)
class Flags:
    """What the command line says of the web; None and empty leave it to the configuration."""

    listen: tuple[Listen, ...] = ()
    config_file: Path | None = None
    telemetry_path: str | None = None
    systemd_socket: bool = False
    enable_lifecycle: bool = False
    listen_fd: int | None = None

    def over(self, terms: WebTerms) -> WebTerms:
        """Return the terms with what the flags say."""
        return replace(
            terms,
            config_file=self.config_file or terms.config_file,
            telemetry_path=self.telemetry_path or terms.telemetry_path,
            enable_reload=self.enable_lifecycle or terms.enable_reload,
        )


def _read(parse: Callable[[object], Any]) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """Return a callback of click that reads values as the configuration does."""

    def read(_: click.Context, parameter: click.Parameter, written: Any) -> Any:
        try:
            return tuple(map(parse, written)) if parameter.multiple else written and parse(written)
        except ValueError as error:
            raise click.BadParameter(str(error)) from error

    return read


def flags(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command exporter-toolkit's flags."""
    options = [
        click.option(
            "--web.listen-address",
            "listen",
            multiple=True,
            callback=_read(parse_listen),
            metavar="ADDRESS",
            help="Listen here in place of web.listen: host:port, [::1]:port, :port, unix:/path; may be repeated.",
        ),
        click.option(
            "--web.config.file",
            "config_file",
            type=click.Path(path_type=Path),
            help="TLS, passwords and headers, in place of web.config_file.",
        ),
        click.option(
            "--web.telemetry-path",
            "telemetry_path",
            callback=_read(parse_telemetry_path),
            metavar="PATH",
            help="Where the metrics are, in place of web.telemetry_path (/metrics).",
        ),
        click.option(
            "--web.systemd-socket", "systemd_socket", is_flag=True, help="Serve on the sockets that systemd hands over."
        ),
        click.option(
            "--web.enable-lifecycle", "enable_lifecycle", is_flag=True, help="Let programs ask for a reload by HTTP."
        ),
        click.option("--listen-fd", type=int, hidden=True, help="Serve on this inherited listening socket."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def sockets_of(config: Config, wanted: Flags) -> list[socket.socket]:
    """Return the sockets to serve on. BwexporterError where one cannot be had."""
    if wanted.listen_fd is not None:
        return [socket.socket(fileno=wanted.listen_fd)]
    if wanted.systemd_socket:
        return inherited(os.environ, os.getpid())
    return [bind(str(listen)) for listen in wanted.listen or config.listen]


@dataclass(frozen=True, slots=True)
class Told:
    """Whom the server asks."""

    exposition: Callable[[], Exposed]
    last_report: Callable[[], Any]
    ready: Callable[[], tuple[bool, str]]
    store: Store
    reload: Callable[[], object]
    fleet: Callable[[], Sequence[FleetNode]] = tuple


def server_of(config: Config, wanted: Flags, told: Told, sockets: list[socket.socket]) -> Server:
    """Put the server together. ConfigError where the web configuration file or the owners' secret cannot be used."""
    terms = wanted.over(config.web)
    current = WebFile(terms.config_file).current if terms.config_file else WebConfig
    links = OwnerLinks(terms.owner_secret_file) if terms.owner_secret_file else None
    ends = [Listen(*one.getsockname()[:2]) for one in sockets if one.family != socket.AF_UNIX]

    def scraped() -> Scraped:
        return Scraped(config.node, ends, terms.telemetry_path, tls=current().tls is not None)

    options = Options(
        telemetry_path=terms.telemetry_path,
        show_owners=config.metrics.owner_email,
        owner_links=links,
        reload=told.reload if terms.enable_reload else None,
        targets=lambda: groups(scraped(), told.fleet()),
    )
    app = build_app(
        exposition=told.exposition,
        last_report=told.last_report,
        ready=told.ready,
        store=told.store,
        options=options,
    )
    return Server(Guard(app, current, links), sockets, current=current)

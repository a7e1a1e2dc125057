"""`bwexporter link`: a link for the owner of a slice.

Turns a slice's name into an address that shows this slice and nothing else. Knows: how links are handed out and taken
back. Does not know: what the page shows.
"""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import quote

import click

from bwexporter.cli import asking
from bwexporter.cli.files import roll_of
from bwexporter.cli.options import as_json_option, config_option
from bwexporter.cli.urls import url_option
from bwexporter.config import Config, load_config
from bwexporter.errors import BwexporterError, ConfigError, Problem
from bwexporter.sources import FileAt
from bwexporter.web.owners import Secret, new_secret, read_secret, write_secret


@click.command(short_help="Make a link that shows an owner one slice.")
@click.argument("slice_name", metavar="[SLICE]", required=False)
@config_option
@url_option("https://node1.example.org", "Where owners reach this bwexporter, as https://node1.example.org.")
@click.option("--revoke", is_flag=True, help="Make void every link of this slice handed out before.")
@click.option("--revoke-all", is_flag=True, help="Make void every link of every slice, by a new secret.")
@as_json_option
def link(
    slice_name: str | None, config_path: Path, *, url: str | None, revoke: bool, revoke_all: bool, as_json: bool
) -> None:
    """Make a link that shows an owner one slice and nothing else of the node.

    Whoever has the link needs no password. Links are good until they are revoked: of one slice with --revoke, all of
    them with --revoke-all. The running program follows at once. Needs web.owner_secret_file, the file of the secret
    that links are made from; it is made by the first link. Links protect nothing where no password is asked for: see
    basic_auth_users in the web configuration file.

    \b
      bwexporter link princeton_codeen --url https://node1.example.org
      bwexporter link princeton_codeen --revoke
    """  # noqa: D301 - \b as one character is click's mark for lines that stay as they are
    if slice_name is None and not revoke_all:
        raise click.UsageError("Give the slice, or --revoke-all.")
    config = load_config(config_path)
    path = config.web.owner_secret_file
    if path is None:
        text = "is missing: write for example owner_secret_file: /var/lib/bwexporter/owners.json"
        raise ConfigError([Problem(str(config_path), 0, "web.owner_secret_file", text)])
    _refuse_strangers(config, slice_name)
    secret = _changed(path, slice_name, revoke=revoke, revoke_all=revoke_all)
    if slice_name is None:
        click.echo(json.dumps({"revoked": "all"}) if as_json else "Every link is void.")
        return
    base = (url or str(asking.url_of(config_path))).rstrip("/")
    address = f"{base}/slices/{quote(slice_name, safe='')}?key={secret.key(slice_name)}"
    click.echo(json.dumps({"slice": slice_name, "url": address}) if as_json else address)


def _changed(path: Path, slice_name: str | None, *, revoke: bool, revoke_all: bool) -> Secret:
    """Return the secret as it is from now on, written where it is another one."""
    before = read_secret(path)
    after = new_secret() if before is None or revoke_all else before
    if revoke and slice_name is not None:
        after = after.without_links_of(slice_name)
    if after is not before:
        write_secret(path, after)
    return after


def _refuse_strangers(config: Config, slice_name: str | None) -> None:
    """Refuse a name that is nowhere; what servers give is not known here, and not asked for."""
    if not all(isinstance(source, FileAt) for source in config.sources):
        return
    names = {lane.slice_name for tariffs, _ in roll_of(config).tariffs.values() for lane in tariffs.lanes}
    if slice_name is not None and slice_name not in names:
        raise BwexporterError(f"there is no slice {slice_name!r}; `bwexporter slices` lists them")

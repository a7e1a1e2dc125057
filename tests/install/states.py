"""Upgrade and downgrade of the state file, where systemd runs the program.

Turns a booted system into nothing, or into a sentence that says what the accounts have lost. Knows: the file that the
program of the first schema wrote, and where a state file has its version. Does not know: the tables.
"""

from __future__ import annotations

import base64
import zlib

from bwexporter.state.schema import MIGRATIONS
from tests.install.looks import class_bytes, send, sent_bytes, shown
from tests.install.tree import Booted, Failed, Tree, is_one, wait_for
from tests.install.ways import ROOT

FOLDER = "/var/lib/bwexporter"
FIRST = ROOT / "tests" / "data" / "state_v1.b64"
SENT_BYTES = 1310
"""What slice `a` had sent when the program of the first schema stopped."""
SLICES = "slices: [{name: a, id: 7, match: {addresses: [10.9.9.1/32]}, normal: {full: 10mbit, allowance: 5GB}}]"
LATER = 99

_VERSION = "import sqlite3, sys; f = sqlite3.connect('/var/lib/bwexporter/state.db'); "
_READ = f"{_VERSION}print(f.execute('PRAGMA user_version').fetchone()[0])"
_WRITE = f"{_VERSION}f.execute('PRAGMA user_version = ' + sys.argv[1]); f.commit(); f.close()"


def see_the_first_schema(booted: Booted, tree: Tree) -> None:
    """See that accounts of the first schema go on in the newest, to the byte."""
    booted.run("sh", "-ec", f"rm {FOLDER}/*; printf '%s\\n' '{SLICES}' > /etc/bwexporter/slices.yml")
    (tree.root / FOLDER.lstrip("/") / "state.db").write_bytes(zlib.decompress(base64.b64decode(FIRST.read_bytes())))
    booted.run("chown", f"--reference={FOLDER}", f"{FOLDER}/state.db")
    is_one("version before", booted.run("python3", "-c", _READ), "1\n")
    booted.run("systemctl", "start", "bwexporter")
    send(booted)
    wait_for(
        lambda: sent_bytes(booted, "a") == SENT_BYTES + class_bytes(booted, "1:1007") > SENT_BYTES,
        "the account of the first schema, gone on",
    )
    booted.run("systemctl", "stop", "bwexporter")
    is_one("version after", booted.run("python3", "-c", _READ), f"{len(MIGRATIONS)}\n")


def see_a_downgrade_refused(booted: Booted) -> None:
    """See a file of a later program refused with a sentence, untouched, and gone on with once that program is back."""
    booted.run("python3", "-c", _WRITE, str(LATER))
    before = booted.run("sh", "-c", f"sha256sum {FOLDER}/*")
    booted.run("systemctl", "start", "bwexporter", check=False)
    if shown(booted, "ActiveState") == "active":
        raise Failed("it started on the state of a later program")
    booted.run("systemctl", "stop", "bwexporter")
    journal = booted.run("journalctl", "-u", "bwexporter", "--no-pager")
    is_one("exit code", journal, "Main process exited, code=exited, status=1/FAILURE")
    is_one("refusal", journal, f"was written by a newer bwexporter (state version {LATER}, this one knows up to")
    is_one("state after the refusal", booted.run("sh", "-c", f"sha256sum {FOLDER}/*"), before)
    booted.run("python3", "-c", _WRITE, str(len(MIGRATIONS)))
    booted.run("systemctl", "start", "bwexporter")
    wait_for(
        lambda: sent_bytes(booted, "a") == SENT_BYTES + class_bytes(booted, "1:1007") > SENT_BYTES,
        "the account of before the refusal",
    )
    booted.run("systemctl", "stop", "bwexporter")

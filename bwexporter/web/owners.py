"""Owners' links: who has one sees one slice and nothing else.

Turns a secret and a slice's name into a key, and a key into yes or no. Knows: the secret's file, how a link is taken
back (the slice's generation counts up) and all of them (a new secret). Does not know: HTTP, slices, who hands out
links.

The file is JSON, readable by its owner alone: {"secret": "hex", "generations": {"name": 1}}. It is made by
`bwexporter link`, and read again whenever it changes.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import os
import secrets
import tempfile
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from bwexporter.errors import BwexporterError
from bwexporter.regular import open_regular

log = logging.getLogger("bwexporter.web")

KEY_LENGTH = 32
LARGEST_FILE_BYTES = 8 * 1024 * 1024
_SECRET_BYTES = 32


@dataclass(frozen=True, slots=True)
class Secret:
    """What keys are made from; a generation is 0 until a link of that slice is taken back."""

    secret: bytes = field(repr=False)
    generations: Mapping[str, int]

    def key(self, slice_name: str) -> str:
        """Return the key of a slice's link."""
        text = f"owner link {self.generations.get(slice_name, 0)} {slice_name}".encode("utf-8", "surrogatepass")
        digest = hmac.new(self.secret, text, hashlib.sha256).digest()
        return base64.urlsafe_b64encode(digest).decode()[:KEY_LENGTH]

    def without_links_of(self, slice_name: str) -> Secret:
        """Return what makes every earlier key of the slice void."""
        generation = self.generations.get(slice_name, 0) + 1
        return replace(self, generations={**self.generations, slice_name: generation})


def new_secret() -> Secret:
    """Return a secret that nobody knows."""
    return Secret(secrets.token_bytes(_SECRET_BYTES), {})


def read_secret(path: Path) -> Secret | None:
    """Return what the file holds, None where there is no file. BwexporterError where it cannot be trusted or read."""
    try:
        with open_regular(path) as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(LARGEST_FILE_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BwexporterError(f"the secret of owners' links {path} cannot be read: {error.strerror}") from error
    if mode & 0o077:
        raise BwexporterError(f"the secret of owners' links {path} can be read by others; run: chmod 600 {path}")
    try:
        written = json.loads(content)
        generations = {str(name): int(number) for name, number in written["generations"].items()}
        secret = bytes.fromhex(written["secret"])
    except (ValueError, KeyError, TypeError, AttributeError):
        secret, generations = b"", {}
    if len(secret) < _SECRET_BYTES:
        text = "is damaged; remove it and run `bwexporter link` again: links handed out before are void then"
        raise BwexporterError(f"the secret of owners' links {path} {text}")
    return Secret(secret, generations)


def write_secret(path: Path, secret: Secret) -> None:
    """Write the file as a whole, for its owner alone: the one it had, or that of its folder. BwexporterError."""
    text = json.dumps({"secret": secret.secret.hex(), "generations": dict(secret.generations)})
    try:
        kept = path.stat() if path.exists() else path.parent.stat()
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(text)
                if os.geteuid() == 0:
                    os.fchown(file.fileno(), kept.st_uid, kept.st_gid)
            Path(name).replace(path)
        except OSError:
            with suppress(OSError):
                Path(name).unlink()
            raise
    except OSError as error:
        text = f"the secret of owners' links cannot be written to {path}: {error.strerror}"
        raise BwexporterError(text) from error


class OwnerLinks:
    """Says whether a key opens a slice's page; any thread may ask. A file that cannot be trusted opens none."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._identity: tuple[int, ...] | None = None
        self._secret = read_secret(path)

    def grants(self, slice_name: str, key: str) -> bool:
        """Say whether the key is that of a link of this slice that is still good."""
        secret = self._current()
        if secret is None or len(key) != KEY_LENGTH or not key.isascii():
            return False
        return hmac.compare_digest(secret.key(slice_name), key)

    def _current(self) -> Secret | None:
        with self._lock:
            identity = self._identity_now()
            if identity != self._identity:
                self._identity = identity
                try:
                    self._secret = read_secret(self._path)
                except BwexporterError as error:
                    self._secret = None
                    log.error("%s; until then no owner's link is good", error)  # noqa: TRY400 - the text says it all
            return self._secret

    def _identity_now(self) -> tuple[int, ...] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return (status.st_ino, status.st_mtime_ns, status.st_size, status.st_mode)

"""Passwords: who a request is from.

Turns an Authorization header into yes or no. Knows: HTTP basic authentication, bcrypt, that a guess must cost the same
whether or not there is such a user, and that a right password must not cost 60 ms at each scrape. Does not know: paths.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import secrets
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import bcrypt

MOST_KEPT = 512
MOST_WAITING = 32
LONGEST_HEADER = 4096


class TooManyGuesses(Exception):
    """More passwords wait to be checked than anybody should have to wait for."""


class Passwords:
    """The users and their hashes; one event loop uses it. Results are kept, in a form that gives no password away."""

    def __init__(self, hashes: Mapping[str, str]) -> None:
        self._hashes = {user.encode(): hashed.encode() for user, hashed in hashes.items()}
        rounds = max(int(hashed.split("$")[2]) for hashed in hashes.values())
        # Nobody's hash, as dear to check as the dearest.
        self._nobodys = f"$2b${rounds:02d}${'.' * 53}".encode()
        self._salt = secrets.token_bytes(16)
        self._kept: dict[bytes, bool] = {}
        self._waiting = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="passwords")

    async def accepts(self, header: str) -> bool:
        """Say whether the header names a user and the right password. TooManyGuesses."""
        credentials = _read(header)
        if credentials is None:
            return False
        user, password = credentials
        name = hashlib.sha256(self._salt + len(user).to_bytes(4, "big") + user + password).digest()
        if name in self._kept:
            return self._kept[name]
        if self._waiting >= MOST_WAITING:
            raise TooManyGuesses
        self._waiting += 1
        try:
            loop = asyncio.get_running_loop()
            right = await loop.run_in_executor(self._thread, self._check, user, password)
        finally:
            self._waiting -= 1
        while len(self._kept) >= MOST_KEPT:
            self._kept.pop(next((one for one, good in self._kept.items() if not good), next(iter(self._kept))))
        self._kept[name] = right
        return right

    def _check(self, user: bytes, password: bytes) -> bool:
        hashed = self._hashes.get(user)
        try:
            right = bcrypt.checkpw(password, hashed or self._nobodys)
        except ValueError:  # longer than bcrypt takes, which no right password is
            return False
        return right and hashed is not None


def _read(header: str) -> tuple[bytes, bytes] | None:
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic" or len(header) > LONGEST_HEADER:
        return None
    try:
        decoded = base64.b64decode(encoded.strip(), validate=True)
    except ValueError:
        return None
    user, colon, password = decoded.partition(b":")
    return (user, password) if colon else None

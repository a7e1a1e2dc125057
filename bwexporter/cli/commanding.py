"""Giving orders to the bwexporter of this machine, through its control socket.

Turns a command into its answer. Knows: that a command whose answer was lost is sent again under the same token, and so
done once. Does not know: what a command does, how an answer is shown.
"""

from __future__ import annotations

import json
import secrets
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bwexporter.control import within_reach
from bwexporter.errors import BwexporterError

AGAIN_SECONDS = 15.0
ANSWER_SECONDS = 30.0
MOST_ANSWER_BYTES = 4_000_000


def obeyed(path: Path, command: Mapping[str, Any]) -> dict[str, Any]:
    """Have a command carried out, and return the answer; BwexporterError where it is refused or nobody answers.

    A program that ends before it has answered may have done it or not, so it is asked again for a while.
    """
    line = json.dumps({**command, "token": secrets.token_hex(8)}).encode() + b"\n"
    deadline, sent = time.monotonic() + AGAIN_SECONDS, False
    while True:
        try:
            with _connected(path) as connection:
                connection.sendall(line)
                sent = True
                answer = _answer(connection)
        except OSError as error:
            answer = None
            if not sent or time.monotonic() > deadline:
                raise BwexporterError(_no_answer(path, error, sent=sent)) from error
        if answer is not None:
            break
        if time.monotonic() > deadline:
            raise BwexporterError(_no_answer(path, None, sent=True))
        time.sleep(0.3)
    if not answer.get("done"):
        raise BwexporterError(f"refused: {answer.get('refused', 'no reason was given')}")
    return answer


def _connected(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(ANSWER_SECONDS)
    try:
        with within_reach(path) as place:
            connection.connect(place)
    except OSError:
        connection.close()
        raise
    return connection


def _answer(connection: socket.socket) -> dict[str, Any] | None:
    """Read the answer; None where the other side ended first."""
    read = bytearray()
    while not read.endswith(b"\n"):
        part = connection.recv(65536)
        if not part or len(read) > MOST_ANSWER_BYTES:
            return None
        read += part
    answer = json.loads(read)
    return answer if isinstance(answer, dict) else None


def _no_answer(path: Path, error: OSError | None, *, sent: bool) -> str:
    if sent:
        return "bwexporter ended before it answered: `bwexporter status` says whether the order is in force"
    if isinstance(error, PermissionError):
        return f"this user may give no orders: the control socket {path} is for its owner, root and control.group"
    return f"no bwexporter listens at {path} ({error.strerror if error else 'no answer'}); is it running?"

"""A mail server on loopback that keeps what it gets.

Turns SMTP deliveries into `Mail` values. Knows: aiosmtpd, how a mail is taken apart. Does not know: who sends, what
should have come.
"""

from __future__ import annotations

import email
import email.policy
import time
from collections.abc import Callable
from dataclasses import dataclass
from email.message import EmailMessage
from types import TracebackType
from typing import Any, Self

from aiosmtpd.controller import Controller

from tests.ports import free_port


@dataclass(frozen=True)
class Mail:
    """One delivery."""

    at_seconds: float
    recipients: tuple[str, ...]
    subject: str
    text: str
    html: str
    headers: dict[str, str]

    @property
    def machine(self) -> dict[str, str]:
        """The words NAME=VALUE of the line for machines."""
        line = next(line for line in self.text.splitlines() if line.startswith("bwexporter status="))
        return {name: value.strip('"') for name, _, value in (word.partition("=") for word in line.split()[1:])}


class Mailbox:
    """The server, and the mails that came so far; `seen` hears of each as it comes."""

    def __init__(self, seen: Callable[[Mail], None] = lambda _: None) -> None:
        self.mails: list[Mail] = []
        self._seen = seen
        self._controller = Controller(self, hostname="127.0.0.1", port=free_port())

    @property
    def address(self) -> str:
        """Where it listens, host:port."""
        return f"{self._controller.hostname}:{self._controller.port}"

    def to(self, recipient: str) -> list[Mail]:
        """Return what came for a recipient."""
        return [mail for mail in self.mails if recipient in mail.recipients]

    def __enter__(self) -> Self:
        """Begin to take mail."""
        self._controller.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End."""
        self._controller.stop()

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802 - aiosmtpd's name
        """Keep a mail."""
        mail = _taken_apart(envelope.content, envelope.rcpt_tos)
        self.mails.append(mail)
        self._seen(mail)
        return "250 OK"


def _taken_apart(content: bytes, recipients: list[str]) -> Mail:
    message: Any = email.message_from_bytes(content, _class=EmailMessage, policy=email.policy.default)
    parts = {kind: message.get_body((kind,)) for kind in ("plain", "html")}
    text, html = (part.get_content() if part else "" for part in parts.values())
    headers = {name: str(value) for name, value in message.items()}
    return Mail(time.time(), tuple(recipients), headers["Subject"], text, html, headers)

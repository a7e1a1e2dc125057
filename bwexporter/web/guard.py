"""Who may come in: no more than were allotted, with passwords before every path but for owners' links.

Turns requests into the app's answers or refusals, and adds the configured headers. Knows: which paths are open to
whom. Does not know: how a password or a key is checked, what any path answers.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

from starlette.datastructures import Headers, QueryParams
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bwexporter.web.app import Links
from bwexporter.web.passwords import TooManyGuesses
from bwexporter.web.webconfig import WebConfig

_OF_OWNERS = re.compile(r"/(?:slices|api/v1/slices|api/v1/use)/(.+)", re.DOTALL)
_OF_EVERYBODY = "/static/"


class Guard:
    """Stands before the app; `current` gives the settings in force."""

    def __init__(self, app: ASGIApp, current: Callable[[], WebConfig], links: Links | None) -> None:
        self._app = app
        self._current = current
        self._links = links

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request in, or refuse it."""
        config = self._current()
        refusal = await self._refusal(scope, config)
        await (refusal or self._app)(scope, receive, _with_headers(send, config))

    async def _refusal(self, scope: Scope, config: WebConfig) -> ASGIApp | None:
        if config.allotment is not None and not config.allotment.grants(time.monotonic()):
            return PlainTextResponse("Too many requests; ask again.\n", 429, {"Retry-After": "1"})
        if config.passwords is None or scope["path"].startswith(_OF_EVERYBODY) or self._is_owner(scope):
            return None
        try:
            if await config.passwords.accepts(Headers(scope=scope).get("authorization", "")):
                return None
        except TooManyGuesses:
            return PlainTextResponse("Too many passwords are being checked; ask again.\n", 503, {"Retry-After": "5"})
        asks = {"WWW-Authenticate": 'Basic realm="bwexporter", charset="UTF-8"'}
        return PlainTextResponse("Unauthorized\n", status_code=401, headers=asks)

    def _is_owner(self, scope: Scope) -> bool:
        """Say whether the request is for one slice, with the key of its link."""
        path = _OF_OWNERS.fullmatch(scope["path"])
        if path is None or self._links is None or scope["method"] not in {"GET", "HEAD"}:
            return False
        key = QueryParams(scope["query_string"]).get("key", "")
        return bool(key) and self._links.grants(path[1], key)


def _with_headers(send: Send, config: WebConfig) -> Send:
    """Add what the operator configured, in place of what the app says itself."""
    if not config.headers:
        return send
    replaced = {name for name, _ in config.headers}

    async def sending(message: Message | dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            kept = [pair for pair in message.get("headers", ()) if pair[0].lower() not in replaced]
            message["headers"] = [*kept, *config.headers]
        await send(message)

    return sending

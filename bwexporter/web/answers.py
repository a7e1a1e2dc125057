"""How an answer goes out: as which bytes, with which headers, made in which thread.

Turns pages, JSON and refusals into responses: compressed where that is taken, not sent again where it was seen. Knows:
HTTP's headers, that what costs more than a moment runs in two threads of its own, so that a scrape need not wait for a
page. Does not know: paths, what any answer says.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from bwexporter.web import api
from bwexporter.web.negotiation import takes_gzip

CHUNK_BYTES = 128 * 1024

_COMPRESSED_FROM_BYTES = 1024
_PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",  # an owner's key stands in the address
    "Cache-Control": "no-store",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What a thread made: its bytes, or a refusal in words."""

    body: bytes
    kind: str
    status_code: int = 200
    headers: Mapping[str, str] | None = None


class Makers:
    """The threads in which answers are made."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="pages")

    async def made(self, request: Request, make: Callable[[], Answer]) -> Response:
        """Let a thread make an answer, and compress it where the client takes that."""
        packed = takes_gzip(request.headers.getlist("accept-encoding"))
        known = request.headers.get("if-none-match", "")

        def finished() -> Response:
            answer = make()
            headers = {"Vary": "Accept-Encoding", **(answer.headers or {})}
            if answer.status_code == 200:
                headers.setdefault("ETag", f'W/"{zlib.crc32(answer.body):08x}-{len(answer.body):x}"')
                if known and headers["ETag"] in known:
                    return Response(status_code=304, headers=headers)
            body = answer.body
            if packed and len(body) > _COMPRESSED_FROM_BYTES:
                body = gzip.compress(body, compresslevel=1, mtime=0)
                headers["Content-Encoding"] = "gzip"
            return Response(body, answer.status_code, headers, answer.kind)

        return await asyncio.get_running_loop().run_in_executor(self._threads, finished)


class Parts(Response):
    """Answers in pieces, so that a client that reads slowly holds one piece in memory, not a copy of all."""

    def __init__(self, parts: Sequence[bytes], headers: Mapping[str, str]) -> None:
        self._parts = parts
        super().__init__(b"", headers={**headers, "Content-Length": str(sum(map(len, parts)))})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's shape
        """Send the head and the pieces."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        waiting = b""
        for piece in _pieces(self._parts) if scope["method"] != "HEAD" else ():
            if waiting:
                await send({"type": "http.response.body", "body": waiting, "more_body": True})
            waiting = piece
        await send({"type": "http.response.body", "body": waiting, "more_body": False})


def _pieces(parts: Iterable[bytes]) -> Iterator[bytes]:
    """Yield pieces of about one size: large parts are cut, small ones put together."""
    waiting: list[bytes] = []
    size = 0
    for part in parts:
        if size + len(part) > CHUNK_BYTES and waiting:
            yield b"".join(waiting)
            waiting, size = [], 0
        if len(part) > CHUNK_BYTES:
            yield from (part[start : start + CHUNK_BYTES] for start in range(0, len(part), CHUNK_BYTES))
        else:
            waiting.append(part)
            size += len(part)
    if waiting:
        yield b"".join(waiting)


def html(text: str, status_code: int = 200) -> Answer:
    """Answer with a page."""
    return Answer(text.encode("utf-8", "replace"), "text/html; charset=utf-8", status_code, _PAGE_HEADERS)


def page(text: str, status_code: int) -> Response:
    """Answer with a page that is at hand."""
    answer = html(text, status_code)
    return Response(answer.body, answer.status_code, answer.headers, answer.kind)


def json_answer(value: object, status_code: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    """Answer with JSON."""
    more = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache", **(headers or {})}
    return Answer(_text(value).encode(), "application/json", status_code, more)


def _text(value: object) -> str:
    """Write JSON; long lists in batches, between which other threads have their turn."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(name)}:{_text(one)}" for name, one in value.items()) + "}"
    if isinstance(value, list) and len(value) > api.BATCH_ROWS:
        batches = (value[first : first + api.BATCH_ROWS] for first in range(0, len(value), api.BATCH_ROWS))
        return "[" + ",".join(_text(batch)[1:-1] for batch in batches) + "]"
    return json.dumps(value, allow_nan=False, separators=(",", ":"))


def refusal(text: str, status_code: int) -> Response:
    """Answer with what was wrong, in words."""
    answer = json_answer({"error": text}, status_code)
    return Response(answer.body, status_code, answer.headers, answer.kind)

"""How an answer goes out: as which bytes, with which headers, made in which thread.

Turns pages, JSON and refusals into responses: compressed where that is taken, not sent again where it was seen. Knows:
HTTP's headers, that what costs more than a moment runs in two threads of its own, so that a scrape need not wait for a
page. Does not know: paths, what any answer says.
"""

from __future__ import annotations

import asyncio
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from bwexporter.web import api
from bwexporter.web.negotiation import takes_gzip

CHUNK_BYTES = 128 * 1024

_GZIP = 16 + zlib.MAX_WBITS
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
    """What a thread made: its bytes, or a refusal in words. Parts of a long answer are made as they are taken."""

    parts: Iterable[bytes]
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
            body = _Body(packed=packed)
            for piece in _pieces(answer.parts):
                body.add(piece)
            if answer.status_code == 200:
                headers.setdefault("ETag", body.tag)
                if known and headers["ETag"] in known:
                    return Response(status_code=304, headers=headers)
            if body.is_packed:
                headers["Content-Encoding"] = "gzip"
            return Parts(body.parts(), {"Content-Type": answer.kind, **headers}, answer.status_code)

        return await asyncio.get_running_loop().run_in_executor(self._threads, finished)


class _Body:
    """The bytes of an answer, compressed on the way where that is worth it, so that the whole never stands there."""

    def __init__(self, *, packed: bool) -> None:
        self._may_pack = packed
        self._packer: zlib._Compress | None = None
        self._parts: list[bytes] = []
        self._size = self._check = 0

    def add(self, piece: bytes) -> None:
        """Take in the next piece."""
        self._size += len(piece)
        self._check = zlib.crc32(piece, self._check)
        if self._packer is None and self._may_pack and self._size > _COMPRESSED_FROM_BYTES:
            self._packer = zlib.compressobj(1, zlib.DEFLATED, _GZIP)
            self._parts = [self._packer.compress(earlier) for earlier in self._parts]
        self._parts.append(piece if self._packer is None else self._packer.compress(piece))

    @property
    def is_packed(self) -> bool:
        """Say whether it is compressed."""
        return self._packer is not None

    @property
    def tag(self) -> str:
        """Return what tells these bytes from others."""
        return f'W/"{self._check:08x}-{self._size:x}"'

    def parts(self) -> list[bytes]:
        """Return the bytes, of which no more are to come."""
        return self._parts if self._packer is None else [*self._parts, self._packer.flush()]


class Parts(Response):
    """Answers in pieces, so that a client that reads slowly holds one piece in memory, not a copy of all."""

    def __init__(self, parts: Sequence[bytes], headers: Mapping[str, str], status_code: int = 200) -> None:
        self._parts = parts
        super().__init__(b"", status_code, {**headers, "Content-Length": str(sum(map(len, parts)))})

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
    return Answer([text.encode("utf-8", "replace")], "text/html; charset=utf-8", status_code, _PAGE_HEADERS)


def page(text: str, status_code: int) -> Response:
    """Answer with a page that is at hand."""
    return _at_hand(html(text, status_code))


def json_answer(value: object, status_code: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    """Answer with JSON."""
    more = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache", **(headers or {})}
    return Answer(map(str.encode, _text(value)), "application/json", status_code, more)


def _text(value: object) -> Iterator[str]:
    """Write JSON; long lists, and rows that are made as they are taken, in batches, between which others run."""
    if isinstance(value, dict):
        between = "{"
        for name, one in value.items():
            yield f"{between}{json.dumps(name)}:"
            yield from _text(one)
            between = ","
        yield "}" if value else "{}"
    elif isinstance(value, Iterator) or (isinstance(value, list) and len(value) > api.BATCH_ROWS):
        between, rows = "[", iter(value)
        while batch := list(islice(rows, api.BATCH_ROWS)):
            yield between + _plain(batch)[1:-1]
            between = ","
        yield "]" if between == "," else "[]"
    else:
        yield _plain(value)


def _plain(value: object) -> str:
    return json.dumps(value, allow_nan=False, separators=(",", ":"))


def refusal(text: str, status_code: int) -> Response:
    """Answer with what was wrong, in words."""
    return _at_hand(json_answer({"error": text}, status_code))


def _at_hand(answer: Answer) -> Response:
    return Response(b"".join(answer.parts), answer.status_code, answer.headers, answer.kind)

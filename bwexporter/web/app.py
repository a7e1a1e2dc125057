"""The routes: which path answers with what.

Turns requests into answers made of what the daemon hands over. Knows: paths, parameters, headers, what browsers may do.
Does not know: how the exposition, a page or a row is made; sockets; who has a password; when turns run.

What costs more than a moment runs in two threads of its own, so that a scrape need not wait for a page.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlencode

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from bwexporter import telling
from bwexporter.core.lanes import Lane
from bwexporter.core.report import Report
from bwexporter.web import api, browse, openapi, pages
from bwexporter.web.history import COARSE_SECONDS, FINE_SECONDS, History, Store
from bwexporter.web.negotiation import prefers_open_metrics, takes_gzip

TEXT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OPEN_METRICS_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"
CHUNK_BYTES = 128 * 1024
MOST_EVENTS = 1000
MOST_SPANS = 2016  # a week of five minutes
MOST_NAMES = 200

_COMPRESSED_FROM_BYTES = 1024
_TOO_EARLY = "no turn has ended yet; ask again in a moment"
_PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",  # an owner's key stands in the address
    "Cache-Control": "no-store",
}


class Exposed(Protocol):
    """One exposition in all its forms; any thread may ask."""

    def parts(self, *, open_metrics: bool = False, names: Collection[str] = ()) -> list[bytes]:
        """Return the plain text in parts, restricted to the families of these series."""

    def gzip_at_hand(self, *, open_metrics: bool = False) -> bytes | None:
        """Return the gzip that has been made."""

    def gzip(self, *, open_metrics: bool = False) -> bytes:
        """Return the gzip."""


class Links(Protocol):
    """Who may see one slice."""

    def grants(self, slice_name: str, key: str) -> bool:
        """Say whether the key opens the slice's page."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the configuration says of the web; without `reload` that route is not enabled."""

    telemetry_path: str = "/metrics"
    show_owners: bool = False
    owner_links: Links | None = None
    reload: Callable[[], None] | None = None
    targets: Callable[[], list[dict[str, Any]]] = list  # whom Prometheus is to scrape


def build_app(
    *,
    exposition: Callable[[], Exposed],
    last_report: Callable[[], Report | None],
    ready: Callable[[], tuple[bool, str]],
    store: Store,
    options: Options | None = None,
) -> Starlette:
    """Build the app over questions to the daemon, each answered at once and from any thread, and the state's store.

    `exposition` gives the newest one, `last_report` the last full turn (None before the first), `ready` whether turns
    run, with one sentence for people.
    """
    site = _Site(exposition, last_report, ready, History(store), options or Options())
    routes = [
        Route("/", site.landing),
        Route(site.options.telemetry_path, site.metrics),
        Route("/slices/{name:path}", site.slice_page),
        Route("/static/{name}", site.static),
        Route("/-/healthy", site.healthy),
        Route("/-/ready", site.readiness),
        Route("/-/reload", site.reload, methods=["POST", "PUT"]),
        Route("/api/v1/openapi.json", site.described),
        Route("/api/v1/status", site.status),
        Route("/api/v1/targets", site.targets),
        Route("/api/v1/slices", site.slices),
        Route("/api/v1/slices/{name:path}", site.one_slice),
        Route("/api/v1/events", site.events),
        Route("/api/v1/use/{name:path}", site.use),
    ]
    return Starlette(routes=routes)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a thread made: its bytes, or a refusal in words."""

    body: bytes
    kind: str
    status_code: int = 200
    headers: Mapping[str, str] | None = None


class _Site:
    """The endpoints."""

    def __init__(
        self,
        exposition: Callable[[], Exposed],
        last_report: Callable[[], Report | None],
        ready: Callable[[], tuple[bool, str]],
        history: History,
        options: Options,
    ) -> None:
        self.options = options
        self._exposition = exposition
        self._last_report = last_report
        self._ready = ready
        self._history = history
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="pages")
        self._compressing = ThreadPoolExecutor(1, thread_name_prefix="gzip")

    async def metrics(self, request: Request) -> Response:
        """Answer a scrape with bytes that are ready, but for the first one that asks for a form of them."""
        rendered = self._exposition()
        open_metrics = prefers_open_metrics(request.headers.getlist("accept"))
        headers = {
            "Content-Type": OPEN_METRICS_TYPE if open_metrics else TEXT_TYPE,
            "Vary": "Accept, Accept-Encoding",
        }
        names = request.query_params.getlist("name[]")[:MOST_NAMES]
        if names:
            return _Parts(rendered.parts(open_metrics=open_metrics, names=names), headers)
        if not takes_gzip(request.headers.getlist("accept-encoding")):
            return _Parts(rendered.parts(open_metrics=open_metrics), headers)
        packed = rendered.gzip_at_hand(open_metrics=open_metrics)
        if packed is None:
            loop = asyncio.get_running_loop()
            packed = await loop.run_in_executor(self._compressing, lambda: rendered.gzip(open_metrics=open_metrics))
        return _Parts([packed], headers | {"Content-Encoding": "gzip"})

    async def healthy(self, _: Request) -> Response:
        """Say that the server answers."""
        return PlainTextResponse("bwexporter is alive.\n")

    async def readiness(self, _: Request) -> Response:
        """Say whether turns run."""
        is_ready, sentence = self._ready()
        return PlainTextResponse(f"{sentence}\n", status_code=200 if is_ready else 503)

    async def reload(self, request: Request) -> Response:
        """Read the configuration anew, for programs that ask for it."""
        if self.options.reload is None:
            return PlainTextResponse("Not enabled; write web.enable_reload: true.\n", status_code=403)
        if any(name in request.headers for name in ("origin", "sec-fetch-site", "sec-fetch-mode")):
            return PlainTextResponse("This is for programs; a browser's request is refused.\n", status_code=403)
        self.options.reload()
        return PlainTextResponse("The configuration is read anew with the next turn.\n")

    async def static(self, request: Request) -> Response:
        """Answer with what pages refer to."""
        found = pages.STATIC.get(request.path_params["name"])
        if found is None:
            return PlainTextResponse("Not Found", status_code=404)
        content, kind = found
        headers = {"Cache-Control": "public, max-age=86400", "X-Content-Type-Options": "nosniff"}
        return Response(content, media_type=kind, headers=headers)

    async def landing(self, request: Request) -> Response:
        """Draw the table of slices."""
        query = pages.landing_query(request.query_params)
        return await self._made(request, lambda: _html(pages.landing(self._last_report(), query, self._surroundings())))

    async def slice_page(self, request: Request) -> Response:
        """Draw one slice."""
        name, key = request.path_params["name"], request.query_params.get("key", "")
        if key and not self._grants(name, key):
            text = "This link is not good, or not any more. Ask the operator of the node for a new one."
            return _page(pages.trouble("Not a good link", text, root="..", back=False), 403)

        def draw() -> Answer:
            report = self._last_report()
            if report is None:
                return _html(pages.trouble("One moment", f"{_TOO_EARLY.capitalize()}.", root="..", back=not key), 503)
            page = pages.slice_page(report, name, self._history, self._surroundings(), key=key)
            if page is None:
                text = f"{report.node} has no slice of the name {name}."
                return _html(pages.trouble("No such slice", text, root="..", back=not key), 404)
            return _html(page)

        return await self._made(request, draw)

    async def described(self, request: Request) -> Response:
        """Describe the API."""
        return await self._made(request, lambda: _json(openapi.document(self.options.telemetry_path)))

    async def status(self, request: Request) -> Response:
        """Say how the node stands."""
        return await self._told(request, lambda report: api.status(report, self._ready()), vary=True)

    async def targets(self, request: Request) -> Response:
        """List whom Prometheus is to scrape, as http_sd_configs takes it."""
        return await self._made(request, lambda: _json(self.options.targets()))

    async def slices(self, request: Request) -> Response:
        """List lanes, all or those that a query picks."""
        try:
            query = browse.read_query(request.query_params)
        except browse.BadQuery as bad:
            return _refusal(str(bad), 400)

        def make(report: Report) -> dict[str, Any]:
            picked = browse.pick(report, query)
            return api.slices(report, picked.lanes, total=picked.total, offset=query.offset)

        return await self._told(request, make, pages_of=query)

    async def one_slice(self, request: Request) -> Response:
        """Tell one slice, with its last events and why its ceilings are what they are."""
        name, key = request.path_params["name"], request.query_params.get("key", "")
        if key and not self._grants(name, key):
            return _refusal("this key is not good, or not any more", 403)

        def make(report: Report) -> dict[str, Any] | None:
            events = self._history.events(0.0, report.at.wall_seconds + 1, name, limit=pages.SHOWN_EVENTS)
            return api.one_slice(report, name, show_owners=self.options.show_owners, events=events)

        return await self._told(request, make, vary=True)

    async def events(self, request: Request) -> Response:
        """List what happened, newest first."""
        parameters = request.query_params
        try:
            since, until = _span(parameters)
            limit = browse.number(parameters, "limit", 1, MOST_EVENTS) or 100
            offset = browse.number(parameters, "offset", 0, 100 * MOST_EVENTS) or 0
        except browse.BadQuery as bad:
            return _refusal(str(bad), 400)
        slice_name = parameters.get("slice")

        def make() -> Answer:
            found = self._history.events(since, until, slice_name, limit=offset + limit + 1)
            rows = [telling.row(event) for event in found[offset : offset + limit]]
            link = _next_link(parameters, offset + limit) if len(found) > offset + limit else {}
            return _json({"offset": offset, "events": rows}, headers=link)

        return await self._made(request, make)

    async def use(self, request: Request) -> Response:
        """List what a lane sent in each span of time."""
        name, parameters = request.path_params["name"], request.query_params
        if parameters.get("key") and not self._grants(name, parameters["key"]):
            return _refusal("this key is not good, or not any more", 403)
        report = self._last_report()
        if report is None:
            return _refusal(_TOO_EARLY, 503)
        try:
            lane = _lane(report, name, parameters)
            since, until, step = _spans(parameters, report.at.wall_seconds)
        except browse.BadQuery as bad:
            return _refusal(str(bad), 400)

        def make() -> Answer:
            rows = api.use_rows(self._history.use(lane, since, until, step))
            return _json({**api.named(lane), "step_seconds": step, "use": rows})

        return await self._made(request, make)

    def _surroundings(self) -> pages.Surroundings:
        return pages.Surroundings(self._ready(), self.options.telemetry_path, self.options.show_owners)

    def _grants(self, slice_name: str, key: str) -> bool:
        return self.options.owner_links is not None and self.options.owner_links.grants(slice_name, key)

    async def _told(
        self,
        request: Request,
        make: Callable[[Report], dict[str, Any] | None],
        *,
        pages_of: browse.Query | None = None,
        vary: bool = False,
    ) -> Response:
        """Answer with what a report says; None is answered as not there. A report that was seen is not told again.

        `vary`: the answer also says what the report does not, so that it may differ while the report stays.
        """
        report = self._last_report()
        if report is None:
            return _refusal(_TOO_EARLY, 503)
        tag = {} if vary else {"ETag": _tag(report)}
        if tag and tag["ETag"] in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=tag)

        def answer() -> Answer:
            made = make(report)
            if made is None:
                return _json({"error": f"{report.node} has no such slice"}, 404)
            link = _more(request.query_params, pages_of, made["total"]) if pages_of else {}
            return _json(made, headers=tag | link)

        return await self._made(request, answer)

    async def _made(self, request: Request, make: Callable[[], Answer]) -> Response:
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


class _Parts(Response):
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


def _html(text: str, status_code: int = 200) -> Answer:
    return Answer(text.encode("utf-8", "replace"), "text/html; charset=utf-8", status_code, _PAGE_HEADERS)


def _page(text: str, status_code: int) -> Response:
    answer = _html(text, status_code)
    return Response(answer.body, answer.status_code, answer.headers, answer.kind)


def _json(value: object, status_code: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
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


def _refusal(text: str, status_code: int) -> Response:
    answer = _json({"error": text}, status_code)
    return Response(answer.body, status_code, answer.headers, answer.kind)


def _tag(report: Report) -> str:
    """Return what tells one report from every other: the instant of its turn, by a clock that is never stepped."""
    at = report.at
    return f'W/"{zlib.crc32(at.boot_id.encode()):08x}-{int(at.boot_seconds * 1e6):x}"'


def _more(parameters: Mapping[str, str], query: browse.Query, total: int) -> dict[str, str]:
    if query.limit is None or query.offset + query.limit >= total:
        return {}
    return _next_link(parameters, query.offset + query.limit)


def _next_link(parameters: Mapping[str, str], offset: int) -> dict[str, str]:
    return {"Link": f'<?{urlencode({**parameters, "offset": offset})}>; rel="next"'}


def _span(parameters: Mapping[str, str]) -> tuple[float, float]:
    return _instant(parameters, "since", 0.0), _instant(parameters, "until", 1e11)


def _instant(parameters: Mapping[str, str], name: str, default: float) -> float:
    written = parameters.get(name, "")
    if not written:
        return default
    try:
        instant = float(written)
    except ValueError:
        instant = -1.0
    if not 0 <= instant <= 1e11:
        raise browse.BadQuery(f"{name} is an instant in Unix seconds, as 1763596800")
    return instant


def _spans(parameters: Mapping[str, str], now: float) -> tuple[float, float, int]:
    step = browse.number(parameters, "step", 1, 31 * 86_400) or FINE_SECONDS
    if step % FINE_SECONDS:
        raise browse.BadQuery(f"step is a multiple of {FINE_SECONDS} seconds")
    until = _instant(parameters, "until", now + 1)
    since = _instant(parameters, "since", until - 86_400)
    stored = COARSE_SECONDS if step % COARSE_SECONDS == 0 else FINE_SECONDS
    if until - since > MOST_SPANS * stored:
        days = MOST_SPANS * stored // 86_400
        raise browse.BadQuery(f"since and until are at most {days} days apart with a step of {step} seconds")
    return since, until, step


def _lane(report: Report, name: str, parameters: Mapping[str, str]) -> Lane:
    """Return the lane that is asked for: without a device or traffic the first of the slice."""
    lanes = [lane for device in report.devices for lane in device.tariffs.lanes if lane.slice_name == name]
    for lane in lanes:
        same_device = parameters.get("device", lane.device) == lane.device
        if same_device and lane.traffic.value == parameters.get("traffic", lane.traffic.value):
            return lane
    if lanes:
        raise browse.BadQuery(f"the slice has no such lane; device and traffic are those of /api/v1/slices/{name}")
    raise browse.BadQuery(f"{report.node} has no such slice")

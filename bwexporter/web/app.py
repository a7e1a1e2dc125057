"""The routes: which path answers with what.

Turns requests into answers made of what the daemon hands over. Knows: paths, parameters, what browsers may do. Does not
know: how the exposition, a page or a row is made, or goes out; sockets; who has a password; when turns run.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlencode

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from bwexporter import telling
from bwexporter.core.report import Report
from bwexporter.web import api, browse, landing, openapi, pages
from bwexporter.web.answers import Answer, Makers, Parts, html, json_answer, page, refusal
from bwexporter.web.history import History, Store
from bwexporter.web.negotiation import prefers_open_metrics, takes_gzip
from bwexporter.web.slice_page import SHOWN_EVENTS, slice_page
from bwexporter.web.spans import read_kind, read_lane, read_span, read_spans

TEXT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OPEN_METRICS_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"
MOST_EVENTS = 1000
MOST_NAMES = 200

_TOO_EARLY = "no turn has ended yet; ask again in a moment"


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
    reload: Callable[[], object] | None = None
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
        self._makers = Makers()
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
            return Parts(rendered.parts(open_metrics=open_metrics, names=names), headers)
        if not takes_gzip(request.headers.getlist("accept-encoding")):
            return Parts(rendered.parts(open_metrics=open_metrics), headers)
        packed = rendered.gzip_at_hand(open_metrics=open_metrics)
        if packed is None:
            loop = asyncio.get_running_loop()
            packed = await loop.run_in_executor(self._compressing, lambda: rendered.gzip(open_metrics=open_metrics))
        return Parts([packed], headers | {"Content-Encoding": "gzip"})

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
        query = landing.landing_query(request.query_params)
        return await self._makers.made(
            request, lambda: html(landing.landing(self._last_report(), query, self._surroundings()))
        )

    async def slice_page(self, request: Request) -> Response:
        """Draw one slice."""
        name, key = request.path_params["name"], request.query_params.get("key", "")
        if key and not self._grants(name, key):
            text = "This link is not good, or not any more. Ask the operator of the node for a new one."
            return page(pages.trouble("Not a good link", text, root="..", back=False), 403)

        def draw() -> Answer:
            report = self._last_report()
            if report is None:
                return html(pages.trouble("One moment", f"{_TOO_EARLY.capitalize()}.", root="..", back=not key), 503)
            drawn = slice_page(report, name, self._history, self._surroundings(), key=key)
            if drawn is None:
                text = f"{report.node} has no slice of the name {name}."
                return html(pages.trouble("No such slice", text, root="..", back=not key), 404)
            return html(drawn)

        return await self._makers.made(request, draw)

    async def described(self, request: Request) -> Response:
        """Describe the API."""
        return await self._makers.made(request, lambda: json_answer(openapi.document(self.options.telemetry_path)))

    async def status(self, request: Request) -> Response:
        """Say how the node stands."""
        return await self._told(request, lambda report: api.status(report, self._ready()), vary=True)

    async def targets(self, request: Request) -> Response:
        """List whom Prometheus is to scrape, as http_sd_configs takes it."""
        return await self._makers.made(request, lambda: json_answer(self.options.targets()))

    async def slices(self, request: Request) -> Response:
        """List lanes, all or those that a query picks."""
        try:
            query = browse.read_query(request.query_params)
        except browse.BadQuery as bad:
            return refusal(str(bad), 400)

        def make(report: Report) -> dict[str, Any]:
            picked = browse.pick(report, query)
            return api.picked(report, picked.lanes, total=picked.total, offset=query.offset)

        return await self._told(request, make, pages_of=query)

    async def one_slice(self, request: Request) -> Response:
        """Tell one slice, with its last events and why its ceilings are what they are."""
        name, key = request.path_params["name"], request.query_params.get("key", "")
        if key and not self._grants(name, key):
            return refusal("this key is not good, or not any more", 403)

        def make(report: Report) -> dict[str, Any] | None:
            events = self._history.events(0.0, report.at.wall_seconds + 1, name, limit=SHOWN_EVENTS)
            return api.one_slice(report, name, show_owners=self.options.show_owners, events=events)

        return await self._told(request, make, vary=True)

    async def events(self, request: Request) -> Response:
        """List what happened, newest first."""
        parameters = request.query_params
        try:
            since, until = read_span(parameters)
            limit = browse.number(parameters, "limit", 1, MOST_EVENTS) or 100
            offset = browse.number(parameters, "offset", 0, 100 * MOST_EVENTS) or 0
            kind = read_kind(parameters)
        except browse.BadQuery as bad:
            return refusal(str(bad), 400)
        slice_name = parameters.get("slice")

        def make() -> Answer:
            found = self._history.events(since, until, slice_name, limit=offset + limit + 1, kind=kind)
            rows = [telling.row(event) for event in found[offset : offset + limit]]
            link = _next_link(parameters, offset + limit) if len(found) > offset + limit else {}
            return json_answer({"offset": offset, "events": rows}, headers=link)

        return await self._makers.made(request, make)

    async def use(self, request: Request) -> Response:
        """List what a lane sent in each span of time."""
        name, parameters = request.path_params["name"], request.query_params
        if parameters.get("key") and not self._grants(name, parameters["key"]):
            return refusal("this key is not good, or not any more", 403)
        report = self._last_report()
        if report is None:
            return refusal(_TOO_EARLY, 503)
        try:
            lane = read_lane(report, name, parameters)
            since, until, step = read_spans(parameters, report.at.wall_seconds)
        except browse.BadQuery as bad:
            return refusal(str(bad), 400)

        def make() -> Answer:
            rows = api.use_rows(self._history.use(lane, since, until, step))
            return json_answer({**api.named(lane), "step_seconds": step, "use": rows})

        return await self._makers.made(request, make)

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
            return refusal(_TOO_EARLY, 503)
        tag = {} if vary else {"ETag": _tag(report)}
        if tag and tag["ETag"] in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=tag)

        def answer() -> Answer:
            made = make(report)
            if made is None:
                return json_answer({"error": f"{report.node} has no such slice"}, 404)
            link = _more(request.query_params, pages_of, made["total"]) if pages_of else {}
            return json_answer(made, headers=tag | link)

        return await self._makers.made(request, answer)


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

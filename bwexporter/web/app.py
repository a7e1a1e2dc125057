"""The routes: which path answers with what.

Turns requests into answers made of what the daemon hands over. Knows: paths, headers, HTML. Does not know: how the
exposition is made, sockets, when turns run.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from html import escape
from typing import Protocol

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from bwexporter import __version__
from bwexporter.core.report import Report
from bwexporter.web import api

EXPOSITION_TYPE = "text/plain; version=0.0.4; charset=utf-8"
CHUNK_BYTES = 256 * 1024

_HTML_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
}


class Exposed(Protocol):
    """One exposition, plain and as gzip."""

    @property
    def text(self) -> bytes:
        """Text format 0.0.4."""

    @property
    def gzip(self) -> bytes:
        """The same, compressed."""


def build_app(
    *,
    exposition: Callable[[], Exposed],
    last_report: Callable[[], Report | None],
    ready: Callable[[], tuple[bool, str]],
) -> Starlette:
    """Build the app over three questions to the daemon, each answered at once and from any thread.

    `exposition` gives the newest bytes, `last_report` the last full turn (None before the first), `ready` whether turns
    run, with one sentence for people.
    """

    async def metrics(request: Request) -> Response:
        rendered = exposition()
        if _accepts_gzip(request):
            return _in_chunks(rendered.gzip, {"Content-Encoding": "gzip"})
        return _in_chunks(rendered.text, {})

    async def healthy(_: Request) -> Response:
        return PlainTextResponse("bwexporter is alive.\n")

    async def readiness(_: Request) -> Response:
        is_ready, sentence = ready()
        return PlainTextResponse(f"{sentence}\n", status_code=200 if is_ready else 503)

    async def landing(_: Request) -> Response:
        is_ready, sentence = ready()
        report = last_report()
        return HTMLResponse(_landing_page(report.node if report else "", sentence, is_ready), headers=_HTML_HEADERS)

    def slices(_: Request) -> Response:  # not async: ten thousand rows take a while, and a scrape need not wait
        report = last_report()
        if report is None:
            return _json({"error": "no turn has ended yet; ask again in a moment"}, status_code=503)
        return _json(api.slices(report))

    return Starlette(
        routes=[
            Route("/", landing),
            Route("/metrics", metrics),
            Route("/-/healthy", healthy),
            Route("/-/ready", readiness),
            Route("/api/v1/slices", slices),
        ],
    )


def _accepts_gzip(request: Request) -> bool:
    """Say whether the client takes gzip (RFC 9110, 12.5.3); a weight of 0 means that it does not."""
    weights: dict[str, bool] = {}
    for part in ",".join(request.headers.getlist("accept-encoding")).lower().split(","):
        coding, _, parameter = part.partition(";")
        weight = parameter.strip().removeprefix("q=").strip()
        weights[coding.strip()] = not weight or weight.strip("0.") != ""
    return weights.get("gzip", weights.get("*", False))


def _in_chunks(body: bytes, headers: dict[str, str]) -> Response:
    """Answer in pieces, so that a client that reads slowly holds one piece in memory, not a copy of all."""

    async def chunks() -> AsyncIterator[memoryview]:
        view = memoryview(body)
        for start in range(0, len(view), CHUNK_BYTES):
            yield view[start : start + CHUNK_BYTES]

    headers |= {"Content-Length": str(len(body)), "Content-Type": EXPOSITION_TYPE, "Vary": "Accept-Encoding"}
    return StreamingResponse(chunks(), headers=headers)


def _json(value: object, status_code: int = 200) -> Response:
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return Response(text, status_code=status_code, media_type="application/json")


def _landing_page(node: str, sentence: str, is_ready: bool) -> str:  # noqa: FBT001 - a fact to show
    title = f"bwexporter on {escape(node)}" if node else "bwexporter"
    state = "ready" if is_ready else "not ready"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 1rem/1.6 system-ui, sans-serif; max-width: 40rem; margin: 3rem auto; padding: 0 1rem;
  color: #1b1f24; background: #ffffff; }}
h1 {{ font-size: 1.6rem; margin-bottom: 0; overflow-wrap: anywhere; }}
a {{ color: #0550ae; }}
li {{ margin: .4rem 0; }}
.version {{ margin-top: 0; color: #57606a; }}
@media (prefers-color-scheme: dark) {{
  body {{ color: #e6edf3; background: #0d1117; }}
  a {{ color: #79b8ff; }}
  .version {{ color: #9da7b1; }}
}}
</style>
</head>
<body>
<main>
<h1>{title}</h1>
<p class="version">version {escape(__version__)}</p>
<p>Counts and caps the traffic of slices, and publishes it to Prometheus.</p>
<p><strong>{state}</strong>: {escape(sentence)}</p>
<ul>
<li><a href="metrics">Metrics</a>, for Prometheus</li>
<li><a href="api/v1/slices">Slices</a>, as JSON</li>
<li><a href="-/healthy">Healthy</a> and <a href="-/ready">ready</a>, for probes</li>
</ul>
</main>
</body>
</html>
"""

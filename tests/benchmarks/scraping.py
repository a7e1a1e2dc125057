"""What a scrape costs: ours, prometheus_client's server, node_exporter, and as a real Prometheus sees them.

Turns sizes into times of rendering and scraping, side by side. Knows: how each exporter is started and asked. Does not
know: turns, the kernel. Every exporter is a process of its own; a scrape is a new connection, as it is read by nobody
but a clock.
"""

from __future__ import annotations

import http.client
import json
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import start_http_server
from rich.console import Console
from rich.table import Table

from bwexporter.core.lanes import Traffic
from bwexporter.metrics import Collector, Exposition
from bwexporter.state import open_state
from bwexporter.web.listening import bind
from bwexporter.web.server import Server
from tests.reports import NOW_WALL_SECONDS, LaneFigures, device_report, report
from tests.web import Facts, app_of

NODE_EXPORTER = "prometheus-node-exporter"
OURS, LIBRARY = "bwexporter", "prometheus_client"
RENDERS, SCRAPES = 5, 5
READY_SECONDS = 20.0
_TOO_MANY_FOR_OTHERS = 10_000  # a scrape of the library's server takes longer than Prometheus waits
_PAGES = ("as text", "as gzip")


def measure(sizes: Sequence[int], rounds: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Return seconds by who was asked, how many slices there are, and what was measured."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="bwexporter-scrapes-") as name, ExitStack() as opened:
        node = opened.enter_context(_node_exporter())
        if node is not None:
            found[NODE_EXPORTER] = {"0": {page: _scraped(node, page, rounds) for page in _PAGES}}
        for size in sizes:
            say(f"scrapes of {size} slices")
            _measure_size(found, size, rounds, Path(name), node)
    return found


def _measure_size(found: dict[str, Any], size: int, rounds: int, folder: Path, node: int | None) -> None:
    with _served(OURS, size) as ours, _served(LIBRARY, size) as library:
        both = {OURS: ours, LIBRARY: library}
        for who, served in both.items():
            found.setdefault(who, {})[str(size)] = dict(served.figures)
        for page in _PAGES:
            taken: dict[str, list[float]] = {who: [] for who in both}
            for _ in range(max(1, rounds // 2)):
                for who, served in both.items():
                    taken[who].append(_scraped(served.port, page, SCRAPES if who == OURS else 1))
            for who in both:
                found[who][str(size)][page] = statistics.median(taken[who])
        ports = {OURS: ours.port}
        if size < _TOO_MANY_FOR_OTHERS:
            ports |= {LIBRARY: library.port} | ({NODE_EXPORTER: node} if node else {})
        for who, figures in _seen_by_prometheus(ports, folder / str(size), size).items():
            found[who].setdefault(str(size), {}).update(figures)


class _Served:
    """A process that serves, and what it measured of itself."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        answer = json.loads(process.stdout.readline())
        self.port, self.figures = int(answer["port"]), answer["figures"]


@contextmanager
def _served(who: str, size: int) -> Iterator[_Served]:
    command = [sys.executable, "-m", "tests.benchmarks.scraping", who, str(size)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield _Served(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(timeout=30)


@contextmanager
def _node_exporter() -> Iterator[int | None]:
    """Run node_exporter as Debian does, for scale; None where it is not installed."""
    program, port = shutil.which(NODE_EXPORTER), 19100
    if program is None:
        yield None
        return
    address = f"--web.listen-address=127.0.0.1:{port}"
    with subprocess.Popen([program, address], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            _wait_for(lambda: _get(port, {})[0] == 200)
            yield port
        finally:
            process.terminate()


def _get(port: int, headers: dict[str, str]) -> tuple[int, int]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", "/metrics", headers=headers)
        answer = connection.getresponse()
        return answer.status, len(answer.read())
    finally:
        connection.close()


def _scraped(port: int, page: str, count: int) -> float:
    """Return the median time of scrapes, of which the first is not counted."""
    headers = {"Accept-Encoding": "gzip"} if page == "as gzip" else {}
    _get(port, headers)
    return statistics.median(_timed(lambda: _get(port, headers)) for _ in range(max(1, count)))


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + READY_SECONDS
    while True:
        try:
            if condition():
                return
        except OSError:
            pass
        assert time.monotonic() < until
        time.sleep(0.1)


def _seen_by_prometheus(ports: dict[str, int], folder: Path, size: int) -> dict[str, dict[str, float]]:
    """Let a real Prometheus scrape one after the other, and return its own scrape_duration_seconds."""
    if shutil.which("prometheus") is None:
        return {}
    folder.mkdir()
    return {who: _scraped_by_prometheus(port, folder / who, size) for who, port in ports.items()}


def _scraped_by_prometheus(port: int, folder: Path, size: int) -> dict[str, float]:
    folder.mkdir()
    seconds = 10 if size >= _TOO_MANY_FOR_OTHERS else 2
    job = {"job_name": "it", "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}
    times = {"scrape_interval": f"{seconds}s", "scrape_timeout": f"{seconds}s"}
    (folder / "prometheus.yml").write_text(json.dumps({"global": times, "scrape_configs": [job]}))
    listening = 19190
    command = [
        "prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address=127.0.0.1:{listening}",
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            query = "count_over_time(scrape_duration_seconds[5m])"
            until = time.monotonic() + READY_SECONDS + 6 * seconds
            while (_asked(listening, query) or 0) < 3 and time.monotonic() < until:
                time.sleep(0.3)
            return {
                "as Prometheus sees it": _asked(listening, "quantile_over_time(0.5, scrape_duration_seconds[5m])")
                or 0.0,
                "samples": _asked(listening, "scrape_samples_scraped") or 0.0,
                "up": _asked(listening, "up") or 0.0,
            }
        finally:
            process.terminate()
            process.wait()


def _asked(port: int, query: str) -> float | None:
    try:
        with urlopen(f"http://127.0.0.1:{port}/api/v1/query?query={query.replace(' ', '%20')}", timeout=10) as answer:
            result = json.load(answer)["data"]["result"]
    except OSError:
        return None
    return float(result[0]["value"][1]) if result else None


def goals(found: dict[str, Any]) -> list[tuple[str, str, float, float]]:
    """Return each goal as its number, its text, what was measured and what it must be at least."""
    reached = []
    for size, ours in found.get(OURS, {}).items():
        library = found[LIBRARY][size]
        if int(size) < 1000:
            continue
        reached += [
            ("G6", f"generate_latest / rendering, {size} slices", library["render"] / ours["render"], 30.0),
            ("G6", f"its server / ours as text, {size} slices", library["as text"] / ours["as text"], 40.0),
            ("G6", f"its server / ours as gzip, {size} slices", library["as gzip"] / ours["as gzip"], 40.0),
        ]
    return reached


def show(console: Console, found: dict[str, Any]) -> None:
    """Print milliseconds side by side, and what came of the goals."""
    columns = ("render", "gzip", *_PAGES, "as Prometheus sees it")
    table = Table(title="Scrapes, in milliseconds (median)", title_justify="left", box=None, pad_edge=False)
    for heading in ("who", "slices", "series", *columns):
        table.add_column(heading, justify="left" if heading == "who" else "right")
    for who, by_size in found.items():
        for size, figures in sorted(by_size.items(), key=lambda pair: int(pair[0])):
            if who == NODE_EXPORTER and size != "0":
                continue
            cells = [f"{1e3 * figures[name]:.2f}" if name in figures else "" for name in columns]
            samples = figures.get("samples")
            table.add_row(who, size if size != "0" else "-", f"{samples:.0f}" if samples else "", *cells)
    console.print(table)
    for number, text, measured, least in goals(found):
        met = "met" if measured >= least else "not met"
        console.print(f"{number} {text}: {measured:.0f}x, at least {least:.0f}x: {met}")


def _serve(who: str, size: int) -> None:
    """Be one of the exporters, until the standard input ends."""
    lanes = [_lane(number, traffic) for number in range(size) for traffic in Traffic]
    told = report(device_report(lanes))
    exposition = Exposition(["eth0"])
    rendered = exposition.render(told)
    if who == OURS:
        _serve_ours(exposition, told)
        return
    registry = CollectorRegistry()
    registry.register(Collector(exposition))
    taken = [_timed(lambda: generate_latest(registry)) for _ in range(2 if size >= 10_000 else RENDERS)]
    assert rendered is exposition.current
    server, _ = start_http_server(0, addr="127.0.0.1", registry=registry)
    _say(server.server_port, {"render": statistics.median(taken)})
    sys.stdin.read()


def _lane(number: int, traffic: Traffic) -> LaneFigures:
    """Return a lane with figures of its own: what is alike compresses to nothing."""
    chance = random.Random(2 * number + (traffic is Traffic.EXEMPT))
    used, rate = chance.randrange(10**9), chance.randrange(10_000, 10**7)
    return LaneFigures(
        f"slice_{number:05d}", traffic, number,
        used_bytes=used, sent_bytes=used * 37, sent_packets=used // 900, dropped_packets=chance.randrange(5_000),
        overlimits=used // 7_000, backlog_bytes=chance.choice([0, 0, 0, 60_000]),
        period_start_at=NOW_WALL_SECONDS - chance.random() * 80_000, ceiling_bytes_per_second=rate,
        enforced_ceiling_bytes_per_second=rate, seconds_to_threshold=chance.random() * 9_000,
    )  # fmt: skip


def _serve_ours(exposition: Exposition, told: Any) -> None:
    render = [_timed(lambda: exposition.render(told).text) for _ in range(RENDERS)]
    gzip = [_timed(exposition.render(told).gzip) for _ in range(RENDERS)]
    with tempfile.TemporaryDirectory() as folder:
        state = open_state(Path(folder) / "state.db", now_wall_seconds=NOW_WALL_SECONDS)
        listening = bind("127.0.0.1:0")
        server = Server(app_of(Facts(state, rendered=exposition.current, report=told)), [listening])
        server.start()
        figures = {"render": statistics.median(render), "gzip": statistics.median(gzip)}
        _say(listening.getsockname()[1], figures)
        ended = threading.Event()
        threading.Thread(target=lambda: (sys.stdin.read(), ended.set())).start()
        ended.wait()
        server.stop()
        state.close()


def _say(port: int, figures: dict[str, float]) -> None:
    print(json.dumps({"port": port, "figures": figures}), flush=True)  # noqa: T201 - the answer


if __name__ == "__main__":
    _serve(sys.argv[1], int(sys.argv[2]))

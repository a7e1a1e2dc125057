"""Those who stand beside the turns: another user of rtnetlink, and a scraper.

Turns orders into the waits that they meet. Knows: one class change, one GET. Does not know: what runs meanwhile.
"""

from __future__ import annotations

import http.client
import socket
import sys
import time

import numpy as np

from bwexporter.core.lanes import Act, Classes
from bwexporter.kernel import wire
from bwexporter.kernel.sockets import Requests
from tests.benchmarks.ground import run
from tests.benchmarks.worker import Taken, serve, timed

PAUSE_SECONDS = 0.0005


def change(device: str, seconds: float) -> list[float]:
    """Change one class of a device of one's own about every half millisecond; return each wait."""
    requests, waits = Requests(), []
    data = _change_of(device)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        outcome, _ = requests.exchange(data, 1, 1)
        waits.append(time.perf_counter() - start)
        assert not outcome.any()
        time.sleep(PAUSE_SECONDS)
    requests.close()
    return waits


def make_class(device: str) -> None:
    """Make the one class."""
    run("tc", "qdisc", "add", "dev", device, "root", "handle", "1:", "htb")
    run("tc", "class", "add", "dev", device, "parent", "1:", "classid", "1:1", "htb", "rate", "10mbit")


def _change_of(device: str) -> bytes:
    def one(value: int) -> np.ndarray:
        return np.array([value])

    classes = Classes(
        one(0x10001), one(0), one(125_000), one(1_250_000), one(1514), one(12_800_000), one(1_280_000), one(0)
    )
    return wire.encode_classes(classes, Act.CHANGE, ifindex=socket.if_nametoindex(device), first_seq=1)


def scrape(port: int, count: int, *, gzip: bool) -> list[Taken]:
    """Fetch /metrics so many times over one connection."""
    connection = http.client.HTTPConnection("127.0.0.1", port)

    def fetch() -> None:
        connection.request("GET", "/metrics", headers={"Accept-Encoding": "gzip"} if gzip else {})
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200

    taken = timed(fetch, count)
    connection.close()
    return taken


def scrape_for(port: int, seconds: float) -> int:
    """Scrape without a pause, plain and compressed in turn; return how often."""
    count, end = 0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        count += len(scrape(port, 1, gzip=count % 2 == 0))
    return count


def main() -> None:
    """Serve orders."""
    serve(
        {
            "change": change,
            "make_class": make_class,
            "scrape": lambda port, count, gzip: scrape(port, count, gzip=gzip),
            "scrape_for": scrape_for,
        }
    )


if __name__ == "__main__":
    sys.exit(main())

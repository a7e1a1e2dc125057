"""The pictures of docs/policies.md: a day of one slice under each policy, as the real turn lives it.

Turns a simulated day into rate and use over time. Knows: who sends how much. Does not know: any policy's law, how a
picture is drawn. Write them anew with: python -m tests.pictures
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from bwexporter import chart
from bwexporter.chart import Chart, Lived
from bwexporter.core.lanes import Traffic
from bwexporter.core.plans import LAW, Policy, Rung, Window, Windows
from bwexporter.core.report import Report
from tests.node import Node
from tests.simulation import Sender, Sends

DOCS = Path(__file__).parent.parent / "docs"
DAY = 86_400.0
ALLOWANCE = 10_800_000_000
FULL = 300_000  # bytes per second: the allowance in ten hours
BEGINS = 22 * 60 + 13  # minute of the local day at which the node's first day begins
POLICIES = {
    "law": LAW,
    "ladder": Policy(ladder=(Rung(0.5, 150_000), Rung(0.8, 60_000), Rung(1.0, 8_000))),
    "windows": Policy(
        windows=Windows((Window(BEGINS, BEGINS + 420 - 1440, 0.0), Window(BEGINS - 240, BEGINS, 0.5))),
    ),
    "carry": Policy(carry_part=0.5),
    "sliding": Policy(sliding_seconds=DAY),
}
DAYS = {"sliding": 2}
"""How many days are shown, where one does not show it."""

TITLES = {
    "law": "The law: what is left from 80 % on is spread over the day",
    "ladder": "A ladder: 1.2 Mbit/s from 50 %, 480 kbit/s from 80 %, 64 kbit/s from 100 %",
    "windows": "Windows: nothing counts in the first seven hours, half in the last four",
    "carry": "A carry of 50 %, after a day in which nothing was sent",
    "sliding": "A sliding window of a day, for two days: what left it is there again",
}
INTERVAL_SECONDS = 600.0


def days_of(policy: Policy, days: int = 1) -> Lived:
    """Live through days in which a slice sends all it may, after one in which it sent nothing."""
    rates, used, capped = list[tuple[float, float]](), list[tuple[float, float]](), list[tuple[float, float]]()
    held = [False]

    def hear(_: Node, report: Report) -> None:
        device = report.devices[0]
        rows = [row for row, lane in enumerate(device.tariffs.lanes) if lane.traffic is Traffic.NORMAL]
        held[0] = bool(device.verdicts.capped[rows].any())

    sender = Sender(ALLOWANCE, since=DAY, policy=policy, full_bytes_per_second=FULL)
    loop, sent = Sends([sender], INTERVAL_SECONDS, DAY, random.Random(1), hears=hear), 0
    length = days * DAY
    while loop.seconds < DAY + length - 1.0:
        before, was_held = loop.seconds - DAY, held[0]
        loop.wait(0.0)
        account, now = loop.node.account("s0"), loop.seconds - DAY
        counts = loop.report.devices[0].used_bytes[loop.node.row("s0")]
        if -1.0 <= before and now < length:
            capped += [(before, now)] if was_held else []
            if now - before > 60.0:
                rates.append((before, (account["sent_bytes"] - sent) / (now - before)))
                used.append((now, int(counts)))
        sent = int(account["sent_bytes"])
    return Lived("this slice", rates, used, _joined(capped))


def _joined(spans: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return spans with those that touch made one."""
    joined = list[tuple[float, float]]()
    for since, until in spans:
        if joined and since <= joined[-1][1]:
            joined[-1] = (joined[-1][0], until)
        else:
            joined.append((since, until))
    return joined


def drawn(name: str) -> str:
    """Draw the days of a policy; their hours are counted from their begin, and what is carried over is there."""
    there = ALLOWANCE + int(POLICIES[name].carry_part * ALLOWANCE)
    limits = [("allowance", there), ("threshold", there * 8 // 10)]
    days = DAYS.get(name, 1)
    return chart.drawn([Chart(TITLES[name], 0.0, days * DAY, limits, [days_of(POLICIES[name], days)])])


if __name__ == "__main__":
    for name in POLICIES:
        (DOCS / f"policy-{name}.svg").write_text(drawn(name))

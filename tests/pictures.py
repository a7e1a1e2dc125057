"""The pictures of docs/policies.md: a day of one slice under each policy, as the real turn lives it.

Turns a simulated day into rate and use over time, and those into SVG. Knows: scales, colours, a legend. Does not know:
any policy's law. Write them anew with: python -m tests.pictures
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path

from bwexporter.core.plans import LAW, Policy, Rung, Window, Windows
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
}
TITLES = {
    "law": "The law: what is left from 80 % on is spread over the day",
    "ladder": "A ladder: 1.2 Mbit/s from 50 %, 480 kbit/s from 80 %, 64 kbit/s from 100 %",
    "windows": "Windows: nothing counts in the first seven hours, half in the last four",
    "carry": "A carry of 50 %, after a day in which nothing was sent",
}
WIDTH, HEIGHT, LEFT, TOP, PLOT = 760, 300, 60, 40, (620, 200)
INTERVAL_SECONDS = 600.0

Point = tuple[float, float, float]


def day_of(policy: Policy) -> list[Point]:
    """Return (hour, used part of the allowance, bytes per second sent) over a day in which it sends all it may."""
    sender = Sender(ALLOWANCE, since=DAY, policy=policy, full_bytes_per_second=FULL)
    loop = Sends([sender], INTERVAL_SECONDS, DAY, random.Random(1))
    points, sent = list[Point](), 0
    while loop.seconds < 2 * DAY - 1.0:
        before = loop.seconds
        loop.wait(0.0)
        account, hour = loop.node.account("s0"), (loop.seconds - DAY) / 3600.0
        if 0.0 <= hour < 24.0 and loop.seconds - before > 60.0:
            rate = (account["sent_bytes"] - sent) / (loop.seconds - before)
            points.append((hour, account["used_bytes"] / ALLOWANCE, rate))
        sent = int(account["sent_bytes"])
    return points


def drawn(title: str, points: Sequence[Point]) -> str:
    """Draw use as a filled curve, and the rate as a line on a logarithmic scale."""
    width, height = PLOT
    most = max(1.0, *(used for _, used, _ in points))

    def x(hour: float) -> float:
        return LEFT + width * hour / 24.0

    def y_used(used: float) -> float:
        return TOP + height * (1.0 - used / (1.1 * most))

    def y_rate(rate: float) -> float:
        return TOP + height * (1.0 - max(0.0, math.log10(max(rate, 1.0)) - 3.0) / 3.0)  # 1 kB/s to 1 MB/s

    used_line = " ".join(f"{x(hour):.1f},{y_used(used):.1f}" for hour, used, _ in points)
    rate_line = " ".join(f"{x(hour):.1f},{y_rate(rate):.1f}" for hour, _, rate in points)
    base = TOP + height
    hours = "".join(
        f'<text x="{x(hour):.0f}" y="{base + 18}" text-anchor="middle">{hour} h</text>' for hour in range(0, 25, 4)
    )
    parts = "".join(
        f'<line x1="{LEFT}" x2="{LEFT + width}" y1="{y_used(part):.1f}" y2="{y_used(part):.1f}" class="grid"/>'
        f'<text x="{LEFT - 6}" y="{y_used(part) + 4:.1f}" text-anchor="end">{part:.0%}</text>'
        for part in (0.0, 0.5, 0.8, 1.0, 1.5)
        if part <= 1.1 * most
    )
    rates = "".join(
        f'<text x="{LEFT + width + 6}" y="{TOP + height * (1 - step / 3) + 4:.1f}">{text}</text>'
        for step, text in enumerate(("1 kB/s", "10 kB/s", "100 kB/s", "1 MB/s"))
    )
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}">
<style>
svg {{ background: #ffffff; font: 12px system-ui, sans-serif; }} text {{ fill: #1b1f24; }}
.grid {{ stroke: #d0d7de; }} .used {{ fill: #0969da33; stroke: #0969da; stroke-width: 2; }}
.rate {{ fill: none; stroke: #bc4c00; stroke-width: 1.5; }}
</style>
<text x="{LEFT}" y="20" font-weight="bold">{title}</text>
<text x="{LEFT + width}" y="20" text-anchor="end">blue: used of the allowance; orange: rate sent</text>
{parts}{rates}{hours}
<polyline class="used" points="{x(points[0][0]):.1f},{base:.1f} {used_line} {x(points[-1][0]):.1f},{base:.1f}"/>
<polyline class="rate" points="{rate_line}"/>
</svg>
"""


def pictures() -> dict[str, str]:
    """Return every picture by the name of its file."""
    return {f"policy-{name}.svg": drawn(TITLES[name], day_of(policy)) for name, policy in POLICIES.items()}


if __name__ == "__main__":
    for name, picture in pictures().items():
        (DOCS / name).write_text(picture)

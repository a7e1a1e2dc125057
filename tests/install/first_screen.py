"""The first screen of the README, on a fresh system: its two commands, and how long they take.

Turns a suite into a served metric, or a sentence that says what did not work or took too long. Knows: the README's
first block, and what is in the caches of packages. Does not know: what the demo shows.
"""

from __future__ import annotations

import re
from pathlib import Path

from tests.install.tree import Failed, Tree, is_one, say
from tests.install.ways import FETCH, ROOT

LIMIT_SECONDS = 60.0
NEEDED = ("make", "curl")
"""What the two commands begin with, and a minimal system lacks."""

_DONE = """
cd /root/bwexporter; : > shown; began=$(date +%s.%N)
{demo} >> shown & demo=$!
until url=$(grep -o 'http://127.0.0.1:[0-9]*' shown); do kill -0 $demo; sleep 0.2; done
until {ask} > metrics && grep -q '^bwexporter_slice_sent_bytes_total.* [1-9]' metrics; do kill -0 $demo; sleep 0.2; done
echo "$(date +%s.%N) $began" | awk '{{ print $1 - $2 }}'
kill $demo; wait $demo || true
times > worked; tail -1 worked
"""


def see_it_done(suite: str, folder: Path) -> None:
    """Type them twice, and time the second time: what the first has downloaded is at hand then, and nothing else."""
    tree = Tree(suite, folder)
    tree.run(*FETCH, *NEEDED)
    tree.put(ROOT, "/root/bwexporter")
    demo, ask = commands()
    free = f"{demo} ARGS='--seconds 300 --listen 127.0.0.1:0'"  # the usual port may be somebody's on this machine
    script = _DONE.format(demo=free, ask=re.sub(r"http://127\.0\.0\.1:\d+", "$url", ask))
    tree.run("sh", "-ec", script)
    tree.run("rm", "-r", "/root/bwexporter/.venv")
    seconds, processor = _told(tree.run("sh", "-ec", script))
    is_one("the metrics", tree.run("cat", "/root/bwexporter/metrics"), 'slice="greedy_udp"')
    say(f"{suite}: the README's first screen is done in {seconds:.0f} s, {processor:.0f} s of a processor")
    if min(seconds, processor) > LIMIT_SECONDS:  # others may use the machine meanwhile
        raise Failed(f"the README's first screen took {seconds:.0f} s, {processor:.0f} s of a processor")


def _told(text: str) -> tuple[float, float]:
    """Return the seconds from the first command to the second's answer, and those that processors worked on it."""
    seconds, *_, times = text.splitlines()
    worked = (part.rstrip("s").split("m") for part in times.split())
    return float(seconds), sum(60 * float(minutes) + float(rest) for minutes, rest in worked)


def commands() -> tuple[str, str]:
    """Return the two commands of the README's first block."""
    block = re.search(r"```\n(.*?)\n```", (ROOT / "README.md").read_text(), re.DOTALL)
    lines = block[1].splitlines() if block else []
    if [line.split()[0] for line in lines] != list(NEEDED):
        raise Failed(f"the README does not begin with two commands, {' and '.join(NEEDED)}: {lines}")
    return lines[0], lines[1]

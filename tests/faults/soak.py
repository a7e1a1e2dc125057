"""The soak: kills without end beside a daemon that lives for long, both on the real kernel, to the byte.

    python -m tests.faults.soak [--minutes 30] [--kills 0] [--seed N]

Turns time into a summary; exit 1 where a byte, a period or a cap differed, or something grew. Knows: the namespaces it
runs in, so that nothing of the host is touched and nothing is left. Does not know: what is done in a round.

It runs for so many minutes, and on until so many programs have been killed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

from tests.faults.campaign import Campaign, prepare
from tests.faults.machine import Machine, can_unshare, run
from tests.faults.program import Files

INSIDE = "BWEXPORTER_SOAK_INSIDE"
MOST_DIFFERENCES = 20
PROGRESS_SECONDS = 30.0


def main() -> int:
    """Enter namespaces of its own, and soak there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--kills", type=int, default=0, help="go on until so many programs have been killed")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    given = parser.parse_args()
    if INSIDE not in os.environ:
        return _enter()
    return soak(given.minutes * 60, given.kills, given.seed)


def _enter() -> int:
    """Run the soak in network, process and mount namespaces that end with it."""
    rooms = ["--net", "--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc"]
    if os.geteuid() != 0:
        rooms = ["--user", "--map-root-user", *rooms]
    if not can_unshare(*rooms):
        print("no private namespaces may be made here: nothing was run", file=sys.stderr)  # noqa: T201
        return 2
    command = ["unshare", *rooms, sys.executable, "-m", "tests.faults.soak", *sys.argv[1:]]
    return subprocess.call(command, env={**os.environ, INSIDE: "1", "OPENBLAS_NUM_THREADS": "1"})


def soak(seconds: float, kills: int, seed: int) -> int:
    """Run both parts side by side until both have had enough; print the summary."""
    run("ip link set lo up")
    prepare()
    with tempfile.TemporaryDirectory(prefix="bwexporter-soak-") as name:
        folder = Path(name)
        ended, enduring = folder / "ended", folder / "endurance.json"
        process_id = os.fork()
        if process_id == 0:
            _endure(folder, ended, enduring, seed)
        campaign = Campaign(Machine("eth0", 9), Files(folder, "eth0"), seed)
        try:
            _kill(campaign, seconds, kills, enduring)
        finally:
            ended.touch()
            os.waitpid(process_id, 0)
        parts = {"kills": campaign.summary(), "daemon": json.loads(enduring.read_text())}
    print(json.dumps({"seed": seed, **parts}, indent=2))  # noqa: T201 - the summary is what it is run for
    different = sum(part["differences"] for part in parts.values())
    print(f"{different} differences" if different else "not one byte differs, and nothing grew")  # noqa: T201
    return 1 if different else 0


def _kill(campaign: Campaign, seconds: float, kills: int, enduring: Path) -> None:
    """Take rounds until time and kills are enough, or something has failed for good."""
    began = told = time.monotonic()
    while time.monotonic() - began < seconds or campaign.kills < kills:
        if len(campaign.found) >= MOST_DIFFERENCES or enduring.exists():
            return
        campaign.round()
        if time.monotonic() - told > PROGRESS_SECONDS:
            told = time.monotonic()
            text = f"{told - began:.0f} s, {campaign.kills} kills, {len(campaign.found)} differences"
            print(text, file=sys.stderr, flush=True)  # noqa: T201


def _endure(folder: Path, ended: Path, answer: Path, seed: int) -> None:
    """Be the process that keeps the daemon."""
    from tests.faults.endurance import Endurance  # noqa: PLC0415 - needs nothing that the campaign shares with forks

    summary: dict[str, Any] = {}
    try:
        endurance = Endurance(Machine("eth1", 8), Files(folder, "eth1"), seed)
        while not ended.exists() and len(endurance.found) < MOST_DIFFERENCES:
            endurance.step()
        endurance.end()
        summary = endurance.summary()
    except BaseException:  # noqa: BLE001 - what ended it is the summary
        log = folder / "daemon.log"
        last = log.read_text().splitlines()[-30:] if log.exists() else []
        summary = {"differences": 1, "broken": traceback.format_exc().splitlines(), "log": last}
    beside = answer.with_suffix(".new")
    beside.write_text(json.dumps(summary))
    beside.replace(answer)
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())

"""The ancestor's way: `tc -s -d class show` read as text, one forked `tc class change` a class, a pickle.

Turns orders into turns and their seconds. Knows: how PlanetLab's bwlimit read tc's text. Does not know: netlink.

It is let off lightly: the ancestor read the classes twice a pass, and twice more for each slice that it changed, with
four forks instead of one. `gauges` is what publishing through prometheus_client's Gauges would add to its turn.
"""

from __future__ import annotations

import itertools
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from tests.benchmarks.library import Gauges
from tests.benchmarks.worker import Stopwatch, Taken, serve, timed

_UNITS = {"bit": 1, "Kbit": 10**3, "Mbit": 10**6, "Gbit": 10**9}


class Ancestor:
    """A node with one device, as the ancestor kept it."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._file = Path("ancestor.pickle")
        self._seen: dict[int, int] = {}
        self._used: dict[int, int] = {}
        self._gauges = Gauges(CollectorRegistry(), device)

    def turn(self, changes: int, repeat: int) -> list[Taken]:
        """Read, add up, change, save; the gauges are set apart from it."""
        all_taken = []
        for at in range(repeat):
            stopwatch = Stopwatch()
            with stopwatch.whole():
                with stopwatch.part("look"):
                    classes = self._read()
                with stopwatch.part("count"):
                    for handle, one in classes.items():
                        self._add_up(handle, one["sent"])
                with stopwatch.part("act"):
                    self._change(changes, at % 2)
                with stopwatch.part("save"):
                    self._save()
            with stopwatch.part("gauges"):
                self._gauges.set(classes, self._used)
            all_taken.append(stopwatch.taken)
        return all_taken

    def write(self, changes: int, repeat: int) -> list[Taken]:
        """Change classes, a process each."""
        odd = itertools.cycle((0, 1))
        return timed(lambda: self._change(changes, next(odd)), repeat)

    def batch(self, changes: int, repeat: int) -> list[Taken]:
        """Change classes by one `tc -batch`."""
        texts = itertools.cycle(
            "".join(f"{' '.join(self._words(number, odd))}\n" for number in range(changes)).encode() for odd in (0, 1)
        )
        return timed(lambda: subprocess.run(["tc", "-batch", "-"], input=next(texts), check=True), repeat)

    def _read(self) -> dict[int, dict[str, Any]]:
        text = subprocess.run(
            ["tc", "-s", "-d", "class", "show", "dev", self._device], check=True, capture_output=True, text=True
        ).stdout
        found: dict[int, dict[str, Any]] = {}
        one: dict[str, Any] = {}
        for line in text.splitlines():
            words = line.split()
            if words[:2] == ["class", "htb"] and "parent" in words:
                one = found[int(words[2].split(":")[1], 16)] = {"parent": words[words.index("parent") + 1]}
                for word in ("rate", "ceil"):
                    one[word] = _rate(words[words.index(word) + 1])
                one["quantum"] = int(words[words.index("quantum") + 1]) if "quantum" in words else 0
            elif words[:1] == ["Sent"]:
                one["sent"], one["packets"] = int(words[1]), int(words[3])
                one["dropped"], one["overlimits"] = int(words[6].rstrip(",")), int(words[8])
        return {handle: one for handle, one in found.items() if one["parent"] in {"1:10", "1:20"}}

    def _add_up(self, handle: int, sent: int) -> None:
        seen = self._seen.get(handle, 0)
        self._used[handle] = self._used.get(handle, 0) + (sent - seen if sent >= seen else sent)
        self._seen[handle] = sent

    def _words(self, number: int, odd: int) -> list[str]:
        ceiling = "11mbit" if odd else "10mbit"
        return [
            "class", "change", "dev", self._device, "parent", "1:10", "classid", f"1:{0x100 + number:x}", "htb",
            "rate", "1mbit", "ceil", ceiling, "quantum", "1600",
        ]  # fmt: skip

    def _change(self, changes: int, odd: int) -> None:
        for number in range(changes):
            subprocess.run(["tc", *self._words(number, odd)], check=True)

    def _save(self) -> None:
        beside = self._file.with_suffix(".new")
        with beside.open("wb") as file:
            pickle.dump(("version", self._used, self._seen), file)
        beside.rename(self._file)


def _rate(text: str) -> int:
    number = text.rstrip("bitKMG")
    return int(float(number) * _UNITS[text[len(number) :]])


def main() -> None:
    """Serve orders about one device."""
    ancestor = Ancestor(sys.argv[1])
    serve({"turn": ancestor.turn, "write": ancestor.write, "batch": ancestor.batch})


if __name__ == "__main__":
    main()

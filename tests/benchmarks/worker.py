"""A contender's process, from both sides: orders go in as lines of JSON, answers come back as lines of JSON.

Turns a call into a call in another process. Knows: pipes, clocks. Does not know: any order. Processes keep the
contenders' memory, garbage and imports apart.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]

Taken = dict[str, float]
"""Seconds of one repetition: `wall`, `cpu` (of the process and the children that it waited for), and parts of it."""


class Worker:
    """The side that asks. The process works in `folder`."""

    def __init__(self, name: str, folder: Path, *arguments: str, preload: Path | None = None) -> None:
        self.name = name
        command = [sys.executable, "-m", f"tests.benchmarks.{name}", *arguments]
        preloaded = {"LD_PRELOAD": str(preload)} if preload else {}
        self._process = _start(command, folder, {**os.environ, **preloaded, "PYTHONPATH": str(ROOT)})

    def __enter__(self) -> Self:
        """Return the worker."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()

    def ask(self, order: str, *arguments: Any) -> Any:
        """Give an order and wait for its answer."""
        self.tell(order, *arguments)
        return self.hear()

    def tell(self, order: str, *arguments: Any) -> None:
        """Give an order."""
        self._write(json.dumps([order, *arguments]))

    def hear(self) -> Any:
        """Wait for the answer to the last order."""
        return json.loads(self._read())

    def _write(self, line: str) -> None:
        assert self._process.stdin
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def _read(self) -> str:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            sys.exit(f"the benchmark's process {self.name} has ended early")
        return line


class BareWorker(Worker):
    """The C program, whose orders and answers are plain words."""

    def __init__(self, program: Path, folder: Path, device: str) -> None:
        self.name = "bare C"
        self._process = _start([str(program), device], folder, os.environ)

    def tell(self, order: str, *arguments: Any) -> None:
        """Give an order."""
        self._write(" ".join(map(str, (order, *arguments))))

    def hear(self) -> list[Taken]:
        """Wait for the seconds of each repetition."""
        words = [float(word) / 1e6 for word in self._read().split()]
        return [{"wall": wall, "cpu": cpu} for wall, cpu in zip(words[::2], words[1::2], strict=True)]


def _start(command: list[str], folder: Path, environment: Mapping[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=dict(environment), cwd=folder
    )


def serve(orders: Mapping[str, Callable[..., Any]]) -> None:
    """Answer orders until there are no more: the side that is asked."""
    for line in sys.stdin:
        order, *arguments = json.loads(line)
        sys.stdout.write(f"{json.dumps(orders[order](*arguments))}\n")
        sys.stdout.flush()


class Stopwatch:
    """Takes the time of one piece of work, and of its parts."""

    def __init__(self) -> None:
        self.taken: Taken = {}

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Take the time of all of it."""
        busy, start = _busy_seconds(), time.perf_counter()
        yield
        self.taken |= {"wall": time.perf_counter() - start, "cpu": _busy_seconds() - busy}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Take the time of a part."""
        start = time.perf_counter()
        yield
        self.taken[name] = time.perf_counter() - start


def timed(work: Callable[[], object], repeat: int) -> list[Taken]:
    """Repeat a piece of work, and return what each repetition took."""
    all_taken = []
    for _ in range(repeat):
        stopwatch = Stopwatch()
        with stopwatch.whole():
            work()
        all_taken.append(stopwatch.taken)
    return all_taken


def _busy_seconds() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def resident_bytes() -> int:
    """Return the memory that this process holds now."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024

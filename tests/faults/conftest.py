"""What the tests of faults share: a machine of the real kernel, and programs that end with the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from tests.faults.campaign import SLICES
from tests.faults.machine import Machine
from tests.faults.program import Files, Remote, started
from tests.faults.real_node import RealNode
from tests.kernel.conftest import private_network
from tests.node import Node

__all__ = ["private_network"]

Start = Callable[..., Remote]


@pytest.fixture
def machine(private_network: None) -> Iterator[Machine]:  # noqa: ARG001 - it stands in that network
    """Return a device of the real kernel."""
    made = Machine()
    yield made
    made.close()


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """Return the configuration and slices, written."""
    made = Files(tmp_path)
    made.write(SLICES)
    return made


@pytest.fixture
def start(files: Files) -> Iterator[Start]:
    """Return a starter of programs, which are killed when the test ends."""
    running: list[Remote] = []

    def begin(*, inside: Sequence[str] = (), env: dict[str, str] | None = None) -> Remote:
        running.append(started(files.config, inside=inside, env=env))
        return running[-1]

    yield begin
    for program in running:
        with suppress(OSError, ValueError):
            program.kill()


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.kernel)])
def node(request: pytest.FixtureRequest) -> Iterator[Node]:
    """Return a node with two slices that soon are capped, once on the fake machine and once on the real kernel."""
    ids, soon = {"ann": 1, "bob": 2}, {"allowance_bytes": 100_000_000_000, "threshold_bytes": 20_000}
    if request.param == "fake":
        yield Node(ids, **soon)
        return
    made = RealNode(request.getfixturevalue("machine"), ids, **soon)
    yield made
    made.stop()

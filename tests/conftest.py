"""Nothing is skipped where everything can be tried, and no law fails because the machine was busy.

Root may enter namespaces, play users and install what is missing: a skipped test would be a gap that nobody sees.
An unprivileged user runs what may be run, and the summary says what was not.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell that runs all this in the background has it ignored, and so would every program that is to end by it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,  # noqa: ARG001 - pytest names its arguments
    call: pytest.CallInfo[None],  # noqa: ARG001
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Make a failure of a skip of root's."""
    report = yield
    if report.skipped and _is_root_of_the_machine():
        reason: Any = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome, report.longrepr = "failed", f"{reason}; root can mend that, so it is no reason"
    return report


def _is_root_of_the_machine() -> bool:
    """Say whether this is root, and not that of a user namespace with few users."""
    whole = Path("/proc/self/uid_map").read_text().split() == ["0", "0", "4294967295"]
    return os.geteuid() == 0 and whole

"""What the log says of a turn."""

from __future__ import annotations

import pytest

from bwexporter.core.lanes import Act
from bwexporter.log import say_turn
from tests.reports import changes_of, device_report, outcomes_of, report


def test_a_turn_counts_the_changes_that_were_sent(caplog: pytest.LogCaptureFixture) -> None:
    """Those that the kernel refused are among them."""
    device = device_report(changes=changes_of([Act.CHANGE] * 3), outcomes=outcomes_of([0, 0, 22]))

    with caplog.at_level("INFO", "bwexporter"):
        say_turn(report(device))

    assert " changes=3 refused=1 took_ms=" in caplog.text


def test_a_turn_in_shadow_says_what_it_would_change(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing was sent to the kernel, as the metrics say too."""
    with caplog.at_level("INFO", "bwexporter"):
        say_turn(report(device_report(changes=changes_of([Act.CHANGE] * 11)), enforcing=False))

    assert " changes=0 refused=0 would_change=11 took_ms=" in caplog.text

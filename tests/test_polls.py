"""When servers are asked: about as often as is written, and not all nodes at once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from bwexporter.daemon import JITTER, _AboutFromNow

NOW = datetime(2023, 11, 14, 22, 13, tzinfo=UTC)


@given(st.floats(1, 86_400), st.sampled_from([None, NOW - timedelta(days=9000), NOW]))
def test_a_poll_comes_within_a_tenth_of_its_time(seconds: float, before: datetime | None) -> None:
    """Counted from now, however long ago the last one was to be."""
    trigger = _AboutFromNow(seconds=seconds)

    wait = (trigger.get_next_fire_time(before, NOW) - NOW).total_seconds()

    assert abs(wait - trigger.interval_length) <= JITTER * trigger.interval_length + 1e-5


def test_nodes_that_asked_together_do_not_go_on_doing_so() -> None:
    """Of a thousand nodes with the same setting hardly two ask in the same millisecond."""
    fired = [_AboutFromNow(seconds=600).get_next_fire_time(None, NOW) for _ in range(999)]
    waits = {round((at - NOW).total_seconds(), 3) for at in fired}

    assert len(waits) > 900
    assert max(waits) - min(waits) > JITTER * 600

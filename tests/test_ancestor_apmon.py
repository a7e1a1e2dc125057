"""The model of the ancestor, beside what was recorded of the real one: it is no straw man."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from tests import monalisa
from tests.ancestor_apmon import Ancestor, Limiter
from tests.apmon_ground import Receiver

RECORDED = {
    one["id"]: one
    for one in map(json.loads, (Path(__file__).parent / "data" / "apmon" / "vectors.jsonl").read_text().splitlines())
    if one["id"].startswith("seed-py2")
}
ASKED: dict[str, list[tuple[str, object]]] = {
    "seed-py2-00": [("bytes", 123456)],
    "seed-py2-01": [("neg", -2)],
    "seed-py2-02": [("imax", 2**31 - 1)],
    "seed-py2-03": [("kbps", 1500.5)],
    "seed-py2-10": [("ok", 1), ("long", 2**70), ("ok2", 2)],
    "seed-py2-13": [("nan", -math.nan), ("inf", math.inf)],
    "seed-py2-over-00": [("ok", 1), ("big", 2**31), ("ok2", 2)],
    "seed-py2-over-02": [("b", True), ("u", "na\u00efve"), ("f", 1.5)],
}


def sent_by_the_model(said: dict[str, Any], parameters: list[tuple[str, object]]) -> bytes:
    """Let the model send under the names and numbers of a recorded datagram."""
    password = said["header"].partition("p:")[2].removeprefix("yp:")
    with Receiver() as receiver, Ancestor((f"127.0.0.1:{receiver.port} {password}",)) as ancestor:
        ancestor._instance_id = said["instance_id"]
        ancestor._sequences = dict.fromkeys(ancestor.options, said["seq"] - 1)
        ancestor.sendParameters(said["cluster"], said["node"], parameters)
        receiver.wait_for_payloads(1)
        return receiver.payloads[0]


def test_every_recorded_datagram_has_its_question() -> None:
    """None is left out."""
    assert set(ASKED) == set(RECORDED)


@pytest.mark.parametrize("name", sorted(ASKED))
def test_the_model_sends_what_the_ancestor_sent(name: str) -> None:
    """Byte for byte, the defective ones too."""
    assert RECORDED[name]["hex"] == sent_by_the_model(RECORDED[name]["decoded"], ASKED[name]).hex()


def test_the_model_packs_a_thousand_numbers_into_the_one_datagram_that_was_measured() -> None:
    """Of 28 056 bytes."""
    with Receiver() as receiver, Ancestor((f"127.0.0.1:{receiver.port}",)) as ancestor:
        ancestor.sendParameters("c", "n", [(f"param_{number:05}", float(number)) for number in range(1000)])
        receiver.wait_for_payloads(1)

    assert 28_056 == pytest.approx(len(receiver.payloads[0]), abs=60)  # other names of cluster and node


@pytest.mark.parametrize(("rate", "seconds", "sent"), [(100, 20, 3542), (5, 17, 100)])
def test_the_model_stalls_as_was_measured(rate: int, seconds: int, sent: int) -> None:
    """At 100: 1801 at once, then a second's sleep about every 87, 3542 in 20 s; at 5: 17 sleeps in 17 s."""
    clock = _Clock()
    limiter = Limiter(rate, clock, clock.sleep)
    passed, before_the_first = 0, 0
    while clock.now < 1000.0 + seconds:
        limiter.wait()
        passed += 1
        before_the_first = before_the_first or (passed - 1 if limiter.slept else 0)

    assert seconds == limiter.slept
    if rate == 100:
        assert 1800 <= before_the_first <= 1850
        assert passed == pytest.approx(sent, rel=0.03)


def test_the_model_is_still_hot_after_an_hour_as_was_reckoned() -> None:
    """It lets 195 pass at a rate of 100, in place of some 2000 from rest."""
    clock = _Clock()
    limiter = Limiter(100, clock, clock.sleep)
    while clock.now < 1300.0:
        limiter.wait()
    clock.now += 3600.0
    slept, passed = limiter.slept, 0
    while slept == limiter.slept:
        limiter.wait()
        passed += 1

    assert passed == pytest.approx(195, rel=0.15)


class _Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_the_real_receiver_stored_the_false_value_that_the_model_s_datagram_says() -> None:
    """3 in place of 2147483648, in the year 2029."""
    said = RECORDED["seed-py2-over-00"]
    stored = monalisa.receive(sent_by_the_model(said["decoded"], ASKED["seed-py2-over-00"]))

    assert ("[ok=1.0, big=3.0]", 1869296128) == (said["monalisa_receiver"]["stored"], stored.time)
    assert (("ok", 1.0), ("big", 3.0)) == stored.values

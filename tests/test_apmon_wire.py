"""The wire: real datagrams of six senders, the real receiver's verdicts, and the law that nothing is lost."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bwexporter.apmon import plain, wire
from bwexporter.apmon.wire import Code, Datagram, Parameter, WireError
from tests import monalisa

DATA = Path(__file__).parent / "data" / "apmon"
VECTORS = [json.loads(line) for line in (DATA / "vectors.jsonl").read_text().splitlines()]
CASES = [json.loads(line) for line in (DATA / "receiver-cases.jsonl").read_text().splitlines()]
WORKED = json.loads((DATA / "worked-example.json").read_text())
WELL_FORMED = [vector for vector in VECTORS if vector["well_formed"]]


def by_id(vector: dict[str, Any]) -> str:
    """Name a test after its vector."""
    return str(vector["id"])


def as_said(vector: dict[str, Any]) -> dict[str, Any]:
    """Return what the file says of a vector, in the words of our JSON."""
    said = vector["decoded"]
    return {
        **{key: said[key] for key in ("header", "instance_id", "cluster", "node")},
        "sequence": said["seq"],
        "parameters": said["params"],
        "timestamp": said.get("timestamp"),
    }


def test_there_are_vectors_of_every_sender() -> None:
    """Six senders, and every kind of case."""
    assert {"seed", "py3", "c", "cpp", "perl", "java"} <= {vector["id"].split("-")[0] for vector in WELL_FORMED}
    assert 60 <= len(WELL_FORMED)
    assert 40 <= len(CASES)


@pytest.mark.parametrize("vector", WELL_FORMED, ids=by_id)
def test_a_real_datagram_decodes_to_what_it_says_and_encodes_to_the_same_bytes(vector: dict[str, Any]) -> None:
    """Byte for byte, through JSON as the command line prints it."""
    payload = bytes.fromhex(vector["hex"])
    datagram = wire.decode(payload)

    written = json.dumps(plain.to_plain(datagram), allow_nan=False)

    assert as_said(vector) == json.loads(written)
    assert payload == wire.encode(datagram)
    assert payload == wire.encode(plain.from_plain(json.loads(written)))


@pytest.mark.parametrize(
    "vector", [one for one in VECTORS if not one["well_formed"] and "counts characters" not in one["what"]], ids=by_id
)
def test_a_malformed_datagram_is_refused_with_its_place(vector: dict[str, Any]) -> None:
    """Bytes left over, counts that are too high: the error says at which byte."""
    with pytest.raises(WireError, match=r"^byte \d+: "):
        wire.decode(bytes.fromhex(vector["hex"]))


def test_a_length_in_characters_is_shown_as_it_is() -> None:
    """Java's datagram happens to end in a word more, which reads as a time; half a character keeps its byte."""
    (vector,) = [one for one in VECTORS if "counts characters" in one["what"]]
    datagram = wire.decode(bytes.fromhex(vector["hex"]))

    assert ("utf8", Code.STRING, "caf\udcc3") == datagram.parameters[0]
    assert datagram.timestamp is not None
    assert datagram.timestamp < 0
    assert vector["hex"] == wire.encode(datagram).hex()


def test_the_worked_example_field_by_field() -> None:
    """The bytes of apmon's own example, made from its fields."""
    parameters = (
        Parameter("tx_bytes", Code.FLOAT64, 5e9),
        Parameter("share", Code.INT32, -2),
        Parameter("slice", Code.STRING, "pl_x"),
    )
    made = Datagram("v:2.2.0_hxp:s3cr3t", 0x12345678, 1, "slices", "node1", parameters, 1200000000)

    assert WORKED["hex"] == wire.encode(made).hex()
    assert made == wire.decode(bytes.fromhex(WORKED["hex"]))
    assert len(WORKED["hex"]) == 2 * WORKED["length"]


texts = st.text(max_size=40) | st.binary(max_size=12).map(lambda raw: raw.decode("utf-8", "surrogateescape"))
int32 = st.integers(-(2**31), 2**31 - 1)
encodable = texts.filter(
    lambda text: text.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape") == text
)
raw_parameters = st.one_of(
    st.builds(Parameter, encodable, st.just(Code.STRING), encodable),
    st.builds(Parameter, encodable, st.sampled_from([Code.INT16, Code.INT32]), int32),
    st.builds(Parameter, encodable, st.just(Code.INT64), st.integers(-(2**63), 2**63 - 1)),
    st.builds(Parameter, encodable, st.just(Code.FLOAT32), st.floats(width=32, allow_nan=False)),
    st.builds(Parameter, encodable, st.just(Code.FLOAT64), st.floats(allow_nan=False)),
)
datagrams = st.builds(
    Datagram,
    header=encodable,
    instance_id=int32,
    sequence=int32,
    cluster=encodable,
    node=encodable,
    parameters=st.lists(raw_parameters, max_size=8).map(tuple),
    timestamp=st.none() | int32,
)


@given(datagrams)
def test_nothing_is_lost(datagram: Datagram) -> None:
    """Encoding and decoding, and JSON in between, give back whatever a datagram holds."""
    payload = wire.encode(datagram)

    assert len(payload) % 4 == 0
    assert datagram == wire.decode(payload)
    assert datagram == plain.from_plain(json.loads(json.dumps(plain.to_plain(datagram), allow_nan=False)))


@given(st.integers(0, 2**64 - 1))
def test_every_float_keeps_its_bits(bits: int) -> None:
    """Also those of a NaN, through JSON."""
    (value,) = struct.unpack(">d", struct.pack(">Q", bits))
    made = Datagram("v:2.2.0p:", 1, 1, "c", "n", (Parameter("p", Code.FLOAT64, value),))
    read = plain.from_plain(json.loads(json.dumps(plain.to_plain(made), allow_nan=False)))

    assert struct.pack(">Q", bits) == wire.encode(read)[-8:]


@given(st.binary(max_size=200))
def test_any_bytes_are_a_datagram_or_refused(payload: bytes) -> None:
    """Nothing but a WireError, and what is read is written back as it was."""
    try:
        datagram = wire.decode(payload)
    except WireError:
        return
    again = wire.decode(wire.encode(datagram))
    assert repr(datagram) == repr(again)  # a NaN equals nothing
    assert len(payload) == len(wire.encode(datagram))


@given(datagrams, st.data())
def test_a_datagram_cut_short_is_refused(datagram: Datagram, data: st.DataObject) -> None:
    """No part of a datagram is taken for a whole one, unless only the timestamp is gone."""
    payload = wire.encode(datagram)
    length = data.draw(st.integers(0, len(payload) - 1))
    if datagram.timestamp is not None and length == len(payload) - 4:
        return
    with pytest.raises(WireError):
        wire.decode(payload[:length])


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"instance_id": 2**31}, "instance id"),
        ({"sequence": "one"}, "sequence"),
        ({"timestamp": 2**31}, "timestamp"),
        ({"parameters": [["a", 2, 2**31]]}, "'a' does not fit type code 2"),
        ({"parameters": [["a", 9, 1]]}, "no type code 9"),
        ({"parameters": [["a", 5, "many"]]}, '"many" is not a number'),
        ({"parameters": [["a", 0, 5]]}, "5 is not a value of type code 0"),
        ({"parameters": [["a", 2]]}, "[name, type code, value]"),
        ({"parameters": {}}, "must be a list"),
        ({"header": None}, "header must be text"),
        ({"colour": 1}, '"colour" is not a key'),
    ],
)
def test_fields_that_no_datagram_holds_are_refused_by_name(change: dict[str, Any], text: str) -> None:
    """One sentence that names the key."""
    data = {"header": "v:2.2.0p:", "instance_id": 1, "sequence": 1, "cluster": "c", "node": "n", "parameters": []}
    with pytest.raises(WireError) as refused:
        wire.encode(plain.from_plain({**data, **change}))
    assert text in str(refused.value)


def test_no_repr_shows_a_password() -> None:
    """A datagram may stand in a traceback."""
    made = wire.decode(bytes.fromhex(WORKED["hex"]))

    assert "s3cr3t" not in repr(made)
    assert "v:2.2.0_hxp:***" == plain.masked_header(made.header)
    assert "***" == plain.masked_header("s3cr3t")


def told(verdict: dict[str, Any]) -> str:
    """Return a verdict of the real receiver as one line."""
    if not verdict["accepted"]:
        return "dropped"
    return f"{verdict['cluster']}|{verdict['node']}|{verdict['time']}|{verdict['stored']}"


def judged(payload: bytes, password: str | None) -> str:
    """Return our oracle's verdict in the same form."""
    try:
        stored = monalisa.receive(payload, password=password)
    except monalisa.Discarded:
        return "dropped"
    shown = ", ".join(f"{name}={_java(value)}" for name, value in stored.values)
    return f"{stored.cluster}|{stored.node}|{stored.time or 'arrival'}|[{shown}]"


def _java(value: float | str) -> str:
    """Write a value as Java does."""
    if isinstance(value, str):
        return f"{value}(str)"
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if value == 0 or 1e-3 <= abs(value) < 1e7:
        return repr(value)
    mantissa, exponent = f"{value:.17e}".split("e")
    for digits in range(1, 18):
        mantissa, exponent = f"{value:.{digits}e}".split("e")
        if float(f"{mantissa}e{exponent}") == value:
            break
    return f"{mantissa}E{int(exponent)}"


@pytest.mark.parametrize("case", [one for one in CASES if one["buffer"] == "exact length"], ids=by_id)
def test_the_oracle_judges_as_the_real_receiver_did(case: dict[str, Any]) -> None:
    """So that other tests may ask the oracle what a receiver would make of our datagrams."""
    password = "s3cr3t" if case["receiver_password_required"] else None

    assert told(case["monalisa_receiver"]) == judged(bytes.fromhex(case["hex"]), password)


@pytest.mark.parametrize("vector", VECTORS, ids=by_id)
def test_the_oracle_reads_real_datagrams_as_the_real_receiver_did(vector: dict[str, Any]) -> None:
    """The same for what real senders send, malformed ones included."""
    verdict, ours = told(vector["monalisa_receiver"]), judged(bytes.fromhex(vector["hex"]), None)
    beginning = verdict.rstrip(".")  # the file keeps the beginning of long ones

    assert beginning == (ours if beginning == verdict else ours[: len(beginning)])

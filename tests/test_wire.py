"""The kernel's side of the wire is spelled out here by hand, attribute by attribute, as net/sched/sch_htb.c does it."""

from __future__ import annotations

import struct
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bwexporter.core.lanes import Act, Classes
from bwexporter.errors import KernelUnreadable
from bwexporter.kernel import dump, wire

U32, U63 = 0xFFFFFFFF, (1 << 63) - 1


@dataclass(frozen=True)
class ClassMessage:
    """What one class message says; `extras` are attributes that the kernel may add."""

    handle: int = 0x11001
    parent: int = 0x10010
    leaf: int = 0
    rate: int = 125
    ceiling: int = 125_000
    quantum: int = 1514
    ticks: int = 15_625
    level: int = 0
    sent_bytes: int = 0
    sent_packets: int = 0
    dropped: int = 0
    overlimits: int = 0
    backlog: int = 0
    extras: frozenset[str] = frozenset()
    flags: int = 2
    kind: bytes = b"htb\0"


def attribute(kind: int, payload: bytes) -> bytes:
    """Return a TLV, padded to 4 bytes."""
    return struct.pack("=HH", 4 + len(payload), kind) + payload + bytes(-len(payload) % 4)


def kernel_message(said: ClassMessage) -> bytes:
    """Return RTM_NEWTCLASS as the kernel writes it."""
    spec = [struct.pack("=BBHhHI", 0, 1, 0, -1, 0, min(rate, U32)) for rate in (said.rate, said.ceiling)]
    options = attribute(1, b"".join(spec) + struct.pack("=5I", said.ticks, said.ticks, said.quantum, said.level, 0))
    if said.rate > U32:
        options += attribute(6, struct.pack("=Q", said.rate))
    if said.ceiling > U32:
        options += attribute(7, struct.pack("=Q", said.ceiling))
    stats = attribute(1, struct.pack("=QIxxxx", said.sent_bytes, said.sent_packets & U32))
    if said.sent_packets > U32:
        stats += attribute(8, struct.pack("=Q", said.sent_packets))
    if "estimator" in said.extras:
        stats += attribute(2, bytes(8))
    stats += attribute(3, struct.pack("=5I", 0, said.backlog, said.dropped, 0, said.overlimits)) + attribute(
        4, bytes(20)
    )
    body = attribute(1, said.kind) + attribute(2, options) + attribute(7, stats) + attribute(3, bytes(40))
    if "warning" in said.extras:
        body += attribute(16, b"sch_htb: quantum of class is big\0")
    header = struct.pack("=IHHII", 36 + len(body), wire.RTM_NEWTCLASS, said.flags, 1, 2)
    return header + struct.pack("=B3xiIII", 0, 3, said.handle, said.parent, said.leaf) + body


def decoded(data: bytes, known: list[dump.Shape] | None = None) -> list[tuple[int, ...]]:
    """Return one tuple of all columns a class."""
    classes, counts, backlog = dump.decode_classes(data, len(data), known)
    columns = [*_columns(classes), *_columns(counts), backlog]
    return list(zip(*(column.tolist() for column in columns), strict=True))


def _columns(table: object) -> list[np.ndarray]:
    return [getattr(table, name) for name in table.__dataclass_fields__]  # type: ignore[attr-defined]


def expected(said: ClassMessage) -> tuple[int, ...]:
    """Return the same for what was said."""
    parent = said.parent if said.parent != U32 else said.handle & 0xFFFF0000
    quantum = wire.INNER_QUANTUM_BYTES if said.level else said.quantum
    burst_ns = said.ticks * 64
    settings_ = (said.handle, parent, said.rate, said.ceiling, quantum, burst_ns, burst_ns, said.leaf)
    return (*settings_, said.sent_bytes, said.sent_packets, said.dropped, said.overlimits, said.backlog)


u32 = st.integers(0, U32)
wide = st.one_of(st.integers(0, U32), st.integers(0, U63))
messages = st.builds(
    ClassMessage,
    handle=u32,
    parent=u32,
    leaf=u32,
    rate=wide,
    ceiling=wide,
    quantum=u32,
    ticks=u32,
    level=st.integers(0, 7),
    sent_bytes=st.integers(0, U63),
    sent_packets=wide,
    dropped=u32,
    overlimits=u32,
    backlog=u32,
    extras=st.frozensets(st.sampled_from(["estimator", "warning"])),
    flags=st.sampled_from([0, 2, 18]),
)


@given(st.lists(messages, max_size=12), st.lists(messages, max_size=3))
def test_messages_of_any_mixture_of_lengths_are_read_in_their_order(
    told: list[ClassMessage], before: list[ClassMessage]
) -> None:
    """Also with shapes remembered from other dumps."""
    known: list[dump.Shape] = []
    decoded(b"".join(map(kernel_message, before)), known)
    assert decoded(b"".join(map(kernel_message, told)), known) == list(map(expected, told))


@given(st.lists(st.lists(messages, max_size=4), max_size=5), st.lists(messages, max_size=4))
def test_a_dump_is_read_part_by_part_as_it_is_in_one(
    told: list[list[ClassMessage]], before: list[ClassMessage]
) -> None:
    """Each part overwrites the one before it, and each dump the last one; the shapes of one are known to the next."""
    reading, arena = dump.Reading([]), bytearray(1 << 16)
    for one in ([before], told):
        reading.begin()
        for part in one:
            data = b"".join(map(kernel_message, part))
            arena[: len(data)] = data
            reading.take(arena, len(data))
    whole = b"".join(kernel_message(said) for part in told for said in part)
    assert reading.block.tolist() == dump.decode_block(whole, len(whole), []).tolist()


def test_a_uniform_dump_is_read() -> None:
    """A thousand classes, each with its own numbers."""
    dump = [ClassMessage(handle=0x11000 + row, sent_bytes=row << 33, ceiling=row + 1) for row in range(1000)]
    assert decoded(b"".join(map(kernel_message, dump))) == list(map(expected, dump))


def test_an_empty_dump_has_no_class() -> None:
    """A device without a tree answers nothing."""
    assert decoded(b"") == []


def test_the_top_class_has_the_tree_as_its_parent() -> None:
    """The kernel says TC_H_ROOT, whoever was named when the class was made."""
    ((handle, parent, *_),) = decoded(kernel_message(ClassMessage(handle=0x10001, parent=U32)))
    assert (handle, parent) == (0x10001, 0x10000)


@settings(max_examples=300)
@given(st.lists(messages, min_size=1, max_size=4), st.data())
def test_a_damaged_dump_is_refused_or_read_but_never_crashes(dump: list[ClassMessage], data: st.DataObject) -> None:
    """Whatever bytes arrive, the answer is a table or KernelUnreadable."""
    damaged = bytearray(b"".join(map(kernel_message, dump)))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    del damaged[data.draw(st.integers(0, len(damaged))) :]
    with suppress(KernelUnreadable):
        decoded(bytes(damaged))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (kernel_message(ClassMessage())[:-4], "impossible length"),
        (kernel_message(ClassMessage()) + kernel_message(ClassMessage(rate=1 << 40))[:-8], "inside a message"),
        (kernel_message(ClassMessage()) + bytes(4), "shorter than its header"),
        (kernel_message(ClassMessage(kind=b"tbf\0")), "lacks what an HTB class has"),
        (kernel_message(ClassMessage()) + kernel_message(ClassMessage(kind=b"tbf\0")), "lacks what an HTB class has"),
        (kernel_message(ClassMessage())[:-3], "inside a message"),
    ],
)
def test_what_is_not_whole_is_refused(data: bytes, why: str) -> None:
    """A dump is never guessed at."""
    with pytest.raises(KernelUnreadable, match=why):
        decoded(data)


def test_an_attribute_that_is_too_short_is_refused() -> None:
    """A shape is only believed when every field is inside its attribute."""
    message = bytearray(kernel_message(ClassMessage()))
    start = message.index(struct.pack("=HH", 20, 1))
    struct.pack_into("=H", message, start, 8)
    with pytest.raises(KernelUnreadable):
        decoded(bytes(message))


def some_classes(rows: int, **given_: int) -> Classes:
    """Return classes with different handles; every other column as given."""
    columns = {name: np.full(rows, given_.get(name, 1000), np.int64) for name in Classes.__dataclass_fields__}
    columns["handle"] = 0x11000 + np.arange(rows)
    return Classes(**columns)


def parts(data: bytes) -> list[bytes]:
    """Split encoded messages by their lengths."""
    found, at = [], 0
    while at < len(data):
        (length,) = struct.unpack_from("=I", data, at)
        found.append(data[at : at + length])
        at += length
    return found


@pytest.mark.parametrize("act", list(Act))
def test_few_and_many_classes_are_encoded_alike(act: Act) -> None:
    """The matrix and the packing one by one make the same bytes, but for the acknowledgement of the last."""
    classes = some_classes(40, rate_bytes_per_second=50_000_000_000, ceiling_bytes_per_second=U32 + 1)
    many = parts(wire.encode_classes(classes, act, ifindex=3, first_seq=7, echo=True, batch=1000))
    for row, message in enumerate(many[:-1]):
        one = classes.take(np.array([row]))
        few = bytearray(wire.encode_classes(one, act, ifindex=3, first_seq=7 + row, echo=True, batch=1000))
        few[6] &= ~wire.NLM_F_ACK
        assert bytes(few) == message


@pytest.mark.parametrize("rows", [5, 100])
def test_the_last_message_of_a_batch_asks_for_an_acknowledgement(rows: int) -> None:
    """Errors are reported without being asked for, so that nothing else needs an answer."""
    data = wire.encode_classes(some_classes(rows), Act.CHANGE, ifindex=3, first_seq=1, batch=4)
    asking = [row for row, message in enumerate(parts(data)) if message[6] & wire.NLM_F_ACK]
    assert asking == sorted({*range(3, rows, 4), rows - 1})


@pytest.mark.parametrize("rows", [1, 100])
def test_what_the_kernel_cannot_hold_is_not_wrapped_around(rows: int) -> None:
    """A negative rate is sent as 0, which is refused; a burst is cut to what 32 bits of ticks hold."""
    classes = some_classes(rows, rate_bytes_per_second=-5, burst_ns=1 << 62, quantum_bytes=1 << 40)
    message = parts(wire.encode_classes(classes, Act.CHANGE, ifindex=3, first_seq=1))[0]
    rate, ticks, quantum, rate64 = (struct.unpack_from(form, message, at)[0] for form, at in (
        ("=I", 60), ("=I", 76), ("=I", 84), ("=Q", 100)
    ))  # fmt: skip
    assert (rate, ticks, quantum, rate64) == (0, U32, 0x7FFFFFFF, 0)


def test_what_was_encoded_differs_only_where_it_was_asked_to() -> None:
    """Two creations differ from two changes in the flags alone."""
    create, change = (
        wire.encode_classes(some_classes(2), act, ifindex=3, first_seq=1) for act in (Act.CREATE, Act.CHANGE)
    )
    assert [at % 120 for at, (left, right) in enumerate(zip(create, change, strict=True)) if left != right] == [7, 7]


def test_remembered_shapes_do_not_mix_up_dumps() -> None:
    """A shape that fits the first message is checked against all of them."""
    known: list[dump.Shape] = []
    plain = ClassMessage()
    dumps = [[plain] * 3, [replace(plain, rate=1 << 33)] * 3, [plain, replace(plain, extras=frozenset({"estimator"}))]]
    for told in dumps * 2:
        assert decoded(b"".join(map(kernel_message, told)), known) == list(map(expected, told))
    assert len(known) == 3


@given(st.binary(max_size=80))
def test_a_queue_message_of_any_bytes_never_crashes(tail: bytes) -> None:
    """The answer is a queue or KernelUnreadable."""
    header = struct.pack("=IHHII", 36 + len(tail), wire.RTM_NEWQDISC, 0, 1, 2) + struct.pack("=B3xiIII", 0, 3, 1, 2, 0)
    for prefix in (b"", attribute(1, b"htb\0")):
        data = header + prefix + tail
        with suppress(KernelUnreadable):
            dump.decode_qdisc(data, 0, len(data))

"""Wire: the layout of tc messages for HTB.

Turns changes and questions into messages, and takes a message apart into its attributes. Knows: linux/netlink.h
(nlmsghdr), linux/rtnetlink.h (tcmsg, TCA_*), linux/pkt_sched.h (tc_htb_opt, tc_htb_glob, tc_ratespec, tc_fifo_qopt,
TCA_HTB_*, TCA_FQ_CODEL_*), linux/gen_stats.h (TCA_STATS_*). Does not know: what the kernel tells by them (dump),
sockets, devices, which class is whose.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bwexporter.core.lanes import I8, Act, Classes
from bwexporter.errors import KernelUnreadable

TICK_NS = 64  # PSCHED_SHIFT of include/net/pkt_sched.h: the kernel keeps bursts in units of 2^6 ns
LARGEST_BURST_NS = 0xFFFFFFFF * TICK_NS
TREE_HANDLE = 0x10000  # 1:
TC_H_ROOT = 0xFFFFFFFF
INNER_QUANTUM_BYTES = 1514  # of a class with children, which the kernel neither uses nor lets anyone change

NLMSG_ERROR, NLMSG_DONE = 2, 3
RTM_NEWLINK, RTM_DELLINK, RTM_NEWQDISC, RTM_DELQDISC, RTM_GETQDISC = 16, 17, 36, 37, 38
RTM_NEWTCLASS, RTM_DELTCLASS, RTM_GETTCLASS = 40, 41, 42
NLM_F_REQUEST, NLM_F_ACK, NLM_F_ECHO, NLM_F_DUMP_INTR = 1, 4, 8, 16
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_DUMP, NLM_F_CREATE = 0x100, 0x200, 0x300, 0x400
SEQUENCE_SPAN = 1 << 31

TCA_KIND, TCA_OPTIONS, TCA_STATS2 = 1, 2, 7
TCA_HTB_PARMS, TCA_HTB_INIT, TCA_HTB_RATE64, TCA_HTB_CEIL64 = 1, 2, 6, 7
TCA_STATS_BASIC, TCA_STATS_QUEUE, TCA_STATS_PKT64 = 1, 3, 8
_NLA_TYPE_MASK = 0x3FFF
HTB_KIND = b"htb\0"
_U32_MAX, _I32_MAX = 0xFFFFFFFF, 0x7FFFFFFF
_FEW = 32  # up to here packing one by one is faster than filling a matrix

EVENT = struct.Struct("=IHHIIB3xiII")
"""Start of a notification: length, type, flags, seq, port (nlmsghdr), then family and ifindex, which stand at the same
place in tcmsg and ifinfomsg, then tcmsg's handle and parent (without meaning for a link)."""
_TLV = struct.Struct("=HH")
TC_REQUEST = struct.Struct("=IHHII4xiIII")  # nlmsghdr, tcmsg
_KIND_OPTIONS_PARMS = struct.pack("=HH4sHHHH", 8, TCA_KIND, HTB_KIND, 76, TCA_OPTIONS, 48, TCA_HTB_PARMS)
# Ethernet as link layer: the kernel then takes the rate as it stands and asks for no rate table.
_RATESPEC_HEAD = struct.pack("=BBHhH", 0, 1, 0, -1, 0)
_RATE64_HEAD = struct.pack("=HH", 12, TCA_HTB_RATE64)
_CEIL64_HEAD = struct.pack("=HH", 12, TCA_HTB_CEIL64)
_WIDE = struct.Struct("=Q")
_CLASS_MESSAGE = struct.Struct("=IHHII4xiIII16s8sI8sIIIIII4sQ4sQ")
_CLASS_COLUMNS: Any = np.dtype(
    {
        "names": ["flags", "seq", "handle", "parent", "rate", "ceil", "burst", "cburst", "quantum", "rate64", "ceil64"],
        "formats": ["u2", *["u4"] * 8, "u8", "u8"],
        "offsets": [6, 8, 24, 28, 60, 72, 76, 80, 84, 100, 112],
        "itemsize": _CLASS_MESSAGE.size,
    },
)
_REMOVAL_COLUMNS: Any = np.dtype(
    {"names": ["flags", "seq", "handle"], "formats": ["u2", "u4", "u4"], "offsets": [6, 8, 24], "itemsize": 36},
)
LEAF_KINDS = ("fq_codel", "pfifo")
"""Leaf queues, the better one first; every kernel has the last."""

_PFIFO = struct.Struct("=HH8sHHI")  # the kind, tc_fifo_qopt
_FQ_CODEL = struct.Struct("=HH12sHH")  # the kind, the head of its options
_FQ_CODEL_NUMBERS = struct.Struct("=HHIHHIHHI")  # target, interval, limit
_NUMBER = struct.Struct("=HHI")
_TCA_FQ_CODEL_TARGET, _TCA_FQ_CODEL_LIMIT, _TCA_FQ_CODEL_INTERVAL, _TCA_FQ_CODEL_FLOWS = 1, 2, 3, 5
_LEAF_FLOWS = 64  # the usual 1024 would take 64 KiB for each of thousands of queues
_LEAF_PARTS_OF_SECOND = 4
_PACKET_BYTES = 1514
_LEAST_LEAF_PACKETS, _MOST_LEAF_PACKETS = 5, 1000
_LONGEST_TARGET_US = 1_000_000

Buffer = bytes | bytearray


class Place(NamedTuple):
    """What a message is about (tcmsg): a class, a queue, or all of either in a tree."""

    ifindex: int
    handle: int
    parent: int


def encode_classes(
    classes: Classes, act: Act, *, ifindex: int, first_seq: int, echo: bool = False, batch: int = 1000
) -> bytes:
    """Turn classes into messages of one length, back to back: RTM_NEWTCLASS, or RTM_DELTCLASS for a removal.

    Row i has the sequence number first_seq + i. The last message of every `batch` and the last of all ask for an
    acknowledgement; the kernel reports errors without being asked. `echo` makes the kernel answer with the class as it
    then is. A change is a full replacement in the kernel, so every parameter is sent, rates in 64 bits; a rate that is
    not positive is sent as 0, which the kernel refuses (EINVAL).
    """
    if act is Act.REMOVE:
        return _encode_removals(classes.handle, ifindex, first_seq, batch)
    flags = NLM_F_REQUEST | (NLM_F_ECHO if echo else 0)
    flags |= NLM_F_CREATE | NLM_F_EXCL if act is Act.CREATE else 0
    if len(classes) <= _FEW:
        return _encode_few(classes, flags, ifindex, first_seq, batch)
    first = _pack_class(flags, 0, ifindex, (0, 0, 1, 1, 0, 0, 0))
    rows = np.tile(np.frombuffer(first, np.uint8), (len(classes), 1)).view(_CLASS_COLUMNS)[:, 0]
    rate = classes.rate_bytes_per_second.clip(0)
    ceiling = classes.ceiling_bytes_per_second.clip(0)
    rows["seq"] = np.arange(first_seq, first_seq + len(classes))
    rows["flags"] |= _acknowledged(len(classes), batch)
    rows["handle"], rows["parent"] = classes.handle, classes.parent
    rows["rate"], rows["ceil"] = np.minimum(rate, _U32_MAX), np.minimum(ceiling, _U32_MAX)
    rows["rate64"], rows["ceil64"] = rate, ceiling
    rows["burst"] = (classes.burst_ns // TICK_NS).clip(0, _U32_MAX)
    rows["cburst"] = (classes.ceiling_burst_ns // TICK_NS).clip(0, _U32_MAX)
    rows["quantum"] = classes.quantum_bytes.clip(0, _I32_MAX)
    return bytes(rows.data)


def encode_change(classes: Classes, *, ifindex: int, seq: int) -> bytes:
    """Turn one class into the message that changes it; the class as it then is, or a refusal, is its answer."""
    fields = tuple([column.item() for column in _sent_columns(classes)])
    return _pack_class(NLM_F_REQUEST | NLM_F_ECHO, seq, ifindex, fields)


def encode_ceilings(
    arena: Buffer, used_bytes: int, ceilings: Mapping[int, int], *, first_seq: int, batch: int = 1000
) -> tuple[list[int], bytes]:
    """Turn classes as the kernel tells them into changes of nothing but their ceilings.

    Returns the handles of those that were told among `ceilings`, and a message (RTM_NEWTCLASS) for each. All that the
    kernel said of a class goes back to it as it is: it would replace what is left out by a default.
    """
    told = {}
    starts, lengths = boundaries(memoryview(arena)[:used_bytes].cast("I"))
    for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
        raw = bytes(arena[4 * start : 4 * (start + length)])
        _, _, _, _, _, _, ifindex, handle, parent = EVENT.unpack_from(raw)
        if handle in ceilings:
            told[handle] = _with_ceiling(raw, ifindex, handle, parent, ceilings[handle])
    acknowledged = _acknowledged(len(told), batch).tolist()
    messages = (
        TC_REQUEST.pack(TC_REQUEST.size + len(body), RTM_NEWTCLASS, NLM_F_REQUEST | ack, first_seq + row, 0, *place, 0)
        + body
        for row, ((place, body), ack) in enumerate(zip(told.values(), acknowledged, strict=True))
    )
    return list(told), b"".join(messages)


def _with_ceiling(
    raw: bytes, ifindex: int, handle: int, parent: int, ceiling: int
) -> tuple[tuple[int, int, int], bytes]:
    """Return a class's place, and its attributes with another ceiling."""
    found = {(outer, inner): raw[at : at + length] for outer, inner, at, length in attributes(raw)}
    parameters = bytearray(found[TCA_OPTIONS, TCA_HTB_PARMS])
    rate = found.get((TCA_OPTIONS, TCA_HTB_RATE64)) or _WIDE.pack(*struct.unpack_from("=I", parameters, 8))
    struct.pack_into("=I", parameters, 20, min(ceiling, _U32_MAX))
    body = _KIND_OPTIONS_PARMS + parameters + _RATE64_HEAD + rate + _CEIL64_HEAD + _WIDE.pack(ceiling)
    return (ifindex, handle, parent), body


def encode_leaves(
    kind: str, parents: list[int], handles: list[int], ceilings: I8, *,
    flags: int, ifindex: int, first_seq: int, batch: int = 1000,
) -> bytes:  # fmt: skip
    """Turn ceilings into messages (RTM_NEWQDISC) that make the leaf queue of each parent class, or change it in place.

    `kind` is a key of LEAF_KINDS. A change keeps the queue's handle, its packets and its counters.
    """
    acknowledged = _acknowledged(len(parents), batch).tolist()
    limits = zip(leaf_packets(ceilings).tolist(), ceilings.tolist(), strict=True)
    payload = [_leaf_options(kind, limit, ceiling, made=bool(flags & NLM_F_CREATE)) for limit, ceiling in limits]
    return b"".join(
        TC_REQUEST.pack(
            TC_REQUEST.size + len(options), RTM_NEWQDISC, NLM_F_REQUEST | flags | ack, first_seq + row, 0, ifindex,
            handle, parent, 0,
        )
        + options
        for row, (parent, handle, options, ack) in enumerate(zip(parents, handles, payload, acknowledged, strict=True))
    )  # fmt: skip


def leaf_packets(ceiling_bytes_per_second: I8) -> I8:
    """Return how many packets a leaf queue holds: a quarter of a second at the ceiling, never less than five.

    Rounded down to 3 significant bits, so that it seldom changes; at most 1000. Packets of 1514 bytes are meant. Bytes
    would bound the time for packets of any size, but TCP, whose packets are up to 64 KiB here, then starves: one flow
    got 40 % of a ceiling of 1 mbit from a queue of 31 kB, and 90 % from one of 20 packets.

    >>> leaf_packets(np.array([1_000, 25_000, 50_000, 1_250_000, 1 << 40])).tolist()
    [5, 5, 8, 192, 1000]
    """
    held = ceiling_bytes_per_second // (_LEAF_PARTS_OF_SECOND * _PACKET_BYTES)
    held = np.minimum(np.maximum(held, 1), _MOST_LEAF_PACKETS)  # clip takes twice as long
    _, bits = np.frexp(held)
    step = 1 << np.maximum(bits - 3, 0)
    rounded: I8 = np.maximum(np.where(held < _MOST_LEAF_PACKETS, held // step * step, held), _LEAST_LEAF_PACKETS)
    return rounded


def _leaf_options(kind: str, limit: int, ceiling: int, *, made: bool) -> bytes:
    """Make TCA_KIND and TCA_OPTIONS; what cannot be changed in place is sent only where the queue is made."""
    if kind == "pfifo":
        return _PFIFO.pack(10, TCA_KIND, b"pfifo\0\0\0", 8, TCA_OPTIONS, limit)
    # CoDel's target is at least the time of one and a half packets at the ceiling, its interval ten times that.
    target_us = min(max(5_000, 3 * _PACKET_BYTES * 500_000 // max(ceiling, 1)), _LONGEST_TARGET_US)
    options = _FQ_CODEL_NUMBERS.pack(
        8, _TCA_FQ_CODEL_TARGET, target_us, 8, _TCA_FQ_CODEL_INTERVAL, max(100_000, 10 * target_us),
        8, _TCA_FQ_CODEL_LIMIT, limit,
    )  # fmt: skip
    if made:
        options += _NUMBER.pack(8, _TCA_FQ_CODEL_FLOWS, _LEAF_FLOWS)
    return _FQ_CODEL.pack(13, TCA_KIND, b"fq_codel\0\0\0\0", 4 + len(options), TCA_OPTIONS) + options


def encode_request(kind: int, flags: int, seq: int, place: Place) -> bytes:
    """Make a message without attributes: a dump (the parent's major chooses the tree), or a question for one object."""
    return TC_REQUEST.pack(
        TC_REQUEST.size, kind, NLM_F_REQUEST | flags, seq, 0, place.ifindex, place.handle, place.parent, 0
    )


def encode_questions(handles: I8, *, ifindex: int, first_seq: int, batch: int) -> bytes:
    """Ask for single classes. Without NLM_F_ECHO the kernel tells the answer to the listeners only."""
    acknowledged = _acknowledged(len(handles), batch).tolist()
    return b"".join(
        encode_request(RTM_GETTCLASS, NLM_F_ECHO | ack, first_seq + row, Place(ifindex, handle, 0))
        for row, (handle, ack) in enumerate(zip(handles.tolist(), acknowledged, strict=True))
    )


def boundaries(lengths: memoryview) -> tuple[I8, I8]:
    """Return where each message starts and how long it is, in words of the given view of the arena."""
    starts = []
    at, end = 0, len(lengths)
    while at < end:
        starts.append(at)
        step = (lengths[at] + 3) >> 2
        if step < TC_REQUEST.size // 4:
            raise KernelUnreadable("a class message is shorter than its header")
        at += step
    if at != end:
        raise KernelUnreadable("a class dump ends inside a message")
    begin = np.array(starts, np.int64)
    return begin, np.diff(begin, append=end)


def attributes(raw: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Walk the attributes of a tc message, nests after their own header: (type, type in the nest or 0, at, length).

    The options of other kinds than HTB are not walked: those of a pfifo, for one, are a bare struct.
    """
    nests = {TCA_STATS2}
    for outer, at, length in _level(raw, TC_REQUEST.size, len(raw)):
        yield outer, 0, at, length
        if outer == TCA_KIND and raw[at : at + length] == HTB_KIND:
            nests.add(TCA_OPTIONS)
        if outer in nests:
            for inner, inner_at, inner_length in _level(raw, at, at + length):
                yield outer, inner, inner_at, inner_length


def _level(raw: bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    while at < end:
        if end - at < _TLV.size:
            raise KernelUnreadable("an attribute of a tc message is cut off")
        length, kind = _TLV.unpack_from(raw, at)
        if not _TLV.size <= length <= end - at:
            raise KernelUnreadable("an attribute of a tc message has an impossible length")
        yield kind & _NLA_TYPE_MASK, at + _TLV.size, length - _TLV.size
        at += (length + 3) & ~3


def _acknowledged(count: int, batch: int) -> NDArray[np.uint16]:
    flags = np.zeros(count, np.uint16)
    flags[batch - 1 :: batch] = NLM_F_ACK
    flags[-1:] = NLM_F_ACK
    return flags


def _pack_class(flags: int, seq: int, ifindex: int, fields: tuple[int, ...]) -> bytes:
    handle, parent, rate, ceiling, burst, ceiling_burst, quantum = fields
    # Most values are within their bounds, and to ask is a fraction of what min and max take.
    burst, ceiling_burst = burst // TICK_NS, ceiling_burst // TICK_NS
    return _CLASS_MESSAGE.pack(
        _CLASS_MESSAGE.size, RTM_NEWTCLASS, flags, seq, 0, ifindex, handle, parent, 0, _KIND_OPTIONS_PARMS,
        _RATESPEC_HEAD, rate if 0 <= rate <= _U32_MAX else min(max(rate, 0), _U32_MAX),
        _RATESPEC_HEAD, ceiling if 0 <= ceiling <= _U32_MAX else min(max(ceiling, 0), _U32_MAX),
        burst if 0 <= burst <= _U32_MAX else min(max(burst, 0), _U32_MAX),
        ceiling_burst if 0 <= ceiling_burst <= _U32_MAX else min(max(ceiling_burst, 0), _U32_MAX),
        quantum if 0 <= quantum <= _I32_MAX else min(max(quantum, 0), _I32_MAX),
        0, 0, _RATE64_HEAD, max(rate, 0), _CEIL64_HEAD, max(ceiling, 0),
    )  # fmt: skip


def _sent_columns(classes: Classes) -> tuple[I8, ...]:
    return (
        classes.handle, classes.parent, classes.rate_bytes_per_second, classes.ceiling_bytes_per_second,
        classes.burst_ns, classes.ceiling_burst_ns, classes.quantum_bytes,
    )  # fmt: skip


def _encode_few(classes: Classes, flags: int, ifindex: int, first_seq: int, batch: int) -> bytes:
    rows = list(zip(*(column.tolist() for column in _sent_columns(classes)), strict=True))
    last = len(rows) - 1
    return b"".join(
        _pack_class(
            flags | (NLM_F_ACK if row == last or not (row + 1) % batch else 0), first_seq + row, ifindex, fields
        )
        for row, fields in enumerate(rows)
    )


def _encode_removals(handles: I8, ifindex: int, first_seq: int, batch: int) -> bytes:
    first = encode_request(RTM_DELTCLASS, 0, 0, Place(ifindex, 0, 0))
    rows = np.tile(np.frombuffer(first, np.uint8), (len(handles), 1)).view(_REMOVAL_COLUMNS)[:, 0]
    rows["seq"] = np.arange(first_seq, first_seq + len(handles))
    rows["flags"] |= _acknowledged(len(handles), batch)
    rows["handle"] = handles
    return bytes(rows.data)

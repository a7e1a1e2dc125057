"""Nft: the door to nftables.

Turns a script into one atomic transaction, and tables of ours into their frame (declarations and chains, as text) and
their elements. Knows: the program nft and what it complains of, the layout of nf_tables messages. Does not know: what a
chain or a map is for.

Elements are read over netlink (linux/netfilter/nf_tables.h), not from a listing: nft 1.0.6 finds the name of each
control group by a walk over all of them, and so lists 1 000 in 43 s.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import socket
import struct
import subprocess
from collections.abc import Iterator, Mapping
from itertools import pairwise

from bwexporter.errors import DeviceRefused, KernelUnreadable

TABLE = "bwexporter"
FAMILIES: Mapping[str, int] = {"inet": 1, "netdev": 5}  # NFPROTO_INET, NFPROTO_NETDEV

_NETLINK_NETFILTER = 12
_NFNL_SUBSYS_NFTABLES = 10 << 8
_NFT_MSG_GETTABLE, _NFT_MSG_GETSETELEM, _NFT_MSG_GETGEN = 1, 13, 16
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLM_F_REQUEST, _NLM_F_DUMP_INTR, _NLM_F_DUMP = 1, 16, 0x300
_TABLE_NAME = 1  # NFTA_TABLE_NAME
_LIST_TABLE, _LIST_SET, _LIST_ELEMENTS = 1, 2, 3  # NFTA_SET_ELEM_LIST_*
_ELEM_KEY, _ELEM_DATA, _ELEM_FLAGS = 1, 2, 3  # NFTA_SET_ELEM_*
_GEN_ID = 1  # NFTA_GEN_ID
_INTERVAL_END = 1  # NFT_SET_ELEM_INTERVAL_END
_HEADER = struct.Struct("=IHHIIBBH")  # nlmsghdr, nfgenmsg
_HEAD = struct.Struct("=IHH")  # the start of nlmsghdr
_ATTRIBUTE = struct.Struct("=HH")
_KIND = 0x3FFF  # without NLA_F_NESTED and NLA_F_NET_BYTEORDER
_READ_BYTES = 1 << 16
_REPLY_SECONDS = 10
_SCRIPT_SECONDS = 60
_DUMPS = 5
_NO_NFTABLES = (errno.EOPNOTSUPP, errno.EPROTONOSUPPORT, errno.EINVAL)
_SYSTEM_FOLDERS = "/usr/sbin:/sbin"  # not in every user's PATH
_BLOCK = re.compile(r"^\t(\S+ \S+) \{\n(.*?)^\t\}", re.MULTILINE | re.DOTALL)
_COMMENT = re.compile(r'^\tcomment ".*"$', re.MULTILINE)

_NOT_PERMITTED = "reading and changing nftables needs the capability CAP_NET_ADMIN; run as root, or grant it"

Element = tuple[bytes, int, bool]
"""Key, value in the machine's byte order (0 where there is none), and whether it is the end of an interval."""


class NftRefused(DeviceRefused):
    """The program nft has refused a script, and nothing of it was done; `complaint` is its first line."""

    def __init__(self, text: str, complaint: str = "") -> None:
        super().__init__(text)
        self.complaint = complaint or text


class Nft:
    """The tables called bwexporter of the network namespace that the calling thread is in."""

    def __init__(self, program: str = "nft") -> None:
        self._program = program

    def run(self, script: str) -> str:
        """Run a script as one transaction and return what it prints; NftRefused where any line of it is refused."""
        return self._call(["-f", "-"], script)

    def has_table(self, family: str) -> bool:
        """Say whether there is a table of that name, whoever made it; the program nft is not needed for that."""
        try:
            return bool(_ask(_NFT_MSG_GETTABLE, 0, FAMILIES[family], _attribute(_TABLE_NAME, TABLE.encode() + b"\0")))
        except _Absent:
            return False

    def frame(self, family: str) -> dict[str, tuple[str, ...]]:
        """Return the declarations and chains of a table, each with its lines; empty where there is no table.

        What is said of the table itself, its comment, stands under `netdev table`.
        """
        try:
            listing = self._call(["--numeric", "--terse", "list", "table", family, TABLE])
        except NftRefused as refusal:
            if os.strerror(errno.ENOENT) in refusal.complaint:
                return {}
            raise
        blocks = {f"{family} {head}": _lines(body) for head, body in _BLOCK.findall(listing)}
        return {f"{family} table": tuple(map(str.strip, _COMMENT.findall(listing))), **blocks}

    def elements(self, family: str, name: str) -> list[Element]:
        """Return the elements of a map or set; none where it is absent. KernelUnreadable where they do not hold still.

        A key is in the byte order that the kernel holds it in: the network's in intervals, else the machine's.
        """
        attributes = _attribute(_LIST_TABLE, TABLE.encode() + b"\0") + _attribute(_LIST_SET, name.encode() + b"\0")
        for _ in range(_DUMPS):
            found = _ask(_NFT_MSG_GETSETELEM, _NLM_F_DUMP, FAMILIES[family], attributes)
            if found is not None:
                return [element for message in found for element in _elements(message)]
        raise KernelUnreadable(f"the elements of {family} {TABLE} {name} change while they are read")

    def generation(self) -> int:
        """Return the number that rises with every change of any table of this network namespace."""
        (message,) = _ask(_NFT_MSG_GETGEN, 0, 0, b"") or (b"",)
        numbers = [int.from_bytes(value, "big") for kind, value in _attributes(message) if kind == _GEN_ID]
        return numbers[0] if numbers else 0

    def _call(self, arguments: list[str], script: str = "") -> str:
        try:
            ended = subprocess.run(
                [self._found(), *arguments],
                input=script,
                capture_output=True,
                check=False,
                text=True,
                timeout=_SCRIPT_SECONDS,
                env={"LC_ALL": "C", "PATH": _SYSTEM_FOLDERS},
            )
        except subprocess.TimeoutExpired as late:
            raise KernelUnreadable(f"the program nft did not end within {_SCRIPT_SECONDS} s") from late
        if ended.returncode:
            raise _refusal(ended.stderr, ended.returncode)
        return ended.stdout

    def _found(self) -> str:
        found = shutil.which(self._program) or shutil.which(self._program, path=_SYSTEM_FOLDERS)
        if found is None:
            raise DeviceRefused(
                f"classifying traffic needs the program {self._program}; install the Debian package nftables"
            )
        return found


def _refusal(stderr: str, code: int) -> NftRefused:
    """Say what nft complains of; its first line names the place in the script, which nobody has seen."""
    first = next(iter(stderr.splitlines()), f"ended with {code}")
    complaint = first.partition("Error: ")[2] or first
    if os.strerror(errno.EPERM) in stderr:
        text = _NOT_PERMITTED
    elif os.strerror(errno.EMSGSIZE) in stderr:
        text = "so many rules cannot be written at once here; raise net.core.wmem_default, or run as root of the host"
    elif os.strerror(errno.EOPNOTSUPP) in stderr:
        text = (
            "this kernel cannot classify traffic: it needs Linux 5.16 with NETFILTER_EGRESS, NF_TABLES_NETDEV, "
            f"NFT_HASH, CGROUP_NET_CLASSID and IP_ROUTE_CLASSID (nft says: {complaint})"
        )
    else:
        text = f"nft refused the classifier's rules: {complaint}"
    return NftRefused(text, complaint)


def _lines(body: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in body.splitlines() if line.strip())


def _attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < _ATTRIBUTE.size:
            raise KernelUnreadable("an answer of nf_tables is not whole")
        yield kind & _KIND, data[at + _ATTRIBUTE.size : at + length]
        at += length + 3 & ~3


def _ask(kind: int, flags: int, family: int, attributes: bytes) -> list[bytes] | None:
    """Return the attributes of every answer, none where there is no such thing; None where a dump was disturbed."""
    size = _HEADER.size + len(attributes)
    request = _HEADER.pack(size, _NFNL_SUBSYS_NFTABLES | kind, _NLM_F_REQUEST | flags, 1, 0, family, 0, 0)
    try:
        return list(_answers(request + attributes, is_dump=bool(flags & _NLM_F_DUMP)))
    except _Disturbed:
        return None
    except FileNotFoundError:
        return []
    except PermissionError as error:
        raise DeviceRefused(_NOT_PERMITTED) from error
    except OSError as error:
        if error.errno in _NO_NFTABLES:
            raise _Absent("this kernel has no nftables") from error
        raise KernelUnreadable(f"nf_tables does not answer: {error.strerror or error}") from error


def _answers(request: bytes, *, is_dump: bool) -> Iterator[bytes]:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as asking:
        asking.settimeout(_REPLY_SECONDS)
        asking.send(request)
        while True:
            for answer, message in _messages(asking.recv(_READ_BYTES)):
                if answer == _NLMSG_DONE:
                    return
                yield message
            if not is_dump:
                return


class _Absent(KernelUnreadable):
    """There are no tables at all in this kernel."""


class _Disturbed(Exception):
    """Elements came or went while they were dumped."""


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the kind and the attributes of each message; an answer that is an error is raised."""
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, flags = _HEAD.unpack_from(data, at)
        if length < _HEADER.size:
            return
        if kind == _NLMSG_ERROR:
            code = -struct.unpack_from("=i", data, at + 16)[0]
            if code == errno.EINTR:
                raise _Disturbed
            raise OSError(code, os.strerror(code))
        if flags & _NLM_F_DUMP_INTR:
            raise _Disturbed
        yield kind, data[at + _HEADER.size : at + length]
        at += length + 3 & ~3


def _elements(message: bytes) -> Iterator[Element]:
    for kind, block in _attributes(message):
        if kind == _LIST_ELEMENTS:
            for _, element in _attributes(block):
                key, value, flags = b"", 0, 0
                for part, content in _attributes(element):
                    # Key and data are nests of one value (NFTA_DATA_VALUE): its header is skipped.
                    if part == _ELEM_KEY:
                        key = content[4 : struct.unpack_from("=H", content)[0]]
                    elif part == _ELEM_DATA:
                        (value,) = struct.unpack_from("=I", content, 4)
                    elif part == _ELEM_FLAGS:
                        flags = int.from_bytes(content, "big")
                yield key, value, bool(flags & _INTERVAL_END)


def intervals(elements: list[Element]) -> dict[tuple[int, int], int]:
    """Return first, last and value of each interval; the kernel holds its start, and the start of what comes after.

    >>> intervals([(b"T", 0, True), (b"A", 7, False), (b"a", 8, False)])
    {(65, 83): 7, (97, 255): 8}
    """
    if not elements:
        return {}
    end = 1 << 8 * len(elements[0][0])
    # An end sorts before the start of an interval that follows without a gap.
    edges = sorted((int.from_bytes(key, "big"), not ends, value) for key, value, ends in elements)
    edges.append((end, False, 0))
    return {(edge[0], following[0] - 1): edge[2] for edge, following in pairwise(edges) if edge[1]}

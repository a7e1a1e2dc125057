"""The host's figures, under ApMon's names.

Turns two readings of /proc into the `sys_*` parameters, and what seldom changes into the general information. Knows:
ApMon's names and units, which figure needs two readings, what a counter that fell means. Does not know: intervals,
destinations, datagrams.

A counter that fell has begun anew: its rate is left out once. mem_used is what is not available to programs; cpu_usage
counts waiting for disks as busy; the share of guests is part of cpu_usr too, as in the kernel's counters.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from bwexporter.apmon import procfs
from bwexporter.apmon.options import Options
from bwexporter.apmon.procfs import Traffic

Figures = dict[str, float | str]

KIB_PER_MIB = 1024
SECONDS_PER_DAY = 86400.0
ALWAYS_TOLD = ("D", "R", "S", "T", "Z")  # states of processes that are told as 0 too
TCP_STATES = (
    *("ESTABLISHED", "SYN_SENT", "SYN_RECV", "FIN_WAIT1", "FIN_WAIT2", "TIME_WAIT"),
    *("CLOSED", "CLOSE_WAIT", "LAST_ACK", "LISTEN", "CLOSING", "SYN_RECV"),
)  # in the kernel's order, from 1
SYS_NET = Path("/sys/class/net")
OS_RELEASE = Path("/etc/os-release")

_CPU = {
    "cpu_usr": "user",
    "cpu_nice": "nice",
    "cpu_sys": "system",
    "cpu_idle": "idle",
    "cpu_iowait": "iowait",
    "cpu_irq": "irq",
    "cpu_softirq": "softirq",
    "cpu_steal": "steal",
    "cpu_guest": "guest",
}
_WHOLE = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")  # guests are in user and nice
_WAITING = frozenset({"idle", "iowait"})  # the kernel lets these fall a little now and then
_PAGING = {
    "swap_in_R": ("pswpin", "sys_swap_in", "sys_swap_in_R"),
    "swap_out_R": ("pswpout", "sys_swap_out", "sys_swap_out_R"),
    "blocks_in_R": ("pgpgin", "sys_pages_in", "sys_blocks_in_R"),
    "blocks_out_R": ("pgpgout", "sys_pages_out", "sys_blocks_out_R"),
}
_TOTALS = {"interrupts_R": "intr", "context_switches_R": "ctxt"}


@dataclass(frozen=True, slots=True)
class Reading:
    """All that is read at one moment; what cannot be read is empty."""

    at: float  # monotonic seconds
    cpu: Mapping[str, int]
    totals: Mapping[str, int]
    paging: Mapping[str, int]
    interfaces: Mapping[str, Traffic]


def take(at: float, proc: Path = procfs.PROC, sys_net: Path = SYS_NET) -> Reading:
    """Read every counter that a rate is made of."""
    return Reading(
        at=at,
        cpu=procfs.cpu_ticks(proc),
        totals=procfs.totals(proc),
        paging=procfs.paging(proc),
        interfaces=_worth_telling(procfs.interfaces(proc), sys_net),
    )


def _worth_telling(found: Mapping[str, Traffic], sys_net: Path) -> Mapping[str, Traffic]:
    """Leave out loopback and, where there is hardware, what has none: bridges, the ends of containers' cables."""
    others = {name: traffic for name, traffic in found.items() if name != "lo"}
    real = {name: traffic for name, traffic in others.items() if (sys_net / name / "device").exists()}
    return real or others


def figures(now: Reading, before: Reading | None, options: Options, proc: Path = procfs.PROC) -> Figures:
    """Return the `sys_*` parameters that are wanted; rates only where there is an earlier reading."""
    found: Figures = {}
    found.update(zip(("load1", "load5", "load15"), procfs.loads(proc), strict=False))
    found["uptime"] = procfs.uptime_seconds() / SECONDS_PER_DAY
    found.update(_memory(procfs.memory_kib(proc)))
    if before is not None and now.at > before.at:
        found.update(_cpu(now.cpu, before.cpu))
        found.update(_rates(now, before))
    wanted: Figures = {name: value for name, value in found.items() if options.wants(*_switches(name))}
    if before is not None and now.at > before.at:
        wanted.update(_network(now, before, options))
    if options.wants("sys_processes"):
        wanted.update(_processes(proc))
    wanted.update(_sockets(proc, options))
    return wanted


def _switches(name: str) -> tuple[str, ...]:
    paging = _PAGING.get(name)
    return paging[1:] if paging else (f"sys_{name}",)


def _memory(kib: Mapping[str, int]) -> Figures:
    """Return MiB and percent; before kernel 3.14 nobody said what is available, and it is reckoned."""
    total, free = kib.get("MemTotal", 0), kib.get("MemFree", 0)
    if not total:
        return {}
    buffers, cached = kib.get("Buffers", 0), kib.get("Cached", 0)
    available = kib.get("MemAvailable", free + buffers + cached)
    found: Figures = {
        "mem_used": (total - available) / KIB_PER_MIB,
        "mem_free": free / KIB_PER_MIB,
        "mem_actualfree": available / KIB_PER_MIB,
        "mem_buffers": buffers / KIB_PER_MIB,
        "mem_cached": cached / KIB_PER_MIB,
        "mem_usage": 100.0 * (total - available) / total,
    }
    swap, swap_free = kib.get("SwapTotal", 0), kib.get("SwapFree", 0)
    found.update(swap_used=(swap - swap_free) / KIB_PER_MIB, swap_free=swap_free / KIB_PER_MIB)
    if swap:
        found["swap_usage"] = 100.0 * (swap - swap_free) / swap
    return found


def _cpu(now: Mapping[str, int], before: Mapping[str, int]) -> Figures:
    """Return percent of all CPU time since the earlier reading."""
    spent = {field: now[field] - before[field] for field in now if field in before}
    if any(ticks < 0 for field, ticks in spent.items() if field not in _WAITING):
        return {}
    spent = {field: max(0, ticks) for field, ticks in spent.items()}
    whole = sum(spent.get(field, 0) for field in _WHOLE)
    if not whole:
        return {}
    found: Figures = {name: 100.0 * spent[field] / whole for name, field in _CPU.items() if field in spent}
    return {**found, "cpu_usage": 100.0 - 100.0 * spent.get("idle", 0) / whole}


def _rates(now: Reading, before: Reading) -> Figures:
    seconds, found = now.at - before.at, dict[str, float | str]()
    pairs = [(name, now.paging, before.paging, field) for name, (field, *_) in _PAGING.items()]
    pairs += [(name, now.totals, before.totals, field) for name, field in _TOTALS.items()]
    for name, newer, older, field in pairs:
        if field in newer and field in older and newer[field] >= older[field]:
            found[name] = (newer[field] - older[field]) / seconds
    return found


def _network(now: Reading, before: Reading, options: Options) -> Figures:
    """Return KiB a second of each interface and of all, and errors in the interval."""
    seconds, found = now.at - before.at, dict[str, float | str]()
    total_in = total_out = 0.0
    for name, newer in now.interfaces.items():
        older = before.interfaces.get(name)
        if older is None or _fell(newer, older):
            continue  # new, or made anew
        rate_in = (newer.received_bytes - older.received_bytes) / 1024 / seconds
        rate_out = (newer.sent_bytes - older.sent_bytes) / 1024 / seconds
        total_in, total_out = total_in + rate_in, total_out + rate_out
        found.update(
            {
                **({f"{name}_in": rate_in} if options.wants("sys_net_in") else {}),
                **({f"{name}_out": rate_out} if options.wants("sys_net_out") else {}),
                **({f"{name}_errs": newer.errors - older.errors} if options.wants("sys_net_errs") else {}),
            }
        )
    if found and options.wants("sys_net_in"):
        found["total_traffic_in"] = total_in
    if found and options.wants("sys_net_out"):
        found["total_traffic_out"] = total_out
    return found


def _fell(newer: Traffic, older: Traffic) -> bool:
    return (
        newer.received_bytes < older.received_bytes
        or newer.sent_bytes < older.sent_bytes
        or newer.errors < older.errors
    )


def _processes(proc: Path) -> Figures:
    states = Counter(one.state.upper() for one in procfs.processes(proc))
    found: Figures = {"processes": states.total()}
    found.update({f"processes_{state}": states[state] for state in sorted({*ALWAYS_TOLD, *states})})
    return found


def _sockets(proc: Path, options: Options) -> Figures:
    found: Figures = {}
    tcp = [*procfs.socket_lines(proc, "tcp"), *procfs.socket_lines(proc, "tcp6")]
    if options.wants("sys_net_sockets"):
        found["sockets_tcp"] = len(tcp)
        for name, kinds in (("udp", ("udp", "udp6")), ("unix", ("unix",)), ("icm", ("icmp", "icmp6"))):
            found[f"sockets_{name}"] = sum(1 for kind in kinds for _ in procfs.socket_lines(proc, kind))
    if options.wants("sys_net_tcp_details"):
        states = Counter(_tcp_state(line) for line in tcp)
        found.update({f"sockets_tcp_{state}": states[state] for state in (*TCP_STATES, "UNKNOWN")})
    return found


def _tcp_state(line: str) -> str:
    words = line.split(None, 4)
    number = int(words[3], 16) if len(words) > 3 else 0
    return TCP_STATES[number - 1] if 0 < number <= len(TCP_STATES) else "UNKNOWN"


def general(options: Options, hostname: str, proc: Path = procfs.PROC) -> Figures:
    """Return what seldom changes: names, addresses, the hardware. No name is looked up."""
    kib = procfs.memory_kib(proc)
    found: Figures = {"hostname": hostname, **_cpu_kind(procfs.read(proc / "cpuinfo"))}
    if "MemTotal" in kib:
        found.update(total_mem=kib["MemTotal"] / KIB_PER_MIB, total_swap=kib.get("SwapTotal", 0) / KIB_PER_MIB)
    system = os.uname()
    found.update(kernel_version=system.release, platform=system.machine, os_type=_os_type())
    wanted: Figures = {name: value for name, value in found.items() if options.wants(name) and value != ""}
    if options.wants("ip"):
        wanted.update(_addresses())
    return wanted


def _cpu_kind(text: str) -> Figures:
    """Read /proc/cpuinfo; of several CPUs the last one stands for all."""
    fields = [(name.strip(), value.strip()) for name, colon, value in map(_parted, text.splitlines()) if colon]
    last = dict(fields)
    names = {"cpu_vendor_id": "vendor_id", "cpu_family": "cpu family", "cpu_model": "model"}
    found: Figures = {name: last[field] for name, field in names.items() if field in last}
    if "model name" in last:
        found["cpu_model_name"] = last["model name"]
    for name, field in (("cpu_MHz", "cpu MHz"), ("bogomips", "bogomips")):
        value = last.get(field, last.get(field.replace("bogomips", "BogoMIPS")))
        if value is not None and value.replace(".", "", 1).isdecimal():
            found[name] = float(value)
    found["no_CPUs"] = sum(name == "processor" for name, _ in fields) or os.cpu_count() or 1
    return found


def _parted(line: str) -> tuple[str, str, str]:
    return line.partition(":")


def _os_type() -> str:
    for line in procfs.read(OS_RELEASE).splitlines():
        if line.startswith("PRETTY_NAME="):
            return line.partition("=")[2].strip("\"'")
    return os.uname().sysname


def _addresses() -> Iterator[tuple[str, str]]:
    """Yield the first address of each interface, of each family, that is good beyond the link."""
    for name, addresses in psutil.net_if_addrs().items():
        for family, suffix in ((socket.AF_INET, "ip"), (socket.AF_INET6, "ipv6")):
            usable = [one.address for one in addresses if one.family == family and _is_usable(one.address)]
            if usable:
                yield f"{name}_{suffix}", usable[0]


def _is_usable(address: str) -> bool:
    parsed = ipaddress.ip_address(address.partition("%")[0])
    return not (parsed.is_loopback or parsed.is_link_local)

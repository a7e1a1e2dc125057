"""Options: the `xApMon_` settings, typed.

Turns the name and the value of one option, as a file or a program gives it, into checked settings. Knows: every option
of the ApMon family, its default and what it takes. Does not know: files, lines, destinations.

Options for all: how fast, how large, how often the sources are read again. Options of a destination: three master
switches, two intervals, and one switch for each figure (those that are off are named in `off`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from bwexporter.units import shown
from bwexporter.written import unknown_key

LOG_LEVELS = ("FATAL", "ERROR", "WARNING", "INFO", "NOTICE", "DEBUG")
SMALLEST_RECHECK_SECONDS = 30
LARGEST_MESSAGE_BYTES = 8192
SMALLEST_MESSAGE_BYTES = 128
LARGEST_RATE = 100_000
LARGEST_SECONDS = 366 * 86400

SYSTEM = frozenset(
    f"sys_{name}"
    for name in (
        *("cpu_usr", "cpu_sys", "cpu_nice", "cpu_idle", "cpu_iowait", "cpu_irq", "cpu_softirq", "cpu_steal"),
        *("cpu_guest", "cpu_usage", "load1", "load5", "load15", "mem_used", "mem_free", "mem_actualfree"),
        *("mem_buffers", "mem_cached", "mem_usage", "swap_used", "swap_free", "swap_usage", "swap_in", "swap_out"),
        *("swap_in_R", "swap_out_R", "pages_in", "pages_out", "blocks_in_R", "blocks_out_R", "interrupts_R"),
        *("context_switches_R", "net_in", "net_out", "net_errs", "net_sockets", "net_tcp_details", "processes"),
        "uptime",
    )
)
JOB = frozenset(
    f"job_{name}"
    for name in (
        *("run_time", "cpu_time", "cpu_usage", "virtualmem", "rss", "mem_usage", "workdir_size", "disk_total"),
        *("disk_used", "disk_free", "disk_usage", "open_files", "processes"),
    )
)
GENERAL = frozenset(
    {
        *("hostname", "ip", "cpu_MHz", "no_CPUs", "total_mem", "total_swap", "cpu_vendor_id", "cpu_family"),
        *("cpu_model", "cpu_model_name", "bogomips", "kernel_version", "platform", "os_type"),
    }
)
_MASTERS = ("job_monitoring", "sys_monitoring", "general_info")
_INTERVALS = ("job_interval", "sys_interval")
_FOR_ALL = ("loglevel", "maxMsgRate", "maxMsgSize", "conf_recheck", "recheck_interval", "auto_disable")
_STATES = ("job_data_sent", "sys_data_sent", "general_info_data_sent")
"""What the ancestor kept among its options; files may hold them and they mean nothing."""

NAMES = frozenset({*SYSTEM, *JOB, *GENERAL, *_MASTERS, *_INTERVALS, *_FOR_ALL})
_FLAGS: Mapping[str, bool] = {
    **dict.fromkeys(("on", "true", "yes", "1"), True),
    **dict.fromkeys(("off", "false", "no", "0"), False),
}


class OptionError(ValueError):
    """An option that there is not, or a value that it does not take; the text names both."""


@dataclass(frozen=True, slots=True)
class Options:
    """What one destination is sent beside what the program itself sends."""

    job_monitoring: bool = True
    sys_monitoring: bool = True
    general_info: bool = True
    job_interval: int = 120  # seconds, as is the next; general information comes every second time
    sys_interval: int = 120
    off: frozenset[str] = frozenset()  # switches of single figures, as sys_load1, job_rss, hostname

    def wants(self, *switches: str) -> bool:
        """Say whether a figure is on; it may have several names."""
        return self.off.isdisjoint(switches)


@dataclass(frozen=True, slots=True)
class ForAll:
    """What holds for all destinations; None where nobody has said it."""

    loglevel: str | None = None
    rate: int | None = None  # datagrams a second for each destination
    message_bytes: int | None = None
    conf_recheck: bool = True
    recheck_interval: int = 600  # seconds; less than 30 counts as 30


def apply(name: str, value: object, options: Options, for_all: ForAll) -> tuple[Options, ForAll]:
    """Return the settings with one option set; OptionError leaves them as they were."""
    if name in _STATES:
        return options, for_all
    if name not in NAMES:
        raise OptionError(unknown_key(name, NAMES))
    try:
        if name in _FOR_ALL:
            return options, _with_for_all(for_all, name, value)
        return _with(options, name, value), for_all
    except ValueError as error:
        raise OptionError(f"{name} {error}") from None


def _with(options: Options, name: str, value: object) -> Options:
    setting: dict[str, Any]
    if name in _INTERVALS:
        setting = {name: read_whole(value, 1, LARGEST_SECONDS)}
        return replace(options, **setting)
    flag = read_flag(value)
    if name in _MASTERS:
        setting = {name: flag}
        return replace(options, **setting)
    return replace(options, off=options.off - {name} if flag else options.off | {name})


def _with_for_all(for_all: ForAll, name: str, value: object) -> ForAll:
    match name:
        case "loglevel":
            return replace(for_all, loglevel=read_level(value))
        case "maxMsgRate":
            return replace(for_all, rate=read_whole(value, 1, LARGEST_RATE))
        case "maxMsgSize":
            return replace(for_all, message_bytes=read_whole(value, SMALLEST_MESSAGE_BYTES, LARGEST_MESSAGE_BYTES))
        case "conf_recheck":
            return replace(for_all, conf_recheck=read_flag(value))
        case "recheck_interval":
            return replace(for_all, recheck_interval=read_whole(value, 1, LARGEST_SECONDS))
        case _:  # auto_disable: what the kernel does not tell is never sent
            read_flag(value)
            return for_all


def read_flag(value: object) -> bool:
    """Read on or off, in any of the ways there are.

    >>> read_flag("ON"), read_flag("0"), read_flag(True)
    (True, False, True)
    """
    flag = _FLAGS.get(value.strip().lower()) if isinstance(value, str) else None
    if flag is None and value in (0, 1):  # True and False are too
        flag = bool(value)
    if flag is None:
        raise OptionError(f"is {shown(value)} and must be on or off")
    return flag


def read_whole(value: object, least: int, most: int) -> int:
    """Read a whole number between two bounds, as a number or as text."""
    number = int(value) if isinstance(value, str) and re.fullmatch(r"\s*[0-9]{1,9}\s*", value) else value
    if not isinstance(number, int) or isinstance(number, bool) or not least <= number <= most:
        raise OptionError(f"is {shown(value)} and must be a whole number from {least} to {most}")
    return number


def read_level(value: object) -> str:
    """Read a level of the log; FINE is what C and Java call NOTICE."""
    level = value.strip().upper() if isinstance(value, str) else ""
    level = "NOTICE" if level == "FINE" else level
    if level not in LOG_LEVELS:
        raise OptionError(f"is {shown(value)} and must be one of {', '.join(LOG_LEVELS)}")
    return level


def from_mapping(given: Mapping[str, object]) -> tuple[Options, ForAll]:
    """Return the settings of a program's dictionary; the prefix `xApMon_` may be there or not."""
    options, for_all = Options(), ForAll()
    for name, value in given.items():
        options, for_all = apply(str(name).removeprefix("xApMon_"), value, options, for_all)
    return options, for_all

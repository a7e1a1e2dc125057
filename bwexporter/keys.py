"""The keys of the configuration file.

Turns what the file says under each key into a checked value, and finds what is wrong between keys that are right by
themselves. Knows: the keys, their defaults and what contradicts what. Does not know: files, lines, where relative
paths count from, slices' records.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import AfterValidator, Field, PlainValidator, model_validator

from bwexporter import forms
from bwexporter.core.lanes import UNLIMITED, Traffic
from bwexporter.core.periods import Rolling
from bwexporter.pushes import ApmonKeys
from bwexporter.settings import LaneDefaults, LaneTerms, Limit, Period, contradictions, length_seconds, over
from bwexporter.sources import SourceKeys, all_different
from bwexporter.units import parse_duration, print_duration, print_rate, rate_of_kbit, shown, volume_of_kbyte
from bwexporter.written import (
    MISSING,
    DeviceName,
    Duration,
    Fault,
    Flag,
    MaybeDuration,
    MaybeRate,
    Misfit,
    Prefix,
    Text,
    Written,
    as_form,
)
from bwexporter.yamlfile import KeyPath, Step

_LISTEN = forms.text(
    r"(?:\S*:[0-9]{1,5}|unix:/.+)", "host:port, [::1]:port, :port for every address, or unix:/path.", "127.0.0.1:10099"
)
_PATH = forms.text(
    r"(?!/(?:api|slices|static|-)(?:/|$))(?:/[A-Za-z0-9._~-]+)+", "A path of the web server.", "/metrics"
)
_LONGEST_SOCKET_PATH = 100  # the kernel takes 107 bytes


class OnStop(enum.Enum):
    """What happens to lanes below their threshold when the program stops."""

    KEEP = "keep"  # ceilings stay as they are
    HOLD = "hold"  # the ceiling that carries the lane to the end of its period


class Tree(enum.Enum):
    """Whose HTB tree a device has."""

    MANAGED = "managed"
    EXISTING = "existing"


class Listen(NamedTuple):
    """Where the web server listens; an empty host means every address, a path a Unix socket."""

    host: str
    port: int
    path: str = ""

    def __str__(self) -> str:
        """Return it as it is written."""
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_listen(written: object) -> Listen:
    """Read `host:port`, `[::1]:port`, `:port` or `unix:/path`; ValueError.

    >>> parse_listen("[::1]:10099"), parse_listen(":0")
    (Listen(host='::1', port=10099, path=''), Listen(host='', port=0, path=''))
    """
    if isinstance(written, str) and written.startswith("unix:/") and len(written.encode()) < _LONGEST_SOCKET_PATH:
        return Listen("", 0, written.removeprefix("unix:"))
    match = re.fullmatch(r"(?:\[([0-9a-fA-F:.%\w]+)\]|([^\s:\[\]]*)):([0-9]{1,5})", str(written), re.ASCII)
    if not isinstance(written, str) or match is None or int(match[3]) > 65535:
        raise ValueError(
            f"{shown(written)} is not host:port; write for example 127.0.0.1:10099, [::1]:10099 or unix:/path"
        )
    return Listen(match[1] or match[2] or "", int(match[3]))


class Device(Written):
    """A network device; rates in bytes per second, None where the driver, a source of slices or the cap says."""

    name: DeviceName
    cap_bytes_per_second: MaybeRate = Field(default=None, alias="cap")
    line_rate_bytes_per_second: MaybeRate = Field(default=None, alias="line_rate")
    tree: Tree = Tree.MANAGED
    default_bytes_per_second: MaybeRate = Field(default=None, alias="default")

    @model_validator(mode="after")
    def _agree(self) -> Device:
        faults = []
        cap, line_rate, default = (
            self.cap_bytes_per_second,
            self.line_rate_bytes_per_second,
            self.default_bytes_per_second,
        )
        if cap is not None and line_rate is not None and cap > line_rate:
            faults.append(Fault(("cap",), f"{print_rate(cap)} is more than the line rate {print_rate(line_rate)}"))
        if cap is not None and default is not None and default > cap:
            faults.append(Fault(("default",), f"{print_rate(default)} is more than the cap {print_rate(cap)}"))
        if default is not None and self.tree is Tree.EXISTING:
            text = "is for trees that bwexporter builds; leave it out"
            faults.append(Fault(("default",), text))
        if faults:
            raise Misfit(faults)
        return self


class _Exempt(Written):
    prefixes: tuple[Prefix, ...] = ()


class _Defaults(Written):
    normal: LaneDefaults = LaneDefaults()
    exempt: LaneDefaults = LaneDefaults()


def parse_telemetry_path(written: object) -> str:
    """Read a path of the web server for the metrics; ValueError."""
    taken = ("/api", "/slices", "/static", "/-")
    if not isinstance(written, str) or not re.fullmatch(r"(?:/[A-Za-z0-9._~-]+)+", written):
        raise ValueError(f"{shown(written)} is not a path; write for example /metrics")
    if any(written == path or written.startswith(f"{path}/") for path in taken):
        raise ValueError(f"{shown(written)} is taken; write for example /metrics")
    return written


class WebKeys(Written):
    """Where and how pages and metrics are served."""

    listen: tuple[Annotated[Listen, PlainValidator(parse_listen), as_form(_LISTEN)], ...] = (
        Listen("127.0.0.1", 10099),
    )
    config_file: Text | None = None
    telemetry_path: Annotated[str, PlainValidator(parse_telemetry_path), as_form(_PATH)] = "/metrics"
    enable_reload: Flag = False
    owner_secret_file: Text | None = None


class MetricsTerms(Written):
    """What is published: without the families that are off, with the labels that are named."""

    off: tuple[Text, ...] = ()
    owner_email: Flag = False
    labels: tuple[Text, ...] = ()


class _Control(Written):
    socket: Text | None = None
    group: Text | None = None


def _all_different(devices: tuple[Device, ...]) -> tuple[Device, ...]:
    again = _repeated([device.name for device in devices])
    if again:
        raise Misfit([Fault((at, "name"), f"{name} stands in the list already") for at, name in again])
    return devices


def _repeated(names: Sequence[str | None]) -> list[tuple[int, str]]:
    return [(at, name) for at, name in enumerate(names) if name is not None and name in names[:at]]


def _of_file(written: str) -> str:
    if not Path(written).name:
        raise ValueError(f"{shown(written)} is a folder; name a file in it, for example /var/lib/bwexporter/state.db")
    return written


class Keys(Written):
    """The file's keys."""

    node: Text | None = None
    state: Annotated[Text, AfterValidator(_of_file)] = "/var/lib/bwexporter/state.db"
    interval: Duration = 10.0
    shortest_interval: MaybeDuration = None
    look_margin: Annotated[float, PlainValidator(parse_duration), as_form(forms.DURATION_OR_NONE)] = 2.0
    on_stop: OnStop = OnStop.KEEP
    enforce: Flag = True
    period: Period = Rolling(86400.0)
    devices: Annotated[tuple[Device, ...], AfterValidator(_all_different)] = Field(
        (), json_schema_extra={"minItems": 1}
    )
    exempt: _Exempt = _Exempt()
    defaults: _Defaults = _Defaults()
    slices: Annotated[tuple[SourceKeys, ...], AfterValidator(all_different)] = ()
    web: WebKeys = WebKeys()
    metrics: MetricsTerms = MetricsTerms()
    control: _Control = _Control()
    apmon: ApmonKeys | None = None


def default_terms(keys: Keys) -> Mapping[Traffic, LaneTerms]:
    """Complete the written defaults by PlanetLab's: 1 Mbit/s all day for normal traffic, 3 Mbit/s for exempt."""
    rates = rate_of_kbit(1), rate_of_kbit(64)
    usual = Fraction(4, 5)
    normal = LaneTerms(Limit.CAP, *rates, volume_of_kbyte(10_546_875), usual, 1, keys.period)
    exempt = LaneTerms(Limit.LINE_RATE, *rates, volume_of_kbyte(31_640_625), usual, 1, keys.period)
    return {
        Traffic.NORMAL: over(keys.defaults.normal, normal),
        Traffic.EXEMPT: over(keys.defaults.exempt, exempt),
    }


def contradictions_between(keys: Keys, *, faulty: set[Step]) -> Iterator[Fault]:
    """Find what is wrong between keys that are right by themselves; `faulty` are those known to be wrong already."""
    if not keys.devices and "devices" not in faulty:
        yield Fault(("devices",), "is missing; name at least one, as - {name: eth0, cap: 100mbit}")
    if not any(source.plc for source in keys.slices) and not faulty & {"slices", "devices"}:
        yield from (
            Fault(("devices", at, "cap"), MISSING)
            for at, device in enumerate(keys.devices)
            if device.tree is Tree.MANAGED and device.cap_bytes_per_second is None
        )
    if "interval" not in faulty:
        yield from _contradictions_of_times(keys)
    yield from _contradictions_of_defaults(keys)


def _contradictions_of_times(keys: Keys) -> Iterator[Fault]:
    interval, shortest = keys.interval, keys.shortest_interval
    if shortest is not None and shortest > interval:
        text = f"{print_duration(shortest)} is more than the interval {print_duration(interval)}"
        yield Fault(("shortest_interval",), text)
    for path, seconds in _spans(keys):
        if seconds < interval:
            yield Fault(path, f"{print_duration(seconds)} is less than the interval {print_duration(interval)}")


def _spans(keys: Keys) -> Iterator[tuple[KeyPath, float]]:
    """Yield the spans over which volumes are counted: periods, and sliding windows that are no period long."""
    yield ("period",), length_seconds(keys.period)
    for traffic, settings in (("normal", keys.defaults.normal), ("exempt", keys.defaults.exempt)):
        if settings.period is not None:
            yield ("defaults", traffic, "period"), length_seconds(settings.period)
        if settings.policy is not None and settings.policy.sliding_seconds:
            yield ("defaults", traffic, "policy", "sliding"), settings.policy.sliding_seconds


def _contradictions_of_defaults(keys: Keys) -> Iterator[Fault]:
    """Find what is wrong between a written default and the defaults and devices it meets."""
    written = {Traffic.NORMAL: keys.defaults.normal, Traffic.EXEMPT: keys.defaults.exempt}
    for traffic, terms in default_terms(keys).items():
        settings = written[traffic]
        rates = [rate for device in keys.devices if (rate := full_rate_on(device, terms.full)) is not None]
        # Written values that contradict each other have been found before; these meet a value that nobody wrote.
        met = {"full": min(rates, default=None)} if isinstance(terms.full, Limit) else {}
        met |= {"allowance_bytes": terms.allowance_bytes} if settings.allowance_bytes is None else {}
        for fault in contradictions(settings.model_copy(update=met)):
            yield Fault(("defaults", traffic.value, *fault.path), fault.text)
        if isinstance(settings.threshold, int) and terms.allowance_bytes == UNLIMITED:
            text = "is a volume, and the allowance is unlimited; write a percentage, as 80%"
            yield Fault(("defaults", traffic.value, "threshold"), text)


def full_rate_on(device: Device, full: int | Limit) -> int | None:
    """Return a full rate in bytes per second; None if it is the line rate and nobody has written that."""
    match full:
        case Limit.CAP:
            return device.cap_bytes_per_second
        case Limit.LINE_RATE:
            return device.line_rate_bytes_per_second
        case _:
            return full

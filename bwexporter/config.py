"""The configuration: one YAML file, checked as a whole.

Turns the file into a frozen Config, or into every problem of it at once, each with its line and key. Knows: the keys,
their defaults and what contradicts what. Does not know: slices' records, the kernel's devices, who uses a value.
"""

from __future__ import annotations

import enum
import re
import socket
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import AfterValidator, Field, PlainValidator, model_validator

from bwexporter import forms
from bwexporter.core.lanes import UNLIMITED, Traffic
from bwexporter.core.periods import PeriodRule, Rolling
from bwexporter.errors import ConfigError, Problem
from bwexporter.pushes import ApmonKeys
from bwexporter.settings import (
    LaneDefaults,
    LaneTerms,
    Limit,
    Period,
    contradictions,
    fitting_warnings,
    length_seconds,
    over,
)
from bwexporter.sources import FileAt, SourceAt, SourceKeys, all_different, in_the_open
from bwexporter.units import (
    parse_duration,
    print_duration,
    print_rate,
    rate_of_kbit,
    shown,
    volume_of_kbyte,
)
from bwexporter.written import (
    MISSING,
    DeviceName,
    Duration,
    Fault,
    Flag,
    MaybeDuration,
    MaybeRate,
    Misfit,
    Network,
    Prefix,
    Text,
    Written,
    as_form,
    check,
    close_to,
)
from bwexporter.yamlfile import Document, KeyPath, Step, load_yaml, read_content, survey_yaml

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


class _Web(Written):
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


@dataclass(frozen=True, slots=True)
class WebTerms:
    """How the web server is set up, beside its addresses."""

    config_file: Path | None
    telemetry_path: str
    enable_reload: bool
    owner_secret_file: Path | None  # None: owners have no links


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


class _Keys(Written):
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
    web: _Web = _Web()
    metrics: MetricsTerms = MetricsTerms()
    control: _Control = _Control()
    apmon: ApmonKeys | None = None


@dataclass(frozen=True, slots=True)
class Config:
    """The whole configuration; paths are absolute or relative to the working directory."""

    path: Path
    node: str
    state: Path
    interval_seconds: float
    shortest_interval_seconds: float
    look_margin_seconds: float
    on_stop: OnStop
    enforce: bool  # false: shadow for the node
    period: PeriodRule
    devices: tuple[Device, ...]  # at least one; the first is that of slices that name none
    exempt_prefixes: tuple[Network, ...]
    defaults: Mapping[Traffic, LaneTerms]
    sources: tuple[SourceAt, ...]  # where slices come from, in the order in which the first of a name is taken
    listen: tuple[Listen, ...]
    web: WebTerms
    metrics: MetricsTerms
    control_socket: Path | None  # None: beside the state
    control_group: str | None  # whose members may give orders beside root and the program's own user
    apmon: ApmonKeys | None = None  # None: nothing is pushed
    warnings: tuple[Problem, ...] = ()

    @property
    def slice_files(self) -> tuple[Path, ...]:
        """Return the sources that are files."""
        return tuple(at.path for at in self.sources if isinstance(at, FileAt))

    @property
    def control_path(self) -> Path:
        """Return where the control socket is."""
        return self.control_socket or self.state.with_name(f"{self.state.name}.control")


def load_config(path: Path) -> Config:
    """Read and check the file. ConfigError carries every problem of it."""
    document = load_yaml(path)
    return read_config(document, path)


def read_config(document: Document, path: Path) -> Config:
    """Check a document that was read from `path`, which relative paths in it count from; ConfigError."""
    keys, faults = _checked(document)
    if faults or keys is None:
        problems = [document.problem(fault.path, fault.text) for fault in faults]
        raise ConfigError(sorted(problems, key=lambda problem: problem.line))
    return _completed(keys, document, path)


RATES = "rates"
"""What is in doubt where a device is known but for its rates."""


@dataclass(frozen=True, slots=True)
class Survey:
    """What the file says with every faulty key at its default, and every problem of it.

    Such a Config is for looking at the files that it names and may be without devices; it is None where nothing can be
    made of the file. Where `slices` is faulty it names no source, for what is left of them is not what was meant.
    What `doubtful` names, top keys or RATES, is not what was meant either.
    """

    config: Config | None
    problems: tuple[Problem, ...]
    doubtful: frozenset[str] = frozenset()


def survey_config(path: Path) -> Survey:
    """Look at a file, whatever is wrong with it: as YAML, or with its keys."""
    try:
        found = survey_yaml(read_content(path), file=str(path))
    except ConfigError as error:
        return Survey(None, error.problems)
    if found.document is None:
        return Survey(None, found.problems)
    keys, faults = _checked(found.document, found.doubtful)
    doubtful = found.doubtful.union(*(_in_doubt(fault.path) for fault in faults))
    broken = {problem.line for problem in found.problems}  # what else is wrong there is guesswork
    of_keys = (found.document.problem(fault.path, fault.text) for fault in faults)
    problems = sorted([*found.problems, *(one for one in of_keys if one.line not in broken)], key=lambda one: one.line)
    if keys is not None and "slices" in doubtful:
        keys = keys.model_copy(update={"slices": ()})
    return Survey(_completed(keys, found.document, path) if keys else None, tuple(problems), doubtful)


def _in_doubt(path: KeyPath) -> set[str]:
    """Return what a fault puts in doubt; of a key that is not known the one that may have been meant."""
    if len(path) == 3 and path[0] == "devices" and path[2] in {"cap", "line_rate", "default"}:
        return {RATES}
    return {str(path[0]), *close_to(str(path[0]), _Keys.model_fields)} if path else set(_Keys.model_fields)


def _checked(document: Document, doubtful: Collection[str] = ()) -> tuple[_Keys | None, list[Fault]]:
    """Return the keys, faulty ones at their defaults, and every fault."""
    if document.data is None:
        return None, [Fault((), "is empty; it needs at least a device")]
    keys, faults = check(_Keys, document.data)
    if keys is not None:
        faulty = {fault.path[0] for fault in faults if fault.path} | set(doubtful)
        faults += [
            one for one in _contradictions(keys, faulty=faulty) if one.path[0] not in {"period", *doubtful} & faulty
        ]
    return keys, faults


def _completed(keys: _Keys, document: Document, path: Path) -> Config:
    """Return the keys with what is not written filled in, and paths that count from the file's folder."""
    defaults, node = _terms(keys), keys.node or socket.gethostname()
    sources = tuple(source.at(path.parent, node) for source in keys.slices)
    return Config(
        path=path,
        node=node,
        state=path.parent / keys.state,
        interval_seconds=keys.interval,
        shortest_interval_seconds=keys.shortest_interval or min(1.0, keys.interval),
        look_margin_seconds=keys.look_margin,
        on_stop=keys.on_stop,
        enforce=keys.enforce,
        period=keys.period,
        devices=keys.devices,
        exempt_prefixes=keys.exempt.prefixes,
        defaults=defaults,
        sources=sources,
        listen=keys.web.listen,
        web=_web_terms(keys.web, path.parent),
        metrics=keys.metrics,
        control_socket=path.parent / keys.control.socket if keys.control.socket else None,
        control_group=keys.control.group,
        apmon=_with_folder(keys.apmon, path.parent),
        warnings=tuple(document.problem(fault.path, fault.text) for fault in _warnings(defaults, sources)),
    )


def _with_folder(keys: ApmonKeys | None, folder: Path) -> ApmonKeys | None:
    """Put this file's folder before the names of files among the sources; URLs stay."""
    if keys is None:
        return None
    sources = tuple(source if "://" in source else str(folder / source) for source in keys.sources)
    return keys.model_copy(update={"sources": sources})


def _web_terms(web: _Web, folder: Path) -> WebTerms:
    return WebTerms(
        config_file=folder / web.config_file if web.config_file else None,
        telemetry_path=web.telemetry_path,
        enable_reload=web.enable_reload,
        owner_secret_file=folder / web.owner_secret_file if web.owner_secret_file else None,
    )


def _terms(keys: _Keys) -> Mapping[Traffic, LaneTerms]:
    """Complete the written defaults by PlanetLab's: 1 Mbit/s all day for normal traffic, 3 Mbit/s for exempt."""
    rates = rate_of_kbit(1), rate_of_kbit(64)
    usual = Fraction(4, 5)
    normal = LaneTerms(Limit.CAP, *rates, volume_of_kbyte(10_546_875), usual, 1, keys.period)
    exempt = LaneTerms(Limit.LINE_RATE, *rates, volume_of_kbyte(31_640_625), usual, 1, keys.period)
    return {
        Traffic.NORMAL: over(keys.defaults.normal, normal),
        Traffic.EXEMPT: over(keys.defaults.exempt, exempt),
    }


def _contradictions(keys: _Keys, *, faulty: set[Step]) -> Iterator[Fault]:
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


def _contradictions_of_times(keys: _Keys) -> Iterator[Fault]:
    interval, shortest = keys.interval, keys.shortest_interval
    if shortest is not None and shortest > interval:
        text = f"{print_duration(shortest)} is more than the interval {print_duration(interval)}"
        yield Fault(("shortest_interval",), text)
    for path, seconds in _spans(keys):
        if seconds < interval:
            yield Fault(path, f"{print_duration(seconds)} is less than the interval {print_duration(interval)}")


def _spans(keys: _Keys) -> Iterator[tuple[KeyPath, float]]:
    """Yield the spans over which volumes are counted: periods, and sliding windows that are no period long."""
    yield ("period",), length_seconds(keys.period)
    for traffic, settings in (("normal", keys.defaults.normal), ("exempt", keys.defaults.exempt)):
        if settings.period is not None:
            yield ("defaults", traffic, "period"), length_seconds(settings.period)
        if settings.policy is not None and settings.policy.sliding_seconds:
            yield ("defaults", traffic, "policy", "sliding"), settings.policy.sliding_seconds


def _contradictions_of_defaults(keys: _Keys) -> Iterator[Fault]:
    """Find what is wrong between a written default and the defaults and devices it meets."""
    written = {Traffic.NORMAL: keys.defaults.normal, Traffic.EXEMPT: keys.defaults.exempt}
    for traffic, terms in _terms(keys).items():
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


def _warnings(defaults: Mapping[Traffic, LaneTerms], sources: Sequence[SourceAt]) -> Iterator[Fault]:
    for at, source in enumerate(sources):
        if text := in_the_open(source):
            yield Fault(("slices", at, "plc", "url"), text)
    for traffic, terms in defaults.items():
        yield from (Fault(("defaults", traffic.value, *path), text) for path, text in fitting_warnings(terms))

"""Small reports for tests, made of the figures of each lane.

Turns `LaneFigures`, one a lane, into the columns of a DeviceReport, and those into a Report. Everything has a plain
default, so that a test names only what it is about.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bwexporter.core.lanes import (
    UNLIMITED,
    Accounts,
    Act,
    Changes,
    Classes,
    Counters,
    Instant,
    Lane,
    Ledger,
    Outcomes,
    Reason,
    Tariffs,
    Traffic,
    Verdicts,
    no_classes,
)
from bwexporter.core.report import DeviceReport, Report, SliceInfo

NOW_WALL_SECONDS = 1_763_596_800.0
DAY_SECONDS = 86_400.0
STAGE_SECONDS = {"look": 0.001, "count": 0.001, "judge": 0.001, "plan": 0.001, "save": 0.001, "act": 0.001, "tell": 0.0}


@dataclass(frozen=True, slots=True)
class LaneFigures:
    """All figures of one lane; the default is an idle slice within its 1 GB of a 10 Mbit/s lane."""

    slice_name: str = "alice"
    traffic: Traffic = Traffic.NORMAL
    slice_id: int = 1
    used_bytes: int = 0
    sent_bytes: int = 0
    sent_packets: int = 0
    dropped_packets: int = 0
    overlimits: int = 0
    backlog_bytes: int = 0
    period_start_at: float = NOW_WALL_SECONDS
    period_end_at: float = NOW_WALL_SECONDS + DAY_SECONDS
    recent_bytes: int = 0
    recent_bytes_per_second: float = 0.0
    allowance_bytes: int = 1_000_000_000
    threshold_bytes: int = 800_000_000
    full_bytes_per_second: int = 1_250_000
    guarantee_bytes_per_second: int = 125
    floor_bytes_per_second: int = 2_314
    ceiling_bytes_per_second: int = 1_250_000
    enforced_ceiling_bytes_per_second: int = 1_250_000
    reason: Reason = Reason.WITHIN
    capped: bool = False
    shadow: bool = False
    seconds_to_threshold: float = float("inf")
    seconds_to_allowance: float = float("inf")


def device_report(
    figures: Sequence[LaneFigures] = (LaneFigures(),),
    *,
    device: str = "eth0",
    wall_offset_seconds: float = 0.0,
    removed: Sequence[LaneFigures] = (),
    direct_packets: int = 0,
    admitted_ratio: float = 1.0,
    changes: Changes | None = None,
    outcomes: Outcomes | None = None,
    **others: Any,
) -> DeviceReport:
    """Build a device's report; `removed` are lanes of slices that are gone, kept in the ledger only."""
    return DeviceReport(
        device=device,
        trouble=others.pop("trouble", ""),
        cap_bytes_per_second=others.pop("cap_bytes_per_second", 12_500_000),
        line_rate_bytes_per_second=others.pop("line_rate_bytes_per_second", 125_000_000),
        ledger=_ledger(device, figures, removed, wall_offset_seconds, direct_packets),
        tariffs=_tariffs(device, figures),
        verdicts=_verdicts(figures, admitted_ratio),
        enforced_ceiling_bytes_per_second=_i8(figures, "enforced_ceiling_bytes_per_second"),
        backlog_bytes=_i8(figures, "backlog_bytes"),
        seconds_to_threshold=_f8(figures, "seconds_to_threshold"),
        seconds_to_allowance=_f8(figures, "seconds_to_allowance"),
        changes=changes if changes is not None else changes_of([]),
        outcomes=outcomes,
        **others,
    )


def report(*devices: DeviceReport, **others: Any) -> Report:
    """Build a report of a full, good turn, taken at NOW_WALL_SECONDS."""
    plain = Report(
        node="node1.example.org",
        at=Instant(NOW_WALL_SECONDS, 1000.0, "boot-1"),
        early=False,
        enforcing=True,
        frozen=False,
        devices=devices,
        events=(),
        stage_seconds=STAGE_SECONDS,
        turn_seconds=0.006,
        next_look_seconds=10.0,
        state_saved_wall_seconds=NOW_WALL_SECONDS,
        config_reloaded_wall_seconds=NOW_WALL_SECONDS - 60,
        info=_info(devices),
    )
    return replace(plain, **others)


def changes_of(
    acts: Sequence[Act],
    *,
    drift: Sequence[bool] = (),
    stranger: Sequence[bool] = (),
    build_tree: bool = False,
) -> Changes:
    """Build changes with these acts; `drift` and `stranger` are all false unless given."""
    rows = len(acts)
    template = no_classes()
    zeros = {name: np.zeros(rows, np.int64) for name in template.__dataclass_fields__}
    return Changes(
        act=np.array([int(act) for act in acts], np.int8),
        drift=np.array(drift or [False] * rows, np.bool_),
        stranger=np.array(stranger or [False] * rows, np.bool_),
        before_ceiling_bytes_per_second=np.zeros(rows, np.int64),
        classes=Classes(**zeros),
        build_tree=build_tree,
    )


def outcomes_of(errnos: Sequence[int], *, tree_errno: int = 0) -> Outcomes:
    """Build outcomes with these errnos, 0 for an applied change."""
    return Outcomes(np.array(errnos, np.int32), np.zeros(len(errnos), np.int64), tree_errno)


def _i8(figures: Sequence[LaneFigures], name: str) -> np.ndarray:
    return np.array([getattr(lane, name) for lane in figures], np.int64)


def _f8(figures: Sequence[LaneFigures], name: str) -> np.ndarray:
    return np.array([getattr(lane, name) for lane in figures], np.float64)


def _b1(figures: Sequence[LaneFigures], name: str) -> np.ndarray:
    return np.array([getattr(lane, name) for lane in figures], np.bool_)


def _reasons(figures: Sequence[LaneFigures]) -> np.ndarray:
    return np.array([int(lane.reason) for lane in figures], np.int8)


def _lanes(device: str, figures: Sequence[LaneFigures]) -> tuple[Lane, ...]:
    return tuple(Lane(device, lane.slice_name, lane.traffic) for lane in figures)


def _ledger(
    device: str,
    figures: Sequence[LaneFigures],
    removed: Sequence[LaneFigures],
    wall_offset_seconds: float,
    direct_packets: int,
) -> Ledger:
    everybody = [*figures, *removed]
    nothing = np.empty(0, np.int64)
    return Ledger(
        device=device,
        ifindex=2,
        at=Instant(NOW_WALL_SECONDS, 1000.0, "boot-1"),
        ledger_seconds=NOW_WALL_SECONDS - wall_offset_seconds,
        wall_offset_seconds=wall_offset_seconds,
        lanes=_lanes(device, everybody),
        enrolled=len(figures),
        accounts=_accounts(everybody),
        counters=_counters(figures),
        parent_handle=nothing,
        parent_sent_bytes=nothing,
        tree_sent_bytes=sum(lane.sent_bytes for lane in everybody),
        direct_packets_seen=direct_packets,
        direct_packets=direct_packets,
    )


def _counters(figures: Sequence[LaneFigures]) -> Counters:
    rows = len(figures)
    base = {Traffic.NORMAL: 0x1000, Traffic.EXEMPT: 0x8000}
    parent = {Traffic.NORMAL: 0x10, Traffic.EXEMPT: 0x20}
    handle = np.array([0x10000 + base[lane.traffic] + lane.slice_id for lane in figures], np.int64)
    return Counters(
        handle=handle,
        parent=np.array([0x10000 + parent[lane.traffic] for lane in figures], np.int64),
        account=np.arange(rows, dtype=np.int64),
        alive=np.ones(rows, np.bool_),
        unheard=np.zeros(rows, np.bool_),
        leaf=handle,
        sent_bytes=_i8(figures, "sent_bytes"),
        sent_packets=_i8(figures, "sent_packets"),
        dropped_packets=_i8(figures, "dropped_packets"),
        overlimits=_i8(figures, "overlimits"),
    )


def _accounts(figures: Sequence[LaneFigures]) -> Accounts:
    return Accounts(
        used_bytes=_i8(figures, "used_bytes"),
        period_start_at=_f8(figures, "period_start_at"),
        period_end_at=_f8(figures, "period_end_at"),
        sent_bytes=_i8(figures, "sent_bytes"),
        sent_packets=_i8(figures, "sent_packets"),
        dropped_packets=_i8(figures, "dropped_packets"),
        overlimits=_i8(figures, "overlimits"),
        recent_bytes=_i8(figures, "recent_bytes"),
        recent_bytes_per_second=_f8(figures, "recent_bytes_per_second"),
        told_reason=_reasons(figures),
        told_ceiling_bytes_per_second=_i8(figures, "ceiling_bytes_per_second"),
        carried_bytes=np.zeros(len(figures), np.int64),
    )


def _tariffs(device: str, figures: Sequence[LaneFigures]) -> Tariffs:
    rows = len(figures)
    return Tariffs(
        lanes=_lanes(device, figures),
        slice_id=_i8(figures, "slice_id"),
        full_bytes_per_second=_i8(figures, "full_bytes_per_second"),
        guarantee_bytes_per_second=_i8(figures, "guarantee_bytes_per_second"),
        floor_bytes_per_second=_i8(figures, "floor_bytes_per_second"),
        allowance_bytes=_i8(figures, "allowance_bytes"),
        threshold_bytes=_i8(figures, "threshold_bytes"),
        share=np.ones(rows, np.int64),
        period_rule=np.zeros(rows, np.int64),
        hand_cap_bytes_per_second=np.full(rows, UNLIMITED, np.int64),
        hand_top_up_bytes=np.zeros(rows, np.int64),
        released=np.zeros(rows, np.bool_),
        off=np.zeros(rows, np.bool_),
        shadow=_b1(figures, "shadow"),
    )


def _verdicts(figures: Sequence[LaneFigures], admitted_ratio: float) -> Verdicts:
    return Verdicts(
        ceiling_bytes_per_second=_i8(figures, "ceiling_bytes_per_second"),
        asked_ceiling_bytes_per_second=_i8(figures, "ceiling_bytes_per_second"),
        reason=_reasons(figures),
        floor_bytes_per_second=_i8(figures, "floor_bytes_per_second"),
        guarantee_bytes_per_second=_i8(figures, "guarantee_bytes_per_second"),
        allowance_bytes=_i8(figures, "allowance_bytes"),
        threshold_bytes=_i8(figures, "threshold_bytes"),
        capped=_b1(figures, "capped"),
        admitted_ratio=admitted_ratio,
    )


def _info(devices: Sequence[DeviceReport]) -> dict[str, SliceInfo]:
    return {
        lane.slice_name: SliceInfo(lane.slice_name, int(slice_id), "file:slices.yml", ("pi@example.edu",), {})
        for device in devices
        for lane, slice_id in zip(device.tariffs.lanes, device.tariffs.slice_id.tolist(), strict=True)
    }

"""The exposition: what a scrape reads of a turn, and that every reader reads the same."""

from __future__ import annotations

import errno
import gzip
import math
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics_families
from prometheus_client.parser import text_string_to_metric_families

from bwexporter import __version__
from bwexporter.core.lanes import UNLIMITED, Act, Instant, Slid, Traffic
from bwexporter.core.report import DeviceReport, Report, SliceInfo, SourceStatus
from bwexporter.errors import BwexporterError
from bwexporter.metrics import Collector, Exposition, Rendered, every_family, metrics_table
from bwexporter.metrics.of_lanes import LANE_FAMILIES
from bwexporter.metrics.render import ROWS
from bwexporter.metrics.rendered import KEPT_TURNS
from tests.reports import NOW_WALL_SECONDS, LaneFigures, changes_of, device_report, outcomes_of, report

Series = Mapping[tuple[str, frozenset[tuple[str, str]]], float]

ALICE = {"device": "eth0", "slice": "alice", "traffic": "normal"}


def read(text: bytes) -> Series:
    """Read an exposition as prometheus_client's parser does; a series that stands twice fails."""
    return samples(text_string_to_metric_families(text.decode()))


def samples(families: object) -> Series:
    """Return all samples of families; a series that stands twice fails."""
    found: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
    for family in families:  # type: ignore[attr-defined]
        assert isinstance(family, Metric)
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))

            assert key not in found
            found[key] = sample.value
    return found


def value(series: Series, name: str, **labels: str) -> float | None:
    """Return one series' value, None where it is absent."""
    return series.get((f"bwexporter_{name}", frozenset(labels.items())))


def publish(told: Report, exposition: Exposition | None = None) -> Series:
    """Do what the daemon does after a full turn, and read the result."""
    exposition = exposition or Exposition([device.device for device in told.devices])
    exposition.observe(told)
    return read(exposition.render(told).text)


class TestLanes:
    """What is told of each lane."""

    def test_every_figure_of_a_lane_is_published_under_its_name(self) -> None:
        """Each lane family carries its own figure, with wall times moved from ledger time."""
        lane = LaneFigures(
            used_bytes=11,
            sent_bytes=12,
            sent_packets=13,
            dropped_packets=14,
            overlimits=15,
            backlog_bytes=16,
            period_start_at=1000.0,
            period_end_at=2000.0,
            allowance_bytes=17,
            threshold_bytes=18,
            full_bytes_per_second=19,
            guarantee_bytes_per_second=20,
            floor_bytes_per_second=21,
            ceiling_bytes_per_second=22,
            enforced_ceiling_bytes_per_second=23,
            capped=True,
            seconds_to_threshold=24.5,
            seconds_to_allowance=25.5,
        )
        series = publish(report(device_report([lane], wall_offset_seconds=3.25)))

        expected = {
            "sent_bytes_total": 12,
            "sent_packets_total": 13,
            "dropped_packets_total": 14,
            "overlimit_total": 15,
            "backlog_bytes": 16,
            "period_used_bytes": 11,
            "period_allowance_bytes": 17,
            "period_threshold_bytes": 18,
            "period_start_timestamp_seconds": 1003.25,
            "period_end_timestamp_seconds": 2003.25,
            "full_rate_bytes_per_second": 19,
            "guarantee_bytes_per_second": 20,
            "floor_bytes_per_second": 21,
            "ceiling_bytes_per_second": 23,
            "intended_ceiling_bytes_per_second": 22,
            "capped": 1,
            "shadow": 0,
            "seconds_to_threshold": 24.5,
            "seconds_to_allowance": 25.5,
        }

        assert expected == {name: value(series, f"slice_{name}", **ALICE) for name in expected}

    def test_the_text_is_this_to_the_byte(self) -> None:
        """A family is its HELP, its TYPE and one line a lane, all devices together."""
        exposition = Exposition()
        told = report(device_report([LaneFigures(sent_bytes=1)]), device_report([LaneFigures("b%d")], device="v%0"))
        text = exposition.render(told).text.decode()

        assert text.startswith(
            "# HELP bwexporter_slice_sent_bytes_total Bytes sent over the life of the account, as the kernel counts "
            "them.\n"
            "# TYPE bwexporter_slice_sent_bytes_total counter\n"
            'bwexporter_slice_sent_bytes_total{device="eth0",slice="alice",traffic="normal"} 1\n'
            'bwexporter_slice_sent_bytes_total{device="v%0",slice="b%d",traffic="normal"} 0\n'
            "# HELP bwexporter_slice_sent_packets_total ",
        )

    def test_no_limit_and_never_are_infinite(self) -> None:
        """Without an allowance, allowance and threshold are +Inf, spelled so; so is a forecast of never."""
        lane = LaneFigures(allowance_bytes=UNLIMITED, threshold_bytes=UNLIMITED // 5 * 4)
        text = Exposition().render(report(device_report([lane, LaneFigures("bob")]))).text

        for name in ("period_allowance_bytes", "period_threshold_bytes", "seconds_to_threshold"):
            assert f'slice_{name}{{device="eth0",slice="alice",traffic="normal"}} +Inf\n'.encode() in text
        assert value(read(text), "slice_period_allowance_bytes", **(ALICE | {"slice": "bob"})) == 1e9

    def test_a_ceiling_that_the_kernel_does_not_have_is_absent(self) -> None:
        """A lane without a class has no enforced ceiling; the other lanes keep theirs."""
        lanes = [LaneFigures("alice", enforced_ceiling_bytes_per_second=-1), LaneFigures("bob")]
        series = publish(report(device_report(lanes)))

        assert value(series, "slice_ceiling_bytes_per_second", **ALICE) is None
        assert value(series, "slice_ceiling_bytes_per_second", **(ALICE | {"slice": "bob"})) == 1_250_000
        assert value(series, "slice_intended_ceiling_bytes_per_second", **ALICE) == 1_250_000

    def test_what_a_sliding_window_holds_is_what_is_used(self) -> None:
        """Its neighbour's use is that of the period."""
        device = device_report([LaneFigures("alice", used_bytes=10), LaneFigures("bob", used_bytes=20)])
        held = Slid(np.array([3_600.0, 0.0]), np.array([900, 0]), np.array([0, 0]), np.array([0.0, 0.0]))
        series = publish(report(replace(device, verdicts=replace(device.verdicts, slid=held))))

        assert value(series, "slice_period_used_bytes", **ALICE) == 900
        assert value(series, "slice_period_used_bytes", **{**ALICE, "slice": "bob"}) == 20
        for bound in ("start", "end"):
            name = f"slice_period_{bound}_timestamp_seconds"
            assert value(series, name, **ALICE) is None
            assert value(series, name, **{**ALICE, "slice": "bob"}) is not None

    def test_shadow_is_that_of_the_lane_or_of_the_node(self) -> None:
        """A node that enforces nothing puts every lane in shadow."""
        lanes = [LaneFigures("alice", shadow=True), LaneFigures("bob")]
        bob = ALICE | {"slice": "bob"}
        enforcing, watching = report(device_report(lanes)), report(device_report(lanes), enforcing=False)

        assert value(publish(enforcing), "slice_shadow", **ALICE) == 1
        assert value(publish(enforcing), "slice_shadow", **bob) == 0
        assert value(publish(watching), "slice_shadow", **bob) == 1

    def test_series_of_slices_and_devices_that_are_gone_disappear(self) -> None:
        """Only the enrolled lanes of the devices of the last turn are published."""
        exposition = Exposition()
        both = device_report([LaneFigures("alice"), LaneFigures("bob")])
        publish(report(both, device_report(device="v0")), exposition)
        after = report(device_report([LaneFigures("bob", sent_bytes=5)], removed=[LaneFigures("alice")]))
        text = exposition.render(after).text

        assert b'"alice"' not in text
        assert b'device="v0"' not in text.split(b"# TYPE bwexporter_turn_duration_seconds")[0]
        assert value(read(text), "slice_sent_bytes_total", **(ALICE | {"slice": "bob"})) == 5

    def test_what_is_kept_from_turn_to_turn_follows_every_change(self) -> None:
        """Families whose text is kept show a new value at once."""
        exposition = Exposition()
        publish(report(device_report([LaneFigures()])), exposition)
        lane = LaneFigures(capped=True, allowance_bytes=5, period_end_at=9.0, floor_bytes_per_second=3)
        series = publish(report(device_report([lane])), exposition)

        assert value(series, "slice_capped", **ALICE) == 1
        assert value(series, "slice_period_allowance_bytes", **ALICE) == 5
        assert value(series, "slice_period_end_timestamp_seconds", **ALICE) == 9
        assert value(series, "slice_floor_bytes_per_second", **ALICE) == 3

    def test_among_many_lanes_those_that_change_are_written_anew(self) -> None:
        """Wherever lanes change, come or go, or their ceilings do, every figure is that of its own lane."""
        exposition = Exposition()
        many = [LaneFigures(f"slice {number:04d}", sent_bytes=number) for number in range(2 * ROWS + 3)]
        exposition.render(report(device_report(many)))
        for row, lane in (
            (ROWS, LaneFigures("slice 0512", sent_bytes=7, enforced_ceiling_bytes_per_second=-1)),
            (ROWS - 1, LaneFigures("slice 0511", seconds_to_allowance=5.5)),
            (2 * ROWS + 2, LaneFigures("100 %d", allowance_bytes=UNLIMITED)),
        ):
            many[row] = lane
            told = report(device_report(many))
            lines = lane_lines(exposition.render(told))

            assert lane_lines(Exposition().render(told)) == lines
        assert (2 * ROWS + 3) * len(LANE_FAMILIES) - 1 == sum(not line.startswith(b"#") for line in lines)
        assert b'bwexporter_slice_sent_bytes_total{device="eth0",slice="slice 0512",traffic="normal"} 7' in lines
        assert b'bwexporter_slice_period_allowance_bytes{device="eth0",slice="100 %d",traffic="normal"} +Inf' in lines


class TestNode:
    """What is told of the node, its devices, slices and sources."""

    def test_device_source_and_node_families_tell_the_report(self) -> None:
        """The families beside the lanes carry what the report says."""
        device = device_report(
            cap_bytes_per_second=7, line_rate_bytes_per_second=8, direct_packets=9, admitted_ratio=0.5
        )
        source = SourceStatus("file:a.yml", up=False, slices=3, problems=("x", "y"), last_success_wall_seconds=4)
        series = publish(report(device, sources=(source,), frozen=True, config_reload_successful=False))

        assert value(series, "device_cap_bytes_per_second", device="eth0") == 7
        assert value(series, "device_line_rate_bytes_per_second", device="eth0") == 8
        assert value(series, "device_direct_sent_packets_total", device="eth0") == 9
        assert value(series, "device_guarantees_admitted_ratio", device="eth0") == 0.5
        assert value(series, "source_up", source="file:a.yml") == 0
        assert value(series, "source_slices", source="file:a.yml") == 3
        assert value(series, "source_problems", source="file:a.yml") == 2
        assert value(series, "source_last_success_timestamp_seconds", source="file:a.yml") == 4
        assert value(series, "frozen") == 1
        assert value(series, "config_last_reload_successful") == 0
        assert value(series, "config_last_reload_success_timestamp_seconds") == NOW_WALL_SECONDS - 60
        assert value(series, "state_last_save_timestamp_seconds") == NOW_WALL_SECONDS
        assert [dict(labels)["version"] for name, labels in series if name.endswith("build_info")] == [__version__]

    def test_slice_info_shows_only_the_labels_that_are_configured(self) -> None:
        """Owners stay private unless asked for; record labels are shown by name, empty where a slice has none."""
        info = {"alice": SliceInfo("alice", 7, "plc", ("a@example.org", "b@example.org"), {"site": "x", "other": "y"})}
        told = report(device_report(), info=info)
        shown = publish(told, Exposition(owner_email=True, record_labels=("site", "room")))
        owners = "a@example.org,b@example.org"

        assert value(publish(told), "slice_info", slice="alice", id="7", source="plc") == 1
        expected = {"slice": "alice", "id": "7", "source": "plc", "owner_email": owners, "site": "x", "room": ""}
        assert value(shown, "slice_info", **expected) == 1

    @pytest.mark.parametrize("label", ["id", "owner_email", "9lives", "__name", "a-b", ""])
    def test_a_record_label_that_cannot_be_one_is_refused(self, label: str) -> None:
        """Labels that would clash or that Prometheus does not take are named in the error."""
        with pytest.raises(BwexporterError, match=re.escape(repr(label))):
            Exposition(record_labels=(label,))

    def test_before_the_first_turn_the_node_is_down_and_counters_are_zero(self) -> None:
        """A scrape before the first turn sees up 0 and every counter of known devices."""
        series = read(Exposition(["eth0"]).current.text)

        assert value(series, "up") == 0
        assert value(series, "last_turn_timestamp_seconds") is None
        assert value(series, "changes_total", device="eth0") == 0
        assert value(series, "change_failures_total", device="eth0", errno="ENOENT") == 0
        assert value(series, "turn_failures_total", stage="save") == 0
        assert value(series, "turn_stage_duration_seconds_count", stage="tell") == 0

    def test_an_unreadable_device_takes_up_down_and_keeps_the_time_of_the_good_turn(self) -> None:
        """The lanes stay as the last good turn left them, and the age of that turn grows."""
        exposition = Exposition(["eth0"])
        publish(report(device_report()), exposition)
        unread = device_report(trouble="the kernel did not answer", implausible_readings=1)
        series = publish(report(unread, at=Instant(NOW_WALL_SECONDS + 10, 1010.0, "boot-1")), exposition)

        assert value(series, "up") == 0
        assert value(series, "last_turn_timestamp_seconds") == NOW_WALL_SECONDS
        assert value(series, "slice_period_allowance_bytes", **ALICE) == 1e9
        assert value(series, "turn_failures_total", stage="look") == 1
        assert value(series, "implausible_readings_total", device="eth0") == 0

    def test_a_turn_that_failed_as_a_whole_takes_up_down_and_loses_nothing(self) -> None:
        """mark_down publishes up 0 and the failure beside the lanes of the last turn; the next turn is up again."""
        exposition = Exposition(["eth0"])
        publish(report(device_report()), exposition)
        exposition.count_turn_failure("plan")
        down = read(exposition.mark_down().text)

        assert value(down, "up") == 0
        assert value(down, "turn_failures_total", stage="plan") == 1
        assert value(down, "slice_period_allowance_bytes", **ALICE) == 1e9
        assert value(publish(report(device_report()), exposition), "up") == 1


class TestOwnFigures:
    """What the program counts of itself."""

    def test_changes_and_their_outcomes_are_counted_by_device(self) -> None:
        """Attempts, refusals by name, repairs and removals that were applied, each under its device."""
        changes = changes_of(
            [Act.CHANGE, Act.CHANGE, Act.REMOVE, Act.REMOVE],
            drift=[True, True, False, False],
            stranger=[False, False, True, False],
            build_tree=True,
        )
        outcomes = outcomes_of([0, errno.ENOENT, 0, 4242], tree_errno=errno.EPERM)
        told = report(device_report(changes=changes, outcomes=outcomes, implausible_readings=2))
        series = publish(told)

        assert value(series, "changes_total", device="eth0") == 5
        assert value(series, "change_failures_total", device="eth0", errno="ENOENT") == 1
        assert value(series, "change_failures_total", device="eth0", errno="EPERM") == 1
        assert value(series, "change_failures_total", device="eth0", errno="4242") == 1
        assert value(series, "drift_repairs_total", device="eth0") == 1
        assert value(series, "orphans_removed_total", device="eth0") == 1
        assert value(series, "implausible_readings_total", device="eth0") == 2

    def test_a_plan_that_is_not_applied_counts_as_no_change(self) -> None:
        """In shadow the plan has no outcomes and nothing is counted."""
        series = publish(report(device_report(changes=changes_of([Act.CHANGE], drift=[True]))))

        assert value(series, "changes_total", device="eth0") == 0
        assert value(series, "drift_repairs_total", device="eth0") == 0

    def test_turns_misfires_steps_and_failed_saves_are_counted(self) -> None:
        """Early looks count as turns; every other figure moves with what happened."""
        exposition = Exposition(["eth0"])
        exposition.observe(report(device_report(), early=True, clock_steps=2))
        exposition.count_misfire()
        exposition.count_turn_failure("save")
        series = publish(report(device_report(), saved=False, turn_seconds=0.3), exposition)

        assert value(series, "turns_total") == 3
        assert value(series, "turn_failures_total", stage="save") == 1
        assert value(series, "turn_failures_total", stage="look") == 0
        assert value(series, "turn_misfires_total") == 1
        assert value(series, "clock_steps_total") == 2
        assert value(series, "state_failures_total") == 1
        assert value(series, "turn_duration_seconds_count") == 2
        assert value(series, "turn_duration_seconds_sum") == pytest.approx(0.306)
        assert value(series, "turn_duration_seconds_bucket", le="0.2") == 1
        assert value(series, "turn_stage_duration_seconds_count", stage="look") == 2

    def test_the_process_shows_itself_and_no_series_says_when_it_was_created(self) -> None:
        """process_* are there; _created series are not."""
        names = {name for name, _ in publish(report(device_report()))}

        assert {"process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds"} <= names
        assert not [name for name in names if name.endswith("_created")]


hostile_names = st.text(
    st.one_of(st.sampled_from('"\\\n\r\t %{}=,#\u2028\x00'), st.characters(exclude_categories=["Cs"])),
    max_size=12,
)
numbers = st.integers(0, 2**53)
forecasts = st.one_of(st.just(math.inf), st.floats(0, 1e9))
lanes = st.builds(
    LaneFigures,
    slice_name=hostile_names,
    traffic=st.sampled_from(Traffic),
    used_bytes=numbers,
    sent_bytes=numbers,
    overlimits=numbers,
    threshold_bytes=numbers,
    ceiling_bytes_per_second=numbers,
    shadow=st.booleans(),
    period_end_at=st.integers(0, 4 * 10**12).map(lambda milliseconds: milliseconds / 1000),
    allowance_bytes=st.one_of(st.just(UNLIMITED), numbers),
    enforced_ceiling_bytes_per_second=st.one_of(st.just(-1), numbers),
    capped=st.booleans(),
    seconds_to_allowance=forecasts,
)
devices = st.lists(
    st.builds(
        device_report,
        st.lists(lanes, max_size=4, unique_by=lambda lane: (lane.slice_name, lane.traffic)),
        device=hostile_names,
    ),
    max_size=2,
    unique_by=lambda device: device.device,
)
turns = st.lists(devices.map(lambda found: report(*found)), min_size=1, max_size=3)


def lane_by_lane(told: Report) -> Series:
    """Return every lane series of a report, figure by figure: what the rendering has to equal."""
    found: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
    for device in told.devices:
        for row, lane in enumerate(device.tariffs.lanes):
            labels = frozenset({("device", lane.device), ("slice", lane.slice_name), ("traffic", lane.traffic.value)})
            for name, figure in figures_of(told, device, row).items():
                if figure is not None:
                    found[f"bwexporter_slice_{name}", labels] = figure
    return found


def lane_lines(rendered: Rendered) -> list[bytes]:
    """Return the lines of the lanes' families."""
    return b"".join(rendered.parts(names=[family.name for family in LANE_FAMILIES])).splitlines()


def figures_of(told: Report, device: DeviceReport, row: int) -> Mapping[str, float | None]:
    """Return what each lane family says of one lane; None where it says nothing."""
    accounts, verdicts, tariffs = device.ledger.accounts, device.verdicts, device.tariffs
    allowance, ceiling = int(verdicts.allowance_bytes[row]), int(device.enforced_ceiling_bytes_per_second[row])
    unlimited = allowance >= UNLIMITED
    return {
        "sent_bytes_total": int(accounts.sent_bytes[row]),
        "sent_packets_total": int(accounts.sent_packets[row]),
        "dropped_packets_total": int(accounts.dropped_packets[row]),
        "overlimit_total": int(accounts.overlimits[row]),
        "backlog_bytes": int(device.backlog_bytes[row]),
        "period_used_bytes": int(accounts.used_bytes[row]),
        "period_allowance_bytes": math.inf if unlimited else allowance,
        "period_threshold_bytes": math.inf if unlimited else int(verdicts.threshold_bytes[row]),
        "period_start_timestamp_seconds": float(np.round(accounts.period_start_at[row], 3)),
        "period_end_timestamp_seconds": float(np.round(accounts.period_end_at[row], 3)),
        "full_rate_bytes_per_second": int(tariffs.full_bytes_per_second[row]),
        "guarantee_bytes_per_second": int(verdicts.guarantee_bytes_per_second[row]),
        "floor_bytes_per_second": int(verdicts.floor_bytes_per_second[row]),
        "ceiling_bytes_per_second": None if ceiling < 0 else ceiling,
        "intended_ceiling_bytes_per_second": int(verdicts.ceiling_bytes_per_second[row]),
        "capped": int(verdicts.capped[row]),
        "shadow": int(tariffs.shadow[row] or not told.enforcing),
        "seconds_to_threshold": round(float(device.seconds_to_threshold[row]), 1),
        "seconds_to_allowance": round(float(device.seconds_to_allowance[row]), 1),
    }


def infos(series: Series) -> set[tuple[str, frozenset[tuple[str, str]]]]:
    """Return the series of slice_info."""
    return {key for key in series if key[0] == "bwexporter_slice_info"}


def read_open_metrics(rendered: Rendered) -> Series:
    """Read the OpenMetrics form as prometheus_client's strict parser does."""
    return samples(open_metrics_families(b"".join(rendered.parts(open_metrics=True)).decode()))


class TestReaders:
    """All who read the exposition read the same."""

    def test_open_metrics_has_units_counters_without_total_and_an_end(self) -> None:
        """The heads are those of OpenMetrics 1.0; the lines are those of the text."""
        text = b"".join(Exposition(["eth0"]).render(report(device_report())).parts(open_metrics=True)).decode()

        assert text.startswith(
            "# HELP bwexporter_slice_sent_bytes Bytes sent over the life of the account, as the kernel counts them.\n"
            "# TYPE bwexporter_slice_sent_bytes counter\n"
            "# UNIT bwexporter_slice_sent_bytes bytes\n"
            'bwexporter_slice_sent_bytes_total{device="eth0",slice="alice",traffic="normal"} 0\n',
        )
        assert text.endswith("} 1.0\n# EOF\n")
        assert 'bwexporter_turn_duration_seconds_bucket{le="0.005"} 0.0\n' in text

    def test_names_restrict_the_families(self) -> None:
        """A family's name gives the family, a series' name of a histogram that series, a strange one nothing."""
        rendered = Exposition(["eth0"]).render(report(device_report()))
        asked = ["bwexporter_up", "bwexporter_turn_duration_seconds_count", "bwexporter_x", "up\ud800"]
        told = read(b"".join(rendered.parts(names=asked)))
        histogram = read(b"".join(rendered.parts(names=["bwexporter_turn_duration_seconds"])))

        assert {name for name, _ in told} == {"bwexporter_up", "bwexporter_turn_duration_seconds_count"}
        assert "bwexporter_turn_duration_seconds_bucket" in {name for name, _ in histogram}
        assert rendered.parts(names=["nothing"]) == []

    def test_families_that_are_switched_off_are_in_neither_form(self) -> None:
        """Whoever pays for series leaves out those that nobody looks at; the collector leaves them out too."""
        off = ["bwexporter_slice_backlog_bytes", "bwexporter_up", "bwexporter_turns_total"]
        exposition = Exposition(["eth0"], off=off)
        rendered = exposition.render(report(device_report()))
        for form in (rendered.text, b"".join(rendered.parts(open_metrics=True))):
            assert not [name for name in off if f"{name}{{".encode() in form or f"{name} ".encode() in form]
        assert b"bwexporter_slice_sent_bytes_total{" in rendered.text
        names = {sample.name for family in Collector(exposition).collect() for sample in family.samples}
        assert "bwexporter_slice_sent_bytes_total" in names
        assert not names & set(off)

    def test_a_family_that_is_not_there_cannot_be_switched_off(self) -> None:
        """The error names what was written and the nearest name."""
        with pytest.raises(BwexporterError, match="did you mean bwexporter_slice_backlog_bytes"):
            Exposition(off=["bwexporter_slice_backlog_byte"])

    def test_gzip_is_made_ahead_once_somebody_has_asked_for_it(self) -> None:
        """The first who asks has it made; from then on each turn does, until nobody has asked for a while."""
        exposition = Exposition()
        first = exposition.current.gzip_at_hand(open_metrics=True)
        ready = exposition.render(report(device_report())).gzip_at_hand(open_metrics=True)
        for _ in range(KEPT_TURNS + 1):
            exposition.render(report(device_report()))

        assert first is None
        assert ready is not None
        assert gzip.decompress(ready).endswith(b"# EOF\n")
        assert exposition.current.gzip_at_hand(open_metrics=True) is None

    @given(turns)
    @settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
    def test_text_collector_and_columns_agree_whatever_the_names(self, told: list[Report]) -> None:
        """After any turns, prometheus_client reads from the text what the Collector gives and the columns hold."""
        exposition = Exposition(owner_email=True)
        registry = CollectorRegistry()
        registry.register(Collector(exposition))
        for turn in told:
            exposition.observe(turn)
            rendered = exposition.render(turn)
        text = {key: figure for key, figure in read(rendered.text).items() if key[0].startswith("bwexporter_")}
        columns = lane_by_lane(told[-1])

        assert text == samples(registry.collect())
        assert {key: text[key] for key in columns} == columns
        assert {key for key in text if key[0].startswith("bwexporter_slice_")} - infos(text) == set(columns)
        assert read_open_metrics(rendered) == read(rendered.text)

    def test_the_collector_has_the_types_and_helps_of_the_text(self) -> None:
        """Families agree in name, type and help, and all of them stand in the catalogue."""
        exposition = Exposition(["eth0"], owner_email=True)
        text = exposition.render(report(device_report())).text.decode()
        of_text = {(f.name, f.type, f.documentation) for f in text_string_to_metric_families(text)}
        of_collector = {(f.name, f.type, f.documentation) for f in Collector(exposition).collect()}
        of_catalogue = {
            (f.name.removesuffix("_total") if f.kind.value == "counter" else f.name, f.kind.value, f.text)
            for f in every_family()
        }

        assert {family for family in of_text if family[0].startswith("bwexporter_")} == of_collector == of_catalogue

    def test_a_registry_refuses_the_same_names_twice(self) -> None:
        """The collector describes its families, so that an embedding program learns of a clash."""
        registry = CollectorRegistry()
        registry.register(Collector(Exposition()))

        with pytest.raises(ValueError, match="bwexporter_slice_sent_bytes_total"):
            registry.register(Collector(Exposition()))

    def test_half_a_surrogate_pair_in_a_name_spoils_no_other_series(self) -> None:
        """A name that has no UTF-8 form is published with question marks."""
        series = publish(report(device_report([LaneFigures("a\ud800"), LaneFigures("bob", sent_bytes=4)])))

        assert value(series, "slice_sent_bytes_total", **(ALICE | {"slice": "bob"})) == 4
        assert value(series, "slice_sent_bytes_total", **(ALICE | {"slice": "a?"})) == 0

    def test_the_gzip_holds_the_same_text(self) -> None:
        """Both forms of one exposition are of the same turn, and `current` is the newest."""
        exposition = Exposition()
        rendered = exposition.render(report(device_report()))

        assert gzip.decompress(rendered.gzip()) == rendered.text
        assert exposition.current is rendered

    def test_promtool_finds_nothing_to_say(self) -> None:
        """`promtool check metrics` accepts the exposition and its linter is silent."""
        promtool = shutil.which("promtool")
        if promtool is None:
            pytest.fail("promtool is missing: apt-get install prometheus")
        changes, outcomes = changes_of([Act.CHANGE]), outcomes_of([errno.EBUSY])
        source = SourceStatus("file", up=True, slices=1, problems=(), last_success_wall_seconds=1.0)
        names = [LaneFigures(name) for name in ("alice", 'a"b\\c\nd', "\u00e9\u4e16", "")]
        told = report(device_report(names, changes=changes, outcomes=outcomes), sources=(source,))
        exposition = Exposition(["eth0"], owner_email=True)
        exposition.observe(told)
        text = exposition.render(told).text
        checked = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, check=False)

        assert (checked.stdout + checked.stderr).decode() == ""
        assert checked.returncode == 0


class TestCatalogue:
    """The catalogue as data."""

    def test_names_follow_the_conventions(self) -> None:
        """One prefix, the unit as suffix, _total on counters and only there, one line of help without a quote."""
        for family in every_family():
            base = family.name.removesuffix("_total")

            assert family.name.startswith("bwexporter_")
            assert base.endswith(family.unit)
            assert family.name.endswith("_total") == (family.kind.value == "counter")
            assert family.text.endswith(".")
            assert not set(family.text) & set('\\\n"|')
        assert len({family.name for family in every_family()}) == len(every_family())

    def test_the_table_has_a_row_for_each_family(self) -> None:
        """The README's table is made of the catalogue."""
        rows = metrics_table().splitlines()

        assert rows[0] == "| metric | type | labels | meaning |"
        assert len(rows) == 2 + len(every_family())
        assert (
            "| `bwexporter_slice_backlog_bytes` | gauge | `device`, `slice`, `traffic` | Bytes queued in the class at "
            "the last look. |"
        ) in rows

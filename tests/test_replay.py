"""What would have been: under the same policy what was, under another what the simulation of that one says."""

from __future__ import annotations

import doctest
import io
import json
import random
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bwexporter import chart, png, svg
from bwexporter.cli import comparing, replaying
from bwexporter.cli.main import main
from bwexporter.core.lanes import UNLIMITED, Lane, Traffic
from bwexporter.core.orders import Action, Command
from bwexporter.core.plans import LAW, Policy, Rung, Window, Windows
from bwexporter.core.report import Event, EventKind, Report
from bwexporter.core.sights import Kept
from bwexporter.core.wheel import moves
from bwexporter.replay import Recorded, Told, replayed
from bwexporter.state import open_state
from tests.node import DEVICE, Node
from tests.simulation import Sender, Sends
from tests.state_cases import save

DAY = 86_400.0
MEGABYTE = 1_000_000
STEP = 300.0
INTERVAL = 150.0
FREE = Policy(windows=Windows((Window(0, 720, 0.0), Window(720, 0, 0.0))))
LADDER_FROM_A_FIFTH = "allowance: 100MB, policy: {ladder: [{from: 20%, rate: 8kbit}]}"
SVG = "{http://www.w3.org/2000/svg}"
LADDER = Policy(ladder=(Rung(0.5, 5_000), Rung(1.0, 500)))


class Recorder:
    """Hears a simulated node, and records what a state file would: sums of five minutes; and who was capped when."""

    def __init__(self) -> None:
        self.sums: defaultdict[int, np.ndarray] = defaultdict(lambda: np.zeros(0))
        self.spans: defaultdict[str, list[list[float]]] = defaultdict(list)
        self.began = 0.0
        self._sent: np.ndarray | None = None
        self._at = 0.0

    def hear(self, _: Node, report: Report) -> None:
        """Record a turn; growth between two looks is divided in proportion to time."""
        device = report.devices[0]
        sent, at = device.ledger.accounts.sent_bytes[: len(device.tariffs)], report.at.wall_seconds
        if self._sent is None or len(self._sent) != len(sent):
            self.began = at
        elif at > self._at:
            for bucket in range(int((self._at - self.began) // STEP), int((at - self.began) // STEP) + 1):
                begin, end = self.began + bucket * STEP, self.began + (bucket + 1) * STEP
                part = max(0.0, min(end, at) - max(begin, self._at)) / (at - self._at)
                known = self.sums[bucket]
                self.sums[bucket] = (known if len(known) else np.zeros(len(sent))) + part * (sent - self._sent)
        self._sent, self._at = sent.copy(), at
        until = at + report.next_look_seconds
        for row in np.flatnonzero(device.verdicts.capped).tolist():
            lane = device.tariffs.lanes[row]
            spans = self.spans[lane.slice_name] if lane.traffic is Traffic.NORMAL else []
            if spans and spans[-1][1] >= at - 1.0:
                spans[-1][1] = until
            else:
                spans.append([at, until])

    def recorded(self, node: Node, seconds: float = DAY) -> Recorded:
        """Return the first day, or less."""
        sums = np.array([self.sums[bucket] for bucket in range(int(seconds / STEP))])
        lanes = node.turns.desks[DEVICE].tariffs.lanes
        return Recorded(self.began, STEP, lanes, np.floor(sums).astype(np.int64))


CAST = (
    Sender(100 * MEGABYTE, full_bytes_per_second=20_000),
    Sender(100 * MEGABYTE, since=6 * 3600.0, every=3600.0, on=900.0, full_bytes_per_second=20_000),
    Sender(400 * MEGABYTE, full_bytes_per_second=8_000),
    Sender(50 * MEGABYTE, since=float("inf"), full_bytes_per_second=20_000),
    Sender(50 * MEGABYTE, since=20 * 3600.0, full_bytes_per_second=20_000),
)


def lived(policy: Policy = LAW) -> tuple[Recorder, Sends]:
    """Live through a day of the real turn, with a look every 100 s."""
    recorder = Recorder()
    cast = [replace(sender, policy=policy) for sender in CAST]
    loop = Sends(cast, INTERVAL, DAY, random.Random(3), hears=recorder.hear)
    while loop.seconds < DAY + 700.0:
        loop.wait(0.4)
    return recorder, loop


def again(recorder: Recorder, loop: Sends) -> dict[str, Told]:
    """Replay what was recorded under the tariffs of a node."""
    desk = loop.node.turns.desks[DEVICE]
    recorded = recorder.recorded(loop.node)
    told = replayed(recorded, DEVICE, desk.tree, desk.tariffs, desk.rules, loop.node.pace)
    return {one.lane.slice_name: one for one in told if one.lane.traffic is Traffic.NORMAL}


def test_under_the_same_policy_what_happened_happens_again() -> None:
    """Ceilings come down and go up when they did, to the interval and a turn, and nobody sends less."""
    recorder, loop = lived()

    found = again(recorder, loop)

    capped = {"s0", "s1", "s2", "s4"}
    assert (
        {name for name, one in found.items() if one.spans}
        == {name for name in recorder.spans if name in found}
        == capped
    )
    for name in capped:
        (since, until), (was_since, was_until) = found[name].spans[0], recorder.spans[name][0]
        assert since == pytest.approx(was_since, abs=STEP + INTERVAL)
        assert min(until, recorder.began + DAY) == pytest.approx(
            min(was_until, recorder.began + DAY), abs=STEP + INTERVAL
        )
    for one in found.values():
        assert one.sent_bytes == pytest.approx(one.recorded_bytes, rel=0.01, abs=1_000)


def test_under_another_policy_it_is_what_the_simulation_of_that_one_says() -> None:
    """A day in which nothing counted, replayed on a ladder, against a day that was lived on the ladder."""
    recorder, loop = lived(FREE)
    ladder_recorder, ladder_loop = lived(LADDER)

    found = again(recorder, ladder_loop)

    assert not any(recorder.spans.values())
    for name, one in found.items():
        assert [since for since, _ in one.spans[:1]] == [
            pytest.approx(since, abs=STEP + INTERVAL) for since, _ in ladder_recorder.spans[name][:1]
        ]
        assert one.sent_bytes == pytest.approx(ladder_loop.sent[name, 0], rel=0.04, abs=1_000)
        assert one.recorded_bytes == pytest.approx(loop.sent[name, 0], rel=0.001, abs=1_000)
        assert one.less_bytes == max(0, one.recorded_bytes - one.sent_bytes)


def test_a_sliding_window_is_replayed_with_what_it_held_when_the_span_began() -> None:
    """The second day of two: under the same policy what happened happens again, because of the day before."""
    sliding = Policy(sliding_seconds=DAY)
    recorder = Recorder()
    cast = [replace(sender, policy=sliding) for sender in CAST[:3]]
    loop = Sends(cast, STEP, DAY, random.Random(3), hears=recorder.hear)
    while loop.seconds < 2 * DAY + 700.0:
        loop.wait(0.4)
    desk, noon, whole = loop.node.turns.desks[DEVICE], int(DAY / STEP), recorder.recorded(loop.node, 2 * DAY)
    second = Recorded(
        recorder.began + DAY, STEP, whole.lanes, whole.sent_bytes[noon:], before_bytes=whole.sent_bytes[:noon]
    )

    told = replayed(second, DEVICE, desk.tree, desk.tariffs, desk.rules, loop.node.pace)
    forgetful = replayed(
        replace(second, before_bytes=None), DEVICE, desk.tree, desk.tariffs, desk.rules, loop.node.pace
    )

    found = {one.lane.slice_name: one for one in told if one.lane.traffic is Traffic.NORMAL}
    for name in ("s0", "s1", "s2"):
        assert found[name].sent_bytes == pytest.approx(found[name].recorded_bytes, rel=0.03)
        was = sum(
            max(0.0, min(until, second.since_wall_seconds + DAY) - max(since, second.since_wall_seconds))
            for since, until in recorder.spans[name]
        )
        assert found[name].capped_seconds == pytest.approx(was, abs=20 * STEP)
    assert found["s0"].spans[0][0] == second.since_wall_seconds
    (forgot,) = (one for one in forgetful if one.lane.slice_name == "s0" and one.lane.traffic is Traffic.NORMAL)
    assert forgot.capped_seconds < found["s0"].capped_seconds - 3_600.0


def test_a_replay_that_begins_in_the_middle_of_a_period_knows_what_was_used_in_it() -> None:
    recorder, loop = lived()
    desk, whole = loop.node.turns.desks[DEVICE], recorder.recorded(loop.node)
    noon = 144
    began = {
        lane: (recorder.began, int(used))
        for lane, used in zip(whole.lanes, whole.sent_bytes[:noon].sum(0), strict=True)
    }
    half = Recorded(recorder.began + noon * STEP, STEP, whole.lanes, whole.sent_bytes[noon:], began)

    told = replayed(half, DEVICE, desk.tree, desk.tariffs, desk.rules, loop.node.pace)

    spans = {one.lane.slice_name: one.spans for one in told if one.lane.traffic is Traffic.NORMAL}
    assert spans["s0"][0][0] == half.since_wall_seconds
    assert spans["s0"][0][1] == pytest.approx(recorder.began + DAY, abs=STEP + INTERVAL)


# The command, over a state file that a day was saved to.


def a_day_in(folder: Path, hears: Callable[[Report], None] = lambda _: None) -> Path:
    """Return a configuration whose state file holds most of a day of five slices under the law."""
    (folder / "slices.yml").write_text(
        "slices:\n" + "".join(f"  - {{name: s{at}, id: {at + 1}}}\n" for at in range(len(CAST)))
    )
    path = folder / "bwexporter.yml"
    path.write_text(
        "state: state.db\ninterval: 100s\nshortest_interval: 10s\nperiod: 1d\n"
        f"devices:\n  - {{name: {DEVICE}, cap: 1gbit, line_rate: 1gbit}}\n"
        "defaults:\n  normal: {allowance: 100MB, guarantee: 8bit}\n  exempt: {allowance: unlimited}\n"
        "slices:\n  - {file: slices.yml}\n"
    )
    state = open_state(folder / "state.db", now_wall_seconds=1_700_000_000.0)

    def keep(_: Node, report: Report) -> None:
        assert save(state, [report.devices[0].ledger], [], report.at.wall_seconds).saved
        hears(report)

    loop = Sends(CAST, 300.0, DAY, random.Random(3), hears=keep)
    while loop.seconds < 0.7 * DAY:
        loop.wait(0.4)
    state.close()
    return path


@pytest.fixture(scope="module")
def lived_day(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return a_day_in(tmp_path_factory.mktemp("day"))


@pytest.fixture
def saved(lived_day: Path, tmp_path: Path) -> Path:
    """A configuration of the test's own, whose state file holds the day."""
    shutil.copytree(lived_day.parent, tmp_path, dirs_exist_ok=True)
    return tmp_path / lived_day.name


def test_the_command_reads_the_state_file_and_says_who_when_and_how_much(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A ladder that begins at a fifth of the allowance, over half a day; weeks of nothing before cost no time."""
    other = tmp_path / "other.yml"
    other.write_text(saved.read_text().replace("allowance: 100MB", LADDER_FROM_A_FIFTH))
    span = ["--from", "2023-11-14 22:15+00:00", "--to", "2023-11-15 12:00+00:00"]

    since_october = ["--from", "2023-10-20", *span[2:]]
    main(["replay", "--policy", str(other), "--config", str(saved), *since_october, "--json"])
    found = json.loads(capsys.readouterr().out)
    lanes = {(one["slice"], one["traffic"]): one for one in found["lanes"]}
    an_hour = [*span[:3], "2023-11-14 23:15+00:00"]
    main(["replay", "--policy", str(other), "--config", str(saved), *an_hour, "--picture", str(tmp_path / "out.png")])
    table = capsys.readouterr().out
    with Image.open(tmp_path / "out.png") as image:
        assert (image.format, image.width) == ("PNG", 2 * chart.WIDTH)

    assert found["from"] == 1_700_000_000 // STEP * STEP
    greedy, idle = lanes["s0", "normal"], lanes["s3", "normal"]
    # 20 MB at 20 kB/s take a thousand seconds; from there on 1 kB/s.
    assert greedy["capped"][0][0] == pytest.approx(1_700_000_000 + 1_000, abs=STEP + 100)
    assert greedy["sent_bytes"] == pytest.approx(20_000_000 + 48_000 * 250, rel=0.2)
    assert greedy["less_bytes"] == greedy["recorded_bytes"] - greedy["sent_bytes"] > 40_000_000
    assert (idle["recorded_bytes"], idle["capped"]) == (0, [])
    assert "s0" in table
    assert "s3" not in table
    assert "2023-11-14 22:15 to 2023-11-14 23:15 UTC" in table
    assert "first at (UTC)" in table


@pytest.mark.parametrize("minutes", [45, 60, 180, 185])
def test_who_sends_evenly_is_drawn_evenly_however_long_the_span_is(
    saved: Path, capsys: pytest.CaptureFixture[str], minutes: int
) -> None:
    """A cell for each interval, or for as many as there is room for, at the mean rate of its part."""
    end = (datetime(2023, 11, 15, 1, tzinfo=UTC) + timedelta(minutes=minutes)).isoformat()
    span = ["--from", "2023-11-15T01:00:00+00:00", "--to", end]

    main(["replay", "--policy", str(saved), "--config", str(saved), *span])

    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.split()[1:3] == ["s0", "normal"])
    assert line.split()[-1] == "█" * min(24, minutes // 5)


def test_the_command_reads_what_windows_held_before_the_span(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From eight in the morning on, under a sliding window: who has sent his volume in the night is capped at once."""
    other = tmp_path / "other.yml"
    other.write_text(saved.read_text().replace("allowance: 100MB", "allowance: 100MB, policy: sliding"))
    span = ["--from", "2023-11-15 08:00+00:00", "--to", "2023-11-15 12:00+00:00"]

    main(["replay", "--policy", str(other), "--config", str(saved), *span, "--slice", "s0", "--json"])

    (lane,) = (one for one in json.loads(capsys.readouterr().out)["lanes"] if one["traffic"] == "normal")
    assert lane["capped"][0][0] == pytest.approx(1_700_035_200, abs=STEP)
    assert lane["sent_bytes"] == pytest.approx(lane["recorded_bytes"], rel=0.05)


def adopted(saved: Path, found_bytes_per_second: int | None) -> Path:
    """Return the same node as if somebody else had built its tree, with the full rate that s0's class was found with.

    Nobody has written a full rate; s3 has no class at all.
    """
    text = saved.read_text().replace("line_rate: 1gbit}", "line_rate: 1gbit, tree: existing}")
    saved.write_text(text.replace("allowance: 100MB", LADDER_FROM_A_FIFTH))
    named = "".join(f'  - {{name: s{at}, id: {at + 1}, class: "7:1{at}"}}\n' for at in (0, 1, 2, 4))
    (saved.parent / "slices.yml").write_text(f"slices:\n{named}")
    if found_bytes_per_second is not None:
        state = open_state(saved.parent / "state.db", now_wall_seconds=1_700_060_000.0)
        found = {0x7_0010 + at: found_bytes_per_second for at in (0, 1, 2, 4)}
        state.remember_sights(DEVICE, Kept("another boot", 7, found), 1_700_060_000.0)
        kept = next(iter(state.load().values()))
        assert state.save([kept], [], kept.at.wall_seconds, save_wait_seconds=20).saved
        state.close()
    return saved


@pytest.mark.parametrize("found", [10_000, None])
def test_lanes_in_a_tree_of_somebody_elses_are_replayed_at_the_full_rates_that_were_found(
    saved: Path, capsys: pytest.CaptureFixture[str], found: int | None
) -> None:
    """s0 sent 20 kB/s: through a class of 10 kB/s half of it would have passed, and 20 MB took it twice as long."""
    path = adopted(saved, found)
    span = ["--from", "2023-11-14 22:15+00:00", "--to", "2023-11-15 12:00+00:00"]

    main(["replay", "--policy", str(path), "--config", str(path), *span, "--json"])

    printed = capsys.readouterr()
    lanes = {(one["slice"], one["traffic"]): one for one in json.loads(printed.out)["lanes"]}
    assert {slice_name for slice_name, _ in lanes} == {"s0", "s1", "s2", "s4"}
    seconds = 1_000 if found is None else 2_000
    assert lanes["s0", "normal"]["capped"][0][0] == pytest.approx(1_700_000_000 + seconds, abs=STEP + 100)
    assert ("the full rate on eth0 of s0, s1, s2, s4 is not recorded" in printed.err) == (found is None)


def test_a_tree_of_ours_is_compared_with_one_of_somebody_elses(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A node whose tree others built, replayed as if bwexporter built it, and drawn beside what was."""
    other, file = tmp_path / "other.yml", tmp_path / "out.svg"
    other.write_text(saved.read_text().replace("slices.yml", "others.yml"))
    shutil.copy(tmp_path / "slices.yml", tmp_path / "others.yml")
    path = adopted(saved, 10_000)

    main(["replay", "--policy", str(other), "--config", str(path), "--from", "2023-11-14 22:15+00:00",
          "--to", "2023-11-15 12:00+00:00", "--slice", "s0", "--picture", str(file)])  # fmt: skip

    assert "s0" in capsys.readouterr().out
    (bar,) = bars(parsed(file.read_text()), "course0")
    assert bar[2].startswith("recorded: capped from")


def test_a_span_of_which_nothing_is_known_says_so(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["replay", "--policy", str(saved), "--config", str(saved), "--from", "2h"])

    assert ended.value.code == 1
    assert "no use of these slices is recorded in that span" in capsys.readouterr().err


# The picture.


def parsed(text: str) -> ET.Element:
    return ET.fromstring(text)  # noqa: S314 - we have just written it


def polylines(drawn: ET.Element, name: str) -> list[list[tuple[float, float]]]:
    """Return where the lines of a class run, one for each chart."""
    lines = [one.get("points", "").split() for one in drawn.iter(f"{SVG}polyline") if one.get("class") == name]
    return [[(float(x), float(y)) for x, y in (point.split(",") for point in points)] for points in lines]


def bars(drawn: ET.Element, name: str) -> list[tuple[float, float, str]]:
    """Return from where to where each bar of a class reaches, and what it says when pointed at."""
    found = [one for one in drawn.iter(f"{SVG}rect") if one.get("class") == f"capped {name}"]
    return [
        (float(one.get("x", "")), float(one.get("x", "")) + float(one.get("width", "")), one[0].text or "")
        for one in found
    ]


def test_the_picture_shows_rate_use_and_caps_of_both(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Under the ladder the greedy slice is capped after 1000 s, as recorded after 4000 s; both lines fall then."""
    other, file = tmp_path / "on a <ladder>.yml", tmp_path / "out.svg"
    other.write_text(saved.read_text().replace("allowance: 100MB", LADDER_FROM_A_FIFTH))
    span = ["--from", "2023-11-14 22:15+00:00", "--to", "2023-11-15 12:00+00:00"]

    main(["replay", "--policy", str(other), "--config", str(saved), *span, "--slice", "s0", "--picture", str(file)])

    drawn, begin, end = parsed(file.read_text()), 1_700_000_100, 1_700_049_600
    words = [one.text or "" for one in drawn.iter(f"{SVG}text")]

    def at(x: float) -> float:
        return begin + (x - chart.LEFT) / (chart.RIGHT - chart.LEFT) * (end - begin)

    assert [one for one in words if one.startswith("s0, normal traffic on eth0")]
    assert {"22:15", "12:00", "0 B", "100 MB", "150kbit", "capped", "allowance 100 MB"} <= set(words)
    assert {"\N{BLACK SQUARE} recorded", "\N{BLACK SQUARE} under on a <ladder>.yml"} <= set(words)
    # Lower on the picture is a larger y: who may send less has used less, at every instant.
    (recorded,), (under,) = polylines(drawn, "used course0"), polylines(drawn, "used course1")
    assert [x for x, _ in recorded] == [x for x, _ in under]
    assert all(mine >= theirs for (_, mine), (_, theirs) in zip(under, recorded, strict=True))
    assert under[-1][1] - recorded[-1][1] > 30
    for name, falls in (("course0", begin + 3_900), ("course1", begin + 900)):
        (rate,) = polylines(drawn, f"rate {name}")
        top = min(y for _, y in rate)
        last_at_full = max(x for x, y in rate if y == top)
        assert at(last_at_full) == pytest.approx(falls, abs=2 * STEP)
    (bar,) = bars(drawn, "course1")
    assert at(bar[0]) == pytest.approx(begin + 900, abs=STEP + 100)
    assert at(bar[1]) == pytest.approx(end, abs=100)
    assert bar[2].startswith("under on a <ladder>.yml: capped from 14 Nov 22:")
    assert bar[0] < bars(drawn, "course0")[0][0]
    assert "s0" in capsys.readouterr().out


def test_a_png_shows_the_same_as_the_svg() -> None:
    """Where the SVG has a bar, a line or words, the PNG has their colours, at twice the size; elsewhere it is white."""
    begin, end = 1_700_000_000.0, 1_700_086_400.0
    lived_through = [
        chart.Lived(name, [(begin, 20_000.0), (begin + at, 1_000.0)], [(begin, 0), (begin + at, 8e7), (end, 9e7)],
                    [(begin + at, end)])
        for name, at in (("recorded", 40_000.0), ("under other.yml", 20_000.0))
    ]  # fmt: skip
    text = chart.drawn([chart.Chart("s0, normal traffic", begin, end, [("allowance", 10**8)], lived_through)])

    drawn, image = parsed(text), Image.open(io.BytesIO(png.png_of(text))).convert("RGB")

    assert image.size == (2 * chart.WIDTH, 2 * int(drawn.get("height", "")))
    blue, grey, white = (9, 105, 218), (110, 119, 129), (255, 255, 255)
    for name, colour in (("course1", blue), ("course0", grey)):
        (bar,) = (one for one in drawn.iter(f"{SVG}rect") if one.get("class") == f"capped {name}")
        left, top, width, height = (float(bar.get(key, "")) for key in ("x", "y", "width", "height"))
        assert image.getpixel((round(2 * (left + width / 2)), round(2 * (top + height / 2)))) == colour
        assert image.getpixel((round(2 * left) - 8, round(2 * (top + height / 2)))) == white
        (line,) = polylines(drawn, f"used {name}")
        x, y = line[1]
        assert colour in {image.getpixel((round(2 * x), round(2 * y) + dy)) for dy in range(-3, 4)}
    for words in (one for one in drawn.iter(f"{SVG}text") if one.text):
        y = round(2 * float(words.get("y", ""))) - 8
        row = {image.getpixel((at, y)) for at in range(image.width)}
        assert any(sum(pixel) < 600 for pixel in row), words.text


def test_without_its_library_a_png_says_how_to_get_it(saved: Path, tmp_path: Path) -> None:
    """In an interpreter that has no Pillow, before anything is lived through."""
    script = (
        "import sys\n"
        "sys.modules['PIL'] = None\n"  # as Python marks what cannot be imported
        "from bwexporter.cli.main import main\n"
        "main(sys.argv[1:])\n"
    )
    command = ["replay", "--policy", str(saved), "--config", str(saved), "--picture", str(tmp_path / "out.png")]

    done = subprocess.run([sys.executable, "-c", script, *command], capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert "a PNG needs the library Pillow: pip install 'bwexporter[png]'" in done.stderr


def test_another_kind_of_picture_is_refused(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["replay", "--policy", str(saved), "--config", str(saved), "--picture", "out.gif"])

    assert ended.value.code == 2
    assert "write a name as out.svg or .png" in " ".join(capsys.readouterr().err.split())


def test_without_a_slice_the_lanes_are_drawn_whose_caps_differ_most(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only s1 has another policy; those that it does not change come after it."""
    other, file = tmp_path / "other.yml", tmp_path / "out.svg"
    other.write_text(saved.read_text().replace("slices.yml", "others.yml"))
    (tmp_path / "others.yml").write_text(
        (tmp_path / "slices.yml")
        .read_text()
        .replace("{name: s1, id: 2}", "{name: s1, id: 2, normal: {policy: {ladder: [{from: 10%, rate: 8kbit}]}}}")
    )

    main(["replay", "--policy", str(other), "--config", str(saved), "--from", "2023-11-14 22:15+00:00",
          "--to", "2023-11-15 12:00+00:00", "--picture", str(file)])  # fmt: skip

    drawn = parsed(file.read_text())
    titles = [one.text or "" for one in drawn.iter(f"{SVG}text") if one.get("class") == "title"]
    assert titles[0].startswith("s1, normal traffic")
    assert 1 < len(titles) <= comparing.MOST_CHARTS
    assert len(polylines(drawn, "rate course0")) == len(polylines(drawn, "rate course1")) == len(titles)
    capsys.readouterr()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--slice", "nobody"], "has no slice 'nobody'; write the name of one of its slices"),
        (
            ["--picture", "/nowhere/out.svg"],
            "the picture cannot be written to /nowhere/out.svg: No such file or directory",
        ),
    ],
)
def test_what_cannot_be_drawn_is_said(
    saved: Path, capsys: pytest.CaptureFixture[str], flags: list[str], words: str
) -> None:
    span = ["--from", "2023-11-14 22:15+00:00", "--to", "2023-11-15 01:00+00:00"]
    with pytest.raises(SystemExit) as ended:
        main(["replay", "--policy", str(saved), "--config", str(saved), *span, *flags])

    assert ended.value.code == 1
    assert words in capsys.readouterr().err


@given(
    st.lists(st.floats(0, 1e15), min_size=1, max_size=20),
    st.sampled_from([UNLIMITED, 0, 1, 999, 10**12]),
    st.floats(1, 4e6),
)
def test_every_course_can_be_drawn(values: list[float], allowance: int, length: float) -> None:
    """No number leaves the frame, and none is missing."""
    course = [(1e9 + length * at / len(values), value) for at, value in enumerate(values)]
    lived = chart.Lived('<"&', course, course, [(1e9 - 5, 1e9 + 1e7)])

    drawn = chart.drawn([chart.Chart("<&", 1e9, 1e9 + length, [("allowance", allowance)], [lived, lived])] * 2)

    height = float(parsed(drawn).get("height", ""))
    assert "nan" not in drawn
    assert all(0 <= float(y) <= height for y in re.findall(r'\by[12]?="([-\d.]+)"', drawn))
    for points in re.findall(r'points="([^"]*)"', drawn):
        for x, y in (point.split(",") for point in points.split()):
            assert chart.LEFT <= float(x) <= chart.RIGHT
            assert 0 <= float(y) <= height


def test_the_worked_examples_hold() -> None:
    assert [0, 0, 0] == [doctest.testmod(room).failed for room in (comparing, replaying, svg)]


# The hand on the wheel.

HOUR = 3600.0
HANDLED = (
    Sender(100 * MEGABYTE, full_bytes_per_second=20_000),  # released while it is over its threshold
    Sender(400 * MEGABYTE, full_bytes_per_second=20_000),  # capped, and restored before the cap is over
    Sender(40 * MEGABYTE, full_bytes_per_second=20_000),  # topped up
    Sender(400 * MEGABYTE, full_bytes_per_second=20_000),  # capped, until the cap is over
)
STEERED = (
    (0.5 * HOUR, Command("one", Action.CAP, "root", "test", "s3", rate_bytes_per_second=4_000, seconds=2 * HOUR)),
    (1.0 * HOUR, Command("two", Action.CAP, "root", "test", "s1", rate_bytes_per_second=2_000, seconds=9 * HOUR)),
    (1.5 * HOUR, Command("three", Action.RELEASE, "root", "test", "s0", seconds=HOUR)),
    (2.0 * HOUR, Command("four", Action.TOP_UP, "root", "test", "s2", volume_bytes=20 * MEGABYTE)),
    (3.0 * HOUR, Command("five", Action.RESTORE, "root", "test", "s1")),
)


def steered() -> tuple[Recorder, Sends, Recorded]:
    """Live through some hours of a day with a hand on the wheel."""
    recorder = Recorder()
    loop = Sends(HANDLED, INTERVAL, DAY, random.Random(5), hears=recorder.hear)
    for at, command in STEERED:
        while loop.seconds < at:
            loop.wait(0.4)
        loop.node.turns.obey(command, loop.node.now())
        loop.report = loop.look(anew=True)
    while loop.seconds < 5 * HOUR + 700.0:
        loop.wait(0.4)
    recorded = recorder.recorded(loop.node, 5 * HOUR)
    return recorder, loop, replace(recorded, moved=tuple(moves(loop.node.shelf.events)))


def test_what_was_set_by_hand_then_is_set_by_hand_again() -> None:
    """Caps, releases, top-ups and restores come and go when they did: nobody sends more or less than was recorded."""
    recorder, loop, recorded = steered()
    desk = loop.node.turns.desks[DEVICE]
    under = (DEVICE, desk.tree, desk.without_hand, desk.rules, loop.node.pace)

    found = {one.lane.slice_name: one for one in replayed(recorded, *under) if one.lane.traffic is Traffic.NORMAL}
    alone = {
        one.lane.slice_name: one
        for one in replayed(replace(recorded, moved=()), *under)
        if one.lane.traffic is Traffic.NORMAL
    }

    for name in ("s0", "s1", "s2", "s3"):
        assert found[name].sent_bytes == pytest.approx(found[name].recorded_bytes, rel=0.02)
        assert len(found[name].spans) == len(recorder.spans[name])
        for span, was in zip(found[name].spans, recorder.spans[name], strict=True):
            assert span == pytest.approx([min(at, recorder.began + 5 * HOUR) for at in was], abs=STEP + INTERVAL)
    assert len(found["s0"].spans) == 2  # over its threshold before the hour in which it was released, and after it
    assert alone["s0"].sent_bytes < 0.7 * found["s0"].sent_bytes
    assert alone["s2"].sent_bytes < 0.8 * found["s2"].sent_bytes


def test_a_cap_lowers_what_would_have_been_sent_from_its_hour_to_its_end() -> None:
    """Of a steady 20 kB/s, two hours at 4 kB/s and two at 2 kB/s: the one cap ran out, the other one was taken back."""
    _, loop, recorded = steered()
    desk = loop.node.turns.desks[DEVICE]
    steady = replace(recorded, sent_bytes=np.full_like(recorded.sent_bytes, 20_000 * int(STEP)))
    free = replace(desk.without_hand, allowance_bytes=np.full(len(desk.tariffs), UNLIMITED),
                   threshold_bytes=np.full(len(desk.tariffs), UNLIMITED))  # fmt: skip

    told = replayed(steady, DEVICE, desk.tree, free, desk.rules, loop.node.pace)

    found = {one.lane.slice_name: one for one in told if one.lane.traffic is Traffic.NORMAL}
    for name, rate, hours in (("s3", 4_000, 2), ("s1", 2_000, 2)):
        slow = found[name].sent_by_interval < 20_000 * int(STEP) * 0.98
        assert slow.sum() == pytest.approx(hours * HOUR / STEP, abs=2)
        assert found[name].sent_bytes == pytest.approx(20_000 * 3 * HOUR + rate * hours * HOUR, rel=0.02)
    assert found["s0"].less_bytes == 0


def test_an_order_that_was_given_before_the_span_holds_in_it() -> None:
    """A span that begins while caps and a top-up are in force, which are told of before it alone."""
    recorder, loop, recorded = steered()
    desk, first = loop.node.turns.desks[DEVICE], int(2.25 * HOUR / STEP)
    began = {
        lane: (recorder.began, int(used))
        for lane, used in zip(recorded.lanes, recorded.sent_bytes[:first].sum(0), strict=True)
    }
    late = replace(
        recorded,
        since_wall_seconds=recorder.began + first * STEP,
        sent_bytes=recorded.sent_bytes[first:],
        period_starts=began,
    )

    told = replayed(late, DEVICE, desk.tree, desk.without_hand, desk.rules, loop.node.pace)

    found = {one.lane.slice_name: one for one in told if one.lane.traffic is Traffic.NORMAL}
    for name in ("s0", "s1", "s2", "s3"):
        assert found[name].sent_bytes == pytest.approx(found[name].recorded_bytes, rel=0.03)
        assert len(found[name].spans) == len(
            [span for span in recorder.spans[name] if span[1] > late.since_wall_seconds]
        )
    assert found["s0"].spans[0][0] == pytest.approx(recorder.began + 2.5 * HOUR, abs=STEP + INTERVAL)


def test_a_frozen_hour_is_frozen_again() -> None:
    """While nothing was changed, a slice that had passed its threshold was not capped either."""
    recorder = Recorder()
    loop = Sends(HANDLED[:1], INTERVAL, DAY, random.Random(5), hears=recorder.hear)
    loop.node.turns.obey(Command("one", Action.FREEZE, "root", "test", seconds=2 * HOUR), loop.node.now())
    loop.report = loop.look(anew=True)
    while loop.seconds < 3 * HOUR + 700.0:
        loop.wait(0.4)
    moved = tuple(moves(loop.node.shelf.events))
    recorded = replace(recorder.recorded(loop.node, 3 * HOUR), moved=moved)
    desk = loop.node.turns.desks[DEVICE]

    (found,) = (
        one
        for one in replayed(recorded, DEVICE, desk.tree, desk.without_hand, desk.rules, loop.node.pace)
        if one.lane.slice_name == "s0" and one.lane.traffic is Traffic.NORMAL
    )

    assert found.recorded_bytes > 100 * MEGABYTE
    assert found.sent_bytes == pytest.approx(found.recorded_bytes, rel=0.01)
    assert found.spans[0][0] == pytest.approx(recorder.began + 2 * HOUR, abs=STEP + INTERVAL)


def test_the_command_reads_the_orders_from_the_state_file(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A release of the greedy slice from noon on; nothing else was recorded of it."""
    given_ = {"outcome": "given", "action": "release", "who": "root", "reason": "test", "token": "one"}
    noon = 1_700_043_200.0
    events = [
        Event(noon, EventKind.BY_HAND, DEVICE, Lane(DEVICE, "s2", Traffic.NORMAL),
              {**given_, "until_timestamp_seconds": noon + 4 * HOUR}),
        Event(noon, EventKind.BY_HAND, DEVICE, Lane(DEVICE, "s0", Traffic.NORMAL), {"action": "what is this"}),
    ]  # fmt: skip
    state = open_state(saved.parent / "state.db", now_wall_seconds=noon)
    kept = next(iter(state.load().values()))
    assert save(state, [kept], events, kept.at.wall_seconds).saved
    state.close()
    command = ["replay", "--policy", str(saved), "--config", str(saved), "--json",
               "--from", "2023-11-14 22:15+00:00", "--to", "2023-11-15 14:00+00:00"]  # fmt: skip

    spans = []
    for more in ([], ["--without-hand"]):
        main([*command, *more])
        lanes = json.loads(capsys.readouterr().out)["lanes"]
        spans.append(next(one["capped"] for one in lanes if (one["slice"], one["traffic"]) == ("s2", "normal")))

    with_hand, without_hand = spans
    assert with_hand[-1][1] == pytest.approx(noon, abs=1.0)
    assert without_hand[-1][1] == 1_700_056_800.0

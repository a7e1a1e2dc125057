"""What happened and why, as the command line tells it: from events of real turns and the API's rows."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from bwexporter.cli.main import main
from bwexporter.cli.past import parse_since
from bwexporter.core.lanes import Traffic
from bwexporter.core.orders import Action, Command
from bwexporter.core.periods import Rolling
from bwexporter.core.report import Event, EventKind, Report
from bwexporter.state import open_state
from bwexporter.telling import NO_REASON, sentence
from bwexporter.web.listening import bind
from tests.fake_kernel import FakeClass
from tests.node import DEVICE, Node
from tests.state_cases import save
from tests.waiting import PATIENCE_SECONDS
from tests.web import Facts, serving

MEGABYTE = 1_000_000
Bwexporter = Callable[..., tuple[int, str, str]]


@pytest.fixture
def bwexporter(capsys: pytest.CaptureFixture[str]) -> Bwexporter:
    """Run a command line in this process: exit code, output, errors."""

    def run(*arguments: str) -> tuple[int, str, str]:
        code = 0
        try:
            main(arguments)
        except SystemExit as ended:
            code = int(ended.code or 0)
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Write a configuration whose state file is beside it."""
    (tmp_path / "slices.yml").write_text("slices:\n  - {name: ann}\n  - {name: bob}\n")
    path = tmp_path / "bwexporter.yml"
    path.write_text(
        "state: state.db\ndevices:\n  - {name: eth0, cap: 100mbit, line_rate: 1gbit}\nslices:\n  - {file: slices.yml}\n"
    )
    return path


def order(node: Node, action: Action, slice_name: str = "", **given: int) -> None:
    """Give an order between two turns, for an hour where it is about a slice."""
    seconds = 3600.0 if slice_name and action is not Action.TOP_UP else None
    traffic = Traffic.NORMAL if slice_name else None
    asked = Command(
        f"{action} {node.boot_seconds}",
        action,
        "root (uid 0)",
        "ticket 7",
        slice_name,
        traffic=traffic,
        seconds=seconds,
        **given,
    )
    node.turns.obey(asked, node.now())


def eventful(node: Node) -> Report:
    """Live through one of everything, and end capped by hand with a top-up."""
    node.turn()
    node.pass_seconds(10.0)
    node.turn()
    assert node.kernel.offer(DEVICE, node.class_of("ann"), 95 * MEGABYTE, seconds=1e6)
    for _ in range(200):
        node.pass_seconds(10.0)
        node.turn()
    node.kernel.change_class(DEVICE, FakeClass(node.class_of("bob"), 0x1_0010, 1_000, 777_777))
    handle, root = node.class_of("bob"), node.kernel.links[DEVICE].root
    assert root is not None
    node.pass_seconds(10.0)
    node.turn()
    was = root.classes[handle]
    node.kernel.delete_class(DEVICE, handle)
    node.kernel.create_class(DEVICE, FakeClass(handle, was.parent, was.rate, was.ceiling, was.quantum, was.burst_ns))
    node.wall_seconds += 3600.0
    node.pass_seconds(10.0)
    node.turn()
    node.pass_seconds(3600.0)
    node.turn()
    order(node, Action.CAP, "ann", rate_bytes_per_second=25_000)
    order(node, Action.TOP_UP, "ann", volume_bytes=20 * MEGABYTE)
    order(node, Action.FREEZE)
    node.whole_turn()
    order(node, Action.THAW)
    for _ in range(2):  # what a turn tells of its verdicts is saved with the next one
        node.pass_seconds(10.0)
        report = node.whole_turn()
    return report


@pytest.fixture(scope="module")
def lived() -> tuple[list[Event], Report]:
    """The events of a node with one of everything, and its last report."""
    node = Node(
        {"ann": 1, "bob": 2},
        rule=Rolling(3600.0),
        allowance_bytes=100 * MEGABYTE,
        threshold_bytes=80 * MEGABYTE,
        full_bytes_per_second=1_250_000,
        guarantee_bytes_per_second=1,
        floor_bytes_per_second=500,
    )
    report = eventful(node)
    return node.shelf.events, report


@pytest.fixture
def kept(config: Path, lived: tuple[list[Event], Report]) -> Path:
    """The same events in the state file of the configuration, which a program has open."""
    state = open_state(config.parent / "state.db", now_wall_seconds=lived[0][0].at_wall_seconds)
    assert save(state, [], lived[0], lived[0][-1].at_wall_seconds).saved
    state.close()
    return config


@pytest.fixture
def told(lived: tuple[list[Event], Report], tmp_path: Path) -> Iterator[str]:
    """The URL of a bwexporter that has told the last report, and keeps the events."""
    state = open_state(tmp_path / "told.db", now_wall_seconds=lived[0][0].at_wall_seconds)
    assert save(state, [], lived[0], lived[0][-1].at_wall_seconds).saved
    with serving(Facts(state, report=lived[1]), bind("127.0.0.1:0")) as url:
        yield url
    state.close()


def test_every_kind_of_event_that_was_lived_through_has_a_sentence_of_its_own(
    lived: tuple[list[Event], Report],
) -> None:
    """None falls back to a list of its inputs."""
    kinds = {event.kind for event in lived[0]}

    assert {
        EventKind.VERDICT, EventKind.CEILING, EventKind.PERIOD_ROLLED, EventKind.COUNTER_RESTARTED, EventKind.DRIFT,
        EventKind.CLOCK_STEPPED, EventKind.BY_HAND,
    } <= kinds  # fmt: skip
    for event in lived[0]:
        said = sentence(event.kind, event.inputs)
        assert said.endswith("."), said
        assert "_" not in said.replace("reason", ""), said


@pytest.mark.parametrize("kind", EventKind)
def test_an_event_that_lacks_its_figures_is_told_by_those_it_has(kind: EventKind) -> None:
    assert "7 days" in sentence(kind, {"mood": "7 days"}) or kind is EventKind.TREE_ENDED


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        (
            {"action": "release", "outcome": "expired", "until_timestamp_seconds": 0.0, "who": "ann", "reason": "x"},
            'By hand, release to the full rate until 1970-01-01 00:00:00 UTC, expired (it was given by ann: "x").',
        ),
        (
            {"action": "lend", "outcome": "given", "rate_bytes_per_second": 125_000, "share": 2, "borrower": "bob",
             "until_timestamp_seconds": 0.0, "who": "ann", "reason": "x"},
            'By hand, loan of 1mbit of full rate and 2 of share to bob until 1970-01-01 00:00:00 UTC, by ann: "x".',
        ),
        (
            {"action": "freeze", "outcome": "restored", "who": "ann", "reason": "x", "by": "eve", "by_reason": "y"},
            'By hand, freeze until it is undone, restored by eve: "y" (it was given by ann: "x").',
        ),
        (
            {"action": "freeze", "outcome": "restored", "who": "ann", "reason": NO_REASON, "by": "eve",
             "by_reason": NO_REASON},
            "By hand, freeze until it is undone, restored by eve (it was given by ann).",
        ),
    ],
)  # fmt: skip
def test_an_order_is_told_with_who_and_why(inputs: dict[str, str | float], said: str) -> None:
    assert said == sentence(EventKind.BY_HAND, inputs)


def test_history_tells_all_of_it_oldest_first(bwexporter: Bwexporter, kept: Path) -> None:
    code, out, _ = bwexporter("history", "--since", "2020-01-01", "--config", str(kept))

    lines = [line for line in out.splitlines() if line.startswith("20")]
    assert code == 0
    assert lines == sorted(lines, key=lambda line: line[:19])
    assert "eth0 ann normal" in out
    assert "A new period began; 95.0 MB were used in the one that ended." in " ".join(out.split())


@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo"])
def test_history_is_told_in_utc_wherever_it_is_read(
    bwexporter: Bwexporter, kept: Path, lived: tuple[list[Event], Report], monkeypatch: pytest.MonkeyPatch, zone: str
) -> None:
    """As the orders in its sentences are."""
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        _, out, _ = bwexporter("history", "--since", "2020-01-01", "--config", str(kept))
    finally:
        monkeypatch.undo()
        time.tzset()

    first = datetime.fromtimestamp(lived[0][0].at_wall_seconds, UTC)
    heading, line, *_ = out.splitlines()
    assert heading.startswith("time (UTC)")
    assert line.startswith(f"{first:%Y-%m-%d %H:%M:%S} ")


def test_history_of_one_slice_and_no_further_back_than_asked(
    bwexporter: Bwexporter, kept: Path, lived: tuple[list[Event], Report]
) -> None:
    _, out, _ = bwexporter("history", "bob", "--since", "2020-01-01", "--json", "--config", str(kept))
    events = json.loads(out)["events"]
    _, none, _ = bwexporter("history", "bob", "--since", "1s", "--config", str(kept))

    assert {"bob"} == {event["slice"] for event in events}
    assert len(events) == sum(event.lane is not None and event.lane.slice_name == "bob" for event in lived[0])
    assert all(event["sentence"] for event in events)
    assert none.startswith("Nothing happened to bob since 20")


@pytest.mark.parametrize("asked", [True, False], ids=["of the program", "of the state file"])
def test_history_of_one_kind_is_the_audit(
    bwexporter: Bwexporter, kept: Path, told: str, lived: tuple[list[Event], Report], *, asked: bool
) -> None:
    """All that was set by hand, by whom and why, and what became of it; a kind that there is not is refused."""
    flags = ["--since", "2020-01-01", "--kind", "by_hand", "--json", *(["--url", told] if asked else [])]
    code, out, _ = bwexporter("history", *flags, "--config", str(kept))
    refused, _, err = bwexporter("history", "--kind", "weather", "--config", str(kept))
    with httpx.Client(trust_env=False, timeout=PATIENCE_SECONDS) as client:
        answer = client.get(f"{told}/api/v1/events?kind=weather")

    events = json.loads(out)["events"]
    assert code == 0
    assert len(events) == sum(event.kind is EventKind.BY_HAND for event in lived[0]) > 0
    assert {event["kind"] for event in events} == {"by_hand"}
    assert all(event["inputs"]["who"] and event["inputs"]["reason"] for event in events)
    assert (refused, answer.status_code) == (2, 400)
    assert "by_hand" in err
    assert "kind is one of verdict" in answer.json()["error"]


def test_history_of_a_state_file_that_is_not_there(bwexporter: Bwexporter, config: Path) -> None:
    code, _, err = bwexporter("history", "--config", str(config))

    assert (code, len(err.splitlines())) == (1, 1)
    assert "state.db cannot be read" in err


@pytest.mark.parametrize("written", ["yesterday", "", "-3h", "10"])
def test_a_since_that_is_no_time_says_what_to_write(bwexporter: Bwexporter, kept: Path, written: str) -> None:
    code, _, err = bwexporter("history", "--since", written, "--config", str(kept))

    assert code == 2
    assert "write for example 2h" in err


def test_a_since_before_all_that_is_kept_is_said_to_be_that(bwexporter: Bwexporter, kept: Path) -> None:
    code, _, err = bwexporter("history", "--since", "99999d", "--config", str(kept))

    assert code == 2
    assert "'99999d' is too long ago: events are kept for 400 days" in err


@pytest.mark.parametrize("asked", [True, False], ids=["of the program", "of the state file"])
def test_history_of_a_slice_that_never_was(bwexporter: Bwexporter, kept: Path, told: str, *, asked: bool) -> None:
    """A name that was mistyped is not said to have had a quiet day."""
    code, out, err = bwexporter("history", "eve", "--config", str(kept), *(["--url", told] if asked else []))

    assert (code, out) == (1, "")
    assert err.endswith(" has no slice 'eve'; `bwexporter status` lists them\n")


def test_since_is_a_duration_or_a_time() -> None:
    assert parse_since("2h", 10_000.0) == 2_800.0
    assert parse_since("1970-01-02 00:00+00:00", 0.0) == 86_400.0


@pytest.mark.parametrize("asked", [True, False], ids=["of the program", "of the state file"])
def test_why_says_the_rule_the_order_and_since_when(
    bwexporter: Bwexporter, kept: Path, told: str, *, asked: bool
) -> None:
    """The program says what is, and either of them since when."""
    kept.write_text(kept.read_text() + f"web: {{listen: ['{told.removeprefix('http://')}']}}\n")
    code, out, _ = bwexporter("why", "ann", "--config", str(kept), *(["--url", told] if asked else []))

    lines = [line for line in out.splitlines() if "Outlook" not in line]
    assert code == 0
    assert lines[0].startswith("eth0 ann normal: Capped by hand at 200kbit")
    assert lines[1].startswith("  By hand, cap at 200kbit until ")
    assert lines[1].endswith('by root (uid 0): "ticket 7".')
    assert "top-up of 20.0 MB in this period until" in lines[2]
    assert lines[3].startswith("  Since 20")
    assert lines[3].endswith(" UTC.")
    assert lines[4].startswith("eth0 ann exempt: Within its volume")


def test_why_looks_ahead(bwexporter: Bwexporter, kept: Path, told: str) -> None:
    """Nothing was sent of late, and nobody has watched an earlier period."""
    kept.write_text(kept.read_text() + f"web: {{listen: ['{told.removeprefix('http://')}']}}\n")

    _, out, _ = bwexporter("why", "ann", "--config", str(kept))

    assert "  Outlook: going on as of late, it will have used 0 B of 120 MB when its period ends." in out.splitlines()


def test_why_as_json_has_the_event(bwexporter: Bwexporter, kept: Path, told: str) -> None:
    kept.write_text(kept.read_text() + f"web: {{listen: ['{told.removeprefix('http://')}']}}\n")

    _, out, _ = bwexporter("why", "ann", "--json", "--config", str(kept))

    normal, exempt = json.loads(out)["lanes"]
    assert (normal["verdict"], exempt["verdict"]) == ("capped_by_hand", "within")
    assert normal["event"]["inputs"]["reason"] == "capped_by_hand"
    assert [order["action"] for order in normal["by_hand"]] == ["cap", "top-up"]
    assert exempt["by_hand"] == []


def test_why_says_no_since_that_is_another_verdicts(
    bwexporter: Bwexporter, config: Path, told: str, lived: tuple[list[Event], Report]
) -> None:
    """What a turn has told is saved by the next one: until then the newest event is that of the verdict before."""
    config.write_text(config.read_text() + f"web: {{listen: ['{told.removeprefix('http://')}']}}\n")
    earlier = [event for event in lived[0] if event.inputs.get("reason") != "capped_by_hand"]
    state = open_state(config.parent / "state.db", now_wall_seconds=earlier[0].at_wall_seconds)
    assert state.save([], earlier, earlier[-1].at_wall_seconds, save_wait_seconds=20).saved
    state.close()

    _, out, _ = bwexporter("why", "ann", "--config", str(config))

    (normal, _, _) = out.partition("eth0 ann exempt")
    assert normal.startswith("eth0 ann normal: Capped by hand")
    assert "Since" not in normal


def test_why_of_a_slice_that_is_not_there(bwexporter: Bwexporter, kept: Path, told: str) -> None:
    code, _, err = bwexporter("why", "eve", "--config", str(kept), "--url", told)

    assert (code, err) == (1, "bwexporter: node has no slice 'eve'; `bwexporter status` lists them\n")

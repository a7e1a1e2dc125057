"""Who may send what on which device, as files change under a running program."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bwexporter.config import load_config
from bwexporter.core.lanes import DeviceFacts, Lane, Traffic
from bwexporter.core.periods import Rolling
from bwexporter.errors import ConfigError
from bwexporter.kernel.addresses import Addresses
from bwexporter.roster import Roll, Roster
from tests.servers import Certificates, Plc, Server, sliver

CONFIG = """
node: one.example.org
state: {state}
interval: 10s
devices:
  - {{name: eth0, cap: 100mbit, line_rate: 1gbit}}
  - {{name: eth1, cap: 50mbit}}
slices:
  - {{file: slices.yml}}
web: {{listen: ["127.0.0.1:10099"]}}
"""
SLICES = """
slices:
  - {name: ann, owners: [ann@example.org], normal: {full: 10mbit, allowance: 5GB}}
  - {name: bob, devices: [eth1]}
"""
FACTS = {
    "eth0": DeviceFacts("eth0", 2, 125_000_000, 65_536),
    "eth1": DeviceFacts("eth1", 3, 125_000_000, 65_536),
}


class Files:
    """A configuration with a file of slices, and the roster that reads them."""

    def __init__(self, directory: Path, *, enforce: bool = True, facts: dict[str, DeviceFacts] | None = None) -> None:
        self.config, self.slices = directory / "config.yml", directory / "slices.yml"
        self.config.write_text(CONFIG.format(state=directory / "state.db"))
        self.slices.write_text(SLICES)
        self.remembered: dict[str, int] = {}
        self.wall_seconds = 1000.0
        self.roster = Roster(
            load_config(self.config),
            FACTS if facts is None else facts,
            lambda: self.remembered,
            lambda: self.wall_seconds,
            enforce=enforce,
        )

    def call(self, *, anew: bool = True) -> Roll:
        """Call the roll, and remember the ids as the daemon does."""
        roll = self.roster.call(anew=anew)
        self.remembered |= roll.ids
        return roll

    def edit(self, path: Path, old: str, new: str) -> None:
        """Change a file."""
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """Return the files, read once."""
    made = Files(tmp_path)
    made.call(anew=False)
    return made


def lanes(roll: Roll, device: str) -> set[str]:
    """Return the names of a device's slices."""
    return {lane.slice_name for lane in roll.tariffs[device][0].lanes}


def full(roll: Roll, name: str, traffic: Traffic = Traffic.NORMAL, device: str = "eth0") -> int:
    """Return a lane's full rate."""
    tariffs, _ = roll.tariffs[device]
    return int(tariffs.full_bytes_per_second[tariffs.lanes.index(Lane(device, name, traffic))])


def test_each_device_has_its_tree_and_the_lanes_of_its_slices(tmp_path: Path) -> None:
    """A slice that names no device is on the first one; the line rate is the driver's where none is written."""
    roll = Files(tmp_path).call(anew=False)

    assert ({"_root", "_default", "ann"}, {"_root", "_default", "bob"}) == (lanes(roll, "eth0"), lanes(roll, "eth1"))
    assert (12_500_000, 125_000_000) == (
        roll.trees["eth0"].cap_bytes_per_second,
        roll.trees["eth0"].line_rate_bytes_per_second,
    )
    assert (6_250_000, 125_000_000) == (
        roll.trees["eth1"].cap_bytes_per_second,
        roll.trees["eth1"].line_rate_bytes_per_second,
    )
    assert (1_250_000, 125_000_000) == (full(roll, "ann"), full(roll, "ann", Traffic.EXEMPT))
    assert {"ann", "bob"} == {info.slice_name for info in roll.info.values()}
    assert ("ann@example.org",) == roll.info["ann"].owners
    assert ((), ()) == (roll.problems, roll.warnings)


def test_a_device_whose_speed_nobody_knows_is_a_problem_of_its_key(tmp_path: Path) -> None:
    """The driver of a virtual device does not say it."""
    unknown = {**FACTS, "eth1": DeviceFacts("eth1", 3, None, 65_536)}
    with pytest.raises(ConfigError) as refused:
        Files(tmp_path, facts=unknown).call(anew=False)

    assert ["devices[1].line_rate"] == [problem.key for problem in refused.value.problems]
    assert "line_rate: 1gbit" in str(refused.value.problems[0])


def test_a_reload_takes_a_changed_cap_and_changed_slices_over(files: Files) -> None:
    """Every tree and tariff is that of the files now."""
    files.edit(files.config, "cap: 100mbit", "cap: 8mbit")
    files.edit(files.config, "interval: 10s", "interval: 5s")
    files.edit(files.slices, "bob, devices: [eth1]", "cyd")

    roll = files.call()

    assert 1_000_000 == roll.trees["eth0"].cap_bytes_per_second == full(roll, "ann") == full(roll, "cyd")
    assert ({"_root", "_default", "ann", "cyd"}, {"_root", "_default"}) == (lanes(roll, "eth0"), lanes(roll, "eth1"))
    assert 5.0 == roll.pace.interval_seconds == files.roster.pace().interval_seconds
    assert () == roll.problems


def test_a_reload_without_the_configuration_reads_the_slices_alone(files: Files) -> None:
    """As at the start, where the configuration has just been read."""
    files.edit(files.config, "cap: 100mbit", "cap: 8mbit")
    files.edit(files.slices, "bob, devices: [eth1]", "cyd")

    roll = files.call(anew=False)

    assert 12_500_000 == roll.trees["eth0"].cap_bytes_per_second
    assert "cyd" in lanes(roll, "eth0")


def test_what_needs_a_restart_is_kept_and_said(files: Files) -> None:
    """The rest of the new configuration holds at once."""
    files.edit(files.config, "node: one.example.org", "node: two.example.org")
    files.edit(files.config, "state.db", "other.db")
    files.edit(files.config, "127.0.0.1:10099", "127.0.0.1:10100")
    files.edit(files.config, "name: eth1, cap: 50mbit", "name: eth2, cap: 50mbit")
    files.edit(files.config, "interval: 10s", "interval: 5s")

    roll = files.call()

    assert {"node", "state", "devices", "web.listen"} == {problem.key for problem in roll.problems}
    assert all("restart" in problem.text for problem in roll.problems)
    assert ("one.example.org", "state.db", 10099) == (
        roll.config.node,
        Path(roll.config.state).name,
        roll.config.listen[0].port,
    )
    assert {"eth0", "eth1"} == set(roll.trees)
    assert 5.0 == roll.pace.interval_seconds


def test_what_needs_a_restart_is_said_at_every_reload_until_then(files: Files) -> None:
    """Who looks at the log of the second reload learns it as well."""
    files.edit(files.config, "node: one.example.org", "node: two.example.org")

    assert [1, 1] == [len(files.call().problems), len(files.call().problems)]


def test_a_bad_configuration_keeps_the_running_one(files: Files) -> None:
    """All its problems are said, and the next good one is taken."""
    files.edit(files.config, "cap: 100mbit", "cap: 100")
    with pytest.raises(ConfigError) as refused:
        files.call()
    assert "cap" in refused.value.problems[0].key

    assert 12_500_000 == files.call(anew=False).trees["eth0"].cap_bytes_per_second
    files.edit(files.config, "cap: 100", "cap: 8mbit")
    assert 1_000_000 == files.call().trees["eth0"].cap_bytes_per_second


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_text("slices: ["),
        lambda path: path.write_text(""),
        Path.unlink,
        lambda path: (path.unlink(), os.mkfifo(path)),
    ],
    ids=["unparsable", "empty", "gone", "a pipe"],
)
def test_a_bad_slices_file_keeps_the_last_good_one(files: Files, damage: Callable[[Path], object]) -> None:
    """Sources that are down never remove slices; the status says so, and since when."""
    before = files.call()
    files.wall_seconds = 2000.0
    damage(files.slices)

    roll = files.call()

    assert lanes(before, "eth0") == lanes(roll, "eth0")
    (status,) = roll.sources
    assert (False, 2, 1000.0) == (status.up, status.slices, status.last_success_wall_seconds)
    assert status.problems
    assert roll.problems

    files.slices.unlink(missing_ok=True)
    files.slices.write_text(SLICES.replace("ann", "dan"))
    (status,) = (roll := files.call()).sources
    assert (True, 2, (), 2000.0) == (status.up, status.slices, status.problems, status.last_success_wall_seconds)
    assert {"_root", "_default", "dan"} == lanes(roll, "eth0")


def test_a_bad_value_costs_that_key_of_that_slice_alone(files: Files) -> None:
    """The default holds for it, and the problem names file, line and key."""
    files.edit(files.slices, "full: 10mbit", "full: fast")

    roll = files.call()

    assert (12_500_000, 5_000_000_000) == (
        full(roll, "ann"),
        roll.tariffs["eth0"][0].allowance_bytes[4],
    )
    (problem,) = roll.problems
    assert (str(files.slices), 3) == (problem.file, problem.line)
    assert "full" in problem.key
    assert roll.sources[0].up


def test_what_two_slices_match_by_is_the_first_one_s_and_a_problem_of_the_second(files: Files) -> None:
    """Its source counts it, its page shows it, and everything else of the record holds."""
    files.slices.write_text(
        "slices:\n"
        "  - {name: a, match: {addresses: [192.0.2.0/24], mark: 7}}\n"
        "  - {name: b, match: {addresses: [192.0.2.0/24]}}\n"
        "  - {name: c, match: {mark: 7, uid: 70}}\n"
    )

    roll = files.call()

    assert [(3, "match"), (4, "match")] == [(problem.line, problem.key) for problem in roll.problems]
    assert "b: the prefix 192.0.2.0/24 is claimed by a already" == roll.problems[0].text
    assert len(roll.sources[0].problems) == 2
    assert [0, 1, 1] == [len(roll.info[name].problems) for name in "abc"]
    assert {"a", "b", "c"} <= lanes(roll, "eth0")


def test_ids_are_remembered_by_name(files: Files) -> None:
    """Slices keep theirs when others come before them, and when they return."""
    first = files.call().ids
    files.slices.write_text("slices: [{name: zoe}, {name: bob}, {name: ann}]")
    second = files.call().ids
    files.slices.write_text("slices: [{name: zoe}]")
    files.call()
    files.slices.write_text(SLICES)
    last = files.call().ids

    assert (first["ann"], first["bob"]) == (second["ann"], second["bob"]) == (last["ann"], last["bob"])
    assert len(set(second.values())) == len(second)


def test_the_id_of_a_removed_slice_is_nobody_s_until_it_is_forgotten(files: Files) -> None:
    """Its account's period end decides."""
    ann = files.call().ids["ann"]
    files.slices.write_text("slices: [{name: bob}, {name: zoe}]")
    assert ann not in files.call().ids.values()

    del files.remembered["ann"]
    files.slices.write_text("slices: [{name: bob}, {name: zoe}, {name: new}]")
    assert ann == files.call().ids["new"]


def test_slices_that_ask_for_one_id_are_refused_one_by_one(files: Files) -> None:
    """The first has it; the second has no lanes, and everybody else is untouched."""
    files.slices.write_text("slices: [{name: a, id: 9}, {name: b, id: 9}, {name: c}]")

    roll = files.call()

    assert {"_root", "_default", "a", "c"} == lanes(roll, "eth0")
    (problem,) = roll.problems
    assert "9" in problem.text
    assert "b" in problem.text


def test_shadow_on_the_command_line_is_stronger_than_the_configuration(tmp_path: Path) -> None:
    """A reload does not begin to enforce."""
    files = Files(tmp_path, enforce=False)

    assert files.call(anew=False).pace.enforcing is False
    assert files.call().pace.enforcing is False


def test_enforce_can_be_switched_by_a_reload(files: Files) -> None:
    """The narrowest way back is a line in the configuration."""
    files.edit(files.config, "interval: 10s", "interval: 10s\nenforce: false")

    assert files.call().pace.enforcing is False


def test_a_changed_period_is_a_rule_of_the_tariffs(files: Files) -> None:
    """The accounts take it up at their periods' ends."""
    files.edit(files.config, "interval: 10s", "interval: 10s\nperiod: 1h")

    tariffs, rules = files.call().tariffs["eth0"]

    assert {Rolling(3600.0)} == {rules[at] for at in tariffs.period_rule.tolist()}


def test_the_files_to_watch_are_those_of_the_running_configuration(files: Files) -> None:
    """Another file of slices is watched from the reload on that names it."""
    other = files.config.parent / "more.yml"
    other.write_text("slices: [{name: eve}]")
    files.edit(files.config, "file: slices.yml", "file: more.yml")
    assert (files.config, files.slices) == files.roster.paths()

    roll = files.call()

    assert (files.config, other) == files.roster.paths()
    assert {"_root", "_default", "eve"} == lanes(roll, "eth0")
    assert {files.config, other} <= set(files.roster.read_since)


def test_a_name_in_two_files_is_the_first_one_s_and_is_said(files: Files) -> None:
    """The problem names both places."""
    (files.config.parent / "more.yml").write_text("slices: [{name: ann, normal: {full: 1mbit}}, {name: eve}]")
    files.edit(files.config, "- {file: slices.yml}", "- {file: slices.yml}\n  - {file: more.yml}")

    roll = files.call()

    assert {"_root", "_default", "ann", "eve"} == lanes(roll, "eth0")
    assert 1_250_000 == full(roll, "ann")
    (problem,) = roll.problems
    assert "more.yml" in problem.file
    assert "slices.yml:3" in problem.text


@pytest.mark.parametrize("wanted", ["id: 1", "id: 0"])
def test_a_slice_that_runs_keeps_its_id_where_the_new_one_cannot_be_had(files: Files, wanted: str) -> None:
    """A mistake in a file takes no lane away."""
    before = files.call().ids
    files.edit(files.slices, "name: ann", "name: ann, id: 1")
    files.edit(files.slices, "name: bob", f"name: bob, {wanted}")
    roll = files.call()
    assert roll.ids == before
    assert len(roll.problems) == 1
    assert {"ann", "bob"} <= set(roll.info)


class TestPlc:
    """What a PlanetLab Central says of the node itself."""

    @pytest.fixture
    def plc(self) -> Plc:
        """Return a PLC that knows two interfaces of the node, one by its address alone."""
        return Plc(
            groups=["Internet2"],
            interfaces=[
                {"mac": "02:00:00:00:00:0A", "ip": "192.0.2.1", "bwlimit": 10_000_000},
                {"mac": "02:00:00:00:00:ff", "ip": "192.0.2.2", "bwlimit": 20_000_000},
            ],
            slivers=[sliver("cyd", ("net_max_kbyte", "1000"))],
        )

    @pytest.fixture
    def roster(self, tmp_path: Path, plc: Plc) -> Iterator[Roster]:
        """Return a roster of a node whose caps are left to PLC, save that of eth1."""
        known = {
            "eth0": Addresses("02:00:00:00:00:0a", frozenset({"192.0.2.9"})),
            "eth1": Addresses("02:00:00:00:00:0b", frozenset({"192.0.2.2"})),
        }
        certificates = Certificates(tmp_path)
        with Server(plc.answer).running(certificates.here) as server:
            item = f"{{plc: {{url: {server.url}/PLCAPI/, ca_file: ca.pem}}}}"
            (tmp_path / "config.yml").write_text(
                "state: state.db\nexempt: {prefixes: [198.51.100.0/24]}\n"
                "devices:\n  - {name: eth0, line_rate: 1gbit}\n  - {name: eth1, cap: 50mbit}\n"
                f"slices: [{item}]\n"
            )
            config = load_config(tmp_path / "config.yml")
            yield Roster(
                config,
                FACTS,
                dict,
                lambda: 5.0,
                addresses=lambda names: {name: found for name, found in known.items() if name in names},
            )

    def test_caps_and_exempt_members_follow_what_it_says(self, roster: Roster, plc: Plc) -> None:
        """Where the configuration gives a cap, that holds; members of the group join and leave."""
        before = roster.call(anew=False)
        assert 125_000_000 == before.trees["eth0"].cap_bytes_per_second, "nobody has said anything yet"
        assert (before.sources[0].up, before.problems) == (False, ())
        for members, bits in ((["192.0.2.7", "192.0.2.8"], 10_000_000), (["192.0.2.8"], 8_000_000)):
            plc.members = {"Internet2": members}
            plc.data["interfaces"][0]["bwlimit"] = bits
            (server,) = roster.polled()
            assert server.poll()
            roll = roster.call()
            assert (bits // 8, 6_250_000) == tuple(tree.cap_bytes_per_second for tree in roll.trees.values())
            assert ["198.51.100.0/24", *(f"{ip}/32" for ip in members)] == [str(one) for one in roll.exempt_prefixes]
            assert roll.problems == ()
            assert (roll.sources[0].up, roll.sources[0].slices) == (True, 1)
        assert 5.0 == roster.statuses(roll.sources)[0].last_success_wall_seconds

    def test_a_device_is_found_by_its_address_or_told(self, roster: Roster, plc: Plc) -> None:
        """An unknown hardware address, and then an unknown address as well."""
        plc.members = {"Internet2": []}
        plc.data["interfaces"][0] |= {"mac": "02:00:00:00:00:ee", "ip": "192.0.2.9"}
        (server,) = (roster.call(anew=False), roster.polled())[1]
        server.poll()
        assert 1_250_000 == roster.call(anew=False).trees["eth0"].cap_bytes_per_second
        plc.data["interfaces"][0]["ip"] = "192.0.2.10"
        server.poll()
        roll = roster.call(anew=False)
        assert 125_000_000 == roll.trees["eth0"].cap_bytes_per_second
        assert "names no interface with the addresses of eth0 (02:00:00:00:00:0a)" in str(roll.problems[0])

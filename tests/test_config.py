"""The configuration: every rule refuses with its line and key, and a good file becomes a Config."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bwexporter import config as config_room
from bwexporter.config import load_config
from bwexporter.core.lanes import UNLIMITED, Traffic
from bwexporter.core.periods import Calendar, Rolling, Unit
from bwexporter.errors import ConfigError
from bwexporter.keys import Keys, Listen, OnStop
from bwexporter.settings import Limit
from bwexporter.sources import HttpAt, PlcAt, _HttpKeys, _PlcKeys
from bwexporter.yamlfile import parse_yaml

DATA = Path(__file__).parent / "data"
DEPLOY = Path(__file__).parents[1] / "deploy"
DEVICE = "devices: [{name: eth0, cap: 100mbit}]\n"

BAD = [
    ("unknown_key", 2, "intervall", 'did you mean "interval"'),
    ("nothing_like_it", 2, "zzz", "the keys here are apmon"),
    ("bare_interval", 2, "interval", "units are ms, s, m, h, d, w"),
    ("zero_interval", 2, "interval", "more than 0"),
    ("bare_rate", 3, "devices[0].cap", "kbit"),
    ("zero_without_unit", 3, "devices[0].cap", "has no unit"),
    ("zero_cap", 3, "devices[0].cap", "more than 0"),
    ("unknown_rate_unit", 3, "devices[0].cap", "has no unit of a rate"),
    ("negative_rate", 3, "devices[0].cap", "is not a rate"),
    ("huge_rate", 3, "devices[0].cap", "more than any line"),
    ("missing_cap", 3, "devices[0].cap", "is missing"),
    ("missing_devices", 1, "devices", "is missing"),
    ("empty_devices", 2, "devices", "name at least one"),
    ("devices_no_list", 1, "devices", "must be a list"),
    ("duplicate_device", 3, "devices[1].name", "already"),
    ("device_name", 2, "devices[0].name", "1 to 15 bytes"),
    ("cap_over_line_rate", 3, "devices[0].cap", "more than the line rate 1gbit"),
    ("default_over_cap", 4, "devices[0].default", "more than the cap 10mbit"),
    ("default_existing", 5, "devices[0].default", "is for trees that bwexporter builds"),
    ("tree_unknown", 4, "devices[0].tree", "'managed'"),
    ("shortest_over_interval", 3, "shortest_interval", "more than the interval 1s"),
    ("period_under_interval", 3, "period", "less than the interval 1m"),
    ("calendar_unit", 3, "period.calendar", "'month'"),
    ("calendar_missing", 2, "period.calendar", "is missing"),
    ("calendar_starts_on", 4, "period.starts_on", "1 to 7"),
    ("calendar_day_starts_on", 4, "period.starts_on", "no meaning for a day"),
    ("calendar_timezone", 4, "period.timezone", "not a time zone"),
    ("on_stop", 2, "on_stop", "'keep' or 'hold'"),
    ("enforce_yes", 2, "enforce", "must be true or false"),
    ("no_value", 2, "interval", "nothing"),
    ("node_number", 2, "node", "put it in quotes"),
    ("prefix_host_bits", 4, "exempt.prefixes[0]", "did you mean 198.51.100.0/24"),
    ("prefix_text", 4, "exempt.prefixes[0]", "not an address prefix"),
    ("threshold_over_allowance", 5, "defaults.normal.threshold", "more than the allowance 1.00 GB"),
    ("threshold_over_usual_allowance", 4, "defaults.normal.threshold", "more than the allowance 10.8 GB"),
    ("threshold_percent", 4, "defaults.normal.threshold", "more than 100%"),
    ("threshold_unlimited", 5, "defaults.normal.threshold", "write a percentage"),
    ("floor_over_full", 5, "defaults.exempt.floor", "more than the full rate 10mbit"),
    ("floor_over_cap", 4, "defaults.normal.floor", "more than the full rate 100mbit"),
    ("guarantee_over_full", 5, "defaults.normal.guarantee", "more than the full rate 10mbit"),
    ("full", 4, "defaults.normal.full", "or cap, or line_rate"),
    ("share", 4, "defaults.normal.share", "whole number from 1"),
    ("share_fraction", 4, "defaults.normal.share", "whole number from 1"),
    ("bare_allowance", 4, "defaults.normal.allowance", "KiB"),
    ("zero_allowance", 4, "defaults.normal.allowance", "more than 0"),
    ("defaults_off", 4, "defaults.normal.off", "not a key here"),
    ("source_http_no_url", 3, "slices[0].http.url", "is missing"),
    ("source_http_scheme", 3, "slices[0].http.url", "only https is asked"),
    ("source_http_no_host", 3, "slices[0].http.url", "is not a URL"),
    ("source_port", 3, "slices[0].http.url", "is not a URL"),
    ("source_http_password", 3, "slices[0].http.url", "holds a user or a password"),
    ("source_http_blank", 3, "slices[0].http.url", "is not a URL"),
    ("source_http_every", 3, "slices[0].http.every", "has no unit"),
    ("source_http_often", 3, "slices[0].http.every", "less than 1s"),
    ("source_http_timeout", 3, "slices[0].http.timeout", "longer than the time between two polls"),
    ("source_http_largest", 3, "slices[0].http.largest", "has no unit"),
    ("source_http_token", 3, "slices[0].http.token", 'did you mean "token_file"'),
    ("source_http_two_ways", 3, "slices[0].http.token_file", "leave one of them out"),
    ("source_http_half_a_way", 3, "slices[0].http.user", "needs both user and password_file"),
    ("source_http_guard", 3, "slices[0].http.guard", "must be true or false"),
    ("source_http_twice", 4, "slices[1].http", "https://slices.example.org/a stands in the list already"),
    ("source_plc_scheme", 3, "slices[0].plc.url", "write https://plc.example.org/PLCAPI/"),
    ("source_plc_key", 3, "slices[0].plc.auth", 'did you mean "auth_file"'),
    ("source_plc_text", 3, "slices[0].plc", "must be a mapping"),
    ("source_two", 4, "slices[0].http", "stands beside file"),
    ("source_unknown", 3, "slices[0].htpp", 'did you mean "http"'),
    ("source_empty", 3, "slices[0].file", "is missing"),
    ("source_twice", 4, "slices[1].file", "already"),
    ("apmon", 2, "apmon.sources", "is missing"),
    ("apmon_empty", 2, "apmon.sources", "name a file or a URL"),
    ("apmon_http", 3, "apmon.sources", "write https, or allow_http"),
    ("apmon_placeholder", 4, "apmon.cluster", "there are {node}"),
    ("apmon_mixed", 4, "apmon.parameter", "{traffic} stands in none"),
    ("apmon_figure", 4, "apmon.node", "parameter alone"),
    ("apmon_every", 4, "apmon.every", "at least 1s"),
    ("apmon_key", 4, "apmon.clutser", "did you mean"),
    ("telemetry_path", 3, "web.telemetry_path", "is taken"),
    ("listen", 4, "web.listen[0]", "host:port"),
    ("listen_port", 4, "web.listen[0]", "host:port"),
    ("no_mapping", 1, "", "must be a mapping"),
    ("empty", 0, "", "is empty"),
    ("syntax", 2, "", "is not YAML here"),
    ("tab", 2, "", "is not YAML here"),
    ("duplicate_key", 3, "node", "stands here and at line 1"),
    ("tag", 2, "", "is not known here"),
    ("unknown_anchor", 2, "", "stands for nothing"),
    ("second_document", 2, "", "second document"),
    ("nested", 1, "", "nested deeper"),
    ("own_alias", 2, "", "something that holds it"),
    ("alias_bomb", 7, "", "aliases stand for"),
    ("key_list", 1, "", "a key must be text"),
    ("encoding", 2, "", "is not UTF-8"),
]


@pytest.mark.parametrize(("rule", "line", "key", "text"), BAD)
def test_each_rule_names_line_and_key(rule: str, line: int, key: str, text: str) -> None:
    """A file that breaks one rule is refused with one problem that says where and what."""
    path = DATA / f"bad_config_{rule}.yml"
    with pytest.raises(ConfigError) as refused:
        load_config(path)
    (problem,) = refused.value.problems
    assert (problem.file, problem.line, problem.key) == (str(path), line, key)
    assert text in problem.text


def test_every_bad_file_stands_in_the_table() -> None:
    """No file of a rule is left untested."""
    assert {path.name for path in DATA.glob("bad_config_*")} == {f"bad_config_{rule}.yml" for rule, *_ in BAD}


def test_all_problems_come_at_once(tmp_path: Path) -> None:
    """Somebody who mends a file sees every mistake of it, in the order of its lines."""
    text = """\
interval: 5
look_margin: soon
devices:
  - {name: eth0, cap: 2gbit, line_rate: 1gbit}
  - {name: eth1, cap: 100}
defaults:
  normal: {treshold: 20%, floor: 1mbit, full: 500kbit}
web: {listen: ["::1:80"]}
slices: [{file: a.yml}, {plc: {}}]
"""
    assert [(problem.line, problem.key) for problem in problems_of(tmp_path, text)] == [
        (1, "interval"),
        (2, "look_margin"),
        (4, "devices[0].cap"),
        (5, "devices[1].cap"),
        (7, "defaults.normal.treshold"),
        (7, "defaults.normal.floor"),
        (8, "web.listen[0]"),
        (9, "slices[1].plc.url"),
    ]


def problems_of(tmp_path: Path, text: str) -> tuple[config_room.Problem, ...]:
    """Return what a text is refused for."""
    path = tmp_path / "bad.yml"
    path.write_text(text)
    with pytest.raises(ConfigError) as refused:
        load_config(path)
    return refused.value.problems


def loaded(tmp_path: Path, text: str) -> config_room.Config:
    """Return the Config of a text."""
    path = tmp_path / "bwexporter.yml"
    path.write_text(text)
    return load_config(path)


def test_one_device_is_enough(tmp_path: Path) -> None:
    """Everything but the devices has the contract's default."""
    config = loaded(tmp_path, DEVICE)
    assert config.node
    assert config.state == Path("/var/lib/bwexporter/state.db")
    assert (config.interval_seconds, config.shortest_interval_seconds, config.look_margin_seconds) == (10, 1, 2)
    assert (config.on_stop, config.enforce, config.period) == (OnStop.KEEP, True, Rolling(86400))
    assert config.listen == (Listen("127.0.0.1", 10099),)
    normal, exempt = config.defaults[Traffic.NORMAL], config.defaults[Traffic.EXEMPT]
    assert (normal.full, exempt.full) == (Limit.CAP, Limit.LINE_RATE)
    assert (normal.allowance_bytes, normal.threshold_bytes) == (10_800_000_000, 8_640_000_000)
    assert exempt.allowance_bytes == 32_400_000_000
    assert (normal.guarantee_bytes_per_second, normal.floor_bytes_per_second, normal.share) == (125, 8000, 1)
    assert config.warnings == ()


def test_the_line_rate_may_be_the_drivers_business(tmp_path: Path) -> None:
    """A line rate that nobody wrote is None, never -1 (B16)."""
    assert loaded(tmp_path, DEVICE).devices[0].line_rate_bytes_per_second is None


def test_a_short_interval_shortens_early_looks(tmp_path: Path) -> None:
    """The shortest interval is the smaller of one second and the interval."""
    assert loaded(tmp_path, DEVICE + "interval: 200ms\n").shortest_interval_seconds == 0.2


def test_paths_count_from_the_files_directory(tmp_path: Path) -> None:
    """A relative path means the same wherever the program is started."""
    config = loaded(tmp_path, DEVICE + "state: s.db\nslices: [{file: slices.yml}, {file: /etc/more.yml}]\n")
    assert config.state == tmp_path / "s.db"
    assert config.slice_files == (tmp_path / "slices.yml", Path("/etc/more.yml"))


def test_calendar_periods_are_read(tmp_path: Path) -> None:
    """A calendar period has its unit, its first day and its zone."""
    config = loaded(tmp_path, DEVICE + "period: {calendar: month, starts_on: 31, timezone: Europe/Paris}\n")
    assert config.period == Calendar(Unit.MONTH, 31, "Europe/Paris")
    assert config.defaults[Traffic.NORMAL].period == config.period


@pytest.mark.parametrize(
    ("written", "listen"),
    [
        ("127.0.0.1:80", Listen("127.0.0.1", 80)),
        ("[::1]:10099", Listen("::1", 10099)),
        (":0", Listen("", 0)),
        ("localhost:9", Listen("localhost", 9)),
    ],
)
def test_listen_addresses(tmp_path: Path, written: str, listen: Listen) -> None:
    """Names, v4, v6 in brackets and a bare port are addresses to listen on."""
    assert loaded(tmp_path, DEVICE + f"web: {{listen: ['{written}']}}\n").listen == (listen,)


def test_a_default_threshold_in_bytes_is_a_part_for_others(tmp_path: Path) -> None:
    """A default threshold of 4 of 5 GB means 80 % for a slice with another allowance (B8)."""
    config = loaded(tmp_path, DEVICE + "defaults: {normal: {allowance: 5GB, threshold: 4GB}}\n")
    assert config.defaults[Traffic.NORMAL].threshold_part == Fraction(4, 5)
    assert config.defaults[Traffic.NORMAL].threshold_bytes == 4_000_000_000


def test_unlimited_is_counted_and_never_capped(tmp_path: Path) -> None:
    """An unlimited allowance has an unlimited threshold."""
    config = loaded(tmp_path, DEVICE + "defaults: {normal: {allowance: unlimited}}\n")
    assert config.defaults[Traffic.NORMAL].threshold_bytes == UNLIMITED


def test_a_floor_that_overspends_is_a_warning(tmp_path: Path) -> None:
    """64 kbit/s all day are 691 MB, and what 100 MB leave above their threshold is 231 B/s."""
    (warning,) = loaded(tmp_path, DEVICE + "defaults:\n  normal:\n    floor: 64kbit\n    allowance: 100MB\n").warnings
    assert (warning.line, warning.key) == (4, "defaults.normal.floor")
    assert "64kbit would overspend the allowance and is lowered to 1.85kbit" in warning.text


def test_a_guarantee_that_overspends_is_a_warning(tmp_path: Path) -> None:
    """8 kbit/s for a day are 86.4 MB, and 20 MB stand above the threshold."""
    warnings = loaded(tmp_path, DEVICE + "defaults: {normal: {allowance: 100MB, guarantee: 8kbit}}\n").warnings
    assert [warning.key for warning in warnings] == ["defaults.normal.floor", "defaults.normal.guarantee"]
    assert "can overspend the allowance by 66.4 MB in a period" in warnings[1].text


def test_json_is_yaml(tmp_path: Path) -> None:
    """A configuration may be written as JSON."""
    assert loaded(tmp_path, '{"node": "n", "devices": [{"name": "eth0", "cap": "1mbit"}]}').node == "n"


def test_anchors_and_merges_may_be_used(tmp_path: Path) -> None:
    """What an anchor names can be used again, and a key beside << wins."""
    text = "defaults:\n  normal: &n {allowance: 1GB, share: 2}\n  exempt: {<<: *n, share: 3}\n"
    exempt = loaded(tmp_path, DEVICE + text).defaults[Traffic.EXEMPT]
    assert (exempt.allowance_bytes, exempt.share) == (1_000_000_000, 3)


def test_a_missing_file_is_a_problem(tmp_path: Path) -> None:
    """A file that cannot be read is refused with the reason."""
    with pytest.raises(ConfigError, match="cannot be read: No such file or directory"):
        load_config(tmp_path / "none.yml")


def test_the_example_says_the_defaults() -> None:
    """The commented example is complete and means what an almost empty file means."""
    config = load_config(DEPLOY / "bwexporter.yml")
    assert config.slice_files == (DEPLOY / "slices.yml",)
    assert config.warnings == ()
    assert config.defaults[Traffic.NORMAL].allowance_bytes == 10_800_000_000
    assert config.devices[0].default_bytes_per_second == 1_250_000
    assert len(config.exempt_prefixes) == 2


def test_the_example_names_every_key() -> None:
    """A key that is added is added to the example as well; a push is shown and not asked for."""
    text = (DEPLOY / "bwexporter.yml").read_text()
    for field, found in Keys.model_fields.items():
        assert f"\n{'# ' if field == 'apmon' else ''}{field}:" in text, found


def test_the_example_of_a_push_says_the_defaults(tmp_path: Path) -> None:
    """Every key of `apmon` stands in it with the value that it has anyway."""
    lines = (DEPLOY / "bwexporter.yml").read_text().partition("# apmon:\n")[2].splitlines()
    shown = "\n".join(["apmon:", *(line.removeprefix("# ") for line in lines)])
    asked = loaded(tmp_path, f"{DEVICE}{shown}\n").apmon
    least = loaded(tmp_path, f"{DEVICE}apmon: {{sources: [apmon.conf]}}\n").apmon

    assert asked
    assert least
    assert least.parameter_of(1) == asked.parameter
    assert least == asked.model_copy(update={"parameter": None})
    assert {field.alias or name for name, field in type(least).model_fields.items()} == {
        line.strip().partition(":")[0] for line in shown.splitlines()[1:] if not line.strip().startswith("#")
    }
    assert (str(tmp_path / "apmon.conf"),) == least.sources


@pytest.mark.parametrize(
    ("names", "devices", "parameter"),
    [
        ("", 1, "{traffic}_{figure}"),
        ("", 2, "{device}_{traffic}_{figure}"),
        (', node: "{node}"', 1, "{slice}_{traffic}_{figure}"),
        (', cluster: "{device}", node: "{slice}_{traffic}"', 2, "{figure}"),
        (', parameter: "x_{figure}_{traffic}"', 2, "x_{figure}_{traffic}"),
    ],
)
def test_names_of_parameters_tell_apart_what_others_do_not(
    tmp_path: Path, names: str, devices: int, parameter: str
) -> None:
    """Unless somebody writes them."""
    asked = loaded(tmp_path, f"{DEVICE}apmon: {{sources: [https://h/f]{names}}}\n").apmon

    assert asked
    assert parameter == asked.parameter_of(devices)
    assert ("https://h/f",) == asked.sources


def test_the_example_of_each_source_is_right(tmp_path: Path) -> None:
    """What is commented out can be used as it stands, names every key, and says the defaults."""
    text = (DEPLOY / "bwexporter.yml").read_text()
    path = tmp_path / "bwexporter.yml"
    path.write_text(re.sub(r"(?m)^  # (- (?:http|plc):$|    [a-z_]+: )", r"  \1", text))
    _, http, plc = load_config(path).sources
    assert isinstance(http, HttpAt)
    assert isinstance(plc, PlcAt)
    assert replace(http.polling, url="", ca_file=None) == replace(plc.polling, url="", ca_file=None)
    assert (http.polling.every_seconds, http.polling.timeout_seconds, http.polling.guard) == (600, 30, True)
    assert (plc.node, plc.exempt_group, plc.slice_prefix) == ("node1.example.org", "Internet2", "pl")
    for key in {*_HttpKeys.model_fields, *_PlcKeys.model_fields}:
        assert f"{key}:" in text


def test_a_configuration_of_100_mb_is_not_read_whole(tmp_path: Path) -> None:
    """It is refused after its first 16 MiB, in one sentence."""
    path = tmp_path / "bwexporter.yml"
    with path.open("wb") as stream:
        stream.truncate(100_000_000)
    with pytest.raises(ConfigError) as refused:
        load_config(path)
    assert str(refused.value) == f"{path}: is larger than 16 MiB"


def test_a_cap_may_be_left_to_plc(tmp_path: Path) -> None:
    """Only to PLC; over http it is asked with a warning."""
    text = "devices: [{name: eth0}]\nslices: [{plc: {url: http://plc.example.org/PLCAPI/}}]\n"
    config = loaded(tmp_path, text)
    assert config.devices[0].cap_bytes_per_second is None
    assert "can read the password" in str(config.warnings[0])
    assert [problem.key for problem in problems_of(tmp_path, "devices: [{name: eth0}]\n")] == ["devices[0].cap"]


def problems_of_bytes(content: bytes) -> None:
    """Read bytes as a configuration; whatever is refused must say why."""
    problems = []
    try:
        config_room.read_config(parse_yaml(content, file="f"), Path("f"))
    except ConfigError as refused:
        problems = [problem.text for problem in refused.problems] or [""]
    assert all(problems)


@given(st.binary(max_size=60) | st.text(alphabet="[]{}:,&*<>!?-|'\"#%@` \n\tab1", max_size=60).map(str.encode))
def test_no_bytes_raise_anything_but_problems(content: bytes) -> None:
    """Whatever a file holds, it is data or a list of problems."""
    problems_of_bytes(content)


def test_a_broken_example_never_passes_half_read() -> None:
    """The example with one letter changed is a Config or problems, and nothing else."""
    text = (DEPLOY / "bwexporter.yml").read_bytes()
    chance = random.Random(7)
    for _ in range(60):
        at = chance.randrange(len(text))
        broken = text[:at] + bytes([chance.randrange(256)]) + text[at + 1 :]
        problems_of_bytes(broken)

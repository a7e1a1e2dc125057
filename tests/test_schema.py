"""The JSON Schemas: what editors complete and mark by is what the program reads."""

from __future__ import annotations

import doctest
import json
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import event, given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from bwexporter import schema
from bwexporter.errors import ConfigError
from bwexporter.keys import Keys as ConfigKeys
from bwexporter.schema import config_schema, slices_schema
from bwexporter.slices.records import _Keys as RecordKeys
from bwexporter.slices.records import read_record
from bwexporter.yamlfile import load_yaml, parse_yaml
from tests.test_planned import EVERYTHING, MISTAKES

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
DATA = Path(__file__).parent / "data"
SCHEMAS = {"bwexporter": config_schema(), "slices": slices_schema()}
COMMANDS = {"bwexporter": "config", "slices": "slices"}
DEVICE = {"name": "eth0", "cap": "100mbit"}

BEYOND_A_SCHEMA = """
apmon_empty apmon_every apmon_figure apmon_http apmon_mixed apmon_placeholder
calendar_timezone prefix_host_bits listen_port huge_rate
cap_over_line_rate default_existing default_over_cap duplicate_device missing_cap
floor_over_cap floor_over_full guarantee_over_full period_under_interval shortest_over_interval
threshold_over_allowance threshold_over_usual_allowance threshold_unlimited
source_http_blank source_http_half_a_way source_http_no_host source_http_often source_http_password
source_http_scheme source_http_timeout source_http_twice source_http_two_ways source_plc_scheme source_port
source_twice
"""
"""Rules of the configuration of which an editor knows nothing: what contradicts what, which zones there are, URLs."""

BEYOND_IN_RECORDS = """
lane_guarantee lane_threshold match_address match_uid name_long root_id tag_huge tag_minus_one tag_threshold
"""

BEYOND_IN_POLICIES = ("not above", "no length", "is not a time zone", "does not go with sliding")
"""The same, by the words of what is said."""


def errors(name: str, data: object) -> list[str]:
    """Return what a schema finds wrong."""
    return [error.message for error in Draft202012Validator(SCHEMAS[name]).iter_errors(data)]


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_schemas_that_are_shipped_are_those_of_the_program(name: str) -> None:
    """After a key was added: bwexporter schema config > deploy/bwexporter.schema.json, and likewise for slices."""
    command = f"bwexporter schema {COMMANDS[name]} > deploy/{name}.schema.json"
    assert json.loads((DEPLOY / f"{name}.schema.json").read_text()) == SCHEMAS[name], command
    Draft202012Validator.check_schema(SCHEMAS[name])


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_examples_fit_and_name_their_schema(name: str) -> None:
    """An editor with a YAML language server finds it by the first line."""
    path = DEPLOY / f"{name}.yml"
    first, _ = path.read_text().split("\n", 1)
    assert first == f"# yaml-language-server: $schema={name}.schema.json"
    assert errors(name, load_yaml(path).data) == []


def of_rule(kind: str) -> dict[str, object]:
    """Return what each file of a kind that breaks a rule holds, where it can be read at all."""
    found = {}
    for path in sorted(DATA.glob(f"bad_{kind}_*.yml")):
        with suppress(ConfigError):
            found[path.stem.removeprefix(f"bad_{kind}_")] = load_yaml(path).data
    return found


@pytest.mark.parametrize(
    ("kind", "name", "beyond"),
    [("config", "bwexporter", BEYOND_A_SCHEMA), ("record", "slices", BEYOND_IN_RECORDS), ("slices", "slices", "")],
)
def test_mistakes_are_marked_while_one_writes(kind: str, name: str, beyond: str) -> None:
    """Every file that breaks a rule, but for those rules of which a schema cannot speak."""
    assert [rule for rule, data in of_rule(kind).items() if not errors(name, data)] == sorted(beyond.split())


def of_policy(written: object) -> dict[str, object]:
    """Return a file of one slice that has a policy."""
    return {"slices": [{"name": "a", "exempt": {"policy": written}}]}


@pytest.mark.parametrize(("written", "words"), [(written, words) for written, _, words in MISTAKES])
def test_mistakes_in_policies_are_marked(written: object, words: str) -> None:
    """All that the program refuses, in a slice and as a default, where a schema can say it."""
    marked = words not in BEYOND_IN_POLICIES
    assert bool(errors("slices", of_policy(written))) is marked
    assert bool(errors("bwexporter", {"devices": [DEVICE], "defaults": {"normal": {"policy": written}}})) is marked


@pytest.mark.parametrize("written", ["law", "sliding", {}, EVERYTHING, {"sliding": "6h"}])
def test_policies_that_are_read_fit(written: object) -> None:
    """Each part, all of them, none."""
    assert errors("slices", of_policy(written)) == []


NUMBERS = st.one_of(st.integers(0, 130).map(str), st.decimals(0, 101, places=2).map(str))
RATES = st.tuples(NUMBERS, st.sampled_from(["mbit", "MBIT", " kBps", "Kib/s", "B/s", "", "mb"])).map("".join)
PARTS = st.tuples(NUMBERS, st.sampled_from(["%", " %", "", "percent"])).map("".join)
TIMES = st.tuples(st.integers(0, 25), st.integers(0, 61)).map(lambda at: f"{at[0]}:{at[1]:02}")
SPANS = st.tuples(NUMBERS, st.sampled_from(["h", " d", "ms", "s 5m", "", "years"])).map("".join) | st.just("period")
STRANGE = st.sampled_from([5, 0.5, None, True, [], {}, "", "law", "sliding"])


def mapping_of(**values: st.SearchStrategy[object]) -> st.SearchStrategy[dict[str, object]]:
    """Return mappings in which a key may lack, and one may be misspelt."""
    known = {key.rstrip("_"): value for key, value in values.items()}
    return st.fixed_dictionaries({}, optional={**known, "form": st.just("80%")} if "rate" in known else known)


POLICIES = st.one_of(
    STRANGE,
    mapping_of(
        ladder=st.one_of(STRANGE, st.lists(mapping_of(from_=PARTS, rate=RATES), max_size=9)),
        windows=st.one_of(STRANGE, st.lists(mapping_of(from_=TIMES, to=TIMES, counts=PARTS), max_size=9)),
        timezone=st.one_of(STRANGE, st.sampled_from(["Europe/Paris", "Mars/Olympus", "no zone"])),
        carry=st.one_of(STRANGE, PARTS),
        sliding=st.one_of(STRANGE, SPANS),
        cary=PARTS,
    ),
)


@given(POLICIES)
def test_an_editor_and_the_program_agree_on_policies(written: object) -> None:
    """Whatever is written: what the schema marks is refused, and what is refused it marks where it can."""
    _, faults = read_record({"name": "a", "exempt": {"policy": written}}, source="s", line=1)
    marked = bool(errors("slices", of_policy(written)))
    beyond = [fault for fault in faults if any(words in fault.text for words in BEYOND_IN_POLICIES)]
    event("refused" if faults else "accepted")

    assert marked <= bool(faults)
    assert marked or faults == beyond


def holes(schema: Any, path: str = "") -> Iterator[str]:
    """Yield the places of a schema at which anything may stand."""
    if isinstance(schema, dict):
        for key, inner in schema.items():
            for name, one in inner.items() if key in {"properties", "$defs"} else ():
                if not set(one) - {"description", "default"}:
                    yield f"{path}.{name}"
            if key == "items" and not inner:
                yield f"{path}[]"
            yield from holes(inner, f"{path}.{key}")
    elif isinstance(schema, list):
        for one in schema:
            yield from holes(one, path)


@pytest.mark.parametrize("name", SCHEMAS)
def test_no_key_takes_anything(name: str) -> None:
    """A type that somebody adds says how it is written, or this test says that it does not."""
    assert list(holes(SCHEMAS[name])) == []


def keys_of(schema: Any) -> set[str]:
    """Return every key that a schema knows, at any depth."""
    if isinstance(schema, list):
        return set().union(*map(keys_of, schema))
    if not isinstance(schema, dict):
        return set()
    return set(schema.get("properties", {})).union(*map(keys_of, schema.values()))


def patterns_of(schema: Any) -> Iterator[str]:
    """Yield every pattern of a schema."""
    for key, inner in schema.items() if isinstance(schema, dict) else enumerate(schema):
        if key == "pattern":
            yield inner
        elif isinstance(inner, dict | list):
            yield from patterns_of(inner)


@pytest.mark.parametrize("name", SCHEMAS)
def test_patterns_are_those_that_editors_read(name: str) -> None:
    """Editors read them as ECMAScript with Unicode, where only some characters may be escaped; each means the whole."""
    found = set(patterns_of(SCHEMAS[name]))

    assert found
    assert {escaped for pattern in found for escaped in re.findall(r"\\(.)", pattern)} <= set("sSxu.")
    assert all(pattern.startswith("^") and pattern.endswith("$") for pattern in found)
    assert not any(re.search(r"\(\?[^:=!]", pattern) for pattern in found)


@pytest.mark.parametrize("name", SCHEMAS)
def test_definitions_are_named_in_words_and_each_is_there(name: str) -> None:
    """Editors show the names."""
    text = json.dumps(SCHEMAS[name])
    names = set(SCHEMAS[name]["$defs"])

    assert set(re.findall(r'"#/\$defs/([^"]*)"', text)) == names
    assert all(re.fullmatch("[A-Z][A-Za-z]*", one) for one in names)
    assert doctest.testmod(schema).failed == 0


@pytest.mark.parametrize(("name", "model"), [("bwexporter", ConfigKeys), ("slices", RecordKeys)])
def test_every_key_is_completed(name: str, model: type[ConfigKeys | RecordKeys]) -> None:
    """Those of the model, under the names that people write."""
    assert {field.alias or key for key, field in model.model_fields.items()} <= keys_of(SCHEMAS[name])


@pytest.mark.parametrize("page", ["sources", "policies", "tree", "apmon"])
def test_the_examples_of_the_documentation_fit(page: str) -> None:
    """Each block of YAML is a configuration without its devices, or a file of slices."""
    blocks = re.findall(r"(?s)```yaml\n(.*?)```", (ROOT / "docs" / f"{page}.md").read_text())
    assert blocks
    for block in blocks:
        data = parse_yaml(block.encode(), file=page).data
        assert isinstance(data, dict)
        of_config = any(key in item for item in data.get("slices", [{"file": ""}]) for key in ("file", "http", "plc"))
        name, whole = ("bwexporter", {"devices": [DEVICE], **data}) if of_config else ("slices", data)
        assert errors(name, whole) == []

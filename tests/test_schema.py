"""The JSON Schemas: what editors complete and mark by is what the program reads."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from bwexporter.config import _Keys as ConfigKeys
from bwexporter.schema import config_schema, slices_schema
from bwexporter.slices.records import _Keys as RecordKeys
from bwexporter.yamlfile import load_yaml, parse_yaml

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
DATA = Path(__file__).parent / "data"
SCHEMAS = {"bwexporter": config_schema(), "slices": slices_schema()}
COMMANDS = {"bwexporter": "config", "slices": "slices"}

CAUGHT = """
bare_allowance bare_interval bare_rate negative_rate unknown_key unknown_rate_unit enforce_yes
on_stop full share share_fraction node_number devices_no_list no_mapping tree_unknown calendar_unit
calendar_missing prefix_text listen defaults_off source_unknown
source_plc_key source_http_token source_http_no_url source_http_every source_http_guard
missing_devices
"""
"""Rules of the configuration that an editor marks while one writes."""

CAUGHT_IN_RECORDS = """
no_name name_number id_zero id_large id_text owners_text label_value match_key
match_mark lane_key lane_bare lane_text lane_period lane_off tag_unknown tag_unit
override no_mapping
"""


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


@pytest.mark.parametrize("rule", CAUGHT.split())
def test_mistakes_in_the_configuration_are_marked(rule: str) -> None:
    """Units, types, unknown keys, words that there are not."""
    assert errors("bwexporter", load_yaml(DATA / f"bad_config_{rule}.yml").data)


@pytest.mark.parametrize("rule", CAUGHT_IN_RECORDS.split())
def test_mistakes_in_records_are_marked(rule: str) -> None:
    """The same for slices."""
    assert errors("slices", load_yaml(DATA / f"bad_record_{rule}.yml").data)


def keys_of(schema: Any) -> set[str]:
    """Return every key that a schema knows, at any depth."""
    if isinstance(schema, list):
        return set().union(*map(keys_of, schema))
    if not isinstance(schema, dict):
        return set()
    return set(schema.get("properties", {})).union(*map(keys_of, schema.values()))


@pytest.mark.parametrize(("name", "model"), [("bwexporter", ConfigKeys), ("slices", RecordKeys)])
def test_every_key_is_completed(name: str, model: type[ConfigKeys | RecordKeys]) -> None:
    """Those of the model, under the names that people write."""
    assert {field.alias or key for key, field in model.model_fields.items()} <= keys_of(SCHEMAS[name])


def test_the_examples_of_the_documentation_fit() -> None:
    """Each block of YAML is a configuration without its devices, or a file of slices."""
    blocks = re.findall(r"(?s)```yaml\n(.*?)```", (ROOT / "docs" / "sources.md").read_text())
    assert len(blocks) >= 2
    for block in blocks:
        data = parse_yaml(block.encode(), file="sources.md").data
        assert isinstance(data, dict)
        of_config = any(key in item for item in data["slices"] for key in ("file", "http", "plc"))
        name, whole = ("bwexporter", {"devices": [], **data}) if of_config else ("slices", data)
        assert errors(name, whole) == []

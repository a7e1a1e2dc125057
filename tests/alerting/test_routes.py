"""Who is told what: the shipped configuration of Alertmanager, asked by its own tool."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.alerting.servers import DEPLOY

FILE = DEPLOY / "alertmanager" / "alertmanager.yml"
CONFIG: dict[str, Any] = yaml.safe_load(FILE.read_text())
ALERTS: dict[str, dict[str, Any]] = {
    rule["alert"]: rule
    for group in yaml.safe_load((DEPLOY / "prometheus" / "bwexporter.rules.yml").read_text())["groups"]
    for rule in group["rules"]
    if "alert" in rule
}

CAPPED = {"alertname": "BwexporterSliceCapped", "notify": "owner", "severity": "warning", "slice": "codeen"}
FORECAST = {**CAPPED, "alertname": "BwexporterSliceThresholdForecast", "severity": "info"}
DOWN = {"alertname": "BwexporterDown", "notify": "operator", "severity": "critical"}
ADDRESS = {"owner_email": "pi@example.edu"}

ROUTES = [
    pytest.param(CAPPED, "operators-digest,owner-alias", id="a cap goes to the alias, and to the operators' list"),
    pytest.param(CAPPED | ADDRESS, "operators-digest,owner-address", id="a cap goes to the address where there is one"),
    pytest.param(
        CAPPED | {"owner_email": "pi@example.edu,ops@example.edu"},
        "operators-digest,owner-address",
        id="several addresses are one receiver",
    ),
    pytest.param(CAPPED | {"owner_email": ""}, "operators-digest,owner-alias", id="an empty address is none"),
    pytest.param(FORECAST, "owner-alias-note", id="a forecast is a note for the owner alone"),
    pytest.param(FORECAST | ADDRESS, "owner-address-note", id="by address too"),
    pytest.param(CAPPED | {"slice": "_default"}, "operators", id="nobody owns the default lane"),
    pytest.param(FORECAST | {"slice": "_root"} | ADDRESS, "operators", id="nor the root lane"),
    pytest.param(DOWN, "operators", id="operators hear of the exporter"),
    pytest.param(DOWN | {"severity": "info"}, "operators", id="also of small things"),
    pytest.param({"alertname": "Watchdog"}, "operators", id="what is not ours goes to whoever is there"),
]


def amtool(*arguments: str) -> str:
    """Run amtool on the shipped file; it must succeed."""
    done = subprocess.run(["amtool", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def routed(file: Path, labels: dict[str, str], receivers: str) -> None:
    """See that these labels reach these receivers."""
    pairs = [f"{name}={value}" for name, value in labels.items()]
    amtool("config", "routes", "test", f"--config.file={file}", f"--verify.receivers={receivers}", *pairs)


def test_the_configuration_and_its_templates_are_accepted() -> None:
    """By Alertmanager's own tool."""
    assert "SUCCESS" in amtool("check-config", str(FILE))


@pytest.mark.parametrize(("labels", "receivers"), ROUTES)
def test_an_alert_reaches(labels: dict[str, str], receivers: str) -> None:
    """The receivers of the table."""
    routed(FILE, labels, receivers)


def test_without_an_alias_domain_what_has_no_address_goes_to_operators(tmp_path: Path) -> None:
    """As the comment in the file says to do it."""
    text = FILE.read_text()
    switched = re.sub(r"(- receiver: )owner-alias(-note)?$", r"\1operators", text, flags=re.MULTILINE)
    assert switched != text
    (tmp_path / "alertmanager.yml").write_text(switched)
    (tmp_path / "templates").symlink_to(FILE.parent / "templates")

    here = tmp_path / "alertmanager.yml"
    routed(here, CAPPED, "operators-digest,operators")
    routed(here, FORECAST, "operators")
    routed(here, CAPPED | ADDRESS, "operators-digest,owner-address")


def test_no_receiver_of_owners_but_the_one_with_addresses_knows_any() -> None:
    """By default no address is in any metric."""
    targets = {one["name"]: one["email_configs"][0]["to"] for one in CONFIG["receivers"] if "email_configs" in one}

    assert {"owner-address", "owner-address-note"} == {name for name, to in targets.items() if "owner_email" in to}


def test_inhibitions_name_alerts_that_exist() -> None:
    """A word that was mistyped would silence nothing."""
    for rule in CONFIG["inhibit_rules"]:
        for matcher in (*rule["source_matchers"], *rule["target_matchers"]):
            operator, pattern = re.fullmatch(r'alertname(=~|!=|=)"(.*)"', matcher).groups()
            for choice in _choices(pattern):
                assert any(re.fullmatch(choice, name) for name in ALERTS), matcher
            assert operator == "=~" or pattern in ALERTS


def _choices(pattern: str) -> list[str]:
    """Take a pattern of alternatives apart: A|B or A(B|C)."""
    stem, bracket, rest = pattern.rstrip(")").partition("(")
    return [stem + one for one in rest.split("|")] if bracket else stem.split("|")


def test_an_exporter_that_is_down_is_told_to_operators_alone() -> None:
    """It inhibits everything else of its node, and owners' alerts are held meanwhile."""
    rule = CONFIG["inhibit_rules"][0]

    assert ['alertname="BwexporterDown"'] == rule["source_matchers"]
    assert ["job", "instance"] == rule["equal"]


def test_what_is_told_is_remembered_longer_than_it_is_repeated() -> None:
    """Alertmanager forgets after five days by default; what is repeated later than that would be told too often."""
    repeats = [route.get("repeat_interval", "1d") for route in (CONFIG["route"], *CONFIG["route"]["routes"])]

    assert max(int(one.removesuffix("d")) for one in repeats) < 5


@pytest.mark.parametrize("name", sorted(name for name, rule in ALERTS.items() if rule["labels"]["notify"] == "owner"))
def test_every_notice_to_owners_has_its_word_and_its_figures(name: str) -> None:
    """The templates show annotations by name; a missing one would be an empty line in a mail."""
    template = (FILE.parent / "templates" / "bwexporter.tmpl").read_text()
    shown = set(re.findall(r"\.Annotations\.(\w+)", template))

    assert f'eq .Labels.alertname "{name}"' in template
    assert shown <= set(ALERTS[name]["annotations"])


@pytest.mark.parametrize(
    ("period_end", "said"),
    [
        ("2026-11-26 00:00 UTC", ["2026-11-25 00:00 UTC to 2026-11-26 00:00 UTC", "2026-11-26 00:00 UTC"]),
        ("", ["none, a sliding window", "what was sent leaves the window"]),
    ],
)
def test_a_mail_names_the_end_of_a_period_where_there_is_one(tmp_path: Path, period_end: str, said: list[str]) -> None:
    """A sliding window has none."""
    annotations = {"period_start": "2026-11-25 00:00 UTC" if period_end else "", "period_end": period_end}
    at = "2026-11-25T12:00:00Z"
    alert = {
        "status": "firing",
        "labels": {"slice": "codeen"},
        "annotations": annotations,
        "startsAt": at,
        "endsAt": at,
        "fingerprint": "1",
    }
    data = tmp_path / "data.json"
    data.write_text(json.dumps({"receiver": "owner", "status": "firing", "alerts": [alert], "externalURL": "http://a"}))
    templates = f"--template.glob={FILE.parent / 'templates' / '*.tmpl'}"
    text = '--template.text={{ template "bwexporter.owner.text" . }}'

    mail = amtool("template", "render", templates, text, f"--template.data={data}", "--template.type=text")

    lines = dict(
        line.strip().split(None, 1) for line in mail.splitlines() if line.startswith(("  period ", "  until "))
    )
    assert [lines["period"], lines["until"]] == said

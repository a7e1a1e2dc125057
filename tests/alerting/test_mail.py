"""From a packet on real HTB to a mail in its owner's hands: the real exporter, Prometheus, Alertmanager, SMTP."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from tests.alerting.mailbox import Mail, Mailbox
from tests.alerting.servers import Chain, Haste
from tests.kernel.daemon_rig import (
    HEADER_BYTES,
    PACKET_BYTES,
    Program,
    Room,
    Traffic,
    handle_of,
    skip_where_no_room_can_be_made,
    wait_for,
)
from tests.test_dashboards import BOARDS, filled

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(900)]

OPERATORS = "operators@example.org"
UNLIMITED = {"full": "80mbit", "allowance": "unlimited"}
CONFIG: Mapping[str, Any] = {
    "node": "room",
    "interval": "300ms",
    "look_margin": "100ms",
    "devices": [{"name": "v0", "cap": "400mbit", "line_rate": "800mbit"}],
    "defaults": {"normal": UNLIMITED, "exempt": UNLIMITED},
}
TIGHT = {"allowance": "20GB", "threshold": "100kB"}
"""Passed after 100 packets; then some 231 kB a second for a day, so that what is queued still passes."""
PAST_TIGHT = 120  # packets
PATIENCE_SECONDS = 120.0


@pytest.fixture(scope="module", autouse=True)
def _room_can_be_made() -> None:
    skip_where_no_room_can_be_made()


class Site:
    """A node with its traffic, all that watches it, and the mails that came of it."""

    def __init__(self, program: Program, traffic: Traffic, chain: Chain, mailbox: Mailbox) -> None:
        self.program, self.traffic, self.chain, self.mailbox = program, traffic, chain, mailbox
        self.instance = program.url.removeprefix("http://")

    def send(self, slice_name: str, slice_id: int, packets: int = PAST_TIGHT) -> None:
        """Send from a slice."""
        self.traffic.send((slice_name, "normal"), handle_of(slice_id), packets)

    def wait_for_mails(self, recipient: str, count: int) -> list[Mail]:
        """Wait until so many mails have come for a recipient, and return them all."""
        wait_for(
            lambda: len(self.mailbox.to(recipient)) >= count,
            seconds=PATIENCE_SECONDS,
            what=f"mail {count} to {recipient}",
        )
        return self.mailbox.to(recipient)

    def let_pass(self, evaluations: int = 6) -> None:
        """Let Prometheus evaluate its rules so many times, and Alertmanager act on it."""
        for _ in range(evaluations):
            before = self._evaluated_at()
            wait_for(
                lambda before=before: self._evaluated_at() != before, seconds=PATIENCE_SECONDS, what="an evaluation"
            )

    def used_bytes(self) -> int:
        """Return what all slices have used together."""
        return sum(row["period_used_bytes"] for row in self.program.lanes().values())

    def owners(self) -> Counter[str]:
        """Count the mails of each recipient but the operators."""
        return Counter(one for mail in self.mailbox.mails for one in mail.recipients if one != OPERATORS)

    def told_more_than(self, count: int) -> list[tuple[float, str]]:
        """Return the mails, as (when, subject), of owners who got more than so many."""
        too_often = {one for one, times in self.owners().items() if times > count}
        return [(mail.at_seconds, mail.subject) for mail in self.mailbox.mails if too_often & set(mail.recipients)]

    def operators_heard(self, word: str) -> list[str]:
        """Return the subjects of operators' mails with a word in them."""
        return [mail.subject for mail in self.mailbox.to(OPERATORS) if word in mail.subject]

    def marked(self, mark: str, slice_name: str) -> bool:
        """Say whether the Slice dashboard would have marked something of a slice in the last two minutes."""
        marks = {one["name"]: one["expr"] for one in BOARDS["bwexporter-slice"]["annotations"]["list"]}
        expression = filled(marks[mark]).replace('"codeen"', f'"{slice_name}"')
        return bool(self.chain.query(f"count_over_time(({expression})[2m:1s])"))

    def _evaluated_at(self) -> str:
        groups = self.chain.prometheus.get("/api/v1/rules")["data"]["groups"]
        return str(next(group["lastEvaluation"] for group in groups if group["name"] == "bwexporter.owners"))


class Chat(ThreadingHTTPServer):
    """What Slack would get."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Incoming)
        self.messages: list[dict[str, Any]] = []

    def name_as_receiver(self, folder: Path, config: dict[str, Any]) -> None:
        """Send operators' news to the chat as well, as docs/alerts.md says to do it."""
        file = folder / "slack-url"
        file.write_text(f"http://127.0.0.1:{self.server_address[1]}/hook")
        receiver = next(one for one in config["receivers"] if one["name"] == "operators-chat")
        receiver["slack_configs"][0]["api_url_file"] = str(file)
        route = {"receiver": "operators-chat", "matchers": ['severity="critical"'], "continue": True}
        others = {"receiver": "operators", "matchers": ['notify="operator"']}
        config["route"]["routes"] = [route, others, *config["route"]["routes"]]


class _Incoming(BaseHTTPRequestHandler):
    server: Chat

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.messages.append(json.loads(body))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def chat() -> Iterator[Chat]:
    """Give a chat that listens."""
    with Chat() as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@contextmanager
def site(
    folder: Path,
    slices: Sequence[Mapping[str, Any]],
    *,
    chat: Chat | None = None,
    haste: Haste | None = None,
    **config: Any,
) -> Iterator[Site]:
    """Give a site whose first scrape has been seen."""
    with ExitStack() as open_things:
        room = open_things.enter_context(Room())
        program = open_things.enter_context(Program(room, folder, {**CONFIG, **config}, slices)).start()
        mailbox = open_things.enter_context(Mailbox())
        target = program.url.removeprefix("http://")
        (folder / "chain").mkdir()

        def edit(written: dict[str, Any]) -> None:
            if chat:
                chat.name_as_receiver(folder, written)

        chain = open_things.enter_context(
            Chain(folder / "chain", [target], mailbox.address, haste=haste or Haste(), edit=edit)
        )
        wait_for(lambda: chain.query("bwexporter_slice_capped"), seconds=PATIENCE_SECONDS, what="the first scrape")
        yield Site(program, Traffic(room), chain, mailbox)


def capped(name: str, slice_id: int) -> dict[str, Any]:
    """Return a slice that is capped after PAST_TIGHT packets."""
    return {"name": name, "id": slice_id, "normal": TIGHT}


def alias(name: str) -> str:
    """Return where mails about a slice go by default."""
    return f"{name}@slices.example.org"


def test_an_owner_hears_of_the_cap_once_and_of_its_end_once(tmp_path: Path) -> None:
    """With true figures, and nobody else hears of it but the operators."""
    tight = {**capped("tight", 4), "normal": {**TIGHT, "allowance": "2MB", "period": "25s"}}
    other = {"name": "other", "id": 5}
    with site(tmp_path, [other]) as here:
        here.program.write_slices([tight, other])  # its period begins now that everything is up
        row = wait_for(
            lambda: here.program.lanes().get(("tight", "normal")), seconds=PATIENCE_SECONDS, what="its first turn"
        )
        here.send("tight", 4)
        here.send("other", 5)
        first = here.wait_for_mails(alias("tight"), 1)[0]

        assert first.subject == f"[bwexporter] tight: capped on {here.instance}"
        machine = first.machine
        assert (
            machine.items()
            >= {
                "status": "firing",
                "alert": "BwexporterSliceCapped",
                "slice": "tight",
                "node": here.instance,
                "device": "v0",
                "traffic": "normal",
                "used_bytes": "120000",
                "threshold_bytes": "100000",
                "allowance_bytes": "2000000",
                "full_rate_bytes_per_second": "10000000",
            }.items()
        )
        ends = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(row["period_end_timestamp_seconds"]))
        assert machine["period_end"] == ends
        series = 'bwexporter_slice_ceiling_bytes_per_second{slice="tight",traffic="normal"}[1m]'
        held = {float(value) for _, value in here.chain.query(series)[0]["values"]}
        assert float(machine["ceiling_bytes_per_second"]) in held - {10_000_000.0}
        for words in ("120 kB", "100 kB", "2 MB", "full rate 80 Mbit/s", f"http://{here.instance}/slices/tight"):
            assert words in first.text, words
            assert words in first.html, words
        assert first.headers["X-Bwexporter-Slice"] == "tight"

        second = here.wait_for_mails(alias("tight"), 2)[1]
        here.let_pass()

        assert second.subject == f"[bwexporter] tight: over: capped on {here.instance}"
        assert second.machine["status"] == "resolved"
        assert here.owners() == {alias("tight"): 2}
        wait_for(
            lambda: here.operators_heard("notices to owners stand"),
            seconds=PATIENCE_SECONDS,
            what="the list",
        )
        for mark in ("Caps", "Ends of caps", "New periods"):
            wait_for(lambda mark=mark: here.marked(mark, "tight"), seconds=PATIENCE_SECONDS, what=mark)


def test_no_false_word_while_exporter_and_alertmanager_come_and_go(tmp_path: Path) -> None:
    """The exporter is killed during a cap and is back; Alertmanager is restarted; owners hear nothing of it.

    Addresses stand in slice_info here: one owner has two slices, one slice gets another owner, one has none.
    """
    ann = {**capped("ann", 1), "owners": ["pi@example.edu"]}
    bob = {**capped("bob", 2), "owners": ["pi@example.edu", "ops@example.edu"]}
    slices = [ann, bob, capped("cyd", 3)]
    with chat() as heard, site(tmp_path, slices, metrics={"owner_email": True}, chat=heard) as here:
        for number, one in enumerate(("ann", "bob", "cyd"), start=1):
            here.send(one, number)
        here.wait_for_mails("ops@example.edu", 1)
        here.wait_for_mails("pi@example.edu", 2)
        here.wait_for_mails(alias("cyd"), 1)
        told = {"pi@example.edu": 2, "ops@example.edu": 1, alias("cyd"): 1}
        about_bob = here.mailbox.to("ops@example.edu")[0]
        assert about_bob.recipients == ("pi@example.edu", "ops@example.edu")
        assert "ann" not in about_bob.text
        assert here.owners() == told

        here.program.kill()
        wait_for(lambda: here.operators_heard("critical: bwexporter"), seconds=PATIENCE_SECONDS, what="the news of it")
        here.let_pass()
        assert here.owners() == told
        wait_for(
            lambda: any("does not answer" in message["attachments"][0]["title"] for message in heard.messages),
            seconds=PATIENCE_SECONDS,
            what="the news in the chat",
        )

        here.program.start()
        wait_for(lambda: here.operators_heard("over: bwexporter"), seconds=PATIENCE_SECONDS, what="the good news")
        here.let_pass()
        assert here.program.lane("ann")["capped"]
        assert here.owners() == told

        here.chain.alertmanager.stop()
        here.chain.alertmanager.start()
        wait_for(lambda: here.chain.firing("BwexporterSliceCapped"), seconds=PATIENCE_SECONDS, what="its alerts")
        here.let_pass()
        assert here.owners() == told

        here.program.write_slices([{"name": "ann", "id": 1, "owners": ann["owners"]}, bob, capped("cyd", 3)])
        assert here.wait_for_mails("pi@example.edu", 3)[2].subject.startswith("[bwexporter] ann: over: capped")
        here.program.write_slices([{**bob, "owners": ["new@example.edu"]}, capped("cyd", 3)])
        assert here.wait_for_mails("new@example.edu", 1)[0].subject.startswith("[bwexporter] bob: capped")
        last = here.wait_for_mails("ops@example.edu", 2)[1]
        assert "where the slice has got another owner" in last.text
        here.let_pass()
        assert here.owners() == {
            "pi@example.edu": 4,
            "ops@example.edu": 2,
            "new@example.edu": 1,
            alias("cyd"): 1,
        }


def test_of_300_slices_capped_at_once_each_owner_hears_once(tmp_path: Path) -> None:
    """And each hears once that it is over, as all ends at once as well."""
    many = 300
    slices = [{"name": f"s{number}", "id": number} for number in range(1, many + 1)]
    wide, narrow = ({**UNLIMITED, "allowance": volume, "threshold": "50%"} for volume in ("1GB", "40kB"))
    haste = Haste(scrape="2s", waits="2s", resend="30s")  # so many alerts are worth a second of work each time
    with site(tmp_path, slices, haste=haste, interval="1s", defaults={"normal": wide, "exempt": UNLIMITED}) as here:
        for one in slices:
            with closing(here.traffic.socket(handle_of(one["id"]))) as sender:
                for _ in range(30):
                    sender.send(bytes(PACKET_BYTES - HEADER_BYTES))
        everything = many * 30 * PACKET_BYTES
        wait_for(lambda: here.used_bytes() == everything, seconds=PATIENCE_SECONDS, what="the last packets")

        here.program.write_config({**CONFIG, "interval": "1s", "defaults": {"normal": narrow, "exempt": UNLIMITED}})
        everybody = {alias(one["name"]) for one in slices}
        wait_for(lambda: set(here.owners()) == everybody, seconds=PATIENCE_SECONDS, what="a mail to each")
        here.let_pass(3)
        assert here.told_more_than(1) == []

        here.program.write_config({**CONFIG, "interval": "1s", "defaults": {"normal": wide, "exempt": UNLIMITED}})
        wait_for(lambda: here.owners().total() >= 2 * many, seconds=PATIENCE_SECONDS, what="a second mail to each")
        here.let_pass(3)
        assert here.told_more_than(2) == []
        assert here.owners() == dict.fromkeys(everybody, 2)

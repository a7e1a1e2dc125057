"""The command line and the web: flags, links for owners, asking a guarded server."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from bwexporter.cli import asking, surface
from bwexporter.cli.main import main
from bwexporter.cli.surface import Flags, Told, server_of, sockets_of
from bwexporter.config import Config, load_config
from bwexporter.errors import BwexporterError
from bwexporter.keys import Listen
from bwexporter.metrics import Exposition
from bwexporter.state import open_state
from bwexporter.web.owners import OwnerLinks
from tests.certificates import Authority
from tests.reports import NOW_WALL_SECONDS, LaneFigures, device_report, report
from tests.test_web_config import PASSWORD, hashed
from tests.waiting import PATIENCE_SECONDS

Ended = tuple[int, str, str]


def bwexporter(*arguments: str) -> Ended:
    """Run a command line in this process; return its exit code, output and errors."""
    code, out, err = 0, io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(arguments)
        except SystemExit as ended:
            code = int(ended.code or 0)
    return code, out.getvalue(), err.getvalue()


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write a configuration of one slice with these keys of the web."""

    def written(web: object = None, **others: object) -> Path:
        (tmp_path / "slices.yml").write_text('slices: [{name: "a/b c"}]\n')
        keys = {
            "devices": [{"name": "eth0", "cap": "100mbit", "line_rate": "1gbit"}],
            "defaults": {"normal": {"floor": "1kbit"}, "exempt": {"floor": "1kbit"}},
            "slices": [{"file": "slices.yml"}],
            **({"web": web} if web else {}),
            **others,
        }
        path = tmp_path / "bwexporter.yml"
        path.write_text(json.dumps(keys))
        return path

    return written


class TestFlags:
    """Those that other exporters have."""

    def read(self, *arguments: str) -> Flags | str:
        """Return what the flags of a command come to, or what is wrong with them."""
        found: list[Flags] = []

        @click.command()
        @surface.flags
        def command(**web: object) -> None:
            found.append(Flags(**web))  # type: ignore[arg-type]

        result = CliRunner().invoke(command, arguments)
        return found[0] if found else result.output

    def test_they_come_before_the_configuration(self, write: Callable[..., Path], tmp_path: Path) -> None:
        """Addresses may be repeated; what is not said is the configuration's."""
        config = load_config(write({"config_file": "web.yml", "telemetry_path": "/m"}))
        flags = self.read("--web.listen-address", ":0", "--web.listen-address=[::1]:0", "--web.telemetry-path=/n")

        assert isinstance(flags, Flags)
        assert flags.listen == (Listen("", 0), Listen("::1", 0))
        assert flags.over(config.web).telemetry_path == "/n"
        assert flags.over(config.web).config_file == tmp_path / "web.yml"
        sockets = sockets_of(config, flags)
        assert len({one.getsockname()[1] for one in sockets}) == 2
        for one in sockets:
            one.close()

    @pytest.mark.parametrize(
        ("argument", "said"),
        [
            ("--web.listen-address=nowhere", "is not host:port"),
            ("--web.telemetry-path=metrics", "is not a path"),
            ("--web.telemetry-path=/static", "is taken"),
        ],
    )
    def test_a_bad_one_is_named(self, argument: str, said: str) -> None:
        """With what to write instead."""
        assert said in str(self.read(argument))

    def test_check_reads_the_files_and_names_of_the_web_too(self, write: Callable[..., Path], tmp_path: Path) -> None:
        """All problems at once."""
        (tmp_path / "web.yml").write_text("basic_auth_users: {ann: hunter2}\n")
        path = write({"config_file": "web.yml"}, metrics={"off": ["bwexporter_upp"], "labels": ["id"]})
        code, out, _ = bwexporter("check", str(path))

        assert code == 2
        assert "is no bcrypt hash" in out
        assert "did you mean bwexporter_up" in out
        assert "slice_info cannot have the label 'id'" in out
        assert "hunter2" not in out


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Callable[[Config], int]]:
    """Serve a configuration as `run` does, without a daemon behind it."""
    state = open_state(tmp_path / "state.db", now_wall_seconds=NOW_WALL_SECONDS)
    told = report(device_report([LaneFigures("a/b c"), LaneFigures("bob")]))
    exposition = Exposition(["eth0"])
    servers = []

    def serve(config: Config) -> int:
        facts = Told(
            exposition=lambda: exposition.current,
            last_report=lambda: told,
            ready=lambda: (True, "Turns run."),
            store=state,
            reload=lambda: None,
        )
        (listening,) = sockets_of(config, Flags())
        server = server_of(config, Flags(), facts, [listening])
        server.start()
        servers.append(server)
        return 0 if config.listen[0].path else listening.getsockname()[1]

    yield serve
    for server in servers:
        server.stop(PATIENCE_SECONDS)
    state.close()


class TestAsking:
    """`status`, of a server that does not let everybody in."""

    @pytest.fixture
    def environment(self) -> Iterator[dict[str, str]]:
        """Give the environment, as it was afterwards."""
        before = dict(os.environ)
        yield os.environ  # type: ignore[misc]
        os.environ.clear()
        os.environ.update(before)

    def test_over_tls_with_a_password(
        self,
        write: Callable[..., Path],
        running: Callable[[Config], int],
        tmp_path: Path,
        environment: dict[str, str],
    ) -> None:
        """The certificate is known from the configuration; who asks stands in the environment."""
        certificate, key = Authority(tmp_path / "ca").sign("node", hosts="DNS:node1.example.org")
        tls = {"cert_file": str(certificate), "key_file": str(key)}
        users = {"ann": hashed()}
        (tmp_path / "web.yml").write_text(json.dumps({"tls_server_config": tls, "basic_auth_users": users}))
        port = running(load_config(write({"listen": ["127.0.0.1:0"], "config_file": "web.yml"})))
        path = write({"listen": [f"127.0.0.1:{port}"], "config_file": "web.yml"})
        stranger = bwexporter("status", "--config", str(path))
        (tmp_path / "password").write_text(f"{PASSWORD}\n")
        environment |= {"BWEXPORTER_USER": "ann", "BWEXPORTER_PASSWORD_FILE": str(tmp_path / "password")}
        known = bwexporter("status", "--json", "--config", str(path))

        assert stranger[0] == 1
        assert "asks for a password: set BWEXPORTER_USER" in stranger[2]
        assert [row["slice"] for row in json.loads(known[1])["slices"]] == ["a/b c", "bob"]

    def test_a_certificate_that_nobody_vouches_for_is_refused(
        self, write: Callable[..., Path], running: Callable[[Config], int], tmp_path: Path, environment: dict[str, str]
    ) -> None:
        """From another machine the authority has to be named."""
        authority = Authority(tmp_path / "ca")
        certificate, key = authority.sign("node")
        tls = {"cert_file": str(certificate), "key_file": str(key)}
        (tmp_path / "web.yml").write_text(json.dumps({"tls_server_config": tls}))
        port = running(load_config(write({"listen": ["127.0.0.1:0"], "config_file": "web.yml"})))
        with pytest.raises(
            BwexporterError, match=r"its certificate is not trusted: .*; name the authority in BWEXPORTER_CA_FILE"
        ):
            asking.slices(f"https://localhost:{port}")
        environment["BWEXPORTER_CA_FILE"] = str(authority.certificate)

        assert asking.slices(f"https://localhost:{port}")["node"] == "node1.example.org"

    def test_over_a_unix_socket(
        self, write: Callable[..., Path], running: Callable[[Config], int], tmp_path: Path
    ) -> None:
        """Where that is all there is."""
        path = write({"listen": [f"unix:{tmp_path}/web.sock"]})
        running(load_config(path))

        assert "bob" in bwexporter("status", "--config", str(path))[1]

    def test_it_can_be_watched_from_another_machine(
        self, write: Callable[..., Path], running: Callable[[Config], int]
    ) -> None:
        """The table comes again and again, until Ctrl-C."""
        port = running(load_config(write({"listen": ["127.0.0.1:0"]})))
        watching = subprocess.Popen(
            [sys.executable, "-m", "bwexporter", "status", "--watch", "--url", f"http://127.0.0.1:{port}"],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert watching.stdout is not None
        timer = threading.Timer(2 * PATIENCE_SECONDS, watching.kill)
        timer.start()
        seen = 0
        while seen < 2:
            line = watching.stdout.readline()
            assert line, "it has ended"
            seen += "a/b c" in line
        watching.send_signal(signal.SIGINT)
        watching.stdout.read()
        watching.stdout.close()

        assert watching.wait(timeout=PATIENCE_SECONDS) == 0
        timer.cancel()


class TestLink:
    """Links for owners."""

    def test_a_link_opens_until_it_is_revoked(self, write: Callable[..., Path], tmp_path: Path) -> None:
        """The address is that of the slice's page, with a key; the secret is made by the first link."""
        path = write({"owner_secret_file": "owners.json"})
        code, out, _ = bwexporter("link", "a/b c", "--config", str(path), "--url", "https://node.example.org/bw/")
        address, key = out.strip().split("?key=")
        links = OwnerLinks(tmp_path / "owners.json")

        assert code == 0
        assert address == "https://node.example.org/bw/slices/a%2Fb%20c"
        assert links.grants("a/b c", key)
        assert bwexporter("link", "a/b c", "--config", str(path), "--url", "https://node.example.org/bw")[1] == out
        revoked = json.loads(bwexporter("link", "a/b c", "--revoke", "--json", "--config", str(path))[1])
        assert not links.grants("a/b c", key)
        assert links.grants("a/b c", revoked["url"].split("?key=")[1])
        assert bwexporter("link", "--revoke-all", "--config", str(path))[1] == "Every link is void.\n"
        assert not links.grants("a/b c", revoked["url"].split("?key=")[1])

    @pytest.mark.parametrize("url", ["foo", "javascript:alert(1)", "//node1", "https://", "https://node1:99999"])
    def test_no_link_is_made_to_what_owners_cannot_follow(
        self, write: Callable[..., Path], tmp_path: Path, url: str
    ) -> None:
        """Nor a secret for it."""
        path = write({"owner_secret_file": "owners.json"})
        code, out, err = bwexporter("link", "a/b c", "--config", str(path), "--url", url)

        assert (code, out) == (2, "")
        assert f'"{url}" is not a URL of http or https with a host, as https://node1.example.org' in err
        assert not (tmp_path / "owners.json").exists()

    def test_what_is_missing_is_said(self, write: Callable[..., Path]) -> None:
        """The key of the configuration, or the slice."""
        without = bwexporter("link", "a/b c", "--config", str(write()))
        path = write({"owner_secret_file": "owners.json"})
        stranger = bwexporter("link", "nobody", "--config", str(path))
        nothing = bwexporter("link", "--config", str(path))

        assert (without[0], "web.owner_secret_file" in without[2]) == (2, True)
        assert (stranger[0], "there is no slice 'nobody'" in stranger[2]) == (1, True)
        assert (nothing[0], "Give the slice, or --revoke-all" in nothing[2]) == (2, True)

"""The web configuration file in force: TLS, client certificates, passwords, headers, owners' links."""

from __future__ import annotations

import doctest
import json
import os
import shutil
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import bcrypt
import httpx
import pytest

from bwexporter.errors import BwexporterError, ConfigError
from bwexporter.state import State, open_state
from bwexporter.web import allotment
from bwexporter.web.app import Options
from bwexporter.web.guard import Guard
from bwexporter.web.listening import bind
from bwexporter.web.owners import OwnerLinks, new_secret, read_secret, write_secret
from bwexporter.web.passwords import MOST_WAITING
from bwexporter.web.server import Server
from bwexporter.web.webconfig import WebFile, load_web_config
from tests.certificates import Authority
from tests.reports import NOW_WALL_SECONDS, LaneFigures, device_report, report
from tests.waiting import PATIENCE_SECONDS, wait_until
from tests.web import TEXT, Facts, app_of

DEPLOY = Path(__file__).parents[1] / "deploy"
ROUNDS = 4
PASSWORD = "pass:wörd"  # noqa: S105 - of a test


def hashed(password: str = PASSWORD) -> str:
    """Return a hash as htpasswd makes them."""
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(ROUNDS)).decode().replace("$2b$", "$2y$")


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Give an authority whose certificates clients trust."""
    made = Authority(tmp_path_factory.mktemp("authority"))
    for name, options in {"server": {}, "other": {}, "client": {"hosts": "DNS:prometheus"}, "late": {}}.items():
        made.sign(name, **options, expired=name == "late")
    return made


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    """Give a real state file."""
    opened = open_state(tmp_path / "state.db", now_wall_seconds=NOW_WALL_SECONDS)
    yield opened
    opened.close()


@pytest.fixture
def facts(state: State) -> Facts:
    """Tell of two slices."""
    return Facts(state, report=report(device_report([LaneFigures("alice"), LaneFigures("bob")])))


@contextmanager
def guarded(facts: Facts, file: Path, links: OwnerLinks | None = None) -> Iterator[str]:
    """Serve the facts behind a web configuration file; give the address without the scheme."""
    current = WebFile(file).current
    listening = bind("127.0.0.1:0")
    server = Server(Guard(app_of(facts), current, links), [listening], current=current)
    server.start()
    try:
        yield f"127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.stop(PATIENCE_SECONDS)


def write(folder: Path, **parts: object) -> Path:
    """Write a web configuration file; JSON is YAML."""
    path = folder / "web.yml"
    path.write_text(json.dumps(parts))
    return path


def tls_of(authority: Authority, name: str = "server", **more: object) -> dict[str, object]:
    """Return the keys of TLS with a certificate of the authority."""
    folder = authority.folder
    return {"cert_file": str(folder / f"{name}.crt"), "key_file": str(folder / f"{name}.key"), **more}


def trusting(authority: Authority, certificate: str | None = None) -> ssl.SSLContext:
    """Return what a client needs to trust the authority, with a certificate of its own."""
    context = ssl.create_default_context(cafile=authority.certificate)
    if certificate is not None:
        context.load_cert_chain(authority.folder / f"{certificate}.crt", authority.folder / f"{certificate}.key")
    return context


def ask(address: str, context: ssl.SSLContext | bool = False, path: str = "/metrics", **options: object) -> int:  # noqa: FBT001, FBT002
    """Return the status of an answer."""
    scheme = "https" if context is not False else "http"
    with httpx.Client(verify=context, timeout=PATIENCE_SECONDS, trust_env=False) as client:
        return client.get(f"{scheme}://{address}{path}", **options).status_code  # type: ignore[arg-type]


class TestFile:
    """What may stand in it."""

    def test_our_example_is_accepted_by_promtool_and_by_us(self, authority: Authority, tmp_path: Path) -> None:
        """The example in deploy, beside the certificates that it names."""
        promtool = shutil.which("promtool")
        assert promtool is not None, "promtool is missing: apt-get install prometheus"
        for name in ("web.yml",):
            shutil.copy(DEPLOY / name, tmp_path / name)
        for end in ("crt", "key"):
            shutil.copy(authority.folder / f"server.{end}", tmp_path / f"server.{end}")
        checked = subprocess.run(
            [promtool, "check", "web-config", tmp_path / "web.yml"], capture_output=True, text=True, check=False
        )

        assert checked.returncode == 0, checked.stdout + checked.stderr
        assert load_web_config(tmp_path / "web.yml").passwords is not None

    @pytest.mark.parametrize(
        ("parts", "said"),
        [
            ({"tls_server_confg": {}}, 'did you mean "tls_server_config"'),
            ({"basic_auth_users": {"ann": "secret"}}, "is no bcrypt hash"),
            ({"tls_server_config": {"cert_file": "a"}}, "write either key_file or key"),
            ({"tls_server_config": {"cert_file": "a", "key_file": "b", "min_version": "TLS10"}}, "TLS12, TLS13"),
            ({"tls_server_config": {"cert_file": "a", "key_file": "b"}}, "cannot be read: No such file"),
            (
                {"tls_server_config": {"cert_file": "a", "key_file": "b", "client_auth_type": "RequireAnyClientCert"}},
                "verifies nothing, which cannot be had here: write RequireAndVerifyClientCert, and client_ca_file",
            ),
            (
                {"tls_server_config": {"cert_file": "a", "key_file": "b", "client_auth_type": "RequestClientCert"}},
                "write NoClientCert, which lets the same clients in",
            ),
            (
                {"tls_server_config": {"cert_file": "a", "key_file": "b", "client_auth_type": "Sometimes"}},
                "there are NoClientCert, VerifyClientCertIfGiven, RequireAndVerifyClientCert",
            ),
            (
                {"tls_server_config": {"cert_file": "a", "key_file": "b", "client_ca_file": "c"}},
                "must be RequireAndVerifyClientCert",
            ),
            (
                {
                    "tls_server_config": {
                        "cert_file": "a",
                        "key_file": "b",
                        "client_ca_file": "c",
                        "client_auth_type": "VerifyClientCertIfGiven",
                        "client_allowed_sans": ["prometheus"],
                    }
                },
                "must be RequireAndVerifyClientCert where there are client_allowed_sans",
            ),
            (
                {
                    "tls_server_config": {
                        "cert_file": "a",
                        "key_file": "b",
                        "curve_preferences": ["X25519", "CurveP256"],
                    }
                },
                "name one curve, or leave it out",
            ),
            ({"rate_limit": {"interval": "1s"}}, "how many requests may come at once"),
            ({"rate_limit": {"interval": "1s", "burst": 0}}, "must be a whole number from 1"),
            ({"rate_limit": {"interval": 5, "burst": 1}}, "5"),
            ({"http_server_config": {"headers": {"Set-Cookie": "a=b"}}}, "Set-Cookie"),
            ({"http_server_config": {"headers": {"Content-Security-Policy": "a\r\nb: c"}}}, "one line"),
        ],
    )
    def test_what_is_wrong_is_said_without_giving_a_secret_away(
        self, tmp_path: Path, parts: dict[str, object], said: str
    ) -> None:
        """Every problem with its key; a password that somebody wrote in place of a hash is not repeated."""
        with pytest.raises(ConfigError) as refused:
            load_web_config(write(tmp_path, **parts))
        text = "\n".join(str(problem) for problem in refused.value.problems)

        assert said in text
        assert "secret" not in text

    @pytest.mark.parametrize(
        ("cipher_suites", "said"),
        [(["TLS_NULL"], "TLS_NULL is not known here"), (["TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"], "")],
    )
    def test_suites_have_the_names_that_go_gives_them(
        self, authority: Authority, tmp_path: Path, cipher_suites: list[str], said: str
    ) -> None:
        """As in files that other exporters have."""
        file = write(tmp_path, tls_server_config=tls_of(authority, cipher_suites=cipher_suites, max_version="TLS12"))
        if said:
            with pytest.raises(ConfigError, match=said):
                load_web_config(file)
        else:
            context = load_web_config(file).tls
            assert context is not None
            assert "ECDHE-ECDSA-AES128-GCM-SHA256" in {cipher["name"] for cipher in context.get_ciphers()}
            assert "ECDHE-ECDSA-AES256-GCM-SHA384" not in {cipher["name"] for cipher in context.get_ciphers()}

    @pytest.mark.parametrize("curve", ["CurveP256", "X25519"])
    def test_a_curve_may_be_chosen(self, authority: Authority, tmp_path: Path, facts: Facts, curve: str) -> None:
        """A client that knows no other curve is let in by the same one and by no other."""
        file = write(tmp_path, tls_server_config=tls_of(authority, curve_preferences=[curve]))
        context = trusting(authority)
        context.set_ecdh_curve("prime256v1")
        with guarded(facts, file) as address:
            assert is_let_in(address, context) is (curve == "CurveP256")

    def test_a_certificate_may_stand_in_the_file_itself(
        self, authority: Authority, tmp_path: Path, facts: Facts
    ) -> None:
        """Inline, as the toolkit has it."""
        texts = {
            part: (authority.folder / f"server.{end}").read_text() for part, end in (("cert", "crt"), ("key", "key"))
        }
        with guarded(facts, write(tmp_path, tls_server_config=texts)) as address:
            assert ask(address, trusting(authority)) == 200

    def test_a_pipe_is_no_key(self, authority: Authority, tmp_path: Path) -> None:
        """It is refused at once; nobody waits for a writer."""
        os.mkfifo(tmp_path / "pipe")
        tls = tls_of(authority) | {"key_file": "pipe"}

        with pytest.raises(ConfigError, match="cannot be read: not a regular file; write the path of one"):
            load_web_config(write(tmp_path, tls_server_config=tls))

    def test_a_key_of_another_certificate_is_refused(self, authority: Authority, tmp_path: Path) -> None:
        """With a sentence that says what is wrong."""
        tls = tls_of(authority) | {"key_file": str(authority.folder / "other.key")}

        with pytest.raises(ConfigError, match="the key is not that of the certificate"):
            load_web_config(write(tmp_path, tls_server_config=tls))


class TestTls:
    """Encrypted, and with certificates on both sides."""

    def test_it_is_spoken_and_the_plain_is_not(self, authority: Authority, tmp_path: Path, facts: Facts) -> None:
        """TLS 1.2 and 1.3 are answered; a plain request is not."""
        with guarded(facts, write(tmp_path, tls_server_config=tls_of(authority))) as address:
            for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
                context = trusting(authority)
                context.minimum_version = context.maximum_version = version
                assert ask(address, context) == 200
            with pytest.raises(httpx.TransportError):
                ask(address)

    def test_certificates_rotate_without_a_restart(
        self, authority: Authority, tmp_path: Path, facts: Facts, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A new connection gets the new certificate; a damaged one leaves the last good one in force."""
        for end in ("crt", "key"):
            shutil.copy(authority.folder / f"server.{end}", tmp_path / f"used.{end}")
        file = write(tmp_path, tls_server_config={"cert_file": "used.crt", "key_file": "used.key"})
        with guarded(facts, file) as address:
            before = common_name(authority, address)
            (tmp_path / "used.crt").write_text("damaged")
            wait_until(lambda: ask(address, trusting(authority)) == 200 and "was not reloaded" in caplog.text)
            kept = common_name(authority, address)
            for end in ("crt", "key"):
                shutil.copy(authority.folder / f"other.{end}", tmp_path / f"used.{end}")
            wait_until(lambda: common_name(authority, address) == "other")

        assert (before, kept) == ("server", "server")

    @pytest.mark.parametrize(
        ("certificate", "let_in"), [("client", True), (None, False), ("late", False), ("stranger", False)]
    )
    def test_only_a_client_with_a_good_certificate_is_let_in(
        self, authority: Authority, tmp_path: Path, facts: Facts, certificate: str | None, *, let_in: bool
    ) -> None:
        """None, an expired one, and one of another authority are not."""
        context = trusting(authority, certificate if certificate != "stranger" else None)
        if certificate == "stranger":
            context.load_cert_chain(*Authority(tmp_path / "elsewhere").sign("stranger"))
        tls = tls_of(
            authority, client_auth_type="RequireAndVerifyClientCert", client_ca_file=str(authority.certificate)
        )
        with guarded(facts, write(tmp_path, tls_server_config=tls)) as address:
            assert is_let_in(address, context) is let_in

    def test_only_the_named_clients_are_let_in(self, authority: Authority, tmp_path: Path, facts: Facts) -> None:
        """By the alternative names of their certificates."""
        tls = tls_of(
            authority,
            client_auth_type="RequireAndVerifyClientCert",
            client_ca_file=str(authority.certificate),
            client_allowed_sans=["prometheus", "2001:db8::7", "ann@example.org", "spiffe://example.org/a"],
        )
        names = ("IP:2001:db8::7", "email:ann@example.org", "URI:spiffe://example.org/a")
        with guarded(facts, write(tmp_path, tls_server_config=tls)) as address:
            assert is_let_in(address, trusting(authority, "client"))
            assert not is_let_in(address, trusting(authority, "other"))
            for number, hosts in enumerate(names):
                authority.sign(f"named {number}", hosts=hosts)
                assert is_let_in(address, trusting(authority, f"named {number}")), hosts


def is_let_in(address: str, context: ssl.SSLContext) -> bool:
    """Say whether a client gets an answer."""
    try:
        return ask(address, context) == 200
    except httpx.TransportError:
        return False


def common_name(authority: Authority, address: str) -> str:
    """Return the name in the server's certificate."""
    with (
        httpx.Client(verify=trusting(authority), trust_env=False, timeout=PATIENCE_SECONDS) as client,
        client.stream("GET", f"https://{address}/-/healthy") as answer,
    ):
        certificate = answer.extensions["network_stream"].get_extra_info("ssl_object").getpeercert()
    return dict(pair for part in certificate["subject"] for pair in part)["commonName"]


class TestPasswords:
    """Who a request is from."""

    @pytest.fixture
    def address(self, tmp_path: Path, facts: Facts) -> Iterator[str]:
        """Serve with one user."""
        with guarded(facts, write(tmp_path, basic_auth_users={"ann": hashed()})) as found:
            yield found

    @pytest.mark.parametrize(
        ("credentials", "status"),
        [
            (("ann", PASSWORD), 200),
            (("ann", "wrong"), 401),
            (("bob", PASSWORD), 401),
            (("", ""), 401),
            (("ann", PASSWORD + "\0"), 401),
            (("ann", "x" * 500), 401),
            (None, 401),
        ],
    )
    def test_the_right_password_opens_every_path(
        self, address: str, credentials: tuple[str, str] | None, status: int
    ) -> None:
        """And nothing else does; each twice, since results are kept."""
        for path in ("/metrics", "/", "/slices/alice", "/api/v1/slices", "/-/healthy", "/nowhere"):
            auth = None if credentials is None else httpx.BasicAuth(*(part.encode() for part in credentials))
            expected = 404 if status == 200 and path == "/nowhere" else status
            assert [ask(address, path=path, auth=auth) for _ in range(2)] == [expected] * 2

    @pytest.mark.parametrize("header", ["Basic", "Basic !", "Basic YQ==", "Bearer x", "Basic " + "A" * 9000])
    def test_a_header_that_cannot_be_read_is_a_wrong_password(self, address: str, header: str) -> None:
        """With what to do about it."""
        assert ask(address, headers={"Authorization": header}) == 401

    def test_a_browser_is_asked_for_a_password(self, address: str) -> None:
        """And has the stylesheet of the pages that owners may see."""
        answer = httpx.get(f"http://{address}/", trust_env=False, timeout=PATIENCE_SECONDS)

        assert answer.headers["www-authenticate"].startswith("Basic realm=")
        assert ask(address, path="/static/style.css") == 200

    def test_a_right_password_is_checked_once(self, tmp_path: Path, facts: Facts) -> None:
        """Bcrypt is slow on purpose; a scrape need not be."""
        dear = bcrypt.hashpw(b"x", bcrypt.gensalt(11)).decode()
        with guarded(facts, write(tmp_path, basic_auth_users={"ann": dear})) as address:
            seconds = []
            for _ in range(6):
                start = time.process_time()  # of the server too, and of nobody else on this machine
                assert ask(address, auth=("ann", "x")) == 200
                seconds.append(time.process_time() - start)

        assert min(seconds[1:]) < seconds[0] / 2

    def test_a_guess_costs_the_same_whether_or_not_there_is_such_a_user(self, tmp_path: Path, facts: Facts) -> None:
        """Names cannot be found out by the clock."""
        dear = bcrypt.hashpw(b"x", bcrypt.gensalt(10)).decode()
        with guarded(facts, write(tmp_path, basic_auth_users={"ann": dear})) as address:
            fastest = {}
            for user in ("ann", "nobody"):
                taken = []
                for number in range(5):
                    start = time.process_time()
                    assert ask(address, auth=(user, f"guess {number}")) == 401
                    taken.append(time.process_time() - start)
                fastest[user] = min(taken)

        assert fastest["nobody"] > fastest["ann"] / 3

    def test_a_crowd_that_guesses_is_turned_away_and_a_known_password_is_not(
        self, tmp_path: Path, facts: Facts
    ) -> None:
        """Those that would have to wait are told so; who was let in before still is, at once."""
        dear = bcrypt.hashpw(b"x", bcrypt.gensalt(9)).decode()
        with guarded(facts, write(tmp_path, basic_auth_users={"ann": dear})) as address:
            assert ask(address, auth=("ann", "x")) == 200
            statuses = at_once(address, [f"guess {number}" for number in range(3 * MOST_WAITING)])
            assert ask(address, auth=("ann", "x")) == 200

        assert set(statuses) <= {401, 503}
        assert 503 in statuses

    def test_passwords_change_without_a_restart(self, tmp_path: Path, facts: Facts) -> None:
        """A user who is taken out is out."""
        file = write(tmp_path, basic_auth_users={"ann": hashed(), "bob": hashed()})
        with guarded(facts, file) as address:
            assert ask(address, auth=("bob", PASSWORD.encode())) == 200
            write(tmp_path, basic_auth_users={"ann": hashed()})
            wait_until(lambda: ask(address, auth=("bob", PASSWORD.encode())) == 401)
            assert ask(address, auth=("ann", PASSWORD.encode())) == 200

    def test_headers_are_added_to_every_answer(self, tmp_path: Path, facts: Facts) -> None:
        """And take the place of our own."""
        headers = {"X-Frame-Options": "deny", "Content-Security-Policy": "default-src 'self'"}
        with guarded(facts, write(tmp_path, http_server_config={"headers": headers})) as address:
            for path in ("/", "/metrics", "/nowhere"):
                answer = httpx.get(f"http://{address}{path}", trust_env=False, timeout=PATIENCE_SECONDS)

                assert answer.headers.get_list("x-frame-options") == ["deny"]
                assert answer.headers.get_list("content-security-policy") == ["default-src 'self'"]


class TestRates:
    """How many requests are answered."""

    def test_more_than_a_burst_is_turned_away_and_nobody_has_to_wait(self, tmp_path: Path, facts: Facts) -> None:
        """With a status that says so, before any password is looked at; a token comes back after the interval."""
        limit = {"interval": "1h", "burst": 3}
        file = write(tmp_path, rate_limit=limit, basic_auth_users={"ann": hashed()})
        with guarded(facts, file) as address:
            assert [ask(address) for _ in range(5)] == [401, 401, 401, 429, 429]
            write(tmp_path, rate_limit={"interval": "10ms", "burst": 3})
            wait_until(lambda: ask(address) == 200)

    @pytest.mark.parametrize("limit", [{"interval": 0}, {"interval": "0s", "burst": 1}])
    def test_an_interval_of_0_is_no_limit(self, tmp_path: Path, facts: Facts, limit: dict[str, object]) -> None:
        """As in files that other exporters have."""
        with guarded(facts, write(tmp_path, rate_limit=limit)) as address:
            assert [ask(address) for _ in range(5)] == [200] * 5

    def test_the_worked_example_holds(self) -> None:
        """The docstring's example is run."""
        assert doctest.testmod(allotment).failed == 0


def at_once(address: str, passwords: list[str]) -> list[int]:
    """Ask with all of these passwords at the same time."""
    import asyncio  # noqa: PLC0415 - this crowd alone needs it

    async def crowd() -> list[int]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE_SECONDS, limits=limits) as client:
            asked = [client.get(f"http://{address}/", auth=("ann", password)) for password in passwords]
            return [answer.status_code for answer in await asyncio.gather(*asked)]

    return asyncio.run(crowd())


class TestOwnerLinks:
    """An owner sees one slice and nothing else."""

    @pytest.fixture
    def secret_file(self, tmp_path: Path) -> Path:
        """Make the secret."""
        path = tmp_path / "owners.json"
        write_secret(path, new_secret())
        return path

    @pytest.fixture
    def address(self, tmp_path: Path, facts: Facts, secret_file: Path) -> Iterator[str]:
        """Serve with a password for operators and links for owners."""
        links = OwnerLinks(secret_file)
        facts.options = Options(owner_links=links)
        with guarded(facts, write(tmp_path, basic_auth_users={"ann": hashed()}), links) as found:
            yield found

    def test_the_key_of_a_slice_opens_its_page_and_its_json(self, address: str, secret_file: Path) -> None:
        """Without a password; the page does not lead to what is not open."""
        key = key_of(secret_file, "alice")
        page = httpx.get(f"http://{address}/slices/alice?key={key}", trust_env=False, timeout=PATIENCE_SECONDS)

        assert page.status_code == 200
        assert "All slices" not in page.text
        assert page.headers["referrer-policy"] == "no-referrer"
        assert ask(address, path=f"/api/v1/slices/alice?key={key}") == 200
        assert ask(address, path=f"/api/v1/use/alice?key={key}") == 200

    @pytest.mark.parametrize(
        "path",
        [
            "/slices/bob", "/api/v1/slices/bob", "/api/v1/use/bob", "/", "/metrics", "/api/v1/slices", "/api/v1/events",
            "/api/v1/status", "/slices/alice/../bob", "/slices/alice%2F..%2Fbob", "/slices/alice%00", "//slices/alice",
        ],
    )  # fmt: skip
    def test_it_opens_nothing_else(self, address: str, secret_file: Path, path: str) -> None:
        """Another slice, the rest of the API, the metrics."""
        assert ask(address, path=f"{path}?key={key_of(secret_file, 'alice')}") == 401

    @pytest.mark.parametrize("key", ["", "x", "A" * 32, "é" * 32, "A" * 100_0])
    def test_a_wrong_key_opens_nothing(self, address: str, key: str) -> None:
        """Whatever it looks like."""
        assert ask(address, path="/slices/alice", params={"key": key}) == 401

    def test_a_link_can_be_taken_back_alone_or_with_all_others(self, address: str, secret_file: Path) -> None:
        """By a new generation of the slice, or by a new secret; the server follows at once."""
        first = {name: key_of(secret_file, name) for name in ("alice", "bob")}
        secret = read_secret(secret_file)
        assert secret is not None
        write_secret(secret_file, secret.without_links_of("alice"))
        second = key_of(secret_file, "alice")

        assert ask(address, path=f"/slices/alice?key={first['alice']}") == 401
        assert ask(address, path=f"/slices/alice?key={second}") == 200
        assert ask(address, path=f"/slices/bob?key={first['bob']}") == 200
        write_secret(secret_file, new_secret())
        assert ask(address, path=f"/slices/bob?key={first['bob']}") == 401

    def test_a_bad_key_is_told_kindly_to_whoever_has_a_password(self, address: str) -> None:
        """The page says where to get a better one."""
        answer = httpx.get(
            f"http://{address}/slices/alice?key=old",
            auth=("ann", PASSWORD.encode()),
            trust_env=False,
            timeout=PATIENCE_SECONDS,
        )

        assert answer.status_code == 403
        assert "Ask the operator" in answer.text

    def test_a_secret_that_others_can_read_opens_nothing(self, address: str, secret_file: Path) -> None:
        """It is nobody's secret any more, and the program does not start with it."""
        key = key_of(secret_file, "alice")
        secret_file.chmod(0o644)

        assert ask(address, path=f"/slices/alice?key={key}") == 401
        with pytest.raises(BwexporterError, match="chmod 600"):
            OwnerLinks(secret_file)

    @pytest.mark.parametrize("content", [b"", b"{}", b'{"secret": "ab", "generations": {}}', b"\xff", b'{"secret": 1}'])
    def test_a_damaged_secret_is_named(self, secret_file: Path, content: bytes) -> None:
        """And what to do about it."""
        secret_file.write_bytes(content)

        with pytest.raises(BwexporterError, match="is damaged"):
            read_secret(secret_file)

    def test_the_secret_is_written_for_its_owner_alone_and_never_shown(self, secret_file: Path) -> None:
        """Whatever the mask of the shell is."""
        secret = read_secret(secret_file)

        assert secret is not None
        assert secret_file.stat().st_mode & 0o777 == 0o600
        assert secret.secret.hex() not in repr(secret)
        assert [path.name for path in secret_file.parent.iterdir() if path.name.startswith(".owners")] == []
        assert os.access(secret_file, os.R_OK)


def key_of(secret_file: Path, slice_name: str) -> str:
    """Return the key of a slice's link as it is now."""
    secret = read_secret(secret_file)
    assert secret is not None
    return secret.key(slice_name)


def test_what_is_served_behind_all_of_it_is_what_was_rendered(
    authority: Authority, tmp_path: Path, facts: Facts
) -> None:
    """TLS, a client's certificate, a password: then the metrics, to the byte."""
    tls = tls_of(authority, client_auth_type="VerifyClientCertIfGiven", client_ca_file=str(authority.certificate))
    file = write(tmp_path, tls_server_config=tls, basic_auth_users={"ann": hashed()})
    with (
        guarded(facts, file) as address,
        httpx.Client(verify=trusting(authority, "client"), trust_env=False, timeout=PATIENCE_SECONDS) as client,
    ):
        assert client.get(f"https://{address}/metrics", auth=("ann", PASSWORD.encode())).content == TEXT

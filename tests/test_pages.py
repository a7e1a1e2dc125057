"""The pages: what people read on them, in the source and in a real browser."""

from __future__ import annotations

import doctest
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bwexporter import __version__, svg
from bwexporter.core.lanes import UNLIMITED, Lane, Reason, Traffic
from bwexporter.core.orders import Action, InForce, Order
from bwexporter.core.report import Event, EventKind, Report, SliceInfo, SourceStatus
from bwexporter.state import open_state
from bwexporter.web import browse, history, negotiation, picture
from bwexporter.web.app import Options
from bwexporter.web.listening import bind
from tests.chromium import Chromium, Page, running
from tests.reports import DAY_SECONDS, NOW_WALL_SECONDS, LaneFigures, device_report, report
from tests.state_cases import save
from tests.test_web import of_verdict
from tests.web import Facts, asking, connect, serving

HOSTILE = '"><script>window.caught=1</script><img src=x onerror="window.caught=2">'
OVER = LaneFigures(
    "busy",
    used_bytes=910_000_000,
    sent_bytes=910_000_000,
    reason=Reason.OVER_THRESHOLD,
    capped=True,
    ceiling_bytes_per_second=2_080,
    enforced_ceiling_bytes_per_second=2_080,
    period_start_at=NOW_WALL_SECONDS - DAY_SECONDS / 2,
    period_end_at=NOW_WALL_SECONDS + DAY_SECONDS / 2,
    seconds_to_threshold=0.0,
    seconds_to_allowance=19.8,
)
FEW = (
    OVER,
    LaneFigures("quiet", seconds_to_threshold=7200.0, used_bytes=400_000_000),
    LaneFigures("quiet", Traffic.EXEMPT, used_bytes=5),
    LaneFigures("spent", reason=Reason.OVER_ALLOWANCE, used_bytes=1_000_000_000, capped=True),
    LaneFigures("hand", reason=Reason.CAPPED_BY_HAND),
    LaneFigures("pace", reason=Reason.PACED),
    LaneFigures("endless", allowance_bytes=UNLIMITED, threshold_bytes=UNLIMITED, reason=Reason.FROZEN),
    LaneFigures(HOSTILE, reason=Reason.OFF),
)


def told(figures: tuple[LaneFigures, ...] = FEW) -> Report:
    """Return a report whose slices have hostile owners, labels and problems."""
    plain = report(device_report(figures))
    info = {
        name: replace(one, owners=(HOSTILE,), problems=(HOSTILE,), labels={"x": HOSTILE})
        for name, one in plain.info.items()
    }
    return replace(plain, info=info)


@contextmanager
def pages(folder: Path, shown: Report | None) -> Iterator[str]:
    """Serve a report, with a past of the slice `busy`."""
    state = open_state(folder / "state.db", now_wall_seconds=NOW_WALL_SECONDS)
    lane = Lane("eth0", "busy", Traffic.NORMAL)
    events = [
        of_verdict(NOW_WALL_SECONDS - 30_000, lane, used_bytes=800_100_000),
        of_verdict(NOW_WALL_SECONDS - 9_000, lane, used_bytes=850_000_000, old_ceiling_bytes_per_second=1_000),
        Event(NOW_WALL_SECONDS - 43_200, EventKind.PERIOD_ROLLED, "eth0", lane, {"used_bytes": 7, "periods": 1}),
    ]
    ledgers = [device.ledger for device in shown.devices] if shown else []
    assert save(state, ledgers, events, NOW_WALL_SECONDS).saved
    facts = Facts(state, report=shown, options=Options(show_owners=True))
    try:
        with serving(facts, bind("127.0.0.1:0")) as url:
            yield url
    finally:
        state.close()


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serve a node of few slices, every verdict among them."""
    with pages(tmp_path_factory.mktemp("few"), told()) as url:
        yield url


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serve a node of ten thousand slices."""
    lanes = tuple(LaneFigures(f"slice_{number:05d}", used_bytes=number * 9_000) for number in range(10_000))
    with pages(tmp_path_factory.mktemp("many"), told(lanes)) as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    """Give a real browser."""
    with running() as chromium:
        yield chromium


@pytest.fixture
def get(few: str) -> Iterator[httpx.Client]:
    """Give a client of the node of few slices."""
    with asking(few) as client:
        yield client


class TestLanding:
    """The table of slices, as it is sent."""

    def test_it_names_the_node_the_version_and_where_the_rest_is(self, get: httpx.Client) -> None:
        """Links are relative, so that a proxy may put all of it below another path."""
        page = get.get("/")

        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert f"bwexporter {__version__}" in page.text
        assert "<h1>node1.example.org</h1>" in page.text
        for link in ("metrics", "api/v1/slices", "api/v1/status", "api/v1/openapi.json", "-/healthy", "-/ready"):
            assert f'href="./{link}"' in page.text
            assert get.get(f"/{link}").status_code == 200

    def test_nothing_is_loaded_from_elsewhere_and_no_script_stands_in_the_page(self, get: httpx.Client) -> None:
        """The policy says so to the browser too."""
        page = get.get("/")

        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert "unsafe" not in page.headers["content-security-policy"]
        assert not re.search(r'(?:src|href)="(?:https?:)?//', page.text)
        assert not re.search(r"<script(?![^>]* src=)", page.text)
        for source in re.findall(r'(?:src|href)="\./(static/[^"]+)"', page.text):
            assert get.get(f"/{source}").status_code == 200

    def test_a_row_says_what_there_is_to_know(self, get: httpx.Client) -> None:
        """Use, ceiling, verdict and forecast, as people read them; the fullest slices come first."""
        page = get.get("/").text
        rows = re.findall(r"<tr>\n<th scope=\"row\">.*?</tr>", page, re.DOTALL)
        texts = [" ".join(re.sub(r"<[^>]+>", " ", row).split()) for row in rows]

        assert texts[0].startswith("spent normal 100% 1.00 GB 1.00 GB")
        assert texts[1] == "busy normal 91% 910 MB 1.00 GB 16.6kbit 10mbit over threshold - 12h"
        assert texts[2].startswith("quiet normal 40% 400 MB 1.00 GB 10mbit 10mbit within 2h")
        assert "no allowance" in texts[-1]

    def test_searching_sorting_and_paging_work_by_addresses_alone(self, many: str) -> None:
        """Ten thousand rows come a hundred at a time."""
        with asking(many) as client:
            first, found = client.get("/").text, client.get("/", params={"search": "_0123"}).text
            last = client.get("/", params={"sort": "slice", "order": "asc", "offset": "9999"}).text

        assert first.count('<th scope="row">') == 100
        assert "10000 lanes, 1 to 100 shown" in first
        assert 'href="./?offset=100" rel="next"' in first
        assert found.count('<th scope="row">') == 10
        assert "slice_09999" in last
        assert "slice_09900" in last

    @pytest.mark.parametrize("query", ["sort=colour", "offset=-7", "verdict=x&search=busy", "offset=99999999999"])
    def test_an_address_that_somebody_spoilt_still_gives_a_page(self, get: httpx.Client, query: str) -> None:
        """People edit addresses; what cannot be used is left out."""
        assert get.get(f"/?{query}").status_code == 200

    def test_troubles_are_told_before_the_table(self, tmp_path: Path) -> None:
        """An unreadable device, scaled guarantees, a source that is down, a bad reload, shadow, orders for all."""
        order = Order("t", Action.FREEZE, "ann", "a bad day", NOW_WALL_SECONDS, float("inf"))
        shown = replace(
            report(device_report(trouble="the kernel did not answer", admitted_ratio=0.5)),
            enforcing=False,
            by_hand=(InForce(order, float("inf")),),
            sources=(SourceStatus("file:a.yml", up=False, slices=1, problems=(), last_success_wall_seconds=1.0),),
            config_reload_successful=False,
        )
        with pages(tmp_path, shown) as url, asking(url) as client:
            page = client.get("/").text

        for text in (
            "Shadow:",
            "By hand, freeze",
            "the kernel did not answer",
            "scaled down",
            "file:a.yml",
            "reloaded",
        ):
            assert text in page

    def test_before_the_first_turn_it_says_so(self, tmp_path: Path) -> None:
        """The page is there, with what is known; a slice's page asks for a moment."""
        with pages(tmp_path, None) as url, asking(url) as client:
            assert "not ready" not in client.get("/").text
            assert client.get("/slices/busy").status_code == 503


class TestSlicePage:
    """One slice and its owner."""

    def test_it_says_why_in_one_sentence_with_figures(self, get: httpx.Client) -> None:
        """The formula, the end of the period, and what happened."""
        page = get.get("/slices/busy").text

        assert (
            "Over the threshold of 800 MB: the 90.0 MB left of 1.00 GB are spread over the 12h left of the period, "
            "90.0 MB / 12h = 16.7kbit, rounded down to 16.6kbit."
        ) in page
        assert "20 Nov 12:00 UTC" in page
        assert "A new period began; 7 B were used in the one that ended." in page
        assert "pi@" not in page

    def test_it_foresees_no_spent_allowance_that_the_ceiling_forbids(self, get: httpx.Client) -> None:
        """What a capped lane would like to send says nothing of when its allowance is spent."""
        assert "Allowance spent in" not in get.get("/slices/busy").text
        assert "Threshold in" in get.get("/slices/quiet").text

    def test_the_picture_shows_use_limits_and_changes(self, get: httpx.Client) -> None:
        """And says the same in words to whoever cannot see it."""
        page = get.get("/slices/busy").text
        label = re.search(r'class="picture"[^>]*aria-label="([^"]*)"', page)

        assert label is not None
        assert label[1] == (
            "910 MB used of an allowance of 1.00 GB with the threshold at 800 MB; "
            "the ceiling changed 2 times in this period."
        )
        assert page.count('class="change lowered"') == 1
        assert page.count('class="change raised"') == 1
        assert "allowance 1.00 GB</text>" in page

    def test_orders_by_hand_are_told_to_whom_they_concern(self, tmp_path: Path) -> None:
        """The owner reads who did it, why, and until when."""
        lane = Lane("eth0", "busy", Traffic.NORMAL)
        order = Order(
            "t", Action.CAP, "ann", "<b>too loud</b>", NOW_WALL_SECONDS, 1.0, lane, rate_bytes_per_second=8_000
        )
        shown = replace(told(), by_hand=(InForce(order, NOW_WALL_SECONDS + 60),))
        with pages(tmp_path, shown) as url, asking(url) as client:
            page, other = client.get("/slices/busy").text, client.get("/slices/quiet").text

        assert "cap at 64kbit" in page
        assert "&lt;b&gt;too loud" in page
        assert "cap at 64kbit" not in other

    def test_a_slice_that_is_not_there_is_404_and_its_name_is_harmless(self, get: httpx.Client) -> None:
        """What somebody writes into an address is text."""
        answer = get.get("/slices/%3Cscript%3E")

        assert answer.status_code == 404
        assert "&lt;script&gt;" in answer.text
        assert "<script>" not in answer.text

    @pytest.mark.parametrize(
        "path",
        [
            "/static/../pages.py",
            "/static/%2e%2e/pages.py",
            "/static/..%2fpages.py",
            "/static//etc/passwd",
            "/..",
            "//x/",
        ],
    )
    def test_no_path_leads_to_other_files(self, few: str, path: str) -> None:
        """The server knows names, not paths of files; the paths are sent as they stand here."""
        with connect(few) as client, client.makefile("rb") as answers:
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())

            assert answers.readline() == b"HTTP/1.1 404 Not Found\r\n"


class TestInABrowser:
    """What a real browser makes of the pages."""

    @pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
    @pytest.mark.parametrize("path", ["/", "/slices/busy", f"/slices/{quote(HOSTILE, safe='')}"])
    def test_it_complains_of_nothing_runs_nothing_strange_and_can_be_read(
        self, browser: Chromium, few: str, path: str, *, dark: bool
    ) -> None:
        """No error, no broken policy, no script of a hostile name, text of enough contrast, a label for every field."""
        page = Page(browser, dark=dark)
        page.open(few + path)

        assert page.complaints() == []
        assert page.run("window.caught") is None
        assert HOSTILE in page.run("document.body.textContent") or path == "/slices/busy"
        assert page.run(_FAINT) == []
        assert page.run(_UNNAMED) == []
        page.close()

    @pytest.mark.parametrize("path", ["/", "/slices/busy"])
    def test_a_phone_need_not_be_scrolled_sideways(self, browser: Chromium, few: str, path: str) -> None:
        """Only a table may scroll in its own frame."""
        page = Page(browser, width=390, height=800)
        page.open(few + path)

        assert page.run("document.documentElement.scrollWidth") <= 390
        page.close()

    def test_searching_shows_what_fits_while_one_types(self, browser: Chromium, many: str) -> None:
        """The table and the address follow, the page is not left, the field keeps the focus."""
        page = Page(browser)
        page.open(many)
        page.run("window.stayed = true; document.getElementById('search').focus()")
        page.type("_0777")
        page.run(_until("document.querySelectorAll('tbody tr').length === 10"))

        assert page.run("document.activeElement.id") == "search"
        assert page.run("window.stayed") is True
        assert page.run("location.search").startswith("?search=_0777")
        page.close()

    def test_the_page_stays_fresh_by_itself(self, browser: Chromium, tmp_path: Path) -> None:
        """What a later turn found is shown without a reload."""
        state = open_state(tmp_path / "state.db", now_wall_seconds=NOW_WALL_SECONDS)
        facts = Facts(state, report=told())
        with serving(facts, bind("127.0.0.1:0")) as url:
            page = Page(browser)
            page.open(f"{url}/slices/quiet")
            facts.report = told((replace(FEW[1], used_bytes=500_000_000),))
            page.run(_until("document.body.textContent.includes('500 MB of 1.00 GB used')"))
            page.close()
        state.close()

    def test_without_javascript_it_works_by_forms_and_links(self, browser: Chromium, many: str) -> None:
        """By the keyboard alone: search, and go on to the next page."""
        page = Page(browser)
        page.forbid_scripts()
        page.open(many)
        page.run("document.getElementById('search').focus()")
        page.type("slice_0")
        page.press("Enter", 13)
        page.wait_until_loaded()
        found = page.run("document.querySelector('caption').textContent")
        page.run("document.querySelector('a[rel=next]').focus()")
        page.press("Enter", 13)
        page.wait_until_loaded()

        assert found == "10000 lanes found, 1 to 100 shown"
        assert page.run("document.querySelector('caption').textContent") == "10000 lanes found, 101 to 200 shown"
        assert page.run("document.querySelector('meta[http-equiv=refresh]') !== null")
        page.close()


def _until(condition: str) -> str:
    """Return a promise that is kept as soon as a condition holds."""
    return f"""new Promise((kept, broken) => {{
      const start = Date.now();
      const look = () => ({condition}) ? kept() : Date.now() - start > 60000 ? broken("late") : setTimeout(look, 50);
      look();
    }})"""


_FAINT = """(() => {
  const parse = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = (color) => color.slice(0, 3).map((value) => {
    value /= 255;
    return value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  }).reduce((sum, value, at) => sum + value * [0.2126, 0.7152, 0.0722][at], 0);
  const ground = (element) => {
    for (let one = element; one; one = one.parentElement) {
      const color = parse(getComputedStyle(one).backgroundColor);
      if (color.length === 3 || color[3] === 1) return color;
    }
    return [255, 255, 255];
  };
  const faint = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || element.closest("title, noscript, option, .skip")) continue;
    const style = getComputedStyle(element);
    const ink = light(parse(element.closest("svg") ? style.fill : style.color));
    const paper = light(ground(element.closest("svg") ? element.closest("section") || element : element));
    const contrast = (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
    if (contrast < 4.5) faint.push([walker.currentNode.textContent.trim(), contrast]);
  }
  return faint;
})()"""

_UNNAMED = """[...document.querySelectorAll("input:not([type=hidden]), select, svg[role=img], [role=region], h1, th")]
  .filter((one) => !(one.labels?.length || one.getAttribute("aria-label") || one.textContent.trim()))
  .map((one) => one.outerHTML)"""


class TestPictures:
    """Scales and curves."""

    @given(
        start=st.floats(0, 1e6),
        length=st.floats(1, 1e6),
        used=st.integers(0, 10**15),
        spans=st.lists(st.integers(0, 10**12), max_size=20),
        known=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 10**15)), max_size=5),
    )
    def test_a_curve_rises_from_nothing_to_what_is_used(
        self, start: float, length: float, used: int, spans: list[int], known: list[tuple[float, int]]
    ) -> None:
        """Whatever was recorded, in order of time, never falling, never above what is used now."""
        step = 300
        first = int(start // step) * step
        points = history.curve(
            start,
            start + length,
            used,
            [(first + number * step, sent) for number, sent in enumerate(spans)],
            [(start + part * length, at) for part, at in known],
        )

        assert points[0] == (start, 0)
        assert points[-1] == (start + length, used)
        assert [at for at, _ in points] == sorted(at for at, _ in points)
        assert [sent for _, sent in points] == sorted(sent for _, sent in points)

    @given(st.integers(0, 10**18), st.sampled_from([UNLIMITED, 0, 1, 999, 10**12]), st.floats(1, 1e7))
    def test_every_period_can_be_drawn(self, used: int, allowance: int, length: float) -> None:
        """No number leaves the frame, and none is missing."""
        drawn = picture.period_picture(
            picture.Period(
                start=1e9,
                end=1e9 + length,
                now=1e9 + length / 2,
                used_bytes=used,
                allowance_bytes=allowance,
                threshold_bytes=allowance,
                ceiling_bytes_per_second=1000,
                capped=True,
                curve=[(1e9, 0), (1e9 + length / 2, used)],
                marks=[picture.Mark(1e9 + length / 4, '<"&', lowers=True)],
            ),
        )
        heights = [float(y) for y in re.findall(r'\by[12]?="([-\d.]+)"', drawn)]

        assert "nan" not in drawn
        assert "inf" not in drawn
        assert all(0 <= y <= picture.HEIGHT for y in heights)
        assert "&lt;&#34;&amp;" in drawn

    def test_the_worked_examples_hold(self) -> None:
        """The docstrings' examples are run."""
        assert all(0 == doctest.testmod(room).failed for room in (browse, history, negotiation, svg))


def test_a_slice_without_a_record_has_a_page(tmp_path: Path) -> None:
    """Lanes of the node's own traffic are in no file."""
    shown = replace(report(device_report([LaneFigures("_default")])), info=dict[str, SliceInfo]())
    with pages(tmp_path, shown) as url, asking(url) as client:
        assert client.get("/slices/_default").status_code == 200

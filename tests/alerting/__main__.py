"""`make stack`: the demo and all that watches it, on loopback, each mail shown as it comes.

Turns a number of seconds into a show that one can look into with a browser, and into its end. Knows: what runs beside
what. Does not know: how any of it works.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

import click
import httpx

from tests.alerting.mailbox import Mail, Mailbox
from tests.alerting.servers import ENDS_WITH_US, Chain, Haste
from tests.ports import free_port
from tests.waiting import PATIENCE_SECONDS

HASTE = Haste(scrape="1s", waits="5s", digest="30s")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--seconds", type=click.FloatRange(min=1), default=1800.0, show_default=True, help="End after so many.")
@click.option("--whole", is_flag=True, help="Show the whole text of every mail, not its subject alone.")
def stack(*, seconds: float, whole: bool) -> None:
    """Watch the whole chain on this machine: the demo on real HTB, Prometheus, Alertmanager, and the mails.

    Owners are told within seconds here instead of minutes. Nothing leaves the machine; Ctrl-C leaves nothing behind.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)
    try:
        with ExitStack() as open_things:
            folder = Path(open_things.enter_context(tempfile.TemporaryDirectory(prefix="bwexporter-stack-")))
            mailbox = open_things.enter_context(Mailbox(lambda mail: _show(mail, whole=whole)))
            exporter = open_things.enter_context(_demo(folder))
            chain = open_things.enter_context(Chain(folder, [exporter], mailbox.address, haste=HASTE))
            _say(f"exporter      http://{exporter}/   (a day is two minutes here)")
            _say(f"Prometheus    {chain.prometheus.url}/alerts")
            _say(f"Alertmanager  {chain.alertmanager.url}/")
            _say("Mails to owners and operators come below; Ctrl-C ends.")
            time.sleep(seconds)
    except KeyboardInterrupt:
        _say("Ended; nothing is left behind.")


def _end(_number: int, _frame: FrameType | None) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # a second one shall not disturb the clearing up
    raise KeyboardInterrupt


@contextmanager
def _demo(folder: Path) -> Iterator[str]:
    """Run the demo; give its address, host:port."""
    address = f"127.0.0.1:{free_port()}"
    program = [sys.executable, "-m", "bwexporter", "demo", "--listen", address]
    with (folder / "demo.log").open("wb") as log_file:
        process = subprocess.Popen(
            [*ENDS_WITH_US[:-1], "TERM", *program], stdout=log_file, stderr=log_file, start_new_session=True
        )
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not _answers(address):
            if process.poll() is not None or time.monotonic() > deadline:
                raise click.ClickException(f"the demo did not come up:\n{(folder / 'demo.log').read_text()}")
            time.sleep(0.2)
        yield address
    finally:
        process.terminate()
        process.wait(timeout=PATIENCE_SECONDS)


def _answers(address: str) -> bool:
    try:
        return httpx.get(f"http://{address}/-/ready", timeout=2, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def _show(mail: Mail, *, whole: bool) -> None:
    _say(f"{time.strftime('%H:%M:%S')} mail to {', '.join(mail.recipients)}: {mail.subject}")
    if whole:
        _say("".join(f"    {line}\n" for line in mail.text.splitlines()))


def _say(text: str) -> None:
    click.echo(text)


if __name__ == "__main__":
    stack()

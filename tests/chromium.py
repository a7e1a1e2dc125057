"""A headless Chromium, driven over two pipes.

Turns questions about a page into answers of a real browser (Chrome DevTools Protocol, --remote-debugging-pipe). Knows:
the protocol's framing, pages, what a page complained of. Does not know: what any page should look like.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ANSWER_SECONDS = 60.0
_ON_3_AND_4 = """
import os, sys
ends = [os.dup2(int(number), 100 + at) for at, number in enumerate(sys.argv[1:3])]
[os.dup2(end, 3 + at) for at, end in enumerate(ends)]
os.execv(sys.argv[3], sys.argv[3:])
"""


class Chromium:
    """One browser."""

    def __init__(self, folder: Path) -> None:
        program = shutil.which("chromium")
        assert program is not None, "chromium is missing: apt-get install chromium"
        to_read, self._to_browser = os.pipe()
        self._from_browser, to_write = os.pipe()
        command = [
            program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
            "--no-first-run", "--disable-extensions", "--remote-debugging-pipe", f"--user-data-dir={folder}",
        ]  # fmt: skip
        # The protocol is spoken on the descriptors 3 and 4.
        self._process = subprocess.Popen(
            [sys.executable, "-c", _ON_3_AND_4, str(to_read), str(to_write), *command],
            pass_fds=[to_read, to_write],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_read)
        os.close(to_write)
        self._number = 0
        self._read = b""
        self.events: list[dict[str, Any]] = []

    def ask(self, method: str, session: str = "", **parameters: Any) -> dict[str, Any]:
        """Send a command and return its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        os.write(self._to_browser, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]
            self.events.append(answer)

    def wait_for(self, session: str, method: str) -> dict[str, Any]:
        """Wait for an event of a page."""
        until = time.monotonic() + ANSWER_SECONDS
        while time.monotonic() < until:
            for at, event in enumerate(self.events):
                if event.get("sessionId") == session and event["method"] == method:
                    return self.events.pop(at)
            self.events.append(self._next())
        raise TimeoutError(method)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._read:
            piece = os.read(self._from_browser, 1 << 20)
            assert piece, "the browser ended"
            self._read += piece
        message, _, self._read = self._read.partition(b"\0")
        return json.loads(message)

    def close(self) -> None:
        """End the browser."""
        os.close(self._to_browser)
        os.close(self._from_browser)
        self._process.terminate()
        try:
            self._process.wait(timeout=ANSWER_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Page:
    """One page of the browser, of a certain width."""

    def __init__(self, browser: Chromium, *, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        self._browser = browser
        self._target = browser.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = browser.ask("Target.attachToTarget", targetId=self._target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self._ask(f"{domain}.enable")
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._ask("Emulation.setEmulatedMedia", features=[scheme])
        self.resize(width, height)

    def resize(self, width: int, height: int) -> None:
        """Give the page another size."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self._ask("Emulation.setDeviceMetricsOverride", **size)

    def forbid_scripts(self) -> None:
        """Run no JavaScript of the pages opened from now on."""
        self._ask("Emulation.setScriptExecutionDisabled", value=True)

    def open(self, url: str) -> None:
        """Load a page."""
        self._browser.events.clear()
        assert "errorText" not in self._ask("Page.navigate", url=url), url
        self.wait_until_loaded()

    def wait_until_loaded(self) -> None:
        """Wait until what was asked for is there."""
        self._browser.wait_for(self._session, "Page.loadEventFired")

    def run(self, script: str) -> Any:
        """Return the value of an expression; promises are waited for."""
        result = self._ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def type(self, text: str) -> None:
        """Type into what has the focus."""
        self._ask("Input.insertText", text=text)

    def press(self, key: str, code: int) -> None:
        """Press a key."""
        pressed = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self._ask("Input.dispatchKeyEvent", type="rawKeyDown", **pressed)
        if key == "Enter":
            self._ask("Input.dispatchKeyEvent", type="char", text="\r", **pressed)
        self._ask("Input.dispatchKeyEvent", type="keyUp", **pressed)

    def complaints(self) -> list[str]:
        """Return what the browser logged as an error: a script that failed, a policy that was broken."""
        self.run("1")
        logged = [event["params"] for event in self._browser.events if event.get("sessionId") == self._session]
        entries = [one["entry"]["text"] for one in logged if "entry" in one]
        return entries + [str(one["exceptionDetails"]) for one in logged if "exceptionDetails" in one]

    def picture(self) -> bytes:
        """Return a PNG of what is seen."""
        return base64.b64decode(self._ask("Page.captureScreenshot", format="png")["data"])

    def close(self) -> None:
        """Close the page."""
        self._browser.ask("Target.closeTarget", targetId=self._target)

    def _ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self._browser.ask(method, self._session, **parameters)


@contextmanager
def running() -> Iterator[Chromium]:
    """Give a browser that leaves nothing behind."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        browser = Chromium(Path(folder))
        try:
            yield browser
        finally:
            browser.close()

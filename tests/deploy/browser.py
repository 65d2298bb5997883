"""A real browser for a test: Chromium without a window, asked through its DevTools protocol.

The protocol goes through a pair of pipes, one JSON text after the other with a zero byte between,
which needs neither a library nor a driver. See https://chromedevtools.github.io/devtools-protocol.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

DEADLINE_S = 60.0
FLAGS = (
    "--headless",
    "--no-sandbox",  # which root has not, and containers may forbid; it sees our own pages only
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--disable-sync",
    "--hide-scrollbars",
    "--no-first-run",
    "--no-proxy-server",
    "--remote-debugging-pipe",
)

Message = dict[str, Any]


class Browser:
    """A running Chromium. One thread uses it and its pages."""

    def __init__(self, command: str, profile: Path) -> None:
        """Start it.

        Args:
            command: Path of the program.
            profile: An empty directory for all that it keeps.
        """
        theirs_in, self._out = _pipe()
        self._in, theirs_out = _pipe()
        flags = [*FLAGS, f"--user-data-dir={profile}", "about:blank"]
        # It wants descriptors 3 and 4, which Python cannot give to a child; a shell can.
        redirected = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
        self._process = subprocess.Popen(
            ["bash", "-c", redirected, "bash", command, *flags],
            pass_fds=(theirs_in, theirs_out),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "HOME": str(profile)},
            start_new_session=True,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._pending = b""
        self._last_id = 0
        self._heard: list[Message] = []

    def ask(self, method: str, session: str = "", **params: Any) -> Message:
        """Send a command and return its result."""
        self._last_id += 1
        command: Message = {"id": self._last_id, "method": method, "params": params}
        if session:
            command["sessionId"] = session
        os.write(self._out, json.dumps(command).encode() + b"\0")
        give_up_at = time.monotonic() + DEADLINE_S
        while (message := self._read(give_up_at, method)).get("id") != self._last_id:
            self._heard.append(message)
        assert "error" not in message, f"{method}: {message['error']}"
        result: Message = message["result"]
        return result

    def heard(self, session: str) -> list[Message]:
        """Return all events of a session so far."""
        return [each for each in self._heard if each.get("sessionId") == session]

    def wait(self, session: str, wanted: Callable[[Message], bool], what: str) -> None:
        """Wait until an event comes, unless it has come already."""
        give_up_at = time.monotonic() + DEADLINE_S
        while not any(map(wanted, self.heard(session))):
            self._heard.append(self._read(give_up_at, what))

    def _read(self, give_up_at: float, what: str) -> Message:
        while b"\0" not in self._pending:
            left = give_up_at - time.monotonic()
            assert left > 0, f"waited {DEADLINE_S:.0f} s in vain for {what}"
            if select.select([self._in], [], [], left)[0]:
                data = os.read(self._in, 1 << 20)
                assert data, f"the browser ended before {what}"
                self._pending += data
        line, _, self._pending = self._pending.partition(b"\0")
        message: Message = json.loads(line)
        return message

    def close(self) -> None:
        """End it and all its processes."""
        os.close(self._out)
        os.close(self._in)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def _pipe() -> tuple[int, int]:
    """Return a pipe whose ends are clear of the descriptors that the shell gives anew."""
    ends = os.pipe()
    moved = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends]
    for end in ends:
        os.close(end)
    return moved[0], moved[1]


class Page:
    """A tab of its own, whose console, requests and errors are recorded."""

    def __init__(self, browser: Browser, *, width: int, scripts: bool, dark: bool) -> None:
        self._browser = browser
        target = browser.ask("Target.createTarget", url="about:blank")["targetId"]
        attached = browser.ask("Target.attachToTarget", targetId=target, flatten=True)
        self._session: str = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=844,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])
        self.ask("Emulation.setScriptExecutionDisabled", value=not scripts)
        self._loads = 0

    def ask(self, method: str, **params: Any) -> Message:
        """Send a command to the tab and return its result."""
        return self._browser.ask(method, self._session, **params)

    def open(self, address: str) -> None:
        """Go to a page and wait until it has loaded, with all it asks for."""
        self._loads = self._count("Page.loadEventFired")
        self.ask("Page.navigate", url=address)
        self.wait_loaded()

    def wait_loaded(self) -> None:
        """Wait until the page has loaded once more."""
        self._loads += 1
        wanted = self._loads
        self._browser.wait(
            self._session,
            lambda _: self._count("Page.loadEventFired") >= wanted,
            "the page to load",
        )

    def _count(self, method: str) -> int:
        return len(self.events(method))

    def events(self, method: str) -> list[Message]:
        """Return what came with every event of a kind."""
        heard = self._browser.heard(self._session)
        return [each["params"] for each in heard if each["method"] == method]

    def evaluate(self, expression: str) -> Any:
        """Return a value of the page, as a developer would ask for it on the console."""
        answer = self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def screenshot(self, file: Path) -> None:
        """Write a picture of the whole page, as long as it is."""
        picture = self.ask("Page.captureScreenshot", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(picture["data"]))

    @property
    def requests(self) -> list[str]:
        """Every address that was asked for."""
        return [each["request"]["url"] for each in self.events("Network.requestWillBeSent")]

    @property
    def complaints(self) -> list[object]:
        """What a developer would see: the console, errors, and requests that have failed."""
        answers = [each["response"] for each in self.events("Network.responseReceived")]
        return [
            *(each["entry"] for each in self.events("Log.entryAdded")),
            *self.events("Runtime.consoleAPICalled"),
            *self.events("Runtime.exceptionThrown"),
            *self.events("Network.loadingFailed"),
            *(answer for answer in answers if answer["status"] >= 400),
            *self.events("Page.javascriptDialogOpening"),
        ]


@contextmanager
def started_browser(folder: Path) -> Iterator[Browser]:
    """Start a browser that keeps everything in an empty folder; end it with the block."""
    command = shutil.which("chromium")
    if command is None:
        pytest.fail("chromium is missing; Debian has it in its package of that name")
    browser = Browser(command, folder)
    try:
        yield browser
    finally:
        browser.close()

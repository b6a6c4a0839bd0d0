"""Headless Chromium, driven over a pipe by the DevTools protocol: no driver, no socket, nothing beside it."""

import base64
import itertools
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# Where .ci/run puts axe-core of npm; another place by the variable.
AXE = Path(os.environ.get("AXE_CORE", "~/.cache/maskwise-tests/node_modules/axe-core/axe.min.js")).expanduser()
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage", "--hide-scrollbars",
    "--remote-debugging-pipe", "--window-size=1200,900",
)  # fmt: skip
TIMEOUT = 60.0

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (Debian's package chromium)")
needs_axe = pytest.mark.skipif(not AXE.is_file(), reason=f"axe-core of npm is not at {AXE} (AXE_CORE names it)")


class Browser:
    """One page of a browser; what it logs and asks the network for is kept.

    Attributes:
        problems: console errors and warnings, exceptions and entries of the browser's own log.
        requests: addresses that the page asked for, without those within itself (data:).
    """

    def __init__(self):
        self.problems, self.requests = [], []
        self._events, self._numbers, self._rest = [], itertools.count(1), b""

    def __enter__(self):
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        command = [CHROMIUM, *FLAGS, f"--user-data-dir={self._profile.name}", "about:blank"]
        # The protocol's pipes are 3 and 4 in the browser.
        shell = f'exec 3<&{theirs_in} 4>&{theirs_out}; exec "$@"'
        self._process = subprocess.Popen(
            ["bash", "-c", shell, "chromium", *command], pass_fds=(theirs_in, theirs_out), stderr=subprocess.DEVNULL
        )
        os.close(theirs_in)
        os.close(theirs_out)
        target = self._send("Target.createTarget", {"url": "about:blank"}, None)["targetId"]
        attached = self._send("Target.attachToTarget", {"targetId": target, "flatten": True}, None)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")
        return self

    def __exit__(self, *error):
        self._process.terminate()
        self._process.wait(TIMEOUT)
        os.close(self._in)
        os.close(self._out)
        self._profile.cleanup()

    def send(self, method, **parameters):
        """Return the answer of the page to a command of the protocol."""
        return self._send(method, parameters, self._session)

    def open(self, path):
        """Load a file and forget what was seen of the one before."""
        self.problems, self.requests = [], []
        self.send("Page.navigate", url=Path(path).resolve().as_uri())
        self._wait(lambda message: message.get("method") == "Page.loadEventFired")

    def run(self, script):
        """Return the value of an expression within the page, once it is there."""
        answer = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def press(self, key, code):
        """Press a key."""
        for kind in ("rawKeyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def emulate(self, media="", scheme="light"):
        """Show the page as in print, or under a light or dark color scheme."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.send("Emulation.setEmulatedMedia", media=media, features=features)

    def screenshot(self, path, height=None):
        """Write a picture of the page, down to its end or to a height."""
        size = self.send("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], height or 16_000), "scale": 1}
        taken = self.send("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        Path(path).write_bytes(base64.b64decode(taken["data"]))

    def pdf(self, path):
        """Print the page."""
        Path(path).write_bytes(base64.b64decode(self.send("Page.printToPDF", printBackground=True)["data"]))

    def _send(self, method, parameters, session):
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        os.write(self._out, json.dumps(message | ({"sessionId": session} if session else {})).encode() + b"\0")
        answer = self._wait(lambda message: message.get("id") == number)
        assert "error" not in answer, answer
        return answer["result"]

    def _wait(self, is_wanted):
        end = time.monotonic() + TIMEOUT
        for place, message in enumerate(self._events):
            if is_wanted(message):
                return self._events.pop(place)
        while True:
            message = self._read(end)
            if is_wanted(message):
                return message
            if message.get("method") == "Page.loadEventFired":
                self._events.append(message)

    def _read(self, end):
        while b"\0" not in self._rest:
            ready = select.select([self._in], [], [], max(0.0, end - time.monotonic()))[0]
            assert ready, "Chromium does not answer"
            part = os.read(self._in, 2**16)
            assert part, "Chromium ended"
            self._rest += part
        text, _, self._rest = self._rest.partition(b"\0")
        message = json.loads(text)
        self._note(message.get("method"), message.get("params", {}))
        return message

    def _note(self, method, found):
        if method == "Runtime.exceptionThrown" or method == "Log.entryAdded":
            self.problems.append(found)
        if method == "Runtime.consoleAPICalled" and found["type"] in ("error", "warning", "assert"):
            self.problems.append(found)
        if method == "Network.requestWillBeSent" and not found["request"]["url"].startswith("data:"):
            self.requests.append(found["request"]["url"])

"""A headless Chromium for the tests, driven over its pipe: no package, no port.

Chromium reads commands of its DevTools protocol from file descriptor 3 and writes to 4, JSON with a zero byte behind.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
TIMEOUT = 30.0  # seconds for any one answer; nothing here asserts how fast a page is


def find_chromium() -> str | None:
    """Path of a Chromium: that of the environment variable CHROMIUM, or the first known name on the path."""
    named = os.environ.get("CHROMIUM")
    return named or next((found for name in NAMES if (found := shutil.which(name))), None)


class Browser:
    """A running Chromium without a network."""

    def __init__(self, program: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="laglens-chromium-"))
        to_browser, self._write = os.pipe()
        self._read, from_browser = os.pipe()
        arguments = [
            "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage",
            "--remote-debugging-pipe", "--hide-scrollbars", "--force-device-scale-factor=1",
            "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={self.folder}", "about:blank",
        ]  # fmt: skip
        script = f'exec "$@" 3<&{to_browser} 4>&{from_browser}'
        self.process = subprocess.Popen(
            ["bash", "-c", script, "chromium", program, *arguments],
            pass_fds=(to_browser, from_browser),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        os.set_blocking(self._read, False)
        self._buffer, self._count = b"", 0
        self.events: list[dict[str, Any]] = []

    def close(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
        os.close(self._write)
        os.close(self._read)
        shutil.rmtree(self.folder, ignore_errors=True)

    def call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """Answer to one command; events that arrive meanwhile are kept."""
        self._count += 1
        number = self._count
        message = {"id": number, "method": method, "params": params} | ({"sessionId": session} if session else {})
        os.write(self._write, json.dumps(message).encode() + b"\0")
        answer = self.wait(lambda one: one.get("id") == number)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def wait(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        deadline = time.monotonic() + TIMEOUT
        while time.monotonic() < deadline:
            for message in self._messages():
                if wanted(message):
                    return message
                self.events.append(message)
            time.sleep(0.002)
        raise TimeoutError(f"Chromium did not answer within {TIMEOUT:g} s")

    def _messages(self) -> list[dict[str, Any]]:
        """What has arrived; the rest of a broken-off message stays in the buffer."""
        try:
            while chunk := os.read(self._read, 1 << 20):
                self._buffer += chunk
        except BlockingIOError:
            pass
        *whole, self._buffer = self._buffer.split(b"\0")
        return [json.loads(message) for message in whole]

    def page(self, url: str, width: int = 1440, height: int = 900) -> Page:
        """A new page that says when it is ready."""
        page = self.blank(width, height)
        page.go(url)
        return page

    def blank(self, width: int = 1440, height: int = 900) -> Page:
        """A new page without content."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, target, session)
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.call(f"{domain}.enable")
        page.resize(width, height)
        return page


class Page:
    """One page of the browser, with a mouse and a keyboard."""

    def __init__(self, browser: Browser, target: str, session: str) -> None:
        self.browser, self.target, self.session = browser, target, session

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        return self.browser.call(method, self.session, **params)

    def close(self) -> None:
        self.browser.call("Target.closeTarget", targetId=self.target)

    def go(self, url: str) -> None:
        """Open an address and wait until the page is ready."""
        self.call("Page.navigate", url="about:blank")
        self.call("Page.navigate", url=url)
        self.until("document.documentElement?.dataset.ready === 'yes'")

    def run(self, script: str, **options: Any) -> Any:
        """Value of an expression, awaited."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True, **options)
        if "exceptionDetails" in result:
            details = result["exceptionDetails"]
            raise AssertionError(details.get("exception", {}).get("description", details["text"]))
        return result["result"].get("value")

    def until(self, condition: str) -> None:
        """Wait until an expression is true."""
        deadline = time.monotonic() + TIMEOUT
        while not self.run(condition):
            if time.monotonic() > deadline:
                raise TimeoutError(f"never true: {condition}; console: {self.complaints()}")
            time.sleep(0.01)

    def frame(self) -> int:
        """A context for `run` (``contextId``) inside the first frame of the page."""
        [child] = self.call("Page.getFrameTree")["frameTree"]["childFrames"]
        return self.call("Page.createIsolatedWorld", frameId=child["frame"]["id"])["executionContextId"]

    def resize(self, width: int, height: int = 900) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def move(self, x: float, y: float) -> None:
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        self.move(*start)
        self.call("Input.dispatchMouseEvent", type="mousePressed", x=start[0], y=start[1], button="left", clickCount=1)
        middle = ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2)
        for x, y in (middle, end):
            self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y, button="left", buttons=1)
        self.call("Input.dispatchMouseEvent", type="mouseReleased", x=end[0], y=end[1], button="left", clickCount=1)

    def click(self, x: float, y: float, *, shift: bool = False) -> None:
        options = {"x": x, "y": y, "button": "left", "clickCount": 1, "modifiers": 8 if shift else 0}
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        self.call("Input.dispatchMouseEvent", type="mousePressed", **options)
        self.call("Input.dispatchMouseEvent", type="mouseReleased", **options)

    def press(self, key: str) -> None:
        code = {"Enter": 13, "Escape": 27, "Tab": 9, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}
        options: dict[str, Any] = {"key": key, "code": key, "windowsVirtualKeyCode": code.get(key, 0)}
        options |= {"text": "\r"} if key == "Enter" else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", **options)
        self.call("Input.dispatchKeyEvent", type="keyUp", **options)

    def screenshot(self, *, whole: bool = False) -> bytes:
        import base64

        return base64.b64decode(self.call("Page.captureScreenshot", captureBeyondViewport=whole)["data"])

    def complaints(self) -> list[str]:
        """Errors of the page and its console since it was opened."""
        self.run("0")
        said = []
        for event in self.browser.events:
            if event.get("sessionId") != self.session:
                continue
            params = event.get("params", {})
            if event["method"] == "Runtime.exceptionThrown":
                details = params["exceptionDetails"]
                said.append(details.get("exception", {}).get("description", details["text"]))
            elif event["method"] == "Runtime.consoleAPICalled" and params["type"] in {"error", "warning", "assert"}:
                said.append(str([one.get("value") for one in params["args"]]))
            elif event["method"] == "Log.entryAdded" and params["entry"]["level"] in {"error", "warning"}:
                said.append(params["entry"]["text"])
        return said

    def requests(self) -> list[str]:
        """Addresses that the page asked for since it was opened."""
        self.run("0")
        events = (event for event in self.browser.events if event.get("sessionId") == self.session)
        return [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]

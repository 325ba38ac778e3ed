"""A real Chromium, without a window, told what to do in words of WebDriver (W3C): as many of them as tests need."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SECONDS = 30.0

#: What keeps it from asking anybody else for anything, and what root needs.
_FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage", "--disable-extensions",
]  # fmt: skip


def missing() -> str | None:
    """Why there is no browser here; None if there is one."""
    absent = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return f"not here: {', '.join(absent)} (Debian's packages chromium and chromium-driver)" if absent else None


class Browser:
    """One window."""

    def __init__(self, driver: str, session: str) -> None:
        self._at = f"{driver}/session/{session}"

    def _do(self, method: str, path: str, **values: Any) -> Any:
        return _ask(method, self._at + path, values if method == "POST" else None)

    def go(self, url: str) -> None:
        self._do("POST", "/url", url=url)

    def run(self, script: str, *arguments: Any) -> Any:
        """What a function of that body returns in the page."""
        return self._do("POST", "/execute/sync", script=script, args=list(arguments))

    def until(self, script: str, *arguments: Any) -> Any:
        """The same, once it is true."""
        deadline = time.monotonic() + SECONDS
        while not (found := self.run(script, *arguments)):
            if time.monotonic() > deadline:
                raise AssertionError(f"it did not become true: {script}; the page says: {self.text()[:2000]}")
            time.sleep(0.05)
        return found

    def text(self) -> str:
        """All that can be read."""
        return str(self.run("return document.body.innerText"))

    def press(self, *keys: str) -> None:
        """Keys, as from a keyboard; a letter, or a key by the code of WebDriver."""
        actions = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self._do("POST", "/actions", actions=[{"type": "key", "id": "keyboard", "actions": actions}])

    def click(self, selector: str) -> None:
        element = self._do("POST", "/element", using="css selector", value=selector)
        (number,) = element.values()
        self._do("POST", f"/element/{number}/click")

    def accept(self) -> None:
        """Say yes to what it asks."""
        self._do("POST", "/alert/accept")

    def size(self, width: int, height: int) -> None:
        self._do("POST", "/goog/cdp/execute", cmd="Emulation.setDeviceMetricsOverride", params={
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": False,
        })  # fmt: skip

    def scheme(self, scheme: str) -> None:
        """``light`` or ``dark``."""
        self._do("POST", "/goog/cdp/execute", cmd="Emulation.setEmulatedMedia", params={
            "features": [{"name": "prefers-color-scheme", "value": scheme}],
        })  # fmt: skip

    def picture(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self._do("GET", "/screenshot")))

    def log(self) -> list[dict[str, Any]]:
        """What the page and the network have said since the last time: of each its ``message``."""
        return [json.loads(entry["message"])["message"] for entry in self._do("POST", "/se/log", type="performance")]


@contextlib.contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """A browser with an empty profile below ``folder``."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    driver = f"http://127.0.0.1:{port}"
    with subprocess.Popen(
        ["chromedriver", f"--port={port}", "--allowed-ips=127.0.0.1"], stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        try:
            _wait_for(driver)
            made = _ask("POST", f"{driver}/session", {"capabilities": {"alwaysMatch": {
                "goog:chromeOptions": {"args": [*_FLAGS, f"--user-data-dir={folder}"]},
                "goog:loggingPrefs": {"performance": "ALL", "browser": "ALL"},
            }}})  # fmt: skip
            try:
                yield Browser(driver, made["sessionId"])
            finally:
                _ask("DELETE", f"{driver}/session/{made['sessionId']}")
        finally:
            process.terminate()


def _wait_for(driver: str) -> None:
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            if _ask("GET", f"{driver}/status")["ready"]:
                return
        except OSError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.05)


def _ask(method: str, url: str, values: dict[str, Any] | None = None) -> Any:
    data = None if values is None else json.dumps(values).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            return json.load(answer)["value"]
    except urllib.error.HTTPError as error:
        raise AssertionError(f"{method} {url}: {json.load(error)['value']['message'][:500]}") from None

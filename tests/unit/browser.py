"""A headless Chromium that opens a page, runs a probe in it and hands back what that found."""

import base64
import json
import os
import re
import select
import shutil
import subprocess
import tempfile
import time
from functools import cache
from html import unescape
from pathlib import Path

from tests.clock import HANG_S

WITHOUT = "there is no chromium here that starts (Debian: apt-get install chromium)"
_FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--disable-extensions", "--enable-logging=stderr",
    "--virtual-time-budget=4000",
)  # fmt: skip
_LISTEN = (
    "window.faults = [];"
    "window.addEventListener('error', (e) => window.faults.push(String(e.message)));"
)


@cache
def chromium() -> str | None:
    """A Chromium that shows an empty page: one that a container won't let start is none."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        return None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        try:
            done = subprocess.run(
                [path, *_FLAGS, f"--user-data-dir={folder}", "--dump-dom", "about:blank"],
                capture_output=True, text=True, timeout=HANG_S, check=False,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired):
            return None
    return path if done.returncode == 0 and "<body>" in done.stdout else None


#: among others, text whose contrast with what is behind it is below WCAG 2.2, 1.4.3
PROBE = (Path(__file__).parent / "probe.js").read_text(encoding="utf-8")


def visited(address: str, folder: Path) -> tuple[str, list[str]]:
    """A page that asks a server: what it has become, and what the console says."""
    flags = [flag.replace("4000", "30000") for flag in _FLAGS]
    done = subprocess.run(
        [str(chromium()), *flags, f"--user-data-dir={folder / 'profile'}", "--dump-dom", address],
        capture_output=True, text=True, timeout=HANG_S, check=True,
    )  # fmt: skip
    return done.stdout, [line for line in done.stderr.splitlines() if ":CONSOLE" in line]


def looked_at(text: str, folder: Path, width: int, theme: str) -> tuple[dict, list[str]]:
    """What the probe finds in a page of a width and theme, and what the console says."""
    page = text.replace('<html lang="en">', f'<html lang="en" data-theme="{theme}">')
    page = page.replace("<head>", f"<head><script>{_LISTEN}</script>", 1)
    quoted = json.dumps(page).replace("</", "<\\/")
    outer = folder / f"outer-{width}-{theme}.html"
    # in a frame, as a window cannot be as narrow as a phone
    outer.write_text(
        f'<!DOCTYPE html><title>probe</title><iframe id="f" width="{width}" height="900"></iframe>'
        f'<pre id="found"></pre><script>const page = {quoted};\n{PROBE}</script>',
        encoding="utf-8",
    )
    done = subprocess.run(
        [str(chromium()), *_FLAGS, f"--user-data-dir={folder / 'profile'}",
         "--window-size=1400,1000", "--dump-dom", outer.as_uri()],
        capture_output=True, text=True, timeout=HANG_S, check=True,
    )  # fmt: skip
    told = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.S)
    assert told is not None, done.stderr[-2000:]
    console = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    return json.loads(unescape(told.group(1))), console


class Page:
    """A page of a running Chromium, worked with real keys and a real pointer (DevTools, a pipe)."""

    def __init__(self, address: str, folder: Path, width: int = 1400, height: int = 1000) -> None:
        theirs, self._out = os.pipe()
        self._in, ours = os.pipe()
        flags = [flag for flag in _FLAGS if "virtual-time" not in flag]

        def placed() -> None:
            # Chromium reads commands from 3 and writes answers to 4
            a, b = os.dup(theirs), os.dup(ours)
            os.dup2(a, 3)
            os.dup2(b, 4)

        self._process = subprocess.Popen(
            [str(chromium()), *flags, "--remote-debugging-pipe", f"--window-size={width},{height}",
             f"--user-data-dir={folder / 'worked'}"],
            pass_fds=(3, 4, theirs, ours), preexec_fn=placed, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(theirs)
        os.close(ours)
        self._number, self._waiting, self._session = 0, b"", ""
        self.console: list[str] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        self.send("Runtime.enable")
        self.send("Page.enable")
        self.send("Page.navigate", url=address)
        self.until("location.href !== 'about:blank' && document.readyState === 'complete'")

    def __enter__(self) -> "Page":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait(HANG_S)
        os.close(self._in)
        os.close(self._out)

    def send(self, method: str, **parameters: object) -> dict:
        """A command of the DevTools protocol, and its answer."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            told = self._next()
            if told.get("id") == self._number:
                assert "error" not in told, told
                return told["result"]
            if told.get("method") == "Runtime.exceptionThrown":
                self.console.append(json.dumps(told["params"]["exceptionDetails"]))

    def _next(self) -> dict:
        while b"\0" not in self._waiting:
            ready, _, _ = select.select([self._in], [], [], HANG_S)
            assert ready, "Chromium says nothing"
            self._waiting += os.read(self._in, 1 << 16)
        line, self._waiting = self._waiting.split(b"\0", 1)
        return json.loads(line)

    def ask(self, expression: str) -> object:
        """Value of an expression in the page."""
        found = self.send("Runtime.evaluate", expression=expression, returnByValue=True,
                          awaitPromise=True)  # fmt: skip
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def until(self, expression: str, seconds: float = HANG_S) -> None:
        """Wait until an expression holds."""
        end = time.monotonic() + seconds
        while not self.ask(expression):
            assert time.monotonic() < end, expression
            time.sleep(0.1)

    def press(self, key: str) -> None:
        """A key, down and up."""
        for kind in ("keyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=key, code=key)

    def drag(self, selector: str, down: float) -> None:
        """The pointer pressed in the middle of an element and moved down, once nothing moves."""
        self.until("(document.body.dataset.open ?? '0') === '0'")
        x, y = self.ask(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            "e.scrollIntoView({ block: 'center', behavior: 'instant' });"
            "const b = e.getBoundingClientRect();"
            "return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        steps = [("mousePressed", 0.0), ("mouseMoved", down / 2), ("mouseMoved", down),
                 ("mouseReleased", down)]  # fmt: skip
        for kind, by in steps:
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y + by, button="left",
                      buttons=1, clickCount=1)  # fmt: skip

    def picture(self, path: Path) -> None:
        """The page as it is, as PNG."""
        data = self.send("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(data))

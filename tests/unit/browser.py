"""A headless Chromium that opens a page, runs a probe in it and hands back what that found."""

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
WITHOUT = "there is no chromium here (Debian: apt-get install chromium)"
_FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--disable-extensions", "--enable-logging=stderr",
    "--virtual-time-budget=4000",
)  # fmt: skip
_LISTEN = (
    "window.faults = [];"
    "window.addEventListener('error', (e) => window.faults.push(String(e.message)));"
)
#: among others, text whose contrast with what is behind it is below WCAG 2.2, 1.4.3
PROBE = (Path(__file__).parent / "probe.js").read_text(encoding="utf-8")


def visited(address: str, folder: Path) -> tuple[str, list[str]]:
    """A page that asks a server: what it has become, and what the console says."""
    flags = [flag.replace("4000", "30000") for flag in _FLAGS]
    done = subprocess.run(
        [str(CHROMIUM), *flags, f"--user-data-dir={folder / 'profile'}", "--dump-dom", address],
        capture_output=True, text=True, timeout=120, check=True,
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
        [str(CHROMIUM), *_FLAGS, f"--user-data-dir={folder / 'profile'}", "--window-size=1400,1000",
         "--dump-dom", outer.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    told = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.S)
    assert told is not None, done.stderr[-2000:]
    console = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    return json.loads(unescape(told.group(1))), console

"""A real browser for tests: Debian's Chromium, headless, without its own network traffic."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.conftest import missing

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--virtual-time-budget=5000",
)


def browse(url: str, profile: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """Open ``url`` in a fresh profile and return what the browser said; skip without one."""
    chromium = shutil.which("chromium")
    if chromium is None:
        missing("no browser; install the Debian package chromium")
        raise AssertionError
    command = [chromium, *FLAGS, f"--user-data-dir={profile}", *flags, url]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)


def page_text(url: str, profile: Path) -> str:
    """Return the document at ``url`` as HTML after its scripts have run."""
    return browse(url, profile, "--dump-dom").stdout

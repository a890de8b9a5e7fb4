"""A page as a browser shows it: Chromium without a window and without a network."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)

needed = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


def shown(page: Path, fragment: str = "") -> str:
    """The document after its script has run, as HTML.

    Parameters
    ----------
    fragment
        What follows # in the address.
    """
    with tempfile.TemporaryDirectory() as profile:
        ended = subprocess.run(
            [
                str(CHROMIUM),
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-background-networking",
                "--host-resolver-rules=MAP * ~NOTFOUND",
                f"--user-data-dir={profile}",
                "--virtual-time-budget=20000",
                "--dump-dom",
                f"{page.resolve().as_uri()}#{fragment}",
            ],
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout

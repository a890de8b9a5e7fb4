"""A page as a browser shows it: Chromium without a window and without a network."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import pytest

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)

SCREENSHOTS = Path(__file__).parents[2] / "build/screenshots"
"""Folder of what the tests saw, for people to look at; CI keeps it."""

OURS = "document.body && document.body.dataset.ready === 'yes'"
"""An expression that is true when one of our pages is ready."""

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
                *_command(profile),
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


class Tab:
    """An open page, by Chromium's DevTools protocol: what a person does, and what it holds."""

    def __init__(self, to: BinaryIO, answers: BinaryIO) -> None:
        self._to, self._answers, self._asked, self._session = to, answers, 0, ""

    def open(self, address: str, size: tuple[int, int], ready: str) -> None:
        """Open a page in a window of some pixels, and wait until it is ready."""
        target = self._told("Target.createTarget", url="about:blank")["targetId"]
        attached = self._told("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        width, height = size
        self._told(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        self._told("Page.navigate", url=address)
        self.wait(ready)

    def wait(self, expression: str) -> None:
        """Wait until an expression of the page's script is true."""
        latest = time.monotonic() + 60
        while not self.value(f"Boolean({expression})"):
            assert time.monotonic() < latest, (expression, self.value("document.body.innerText"))
            time.sleep(0.05)

    def value(self, expression: str) -> Any:
        """Value of an expression of the page's script."""
        found = self._told("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def point(self, element: str, at: tuple[float, float] = (0.5, 0.5)) -> tuple[float, float]:
        """Move the pointer to a place of an element, in shares of its sides."""
        self.value(
            f"document.querySelector({json.dumps(element)}).scrollIntoView({{block: 'nearest'}})"
        )
        where = self._place(element, at)
        self._mouse("mouseMoved", where)
        return where

    def click(
        self, element: str, at: tuple[float, float] = (0.5, 0.5), shift: bool = False
    ) -> None:
        """Click at a place of an element, in shares of its sides."""
        where = self.point(element, at)
        for kind in ("mousePressed", "mouseReleased"):
            self._mouse(kind, where, button="left", clickCount=1, modifiers=8 if shift else 0)

    def drag(self, element: str, corners: Sequence[tuple[float, float]]) -> None:
        """Draw a line around places of an element, in shares of its sides, with the button down."""
        closed = [*corners, corners[0]]
        first = self.point(element, closed[0])
        time.sleep(0.5)
        self._mouse("mousePressed", first, button="left", buttons=1, clickCount=1)
        for begin, end in pairwise(closed):
            for share in (0.25, 0.5, 0.75, 1):
                at = [a + share * (b - a) for a, b in zip(begin, end, strict=True)]
                self._mouse(
                    "mouseMoved", self._place(element, (at[0], at[1])), button="left", buttons=1
                )
                # Who listens does so once a frame.
                time.sleep(0.05)
        last = self._place(element, closed[0])
        self._mouse("mouseReleased", last, button="left", clickCount=1)

    def screenshot(self, name: str) -> bytes:
        """Keep a picture (PNG) of what the window shows, and return it."""
        picture = base64.b64decode(self._told("Page.captureScreenshot")["data"])
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        (SCREENSHOTS / f"{name}.png").write_bytes(picture)
        return picture

    def _place(self, element: str, at: tuple[float, float]) -> tuple[float, float]:
        box = self.value(
            "(box => [box.x, box.y, box.width, box.height])"
            f"(document.querySelector({json.dumps(element)}).getBoundingClientRect())"
        )
        return box[0] + at[0] * box[2], box[1] + at[1] * box[3]

    def _mouse(self, kind: str, at: tuple[float, float], **more: Any) -> None:
        self._told("Input.dispatchMouseEvent", type=kind, x=at[0], y=at[1], **more)

    def _told(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._asked += 1
        message: dict[str, Any] = {"id": self._asked, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._to.write(json.dumps(message).encode() + b"\0")
        self._to.flush()
        while True:
            answer = json.loads(self._next())
            if answer.get("id") == self._asked:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]

    def _next(self) -> bytes:
        found = bytearray()
        while (byte := self._answers.read(1)) != b"\0":
            assert byte, "Chromium ended"
            found += byte
        return bytes(found)


@contextmanager
def opened(
    page: Path | str,
    size: tuple[int, int] = (1000, 1200),
    fragment: str = "",
    ready: str = OURS,
) -> Iterator[Tab]:
    """Open a page, to be pointed at and clicked on.

    Parameters
    ----------
    page
        Its file, or its address on this machine.
    size
        Width and height of the window.
    fragment
        What follows # in the address.
    ready
        An expression that is true when the page can be used.
    """
    (theirs, ours), (back, answers) = os.pipe(), os.pipe()
    # Some of its processes write there until they have noticed that the first has ended.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        # Chromium is told by its third file and answers by its fourth.
        process = subprocess.Popen(
            [
                *("bash", "-c", f'exec "$@" 3<&{theirs} 4>&{answers}', "bash"),
                *_command(profile),
                "--remote-debugging-pipe",
            ],
            pass_fds=(theirs, answers),
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs)
        os.close(answers)
        with open(ours, "wb") as to, open(back, "rb") as read:
            try:
                tab = Tab(to, read)
                address = page if isinstance(page, str) else page.resolve().as_uri()
                tab.open(f"{address}#{fragment}", size, ready)
                yield tab
            finally:
                process.kill()
                process.wait()


def _command(profile: str) -> list[str]:
    """Chromium without a window and without a network; it draws WebGL with the processor."""
    return [
        str(CHROMIUM),
        "--headless",
        "--no-sandbox",
        "--use-gl=angle",
        "--use-angle=swiftshader",
        "--enable-unsafe-swiftshader",
        "--disable-background-networking",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        f"--user-data-dir={profile}",
    ]

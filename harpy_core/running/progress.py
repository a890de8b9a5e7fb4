"""Progress: a bar with throughput and time left on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm

LINE_SECONDS = 30
"""Interval of lines where there is no terminal to draw a bar on."""

_logger = logging.getLogger("harpy_core")


class Bar:
    """Work done so far, out of a known total.

    Parameters
    ----------
    bar
        Bar on a terminal.
    lines
        Lines where nothing is drawn.
    """

    def __init__(self, bar: tqdm, lines: Lines | None = None) -> None:
        self._bar, self._lines = bar, lines

    def advance(self, amount: int) -> None:
        """Add `amount` units of finished work."""
        self._bar.update(amount)
        if self._lines is not None:
            self._lines.advance(amount)


class Lines:
    """Lines in the log and on stderr, every `LINE_SECONDS`: share, rate and time left."""

    def __init__(self, total: int | None, description: str, unit: str) -> None:
        self._total, self._description, self._unit = total, description, unit
        self._done = 0
        self._started = self._said = time.monotonic()

    def advance(self, amount: int) -> None:
        """Add `amount` units of finished work, and write a line if it is time."""
        self._done += amount
        now = time.monotonic()
        if now - self._said >= LINE_SECONDS:
            self._said = now
            line = self._line(max(now - self._started, 1e-9))
            _logger.info("  %s", line)
            print(line, file=sys.stderr, flush=True)

    def _line(self, seconds: float) -> str:
        rate = self._done / seconds
        speed = f"{tqdm.format_sizeof(rate)}{self._unit}/s"
        if not self._total or not rate:
            return f"{self._description}: {tqdm.format_sizeof(self._done)}{self._unit}, {speed}"
        left = tqdm.format_interval(max(self._total - self._done, 0) / rate)
        whole = f"{tqdm.format_sizeof(self._total)}{self._unit}"
        share = 100 * self._done / self._total
        return f"{self._description}: {share:.0f} % of {whole}, {speed}, {left} left"


@contextmanager
def track(
    total: int | None, description: str, unit: str = "px", enabled: bool = True
) -> Iterator[Bar]:
    """Report throughput and time left while the block runs.

    Parameters
    ----------
    total
        Units of work in all; None if unknown.
    description
        Name of the work, in a word or two.
    unit
        Unit that is counted; shown with an SI prefix (``Gpx/s``).
    enabled
        False reports nothing. On a terminal a bar is drawn; elsewhere a line is written every
        `LINE_SECONDS`, to the log and to stderr.
    """
    drawn = enabled and sys.stderr.isatty()
    with tqdm(
        total=total,
        desc=description,
        unit=unit,
        unit_scale=True,
        disable=not drawn,
        dynamic_ncols=True,
        mininterval=0.2,
        smoothing=0.1,
    ) as bar:
        yield Bar(bar, Lines(total, description, unit) if enabled and not drawn else None)

"""Progress bars: throughput and time left on a terminal, silence elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm


class Bar:
    """Work done so far, out of a known total."""

    def __init__(self, bar: tqdm) -> None:
        self._bar = bar

    def advance(self, amount: int) -> None:
        """Add `amount` units of finished work."""
        self._bar.update(amount)


@contextmanager
def track(
    total: int | None, description: str, unit: str = "px", enabled: bool = True
) -> Iterator[Bar]:
    """Show a bar with throughput and time left while the block runs.

    Parameters
    ----------
    total
        Units of work in all; None where it is not known.
    description
        What is being done, in a word or two.
    unit
        What is counted; shown with an SI prefix (``Gpx/s``).
    enabled
        False shows nothing. Nothing is shown either where stderr is not a terminal.
    """
    with tqdm(
        total=total,
        desc=description,
        unit=unit,
        unit_scale=True,
        disable=not (enabled and sys.stderr.isatty()),
        dynamic_ncols=True,
        mininterval=0.2,
        smoothing=0.1,
    ) as bar:
        yield Bar(bar)

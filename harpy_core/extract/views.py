"""Windows of a store: what each takes of the pixels that are gathered around an instance.

Arithmetic on sizes alone, shared by the plan and the job.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from harpy_core.config.crops import CropSettings, Window

Size = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class View:
    """One window of every instance.

    Attributes
    ----------
    name
        Name of the window; empty for that of the crops themselves.
    size
        Planes, rows and columns of a crop.
    step
        Distance of neighbouring pixels of a crop along y and x, in pixels of the image.
    rotated
        Whether the instance's longest axis lies along x.
    """

    name: str
    size: Size
    step: tuple[float, float] = (1.0, 1.0)
    rotated: bool = False

    def array(self, kind: str) -> str:
        """Name of its array of a kind: ``image`` or ``mask``."""
        return f"{kind}_{self.name}" if self.name else kind

    @property
    def plain(self) -> bool:
        """Whether its pixels are the image's own."""
        return self.step == (1.0, 1.0) and not self.rotated

    @property
    def samples(self) -> int:
        """Number of samples along each axis whose mean is a pixel."""
        return max(1, math.ceil(max(self.step)))

    @property
    def span(self) -> Size:
        """Planes, rows and columns of the image that it takes pixels from.

        They lie about the instance's pixel, from half of each, rounded down, before it.
        """
        depth, rows, columns = self.size
        if self.plain:
            return self.size
        outermost = (1 - 1 / self.samples) / 2
        reach = (rows // 2 + outermost, columns // 2 + outermost)
        if self.rotated:
            reach = (math.hypot(*reach),) * 2
        height, width = (
            2 * math.ceil(far * step) + 1 for far, step in zip(reach, self.step, strict=True)
        )
        return depth, height, width


def views_of(settings: CropSettings, depth: int) -> tuple[View, ...]:
    """Return the windows that settings ask for, that of the crops first.

    Parameters
    ----------
    settings
        Settings of crops, with the sides of the image's pixels where they have a resolution.
    depth
        Planes of the image.
    """
    own = Window(diameter=settings.diameter)
    named = {"": own, **(settings.windows or {})}
    return tuple(
        View(name, window.size(depth), _step(settings, window), settings.rotate)
        for name, window in named.items()
    )


def _step(settings: CropSettings, window: Window) -> tuple[float, float]:
    resolution = window.resolution or settings.resolution
    if resolution is None or settings.spacing is None:
        return 1.0, 1.0
    # Metadata give sides in other units too: what follows the ninth digit comes from converting.
    y, x = (round(resolution / side, 9) for side in settings.spacing[-2:])
    return y, x


def gathered(views: tuple[View, ...]) -> Size:
    """Planes, rows and columns that are gathered around an instance for all its windows.

    They lie about the instance's pixel as those of one window do.
    """
    spans = [view.span for view in views]
    depth, height, width = (
        max(side // 2 for side in sides) + max(side - side // 2 for side in sides)
        for sides in zip(*spans, strict=True)
    )
    return depth, height, width

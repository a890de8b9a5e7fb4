"""What is made of gathered windows once all their pixels are there: the crops of each array.

What lies outside the image is filled, and where a resolution or a rotation is asked for, pixels
are interpolated: always from one whole window alone, so that nothing else can change them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from harpy_core.config.crops import CropSettings, Padding
from harpy_core.errors import InputError
from harpy_core.extract.layout import CropLayout
from harpy_core.extract.views import Size, View, views_of
from harpy_core.kernels import engine as kernels_of


@dataclass(frozen=True, slots=True)
class Finish:
    """The last step of whole windows.

    Attributes
    ----------
    layout
        Layout of the gathered windows.
    views
        Windows of the store, the first that of the crops themselves.
    padding
        Pixels outside the image: a number, or the name of one of `numpy.pad`'s modes.
    image
        Planes, rows and columns of the image.
    engine
        Engine that interpolates.
    """

    layout: CropLayout
    views: tuple[View, ...]
    padding: Padding
    image: Size
    engine: str

    @classmethod
    def of(cls, layout: CropLayout, settings: CropSettings, image: Size, engine: str) -> Finish:
        """Return the step that settings ask for."""
        return cls(layout, views_of(settings, image[0]), settings.padding, image, engine)

    def arrays(self) -> dict[str, tuple[View, str]]:
        """View and kind of each array of the store, by name."""
        return {
            view.array(kind): (view, kind) for view in self.views for kind in self.layout.arrays()
        }

    def crops(
        self, view: View, kind: str, windows: np.ndarray, corner: np.ndarray, angle: np.ndarray
    ) -> np.ndarray:
        """Make the crops of one array, as they are stored.

        Parameters
        ----------
        kind
            ``image`` or ``mask``.
        windows : (n, c, z, y, x)
            Gathered windows, 0 outside the image; what lies there is written to.
        corner : (members, 3) int64
            First z, y and x in the image of each that is one; those after them are empty.
        angle : (members,) float64
            Angle by which each is turned, if views are rotated.
        """
        layout, members = self.layout, len(corner)
        first = [a // 2 - b // 2 for a, b in zip(layout.size, view.span, strict=True)]
        z, y, x = (slice(a, a + n) for a, n in zip(first, view.span, strict=True))
        windows, corner = windows[:, :, z, y, x], corner + first
        if kind == "image" and self.padding != 0:
            constant = 0 if isinstance(self.padding, str) else self.padding
            self._pad(windows[:members], corner, np.asarray(constant).astype(windows.dtype))
        if view.plain:
            return layout.stored(kind, windows)
        return self._sampled(view, kind, windows, angle if view.rotated else np.zeros(members))

    def _sampled(self, view: View, kind: str, windows: np.ndarray, angle: np.ndarray) -> np.ndarray:
        """Interpolate the pixels of crops, as they are stored."""
        layout, kernels = self.layout, kernels_of(self.engine)
        number, channels = windows.shape[:2]
        found = np.zeros((number, channels, *view.size), layout.arrays()[kind][2])
        grid = view.size[1:], view.span[1:], view.step, view.samples
        upright = kernels.samples(*grid, (0.0, 1.0))
        for row, turned in enumerate(angle.tolist()):
            turn = math.sin(turned), math.cos(turned)
            nearest, pixel, weight = kernels.samples(*grid, turn) if turned else upright
            flat = windows[row].reshape(channels * view.size[0], -1)
            if kind == "image":
                values = kernels.interpolate(flat, pixel, weight)
                if windows.dtype.kind in "iu" and layout.scale is None:
                    np.rint(values, out=values)
                values = layout.stored(kind, values[np.newaxis])[0]
            else:
                values = flat[:, nearest]
            found[row] = values.reshape(found.shape[1:])
        return found

    def _pad(self, crops: np.ndarray, corner: np.ndarray, constant: np.ndarray) -> None:
        """Fill what lies outside the image, in place.

        A mode of `numpy.pad` continues the part of a window that lies in the image. The same pixels
        would come from padding the whole image, but for one case: ``reflect``, a window with an
        even side, and a centroid in the image's first pixels.
        """
        size = np.asarray(crops.shape[2:])
        before = np.maximum(-corner, 0)
        after = np.maximum(corner + size - np.asarray(self.image), 0)
        for row in np.flatnonzero(np.any(before + after > 0, axis=1)):
            crop = crops[row]
            if not isinstance(self.padding, str):
                _fill_outside(crop, before[row], after[row], constant)
                continue
            z, y, x = (
                np.pad(np.arange(a, n - b), (a, b), mode=self.padding)
                for a, b, n in zip(before[row], after[row], size, strict=True)
            )
            crop[...] = crop[:, z[:, np.newaxis, np.newaxis], y[:, np.newaxis], x]


def _fill_outside(
    crop: np.ndarray, before: np.ndarray, after: np.ndarray, constant: np.ndarray
) -> None:
    for axis, (a, b) in enumerate(zip(before, after, strict=True), start=1):
        along = np.moveaxis(crop, axis, 0)
        along[:a] = constant
        along[len(along) - b :] = constant


def refuse_unfit_padding(settings: CropSettings, pixels: np.dtype) -> None:
    """Refuse a number for padding that pixels of a type cannot have.

    Raises
    ------
    InputError
        They cannot; the message says which they can.
    """
    value = settings.padding
    if isinstance(value, str):
        return
    if pixels.kind not in "biu":
        largest = float(np.finfo(pixels).max) if pixels.kind == "f" else math.inf
        if abs(value) > largest:
            raise InputError(
                f"padding = {value:g}: {pixels} pixels are numbers up to {largest:g}; give one of "
                "these"
            )
        return
    least, most = (0, 1) if pixels.kind == "b" else (np.iinfo(pixels).min, np.iinfo(pixels).max)
    if value != int(value) or not least <= value <= most:
        raise InputError(
            f"padding = {value}: {pixels} pixels are whole numbers from {least} to {most}; give "
            "one of these"
        )


def refuse_uncuttable(settings: CropSettings, pixels: np.dtype, depth: int) -> None:
    """Refuse to interpolate what cannot be.

    Raises
    ------
    InputError
        Pixels are integers that float64 does not hold, or windows of several planes are to be
        turned.
    """
    if settings.rotate and depth > 1:
        raise InputError(
            f"rotate = True: windows of {depth} planes are not turned; leave it out, or give an "
            "image of one plane"
        )
    if (settings.rotate or settings.resolution) and pixels.kind in "iu" and pixels.itemsize == 8:
        raise InputError(
            f"resolution and rotate: {pixels} pixels cannot be interpolated exactly; convert them "
            "to 32 bits or fewer, or leave both out"
        )

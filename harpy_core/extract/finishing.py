"""What is done to crops once all their pixels are there: the part outside the image is filled."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harpy_core.config.crops import CropSettings, Padding
from harpy_core.errors import InputError

Size = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Finish:
    """The last step of whole crops.

    Attributes
    ----------
    padding
        Pixels outside the image: a number, or the name of one of `numpy.pad`'s modes.
    image
        Planes, rows and columns of the image.
    """

    padding: Padding
    image: Size

    @classmethod
    def of(cls, settings: CropSettings, image: Size) -> Finish | None:
        """Return the step that settings ask for; None where they leave crops as they are."""
        return None if settings.padding == 0 else cls(settings.padding, image)

    @property
    def constant(self) -> int | float:
        """The number outside the image; 0 where pixels are continued."""
        return 0 if isinstance(self.padding, str) else self.padding

    def pad(self, crops: np.ndarray, corner: np.ndarray, constant: np.ndarray) -> None:
        """Fill what lies outside the image, in place.

        A mode of `numpy.pad` continues the part of a crop that lies in the image. The same pixels
        would come from padding the whole image, but for one case: ``reflect``, a window with an
        even side, and a centroid in the image's first pixels.

        Parameters
        ----------
        crops : (n, c, z, y, x)
            Crops, 0 outside the image.
        corner : (n, 3) int64
            First z, y and x of each in the image.
        constant
            The number in the crops' type, where padding is one.
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
    if isinstance(value, str) or pixels.kind not in "biu":
        return
    least, most = (0, 1) if pixels.kind == "b" else (np.iinfo(pixels).min, np.iinfo(pixels).max)
    if value != int(value) or not least <= value <= most:
        raise InputError(
            f"padding = {value}: {pixels} pixels are whole numbers from {least} to {most}; give "
            "one of these"
        )

"""Slides of scanners that are TIFFs: which image is the slide, and the side of its pixels."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping

import tifffile

from harpy_core.errors import InputError
from harpy_core.raster.spacing import MICROMETERS

_LOSSLESS = {
    tifffile.COMPRESSION.NONE,
    tifffile.COMPRESSION.LZW,
    tifffile.COMPRESSION.ADOBE_DEFLATE,
    tifffile.COMPRESSION.DEFLATE,
    tifffile.COMPRESSION.PACKBITS,
}
"""Compressions whose decoders leave colours as they are."""


def slide_number(tiff: tifffile.TiffFile) -> int | None:
    """Return the number of the image that is the slide; None where several could be, or none is.

    The others are thumbnails, labels, overviews and maps.
    """
    if tiff.is_svs or tiff.is_ndpi:
        return 0
    if not tiff.is_scn:
        return None
    root = ElementTree.fromstring(tiff.pages.first.description)
    collection = root.find("{*}collection")
    if collection is None:
        return None
    whole = collection.get("sizeX"), collection.get("sizeY")
    images = collection.findall("{*}image")
    views = [image.find("{*}view") for image in images]
    # An overview shows the whole of what the slide is a part of.
    slides = [
        number
        for number, view in enumerate(views)
        if view is None or (view.get("sizeX"), view.get("sizeY")) != whole
    ]
    return slides[0] if len(slides) == 1 and len(images) == len(tiff.series) else None


def sides(tiff: tifffile.TiffFile, number: int) -> Mapping[str, float]:
    """Sides of a pixel of a slide's finest level, in micrometres; empty if it does not say.

    Parameters
    ----------
    tiff
        Slide of Aperio, Hamamatsu or Leica; what other TIFFs say of their resolution is often that
        of a print.
    number
        Number of the image.
    """
    page = tiff.series[number].keyframe
    if tiff.is_svs:
        found = re.search(r"\|\s*MPP\s*=\s*([0-9.]+)", page.description)
        side = float(found[1]) if found else 0.0
        return {"y": side, "x": side} if side else {}
    if tiff.is_ndpi or tiff.is_scn:
        unit = {2: "inch", 3: "cm"}.get(int(page.tags.valueof("ResolutionUnit", 1)))
        each = {a: page.tags.valueof(f"{a.upper()}Resolution") for a in "yx"}
        if unit and all(value and value[0] for value in each.values()):
            return {a: MICROMETERS[unit] * per / count for a, (count, per) in each.items()}
    return {}


def refuse_luminance(path: str, page: tifffile.TiffPage) -> None:
    """Refuse pixels that are luminance and chrominance, and would be taken for red, green, blue.

    Raises
    ------
    InputError
        The file keeps them in a way in which they are not turned into colours when decoded.
    """
    aperio = page.compression == tifffile.COMPRESSION.APERIO_JP2000_YCBC
    plain = page.photometric == tifffile.PHOTOMETRIC.YCBCR and page.compression in _LOSSLESS
    if aperio or plain:
        kept = "JPEG 2000 (33003)" if aperio else "TIFF"
        raise InputError(
            f"{path}: its pixels are YCbCr in {kept}, not red, green and blue: export it as "
            "OME-TIFF (QuPath)"
        )

"""The embedded sample: a real colon section that ships inside scikit-image.

It has 512 x 512 pixels, nuclei stained blue (haematoxylin) and FHL2 stained brown (DAB). Colour
deconvolution gives the stains, a watershed on the haematoxylin the nuclei. Nothing is downloaded
and nothing is random.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import skimage.data
from scipy import ndimage
from skimage.color import hed_from_rgb
from skimage.feature import peak_local_max
from skimage.filters import gaussian, threshold_local
from skimage.measure import regionprops_table
from skimage.morphology import disk, remove_small_objects
from skimage.segmentation import relabel_sequential, watershed

from harpy_core.storage import spatialdata_store

CHANNELS = ("hematoxylin", "eosin", "dab")
PEDESTAL = 8192
"""Pixel value of no stain; lower where deconvolution over-corrects."""
COUNTS_PER_DENSITY = 16384
"""Pixel values per unit of optical density (decadic)."""

CHUNK = 256
SMALLEST_NUCLEUS = 30
"""Pixels of the smallest nucleus; anything smaller is debris."""


def stains() -> np.ndarray:
    """Stain densities of the section, by colour deconvolution.

    Returns
    -------
    (3, 512, 512) uint16: haematoxylin, eosin and DAB as 8192 + 16384 x optical density, clipped.
    The section holds no eosin: that channel is what the other two stains leave unexplained.

    Notes
    -----
    Beer-Lambert with the stain vectors of Ruifrok and Johnston, Anal. Quant. Cytol. Histol. 23
    (2001) 291, as in `skimage.color.rgb2hed`, which would cut the negative densities off.
    """
    rgb = skimage.data.immunohistochemistry()
    absorbed = -np.log10(np.maximum(rgb, 1) / 255)
    density = np.moveaxis(absorbed @ hed_from_rgb, -1, 0)
    values = np.rint(PEDESTAL + COUNTS_PER_DENSITY * density)
    return np.clip(values, 0, np.iinfo(np.uint16).max).astype(np.uint16)


def nuclei(hematoxylin: np.ndarray) -> np.ndarray:
    """Nuclei by a watershed on the haematoxylin stain.

    Parameters
    ----------
    hematoxylin
        Densities, (y, x), in any unit.

    Returns
    -------
    (y, x) uint32 labels from 1 on, without gaps; 0 is background.
    """
    smooth = gaussian(hematoxylin.astype(np.float64), 1.5)
    # Darker than the neighbourhood, as epithelium and stroma differ, by more than its variation.
    contrast = smooth - threshold_local(smooth, 51, method="gaussian")
    mask = (contrast > 0.15 * contrast.std()) & (smooth > np.percentile(smooth, 40))
    mask = ndimage.binary_opening(mask, disk(1))
    mask = remove_small_objects(mask, max_size=SMALLEST_NUCLEUS - 1)
    mask = ndimage.binary_fill_holes(mask)
    # Touching nuclei are told apart by their outline.
    depth = gaussian(ndimage.distance_transform_edt(mask), 1.0)
    peaks = peak_local_max(
        depth, min_distance=4, labels=mask.astype(np.int32), exclude_border=False
    )
    seeds = np.zeros(mask.shape, np.int32)
    seeds[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    return _without_debris(watershed(-depth, seeds, mask=mask))


def _without_debris(labels: np.ndarray) -> np.ndarray:
    found = regionprops_table(labels, properties=("label", "area"))
    labels[np.isin(labels, found["label"][found["area"] < SMALLEST_NUCLEUS])] = 0
    return relabel_sequential(labels)[0].astype(np.uint32)


def write(path: Path, progress: bool = False) -> None:
    """Write the sample as a SpatialData store with elements ``image`` and ``labels``.

    Parameters
    ----------
    path
        Empty folder.
    progress
        Not used: it takes a second.
    """
    image = stains()
    labels = nuclei(image[0])
    root = spatialdata_store.create(path)
    spatialdata_store.create_image(
        root, "image", image.shape, (len(CHANNELS), CHUNK, CHUNK), image.dtype, CHANNELS
    )[...] = image
    spatialdata_store.create_labels(root, "labels", labels.shape, (CHUNK, CHUNK), labels.dtype)[
        ...
    ] = labels
    spatialdata_store.consolidate(root)

"""Synthetic tissue of any size, made block by block.

Everything is drawn from the seed and the position alone, so any region can be made by itself and
fits its neighbours without a seam: cells sit on a jittered lattice, each site with numbers of its
own, and photon noise is drawn per block of a fixed grid.

The tissue: glands (an empty lumen inside a ring of tall epithelium), follicles (densely packed
round cells) and loose stroma of spindles between them. Cells touch. Each belongs to a type, and
channels form modules that a type expresses together; levels are log-normal. The first channel is a
stain of the nuclei, which all cells show.

The microscope: an uneven lamp, a lens that blurs, photons that arrive at random, and a camera with
an offset, a gain set for each channel and noise of its own. Its numbers are chosen so that pixels
spread over 16 bits, and compress, like those of real sections (`harpy_core.datasets.likeness`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numba
import numpy as np
from scipy import ndimage

from harpy_core.errors import InputError
from harpy_core.running.progress import track
from harpy_core.running.schedule import in_order
from harpy_core.storage import spatialdata_store

BLOCK = 512
"""Pixels on a side of what is made at once, and of the grid of the noise."""
REGION = 900
"""Pixels between the centres of glands and follicles."""
JITTER = 0.3
"""Largest distance of a cell from its site, in units of the lattice's pitch."""
REACH = 1.3
"""Longest half-axis of a cell, in units of the lattice's pitch."""

CELL_TYPES = 6
MODULES = 4
BACKGROUND = 14.0
"""Mean photons per pixel where there is no cell."""
BLUR = 1.0
"""Standard deviation of the lens's point spread function, in pixels."""
MARGIN = 4
"""Pixels around a block that are made with it, because the lens spreads them into it."""
OFFSET = 300.0
"""Counts of the camera without light."""
READ_NOISE = 25.0
"""Standard deviation of the noise that the camera adds, in counts."""
EXPOSED = 11_500.0
"""Counts that the exposure of a channel gives to cells that express it."""
EXPRESSED = 2.2
"""Natural logarithm of the factor by which a type shows more of the modules it expresses."""

_EPITHELIUM, _FOLLICLE, _STROMA = 0, 1, 2
_NUCLEI = 0
"""Channel that every cell shows."""


@dataclass(frozen=True, slots=True)
class Tissue:
    """Parameters of a tissue.

    Attributes
    ----------
    shape
        Shape of the image, (c, y, x), in channels and pixels.
    seed
        Seed; another one makes another tissue.
    cells_per_megapixel
        Sites of the lattice per megapixel; two in three hold a cell.
    """

    shape: tuple[int, int, int]
    seed: int = 0
    cells_per_megapixel: float = 3300.0

    @property
    def pitch(self) -> float:
        """Pixels between sites of the lattice."""
        return 1000.0 / math.sqrt(self.cells_per_megapixel)

    @property
    def sites(self) -> tuple[int, int]:
        """Rows and columns of the lattice."""
        return math.ceil(self.shape[1] / self.pitch), math.ceil(self.shape[2] / self.pitch)


@dataclass(frozen=True, slots=True)
class _Cells:
    """The cells that can reach a block: one row each, in the order of the lattice."""

    label: np.ndarray
    y: np.ndarray
    x: np.ndarray
    long: np.ndarray
    short: np.ndarray
    angle: np.ndarray
    levels: np.ndarray


def tissue(
    shape: tuple[int, int, int], seed: int = 0, cells_per_megapixel: float = 3300.0
) -> tuple[np.ndarray, np.ndarray]:
    """Make a whole image with its labels.

    Parameters
    ----------
    shape
        Shape of the image, (c, y, x), in channels and pixels.
    seed
        Seed; another one makes another tissue.
    cells_per_megapixel
        Sites, per megapixel, of the lattice that cells sit on.

    Returns
    -------
    image
        Counts of the camera, (c, y, x) uint16.
    labels
        Labels, (y, x) uint32; ids have gaps, because sites without a cell have none.
    """
    return tissue_tile(Tissue(shape, seed, cells_per_megapixel), (0, shape[1]), (0, shape[2]))


def tissue_tile(
    tissue: Tissue, rows: tuple[int, int], columns: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Make a region of a tissue, the same as if the whole had been made.

    Parameters
    ----------
    tissue
        The whole tissue.
    rows, columns
        First and end of the region, in pixels.

    Returns
    -------
    image
        Counts of the camera, (c, y, x) uint16.
    labels
        Labels, (y, x) uint32.

    Raises
    ------
    InputError
        The region is outside the tissue, or there are more cells than 32 bits can number.
    """
    _check(tissue, rows, columns)
    size = (rows[1] - rows[0], columns[1] - columns[0])
    image = np.empty((tissue.shape[0], *size), np.uint16)
    labels = np.empty(size, np.uint32)
    for y in range(rows[0] // BLOCK, -(-rows[1] // BLOCK)):
        for x in range(columns[0] // BLOCK, -(-columns[1] // BLOCK)):
            block_image, block_labels = _block(tissue, y, x)
            inside_y, outside_y = _overlap(y, rows)
            inside_x, outside_x = _overlap(x, columns)
            image[:, outside_y, outside_x] = block_image[:, inside_y, inside_x]
            labels[outside_y, outside_x] = block_labels[inside_y, inside_x]
    return image, labels


def write(path: Path, tissue: Tissue, chunks: tuple[int, int, int], progress: bool = False) -> None:
    """Write a tissue as a SpatialData store with elements ``image`` and ``labels``.

    Parameters
    ----------
    path
        Empty folder.
    tissue
        Tissue to make.
    chunks
        Chunk shape of the image, (c, y, x); each thread holds all channels of one chunk.
    progress
        Show a bar on a terminal.
    """
    channels, height, width = tissue.shape
    chunk = (min(chunks[1], height), min(chunks[2], width))
    root = spatialdata_store.create(path)
    names = [f"marker_{c}" for c in range(channels)]
    image = spatialdata_store.create_image(
        root, "image", tissue.shape, (min(channels, chunks[0]), *chunk), np.uint16, names
    )
    labels = spatialdata_store.create_labels(root, "labels", (height, width), chunk, np.uint32)
    spatialdata_store.consolidate(root)

    def make(corner: tuple[int, int]) -> int:
        y, x = corner
        rows, columns = (y, min(y + chunk[0], height)), (x, min(x + chunk[1], width))
        pixels, instances = tissue_tile(tissue, rows, columns)
        image[:, slice(*rows), slice(*columns)] = pixels
        labels[slice(*rows), slice(*columns)] = instances
        return pixels.size

    corners = product(range(0, height, chunk[0]), range(0, width, chunk[1]))
    with track(image.size, "tissue", enabled=progress) as bar:
        for done in in_order(make, corners):
            bar.advance(done)


def _check(tissue: Tissue, rows: tuple[int, int], columns: tuple[int, int]) -> None:
    if min(tissue.shape) < 1 or tissue.cells_per_megapixel <= 0:
        raise InputError(
            f"tissue {tissue.shape}, {tissue.cells_per_megapixel} cells per megapixel: "
            "give positive sizes and density"
        )
    if math.prod(tissue.sites) > np.iinfo(np.uint32).max:
        raise InputError(f"tissue {tissue.shape}: too many cells for uint32; make it smaller")
    for (first, end), size in zip((rows, columns), tissue.shape[1:], strict=True):
        if not 0 <= first < end <= size:
            raise InputError(f"region {rows}, {columns} is not inside the tissue {tissue.shape}")


def _overlap(block: int, span: tuple[int, int]) -> tuple[slice, slice]:
    """Overlap of a block and a span, counted from the block and from the span."""
    origin = block * BLOCK
    first, end = max(origin, span[0]), min(origin + BLOCK, span[1])
    return slice(first - origin, end - origin), slice(first - span[0], end - span[0])


# Numbers from places ----------------------------------------------------------------------------


def _uniform(seed: int, purpose: int, *place: np.ndarray | int) -> np.ndarray:
    """Draw a number in (0, 1) for every place: SplitMix64 over seed, purpose and place."""
    with np.errstate(over="ignore"):
        state: Any = np.uint64(seed & 0xFFFFFFFFFFFFFFFF)
        for part in (purpose, *place):
            key = np.asarray(part).astype(np.int64).astype(np.uint64)
            state = state ^ (key + np.uint64(0x9E3779B97F4A7C15))
            state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state = state ^ (state >> np.uint64(31))
        return np.asarray(((state >> np.uint64(11)).astype(np.float64) + 0.5) / 2.0**53)


def _normal(seed: int, purpose: int, *place: np.ndarray | int) -> np.ndarray:
    """Draw a standard normal number for every place, by Box and Muller's transform."""
    first, second = _uniform(seed, purpose, *place), _uniform(seed, purpose + 1, *place)
    return np.asarray(np.sqrt(-2 * np.log(first)) * np.cos(2 * np.pi * second))


_PRESENT, _SHIFT_Y, _SHIFT_X, _SIZE, _ASPECT, _ANGLE, _TYPE = 1, 2, 3, 4, 6, 7, 8
_CENTRE_Y, _CENTRE_X, _KIND, _EXTENT = 20, 21, 22, 23
_PROGRAMME, _MODULE_LEVEL, _CHANNEL_LEVEL, _BRIGHTNESS = 30, 40, 50, 60


# Cells ------------------------------------------------------------------------------------------


def _regions(seed: int, y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, ...]:
    """Chance of a cell, kind of tissue and direction away from the nearest centre, by place."""
    chance = np.full(y.shape, 0.55)
    kind = np.full(y.shape, _STROMA)
    nearest = np.full(y.shape, np.inf)
    direction = np.zeros(y.shape)
    row, column = np.floor(y / REGION).astype(int), np.floor(x / REGION).astype(int)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            site = (row + dy, column + dx)
            centre_y = (site[0] + 0.2 + 0.6 * _uniform(seed, _CENTRE_Y, *site)) * REGION
            centre_x = (site[1] + 0.2 + 0.6 * _uniform(seed, _CENTRE_X, *site)) * REGION
            extent = (0.22 + 0.16 * _uniform(seed, _EXTENT, *site)) * REGION
            gland = _uniform(seed, _KIND, *site) < 0.5
            away = np.arctan2(y - centre_y, x - centre_x)
            # A three-lobed outline, so that no gland is a circle.
            radius = np.hypot(y - centre_y, x - centre_x) / (1 + 0.15 * np.sin(3 * away + extent))
            closer = radius < nearest
            nearest[closer], direction[closer] = radius[closer], away[closer]
            inside = radius < extent
            lumen = inside & gland & (radius < 0.45 * extent)
            kind[inside] = np.where(gland, _EPITHELIUM, _FOLLICLE)[inside]
            chance[inside] = 0.97
            chance[lumen] = 0.0
    return chance, kind, direction


def _cells(tissue: Tissue, y0: int, x0: int) -> _Cells:
    """The cells that can reach the block whose first pixel is (y0, x0)."""
    pitch, seed = tissue.pitch, tissue.seed
    margin = (JITTER + REACH + 1) * pitch
    size = BLOCK + 2 * MARGIN
    spans = [
        np.arange(max(0, int((a - margin) / pitch)), min(n, math.ceil((a + size + margin) / pitch)))
        for a, n in zip((y0, x0), tissue.sites, strict=True)
    ]
    row, column = (axis.ravel() for axis in np.meshgrid(*spans, indexing="ij"))
    y = (row + 0.5 + JITTER * (2 * _uniform(seed, _SHIFT_Y, row, column) - 1)) * pitch
    x = (column + 0.5 + JITTER * (2 * _uniform(seed, _SHIFT_X, row, column) - 1)) * pitch
    chance, kind, direction = _regions(seed, y, x)
    here = _uniform(seed, _PRESENT, row, column) < chance
    row, column, y, x = row[here], column[here], y[here], x[here]
    kind, direction = kind[here], direction[here]

    size = np.array([0.62, 0.58, 0.42])[kind] * np.exp(0.22 * _normal(seed, _SIZE, row, column))
    aspect = 1 + np.array([0.6, 0.2, 1.6])[kind] * _uniform(seed, _ASPECT, row, column)
    # Epithelium points at the lumen, stroma runs around the centre, follicles have no grain.
    stray = np.array([0.3, np.pi, 0.8])[kind] * (2 * _uniform(seed, _ANGLE, row, column) - 1)
    angle = direction + np.array([0, 0, np.pi / 2])[kind] + stray
    return _Cells(
        label=(row * tissue.sites[1] + column + 1).astype(np.uint32),
        y=y,
        x=x,
        long=np.minimum(size * np.sqrt(aspect), REACH) * pitch,
        short=size / np.sqrt(aspect) * pitch,
        angle=angle,
        levels=_expression(tissue, row, column, kind),
    )


def _expression(
    tissue: Tissue, row: np.ndarray, column: np.ndarray, kind: np.ndarray
) -> np.ndarray:
    """Mean photons per pixel of every cell in every channel: (cells, channels)."""
    seed = tissue.seed
    # Each kind of tissue has two types of its own, one more frequent.
    cell_type = 2 * kind + (_uniform(seed, _TYPE, row, column) < 0.3)
    programme = _programme(seed)
    channel = np.arange(tissue.shape[0])
    module = channel % MODULES
    together = _normal(seed, _MODULE_LEVEL, row[:, None], column[:, None], module[None, :])
    alone = _normal(seed, _CHANNEL_LEVEL, row[:, None], column[:, None], channel[None, :])
    logarithm = _brightness(seed, channel) + 0.25 * alone
    logarithm += np.where(
        channel == _NUCLEI, EXPRESSED, programme[cell_type][:, module] + 0.45 * together
    )
    return np.exp(logarithm)


def _programme(seed: int) -> np.ndarray:
    """Expression of each module by each type, as logarithms: (types, modules)."""
    types, modules = np.meshgrid(np.arange(CELL_TYPES), np.arange(MODULES), indexing="ij")
    expressed = (_uniform(seed, _PROGRAMME, types, modules) < 0.4) | (types == modules)
    return np.where(expressed, EXPRESSED, 0.0)


def _brightness(seed: int, channel: np.ndarray | int) -> np.ndarray:
    """Logarithm of the photons per pixel of a cell that does not express the channel's module."""
    return np.asarray(2.9 + 0.25 * _normal(seed, _BRIGHTNESS, channel))


def _gain(seed: int, channel: int) -> float:
    """Counts per photon: each channel is exposed so that its bright cells fill the range."""
    programme = _programme(seed)[:, channel % MODULES].max()
    more = EXPRESSED if channel == _NUCLEI else programme
    return float(EXPOSED / np.exp(_brightness(seed, channel) + more))


# Pixels -----------------------------------------------------------------------------------------


@numba.njit(cache=True, nogil=True)
def _paint(
    owner: np.ndarray,
    distance: np.ndarray,
    y: np.ndarray,
    x: np.ndarray,
    long: np.ndarray,
    short: np.ndarray,
    angle: np.ndarray,
) -> None:
    """Assign every pixel to the cell that is nearest in units of that cell's half-axes."""
    height, width = owner.shape
    for cell in range(y.size):
        cos, sin = math.cos(angle[cell]), math.sin(angle[cell])
        reach = max(long[cell], short[cell])
        for row in range(max(0, int(y[cell] - reach)), min(height, int(y[cell] + reach) + 2)):
            for column in range(max(0, int(x[cell] - reach)), min(width, int(x[cell] + reach) + 2)):
                dy, dx = row - y[cell], column - x[cell]
                along = (dx * cos + dy * sin) / long[cell]
                across = (dy * cos - dx * sin) / short[cell]
                far = along * along + across * across
                if far < distance[row, column]:
                    distance[row, column] = far
                    owner[row, column] = cell


def _block(tissue: Tissue, row: int, column: int) -> tuple[np.ndarray, np.ndarray]:
    """Make image and labels of one block of the grid, whole even where the tissue ends inside."""
    y0, x0 = row * BLOCK - MARGIN, column * BLOCK - MARGIN
    size = BLOCK + 2 * MARGIN
    inner = (slice(MARGIN, -MARGIN), slice(MARGIN, -MARGIN))
    cells = _cells(tissue, y0, x0)
    owner = np.full((size, size), -1, np.int32)
    distance = np.ones((size, size), np.float32)
    _paint(owner, distance, cells.y - y0, cells.x - x0, cells.long, cells.short, cells.angle)
    image = np.empty((tissue.shape[0], BLOCK, BLOCK), np.uint16)
    # One more row, at the end, for the pixels whose owner is -1.
    levels = np.vstack([cells.levels, np.zeros((1, tissue.shape[0]))]).astype(np.float32)
    for channel in range(tissue.shape[0]):
        photons = levels[:, channel][owner]
        photons *= _profile(channel, distance)
        photons += BACKGROUND
        photons *= _illumination(channel, y0, x0)
        seen = ndimage.gaussian_filter(photons, BLUR, truncate=MARGIN / BLUR)[inner]
        chance = np.random.default_rng([tissue.seed, channel, row, column])
        image[channel] = _counts(seen, _gain(tissue.seed, channel), chance)
    labels = np.append(cells.label, np.uint32(0))[owner[inner]]
    return image, labels


def _counts(photons: np.ndarray, gain: float, chance: np.random.Generator) -> np.ndarray:
    """Counts that the camera makes of the mean photons of each pixel."""
    counts = chance.poisson(photons).astype(np.float32)
    counts *= gain
    counts += READ_NOISE * chance.standard_normal(photons.shape, np.float32)
    counts += OFFSET
    return np.clip(np.rint(counts), 0, np.iinfo(np.uint16).max).astype(np.uint16)


def _profile(channel: int, distance: np.ndarray) -> np.ndarray:
    """Profile of a channel in a cell: its nucleus, all of it, or its membrane."""
    if channel % 3 == 0:
        return np.asarray(1.4 / (1 + (distance / 0.35) ** 4) + 0.1)
    if channel % 3 == 1:
        return np.asarray(1.1 - 0.5 * distance)
    return np.asarray(0.35 + 1.5 * distance**3)


def _illumination(channel: int, y0: int, x0: int) -> np.ndarray:
    """Slow wave of the lamp's light, different in every channel."""
    size = BLOCK + 2 * MARGIN
    y = (y0 + np.arange(size, dtype=np.float32))[:, None]
    x = (x0 + np.arange(size, dtype=np.float32))[None, :]
    wave = 2 * np.pi / 6000
    light = 1 + 0.12 * np.sin(wave * y + channel) * np.cos(wave * x + 2 * channel)
    return np.asarray(light, dtype=np.float32)

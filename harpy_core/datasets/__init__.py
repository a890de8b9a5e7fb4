"""Data sets by name: the embedded sample, synthetic tissue, and the two published ones."""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass

from harpy_core.config.models import ELEMENTS, Origin
from harpy_core.errors import InputError
from harpy_core.storage.folders import staging

_PUBLISHED = "https://objectstor.vib.be/spatial-hackathon-public/sparrow/public_datasets"


_SYNTHETIC = "harpy_core.datasets.tissue"


@dataclass(frozen=True, slots=True)
class Dataset:
    """A SpatialData store that can be made or fetched.

    Attributes
    ----------
    name
        Name in the config.
    description
        Content, in a sentence.
    origin
        Address of the zipped store, or the module whose ``write`` makes it.
    shape, chunks
        Shape of the image and of its chunks, (c, y, x), in pixels.
    instances
        Number of instances.
    image, labels
        Names of the elements.
    dtype, labels_dtype
        NumPy names of the types.
    sha256
        SHA-256 of the zipped store; None where it is made.
    seed, cells_per_megapixel
        Parameters of synthetic tissue.
    """

    name: str
    description: str
    origin: str
    shape: tuple[int, int, int]
    chunks: tuple[int, int, int]
    instances: int
    image: str = "image"
    labels: str = "labels"
    dtype: str = "uint16"
    labels_dtype: str = "uint32"
    sha256: str | None = None
    seed: int = 0
    cells_per_megapixel: float | None = None


REGISTRY: dict[str, Dataset] = {
    dataset.name: dataset
    for dataset in (
        Dataset(
            "ihc",
            "Colon section, immunohistochemistry: 3 stains, 512 x 512 pixels, 484 nuclei.",
            "harpy_core.datasets.ihc",
            (3, 512, 512),
            (3, 256, 256),
            484,
        ),
        Dataset(
            "tissue",
            "Synthetic tissue: 4 channels, 2048 x 2048 pixels, some 8,900 cells.",
            _SYNTHETIC,
            (4, 2048, 2048),
            (4, 1024, 1024),
            8_900,
            cells_per_megapixel=3300,
        ),
        Dataset(
            "tissue-gigapixel",
            "Synthetic tissue as dense as the published 40-gigapixel case, to be tiled to it.",
            _SYNTHETIC,
            (10, 4096, 4096),
            (10, 2048, 2048),
            8_670,
            cells_per_megapixel=789,
        ),
        Dataset(
            "tissue-terapixel",
            "Synthetic tissue as sparse as the published terapixel case, to be tiled to it.",
            _SYNTHETIC,
            (10, 4096, 4096),
            (10, 2048, 2048),
            468,
            seed=5,
            cells_per_megapixel=42.0,
        ),
        Dataset(
            "macsima-tonsil",
            "Human tonsil, MACSima: 100 channels, the published 40-gigapixel case; 100 GB.",
            f"{_PUBLISHED}/proteomics/macsima/sdata_tonsil.zarr.zip",
            (100, 20_000, 20_000),
            (10, 2048, 2048),
            206_030,
            *ELEMENTS["macsima-tonsil"],
            sha256="9a22f90480c28ce07c51c489f279ade0d545103354e153124a9cd2d9ab7f7a43",
        ),
        Dataset(
            "merscope-liver",
            "Mouse liver, MERSCOPE: 2 channels, tiled along c for the published terapixel case.",
            f"{_PUBLISHED}/transcriptomics/vizgen/mouse/_sdata_2D.zarr.zip",
            (2, 100_000, 100_000),
            (1, 4096, 4096),
            278_482,
            *ELEMENTS["merscope-liver"],
            sha256="e1f36061e97e74ad131eb709ca678658829dc4385a444923ef74835e783d63bc",
        ),
    )
}


def fetch(
    name: str,
    path: str | os.PathLike[str],
    origin: Origin | None = None,
    progress: bool = False,
) -> None:
    """Make or download a data set.

    Parameters
    ----------
    name
        One of `REGISTRY`.
    path
        SpatialData store to make. It appears whole or not at all; a broken download resumes where
        it stopped, from the files ``PATH.zip.part*`` beside it.
    origin
        Origin of a published one, instead of its published address.
    progress
        Show a bar on a terminal.

    Raises
    ------
    InputError
        The name is unknown, the address cannot be reached, the content is not the published one,
        or the disk is too small.
    """
    if name not in REGISTRY:
        raise InputError(f"data set {name!r} is not known: choose from {', '.join(REGISTRY)}")
    dataset = REGISTRY[name]
    if dataset.sha256 is not None:
        _fetch_published(dataset, dataset.sha256, path, origin, progress)
        return
    with staging(path) as folder:
        if dataset.cells_per_megapixel is not None:
            from harpy_core.datasets import tissue

            made = tissue.Tissue(dataset.shape, dataset.seed, dataset.cells_per_megapixel)
            tissue.write(folder, made, dataset.chunks, progress=progress)
        else:
            importlib.import_module(dataset.origin).write(folder, progress=progress)


def _fetch_published(
    dataset: Dataset,
    sha256: str,
    path: str | os.PathLike[str],
    origin: Origin | None,
    progress: bool,
) -> None:
    from harpy_core.datasets.download import fetch_archive, unpack_archive

    url = dataset.origin
    if origin is not None:
        sha256 = origin.sha256 or sha256
        if origin.archive is not None:
            unpack_archive(origin.archive, sha256, path, progress=progress)
            return
        if origin.mirror is not None:
            url = origin.mirror.rstrip("/") + dataset.origin.removeprefix(_PUBLISHED)
    fetch_archive(url, sha256, path, progress=progress)

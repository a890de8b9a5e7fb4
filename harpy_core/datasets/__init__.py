"""Data sets by name: the embedded sample, synthetic tissue, and the two published ones."""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass

from harpy_core.errors import InputError
from harpy_core.manifest import staging

_PUBLISHED = "https://objectstor.vib.be/spatial-hackathon-public/sparrow/public_datasets"


@dataclass(frozen=True, slots=True)
class Dataset:
    """A SpatialData store that can be made or fetched.

    Attributes
    ----------
    name
        What the config calls it.
    description
        What it shows, in a sentence.
    image, labels
        Names of the elements.
    origin
        Address of the zipped store, or the module whose ``write`` makes it.
    sha256
        Of the zipped store; None where it is made.
    """

    name: str
    description: str
    image: str
    labels: str
    origin: str
    sha256: str | None = None


REGISTRY: dict[str, Dataset] = {
    dataset.name: dataset
    for dataset in (
        Dataset(
            "ihc",
            "Colon section, immunohistochemistry: 3 stains, 512 x 512 pixels, 484 nuclei.",
            "image",
            "labels",
            "harpy_core.datasets.ihc",
        ),
        Dataset(
            "tissue",
            "Synthetic tissue: 4 channels, 2048 x 2048 pixels, some 6,800 cells.",
            "image",
            "labels",
            "harpy_core.datasets.tissue",
        ),
        Dataset(
            "macsima-tonsil",
            "Human tonsil, MACSima: 100 channels, the published 40-gigapixel case; 100 GB.",
            "image_tiled",
            "labels_cells_harpy",
            f"{_PUBLISHED}/proteomics/macsima/sdata_tonsil.zarr.zip",
            "9a22f90480c28ce07c51c489f279ade0d545103354e153124a9cd2d9ab7f7a43",
        ),
        Dataset(
            "merscope-liver",
            "Mouse liver, MERSCOPE: 2 channels, tiled along c for the published terapixel case.",
            "clahe",
            "segmentation_mask_full",
            f"{_PUBLISHED}/transcriptomics/vizgen/mouse/_sdata_2D.zarr.zip",
            "e1f36061e97e74ad131eb709ca678658829dc4385a444923ef74835e783d63bc",
        ),
    )
}


def fetch(name: str, path: str | os.PathLike[str], progress: bool = False) -> None:
    """Make or download a data set.

    Parameters
    ----------
    name
        One of `REGISTRY`.
    path
        SpatialData store to make. It appears whole or not at all; a broken download goes on where
        it stopped, from the files ``PATH.zip.part*`` beside it.
    progress
        Show a bar on a terminal.

    Raises
    ------
    InputError
        Unknown name, an address that cannot be reached, content that is not the published one, or
        a disk that is too small.
    """
    if name not in REGISTRY:
        raise InputError(f"data set {name!r} is not known: choose from {', '.join(REGISTRY)}")
    dataset = REGISTRY[name]
    if dataset.sha256 is not None:
        from harpy_core.datasets.download import fetch_archive

        fetch_archive(dataset.origin, dataset.sha256, path, progress=progress)
        return
    with staging(path) as folder:
        importlib.import_module(dataset.origin).write(folder, progress=progress)

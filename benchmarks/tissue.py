"""Draw synthetic tissue beside real sections: docs/synthetic-tissue.png.

    python benchmarks/tissue.py docs/synthetic-tissue.png --hubmap FOLDER

The colon section is scikit-image's. FOLDER holds image.ome.tif and labels.tif of the HuBMAP tile
R001_X003_Y004 of murphygroup/CellSegmentationEvaluator (MIT licence); without it that section is
left out.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import tifffile

from harpy_core.datasets import REGISTRY, ihc
from harpy_core.datasets.tissue import tissue
from harpy_core.figures.likeness import Section, sections_side_by_side


def sections(hubmap: Path | None) -> Iterator[Section]:
    """Yield the real ones, and the synthetic one last."""
    stains = ihc.stains()
    yield Section("Colon, IHC", stains, ihc.nuclei(stains[0]), (0, 2))
    if hubmap is not None:
        image = tifffile.imread(hubmap / "image.ome.tif")
        yield Section("HuBMAP, CODEX", image, tifffile.imread(hubmap / "labels.tif"), (0, 7, 4))
    known = REGISTRY["tissue"]
    assert known.cells_per_megapixel is not None
    made = tissue((9, 1024, 1024), known.seed, known.cells_per_megapixel)
    yield Section("Synthetic", *made, (0, 7, 2))


def main() -> None:
    """Draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("picture", type=Path)
    parser.add_argument("--hubmap", type=Path, help="folder of the HuBMAP tile")
    options = parser.parse_args()
    sections_side_by_side(list(sections(options.hubmap)), options.picture)


if __name__ == "__main__":
    main()

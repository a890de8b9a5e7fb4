"""Run a large case through the workflow, check every value, and record time and memory.

    python benchmarks/workflow.py config/terapixel-synthetic.yaml aggregate --record FILE
    python benchmarks/workflow.py benchmarks/terapixel-parts.yaml extract --case eighth
    python benchmarks/workflow.py benchmarks/distinct.yaml aggregate --cold

It makes what the stage needs (source, tiles, instances), then runs the stage's rule alone on
--cores while the whole process tree is sampled from outside. The image repeats a source, so every
value is known from the source: aggregate is compared with plain NumPy there, row by row; extract
with windows cut from the source, for a sample of instances.

--cold, for tiles that are copies: their files are read once past the page cache, which is the
disk's floor, and dropped from the cache before the stage, which is made sure of.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

import anndata
import numpy as np
import yaml
from common import Table, read_past_the_cache, record, seconds

import harpy_core as hc
from harpy_core.benchmark.page_cache import InputFiles
from harpy_core.benchmark.profiling import ProcessTreeSampler
from harpy_core.extract.crops import Crops
from harpy_core.raster import RasterInfo, open_described

RESULT = {"aggregate": "table", "extract": "crops"}


def snakemake(config: Path, target: str, cores: int) -> tuple[float, ProcessTreeSampler]:
    """Run one target; return its wall time and the sampled tree."""
    command = [sys.executable, "-m", "snakemake", "--configfile", str(config)]
    command += ["--cores", str(cores), "--quiet", "rules", "--", target]
    started = time.monotonic()
    with (
        subprocess.Popen(command) as process,
        ProcessTreeSampler(process.pid, interval=0.25) as sampler,
    ):
        if process.wait() != 0:
            raise SystemExit(f"{' '.join(command)} failed")
    return time.monotonic() - started, sampler


class Repeats:
    """Expected content of a tiled image, from its source.

    Repeat (i, j) holds the source's labels plus (i * columns + j) times its largest label, in the
    source's pixels; the last row and column are cropped.
    """

    def __init__(self, source: RasterInfo, tiled: RasterInfo) -> None:
        raster = open_described(source)
        self.image = np.asarray(raster.image[...])
        self.labels = np.asarray(raster.labels[...])
        self.step = int(self.labels.max())
        self.size = self.labels.shape
        self.shape = tiled.labels_shape
        self.columns = -(-self.shape[1] // self.size[1])
        self.rows = -(-self.shape[0] // self.size[0])
        self.channels = np.arange(len(tiled.channels)) % len(self.image)

    def extent(self, row: int, column: int) -> tuple[int, int]:
        """Pixels of the source that remain in a repeat."""
        return (
            min(self.size[0], self.shape[0] - row * self.size[0]),
            min(self.size[1], self.shape[1] - column * self.size[1]),
        )

    def means(self, extent: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Labels, counts and means of a cropped source, by `numpy.bincount`."""
        labels = self.labels[: extent[0], : extent[1]].ravel()
        count = np.bincount(labels, minlength=self.step + 1)
        found = np.flatnonzero(count)[1:] if count[0] else np.flatnonzero(count)
        means = np.empty((len(found), len(self.image)))
        for c, plane in enumerate(self.image):
            pixels = plane[: extent[0], : extent[1]].ravel()
            sums = np.bincount(labels, pixels, self.step + 1)
            means[:, c] = sums[found] / count[found]
        return found, count[found], means


def check_table(repeats: Repeats, path: Path) -> int:
    """Compare every mean and count; return the number of values compared."""
    table = anndata.read_zarr(path)
    ids = table.obs["instance_id"].to_numpy()
    means, counts = table.layers["mean"], table.obs["count"].to_numpy()
    known: dict[tuple[int, int], tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
    compared = 0
    seen = 0
    for row in range(repeats.rows):
        for column in range(repeats.columns):
            extent = repeats.extent(row, column)
            if extent not in known:
                known[extent] = repeats.means(extent)
            labels, count, mean = known[extent]
            place = np.searchsorted(ids, labels + (row * repeats.columns + column) * repeats.step)
            assert np.array_equal(counts[place], count), f"counts of repeat {row}, {column}"
            assert np.array_equal(means[place], mean[:, repeats.channels]), f"{row}, {column}"
            compared += means[place].size
            seen += len(place)
    assert seen == len(ids), f"{len(ids) - seen} instances too many"
    return compared


def check_crops(repeats: Repeats, tiled: RasterInfo, crops: Crops) -> int:
    """Compare crops of a sample of instances, cut from the tiled labels and the source's pixels."""
    labels = open_described(tiled).labels
    rng = np.random.default_rng(0)
    size, d = crops.image.chunks[0], crops.diameter
    chunks = rng.choice(-(-len(crops) // size), min(20, -(-len(crops) // size)), replace=False)
    compared = 0
    for first in (chunks * size).tolist():
        batch = np.asarray(crops.image[first : first + size])
        for place in rng.choice(len(batch), min(50, len(batch)), replace=False).tolist():
            label, centroid = crops.instance_id[first + place], crops.centroid[first + place]
            y, x = (int(v) - d // 2 for v in np.rint(centroid[1:]))
            expected = np.zeros((len(repeats.channels), d, d), repeats.image.dtype)
            top, left = max(y, 0), max(x, 0)
            bottom, right = min(y + d, repeats.shape[0]), min(x + d, repeats.shape[1])
            inside = np.asarray(labels[top:bottom, left:right]) == label
            rows = np.arange(top, bottom) % repeats.size[0]
            columns = np.arange(left, right) % repeats.size[1]
            pixels = repeats.image[:, rows][:, :, columns][repeats.channels]
            expected[:, top - y : bottom - y, left - x : right - x] = np.where(inside, pixels, 0)
            assert np.array_equal(batch[place, :, 0], expected), f"crop of {label}"
            compared += 1
    return compared


def make_cold(table: Table, tiled: RasterInfo) -> None:
    """Time bare reading of the tiles' files, drop them from the page cache, and say so."""
    raster = open_described(tiled)
    files = InputFiles.of(raster.image, raster.labels)
    table.add("distinct files", len(files.distinct), "")
    table.add("bytes of them", files.size / 1e9, "GB")
    floor = min(
        seconds(lambda streams=streams: read_past_the_cache(files.distinct, streams))
        for streams in (1, 4)
    )
    table.add("bare reading of them past the page cache", floor, "s")
    table.add("share of them in the page cache before", files.bring_into("cold"), "")


def main() -> None:
    """Run, check and record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("stage", choices=RESULT)
    parser.add_argument("--case", help="which of the config's cases; not needed for one alone")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--cold", action="store_true", help="from files that no cache holds")
    parser.add_argument("--record", type=Path, help="JSON file to write the figures to")
    options = parser.parse_args()
    cases = list(yaml.safe_load(options.config.read_text())["cases"])
    if options.case not in cases and (options.case or len(cases) > 1):
        parser.error(f"--case {options.case}: choose from {', '.join(cases)}")
    case = options.case or cases[0]
    folder = Path("results") / case
    table = Table(f"{case}: {options.stage} on {options.cores} cores, through the workflow")
    wall, _ = snakemake(options.config, f"{folder}/tiled.json", options.cores)
    table.add("source made and tiled", wall, "s")
    wall, _ = snakemake(options.config, f"{folder}/instances.manifest.json", options.cores)
    table.add("instances, Snakemake's start included", wall, "s")
    tiled = RasterInfo.from_json(folder / "tiled.json")
    if options.cold:
        make_cold(table, tiled)
    target = f"{folder}/{RESULT[options.stage]}.manifest.json"
    wall, sampler = snakemake(options.config, target, options.cores)
    summary = sampler.summary()
    pixels = float(np.prod(tiled.image_shape))
    table.add(f"{options.stage}, Snakemake's start included", wall, "s")
    table.add("pixels", pixels / 1e9, "Gpx")
    table.add("throughput", pixels / 1e9 / wall, "Gpx/s")
    table.add("peak RSS of the process tree", summary.peak_rss / 1e9, "GB")
    table.add("peak PSS of the process tree", (summary.peak_pss or 0) / 1e9, "GB")
    table.add("sum of the processes' high-water marks", summary.hwm_sum / 1e9, "GB")
    table.add("mean CPU", summary.mean_cpu_percent, "% of a core")
    repeats = Repeats(RasterInfo.from_json(folder / "source.json"), tiled)
    if options.stage == "aggregate":
        compared = check_table(repeats, folder / "table.zarr")
        table.add("means equal to those of the source, to the last bit", compared, "")
    else:
        crops = hc.open_crops(folder / "crops.zarr")
        files = (f for f in (folder / "crops.zarr").rglob("*") if f.is_file())
        table.add("crops", len(crops), "")
        table.add("raw bytes of the crops", crops.image.nbytes / 1e9, "GB")
        table.add("bytes on disk", sum(f.stat().st_size for f in files) / 1e9, "GB")
        compared = check_crops(repeats, tiled, crops)
        table.add("crops equal to those cut from the source", compared, "")
    record(options.record, [table])


if __name__ == "__main__":
    main()

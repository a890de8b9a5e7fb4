"""Time what a small image waits for: its table, its report, and the phases of every stage.

    python benchmarks/startup.py --record results/recorded/startup.json
    python benchmarks/startup.py --against ../before

The image has 4 x 100 x 100 pixels and some 113 cells: its pixels take milliseconds, so all of the
time is start-up. Two checkouts are measured in turn, round by round, with the same Python. Caches
(files, compiled modules, Numba's) are warm: a first round is not counted.
"""

from __future__ import annotations

import argparse
import ast
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import tifffile
from common import Table, record, seconds

from harpy_core.datasets.tissue import Tissue, tissue_tile

HERE = Path(__file__).resolve().parents[1]
TISSUE = Tissue((4, 100, 100), seed=1, cells_per_megapixel=18_000)
CONFIG = """
cases:
  small:
    source: {uri: image.ome.tif, labels: labels.tif}
    aggregate: {stats: [mean, std, count]}
    extract: {diameter: 16}
"""
FOLDER = Path("results/small")
TABLE, REPORT = FOLDER / "table.manifest.json", "results/report.zip"

STAGES = ("source", "instances", "aggregate", "extract")
FIGURES = ("figure_heatmap", "figure_tissue", "figure_crops")

STARTS = {
    "interpreter": "pass",
    "import harpy_core": "import harpy_core",
    "import of Snakemake": "import snakemake.cli",
    "imports of the workflow's rules": (
        "import harpy_core.planning.preflight, harpy_core.workflow.questions, "
        "harpy_core.workflow.resources"
    ),
    "imports of aggregate_stats": (
        "import anndata, harpy_core.aggregate.aggregation, harpy_core.kernels.compiled"
    ),
    "a Dask worker's process, started and ended": (
        "from harpy_core.running import cluster\nwith cluster.local(1, 2, '1GB'): pass"
    ),
}
"""What is timed in a process of its own; all but the first without the interpreter's start."""

IN_PYTHON = """
import time, tifffile
image, labels = tifffile.imread("image.ome.tif"), tifffile.imread("labels.tif")
for _ in range(2):
    started = time.perf_counter()
    import harpy_core
    harpy_core.aggregate_stats(image, labels, stats=("mean", "std", "count"))
    print(time.perf_counter() - started)
"""

TARGETS = {
    "import harpy_core": 0.1,
    "aggregate_stats, first call of a process": 2.0,
    "aggregate_stats, second call": 0.3,
    "from `snakemake` to the table": 12.0,
    "from `snakemake` to the whole report": 40.0,
    **{f"{stage}: from its start to its end": 2.0 for stage in (*STAGES, *FIGURES)},
    "make run, once everything is installed": 75.0,
}
"""Seconds that a figure should stay below on two cores."""

Figures = dict[str, list[float]]


def make_source(folder: Path) -> None:
    """Write image, labels and config."""
    image, labels = tissue_tile(TISSUE, (0, TISSUE.shape[1]), (0, TISSUE.shape[2]))
    tifffile.imwrite(folder / "image.ome.tif", image, metadata={"axes": "CYX"})
    tifffile.imwrite(folder / "labels.tif", labels)
    (folder / "config.yaml").write_text(CONFIG, encoding="utf-8")


class Checkout:
    """A checkout that is measured, in a working directory of its own.

    Parameters
    ----------
    root
        Folder of the checkout.
    folder
        Working directory, where `make_source` is called.
    """

    def __init__(self, root: Path, folder: Path) -> None:
        self.root, self.folder = root.resolve(), folder
        self.environment = {**os.environ, "PYTHONPATH": str(self.root)}
        make_source(folder)

    def python(self, *arguments: str) -> str:
        """Run Python and return what it prints."""
        ended = subprocess.run(
            [sys.executable, *arguments],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
        )
        if ended.returncode != 0:
            raise SystemExit(f"{arguments}: {ended.stderr}")
        return ended.stdout

    def program(self, code: str) -> float:
        """Seconds that a program takes in a process of its own."""
        return seconds(lambda: self.python("-c", code))

    def snakemake(self, *arguments: str) -> float:
        """Seconds that Snakemake takes."""
        start = ["-m", "snakemake", "--snakefile", str(self.root / "Snakefile"), "--cores", "2"]
        return seconds(lambda: self.python(*start, *arguments))

    def small(self, *arguments: str) -> float:
        """Seconds that Snakemake takes for the small image."""
        return self.snakemake("--configfile", "config.yaml", *arguments)

    def clean(self) -> None:
        """Remove all results."""
        for name in ("results", "logs", ".snakemake", "data"):
            shutil.rmtree(self.folder / name, ignore_errors=True)


def processes(checkout: Checkout) -> Iterator[tuple[str, float]]:
    """Measure imports, processes and calls, without Snakemake."""
    took = {name: checkout.program(code) for name, code in STARTS.items()}
    bare = took["interpreter"]
    yield from ((name, t if name == "interpreter" else t - bare) for name, t in took.items())
    first, second = map(float, checkout.python("-c", IN_PYTHON).split())
    yield "aggregate_stats, first call of a process", first
    yield "aggregate_stats, second call", second
    yield (
        "of the first call: Numba's cache, buffers",
        first - second - (took["imports of aggregate_stats"] - bare),
    )


def workflow(checkout: Checkout) -> Iterator[tuple[str, float]]:
    """Measure a whole run, and one that has nothing to do."""
    checkout.clean()
    started = time.time()
    whole = checkout.small()
    there = (checkout.folder / TABLE).stat().st_mtime
    yield "from `snakemake` to the table", there - started
    yield "from `snakemake` to the whole report", whole
    yield "`snakemake` with nothing to do: import, parsing, schema, graph", checkout.small("-n")
    for rule in (*STAGES, *FIGURES, "report"):
        yield from phases_of(checkout, rule)


def phases_of(checkout: Checkout, rule: str) -> Iterator[tuple[str, float]]:
    """Phases of a rule's job, from its log and from Snakemake's own clock where it has one."""
    place = rule if rule == "report" else f"small/{rule}"
    stamps = re.findall(
        r"^(\d{4}-\S+ [\d:]+,\d+) ", (checkout.folder / f"logs/{place}.log").read_text(), re.M
    )
    first, last = (datetime.strptime(s, "%Y-%m-%d %H:%M:%S,%f") for s in (stamps[0], stamps[-1]))
    inside = (last - first).total_seconds()
    yield f"{rule}: from its start to its end", inside
    timings = checkout.folder / f"logs/benchmarks/{place}.tsv"
    if timings.is_file():
        around = float(timings.read_text().splitlines()[1].split("\t")[0]) - inside
        yield f"{rule}: interpreter, Snakemake inside the job, exit", around


def imports_of(root: Path, script: str) -> str:
    """Write the imports of a script's job as a program."""
    tree = ast.parse((root / "scripts" / f"{script}.py").read_bytes())
    lines = {ast.unparse(node): None for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    return "\n".join(lines)


def imports(checkout: Checkout) -> Iterator[tuple[str, float]]:
    """Measure what each script imports by name, without the interpreter's start."""
    bare = checkout.program("pass")
    for script in (*STAGES, *FIGURES):
        yield f"{script}: imports", checkout.program(imports_of(checkout.root, script)) - bare


def measured(checkouts: dict[str, Checkout], rounds: int) -> dict[str, Figures]:
    """Measure every checkout once a round; the first round warms the caches."""
    figures: dict[str, Figures] = {name: defaultdict(list) for name in checkouts}
    for number in range(1 + rounds):
        for name, checkout in checkouts.items():
            for part in (workflow, processes, imports):
                for what, value in part(checkout):
                    if number:
                        figures[name][what].append(value)
    return figures


def default_run(checkout: Checkout) -> float:
    """Measure what `make run` does once everything is installed."""
    checkout.clean()
    return checkout.snakemake("--configfile", str(checkout.root / "config/config.yaml"))


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--against", type=Path, help="another checkout, measured in turn")
    parser.add_argument("--default", action="store_true", help="the default run alone, once")
    parser.add_argument("--record", type=Path, help="JSON file to write the figures to")
    options = parser.parse_args()
    roots = {"this checkout": HERE}
    if options.against is not None:
        roots["the other"] = options.against
    tables = []
    with tempfile.TemporaryDirectory() as folder:
        checkouts = {}
        for number, (name, root) in enumerate(roots.items()):
            work = Path(folder, str(number))
            work.mkdir()
            checkouts[name] = Checkout(root, work)
        if options.default:
            figures: dict[str, Figures] = {
                name: {"make run, once everything is installed": [default_run(checkout)]}
                for name, checkout in checkouts.items()
            }
        else:
            figures = measured(checkouts, options.rounds)
    for name, found in figures.items():
        table = Table(f"start-up, warm caches: {name}")
        for what, values in found.items():
            target = f"<= {TARGETS[what]} s" if what in TARGETS else ""
            table.add(what, statistics.median(values), "s", target)
        tables.append(table)
    record(options.record, tables)


if __name__ == "__main__":
    main()

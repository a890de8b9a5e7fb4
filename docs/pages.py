"""Pages written from the code (public names, statistics, commands) and from the repository."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import click

import harpy_core as hc
from harpy_core.cli.commands import harpy_core as command
from harpy_core.config.documents import statistics_tables

ROOT = Path(__file__).parents[1]

GROUPS = {
    "Images": ("open_raster", "find_instances"),
    "Labels": (
        "label_connected",
        "expand_labels",
        "label_rings",
        "subtract_labels",
        "place_labels",
        "polygon_labels",
        "read_polygons",
    ),
    "Statistics": (
        "aggregate_stats",
        "aggregate_layers",
        "Statistic",
        "Shape",
        "radial_mean",
        "pearson_corr_coeff",
        "manders_overlap_coeff",
        "manders_coloc_coeff",
        "measure",
    ),
    "Crops": ("extract_instances", "aggregate_and_extract", "open_crops", "export_crops"),
    "Models": ("embed",),
    "Training": ("CropBatches", "CropDataset", "crop_percentiles", "channel_percentiles"),
    "Planning": ("plan_aggregate", "plan_extract"),
    "Errors": ("InputError",),
}
"""Public names, in the order of the reference."""

RETURNED = {
    "Images": (
        "raster.Raster",
        "raster.label_views.ConnectedLabels",
        "instances.finding.Instances",
    ),
    "Crops": ("extract.crops.Crops",),
    "Training": ("training.batches.Batch",),
    "Planning": ("planning.plan.Plan",),
}
"""Classes of ours that they return."""

BORROWED = {
    "readme": "README.md",
    "config": "config/README.md",
    "results": "results/README.md",
    "recorded": "results/recorded/README.md",
    "slurm": "slurm/README.md",
    "contributing": "CONTRIBUTING.md",
    "changelog": "CHANGELOG.md",
}
"""Files of the repository that are pages, or parts of pages."""

ELSEWHERE = {"STATISTICS", "__version__"}
"""Public names that have a table, or need no description."""


def write(folder: Path) -> None:
    """Write the pages into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "names.md").write_text("\n".join(_names()) + "\n")
    (folder / "statistics.md").write_text(statistics_tables())
    (folder / "costs.md").write_text("\n".join(_costs()) + "\n")
    (folder / "commands.md").write_text("\n".join(_commands()) + "\n")
    for page, file in BORROWED.items():
        (folder / f"{page}.md").write_text(_borrowed(file))


def _names() -> Iterator[str]:
    listed = {name for group in GROUPS.values() for name in group}
    missing = set(dir(hc)) - listed - ELSEWHERE
    if missing:
        raise ValueError(f"public names that no group of docs/pages.py has: {sorted(missing)}")
    for group, names in GROUPS.items():
        yield f"\n## {group}\n"
        for name in names:
            yield _entry(name)
        for name in RETURNED.get(group, ()):
            yield _entry(name)


def _entry(name: str) -> str:
    """Write a public name's docstring; its spelling shows its kind, as PyTorch may be missing."""
    last = name.rpartition(".")[2]
    directive = "autofunction" if last.islower() else "autoclass"
    if last.endswith("Error"):
        directive = "autoexception"
    members = "   :members:\n" if directive == "autoclass" else ""
    return f"```{{eval-rst}}\n.. {directive}:: harpy_core.{name}\n{members}```\n"


def _costs() -> Iterator[str]:
    """Write the recorded cost of each measure."""
    content = json.loads((ROOT / "results/recorded/measures.json").read_text(encoding="utf-8"))
    beside: dict[str, float] = {}
    theirs: dict[str, float] = {}
    for title, rows in content["tables"].items():
        for row in rows:
            name, _, what = row["what"].partition(": ")
            if what.startswith("scikit-image /"):
                theirs[name] = row["value"]
            elif title.startswith("mean and another") and row["unit"] == "x":
                beside[name] = row["value"]
    yield "| measure | with the mean / the mean alone | scikit-image / harpy_core, one tile |"
    yield "|---|---|---|"
    for name in dict.fromkeys([*beside, *theirs]):
        cells = (f"{column[name]:.3g}" if name in column else "" for column in (beside, theirs))
        yield f"| {name} | {' | '.join(cells)} |"


def _borrowed(file: str) -> str:
    """Write a file of the repository as a page; its links to files are not among the pages."""

    def without_link(found: re.Match[str]) -> str:
        if found["target"].startswith(("http", "#")):
            return found[0]
        if found["picture"]:
            return f"![{found['text']}](../../../{Path(file).parent / found['target']})"
        return found["text"]

    link = r"(?P<picture>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)]*)\)"
    return re.sub(link, without_link, (ROOT / file).read_text())


def _commands() -> Iterator[str]:
    context = click.Context(command, info_name="harpy-core")
    for name in command.list_commands(context):
        found = command.get_command(context, name)
        assert found is not None
        inner = click.Context(found, info_name=f"harpy-core {name}", max_content_width=90)
        yield f"\n## harpy-core {name}\n\n```text\n{found.get_help(inner)}\n```\n"

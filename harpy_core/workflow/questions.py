"""Questions of the rules to the config: a job's files and settings, and the wanted results.

It is imported while the workflow is parsed, for every dry run and every cluster job: nothing heavy
is imported here. A method that is a rule's input or params function takes Snakemake's wildcards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from harpy_core import provenance
from harpy_core.config.cases import ImageCase, image_cases
from harpy_core.config.crops import CropSettings, Extract
from harpy_core.config.models import DATASETS, PEER, Aggregate, Config, Section, Source
from harpy_core.datasets import REGISTRY
from harpy_core.planning import preflight

_STORES = {"aggregate": "table", "extract": "crops"}
_FIGURES = {"aggregate": "heatmap", "extract": "crops"}

_PUBLISHED = {
    "macsima-tonsil": "gigapixel",
    "merscope-liver": "terapixel",
    "tissue-gigapixel": "gigapixel",
    "tissue-terapixel": "terapixel",
}
"""The published case that a dataset belongs to or resembles."""


def any_of(names: Iterable[str]) -> str:
    """Return a wildcard's constraint to some names, which may be none."""
    return "|".join(names) or "(?!)"


def plain(section: Section | None) -> dict[str, Any] | None:
    """Convert a section of the config to builtins: Snakemake compares no others between runs."""
    return None if section is None else section.model_dump()


class Questions:
    """Answers of the config to the rules.

    Parameters
    ----------
    config
        Checked config.

    Attributes
    ----------
    images
        Images that are measured on their own, by folder: a case, or a field of view of one.
    fields
        Fields of view of the cases that have some.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.images: dict[str, ImageCase] = image_cases(config)
        self.fields: dict[str, dict[str, Source]] = {
            name: case.fields for name, case in config.cases.items() if case.fields
        }

    def warnings(self) -> list[str]:
        """A line for each case of which nothing will be measured."""
        stages = (*_STORES, "benchmark")
        return [
            f"cases.{name}: warning: no {', '.join(stages[:-1])} or {stages[-1]}: nothing will be "
            f"measured; add `{stages[0]}: {{}}` for the statistics, `{stages[1]}: {{}}` for crops"
            for name, case in self.config.cases.items()
            if all(getattr(case, stage) is None for stage in stages)
        ]

    def case(self, wildcards: Any) -> ImageCase:
        """The case, or the field of view of one, that a job belongs to."""
        return self.images[wildcards.case]

    def engine(self, wildcards: Any) -> str:
        """The kernels of a case's stages."""
        return self.case(wildcards).engine

    def dataset_code(self, wildcards: Any) -> str:
        """Origin of a dataset: the code of a made one, the digest of a published one."""
        dataset = REGISTRY[wildcards.dataset]
        if dataset.sha256 is None:
            return provenance.source_digest(dataset.origin)
        origin = self.config.datasets.get(wildcards.dataset)
        return (origin.sha256 if origin else None) or dataset.sha256

    def source_files(self, wildcards: Any) -> list[str]:
        """Files whose change makes a case's source another one."""
        source = self.case(wildcards).source
        if source.uri in DATASETS:
            manifest = f"data/{source.uri}.manifest.json"
            return [manifest, *preflight.watched_files(source)]
        return preflight.watched_files(source)

    def source_stamp(self, wildcards: Any) -> str:
        """Stamp that changes with a file of a case's source, even if its name and size do not."""
        return preflight.files_digest(self.case(wildcards).source)

    def source(self, wildcards: Any) -> dict[str, Any]:
        """A case's source as builtins, a registered name replaced by the path of its store."""
        source = self.case(wildcards).source.model_dump()
        source["dataset"] = source["uri"] if source["uri"] in DATASETS else None
        if source["dataset"]:
            source["uri"] = f"data/{source['uri']}.zarr"
        return source

    def tile(self, wildcards: Any) -> dict[str, Any] | None:
        """A case's tile section as builtins."""
        return plain(self.case(wildcards).tile)

    def raster(self, wildcards: Any) -> str:
        """The description of the image and labels that a case works on."""
        tiled = self.case(wildcards).tile is not None
        return f"results/{wildcards.case}/{'tiled' if tiled else 'source'}.json"

    def aggregate(self, wildcards: Any) -> dict[str, Any]:
        """A case's aggregate section as builtins, or its defaults where it has none."""
        return (self.case(wildcards).aggregate or Aggregate()).model_dump()

    def extract(self, wildcards: Any) -> dict[str, Any]:
        """A case's extract section as builtins, or its defaults where it has none."""
        return (self.case(wildcards).extract or Extract()).model_dump()

    def index_file(self, wildcards: Any) -> list[str]:
        """The file that names the instances to crop, where a case has one."""
        index = self.extract(wildcards)["index"]
        return [index] if isinstance(index, str) else []

    def field_names(self, wildcards: Any) -> list[str]:
        """The fields of view of a case."""
        return list(self.fields[wildcards.case])

    def of_fields(self, file: str) -> Callable[[Any], list[str]]:
        """Make an input function: one file of each field of view of a case."""

        def files(wildcards: Any) -> list[str]:
            folder = f"results/{wildcards.case}/fields"
            return [f"{folder}/{field}/{file}" for field in self.fields[wildcards.case]]

        return files

    def sweep_rows(self, wildcards: Any) -> list[str]:
        """The measured runs of a case, one row each."""
        sweep = self.case(wildcards).benchmark
        assert sweep is not None
        return [
            f"results/{wildcards.case}/benchmark/{stage}/{engine}-{workers}-{repeat}.json"
            for stage in sweep.stages
            for engine in sweep.engines
            for workers in getattr(sweep.workers, stage)
            for repeat in range(sweep.repeats)
        ]

    def measured(self, wildcards: Any) -> dict[str, Any]:
        """Settings of a measured run besides its raster, engine and workers."""
        sweep = self.case(wildcards).benchmark
        assert sweep is not None
        settings: dict[str, Any] = {
            "threads_per_worker": sweep.threads_per_worker,
            "memory_limit": sweep.memory_limit,
        }
        if wildcards.engine == PEER:
            settings["python"] = sweep.peer_python
        if wildcards.stage == "extract":
            crops = CropSettings.within(self.extract(wildcards))
            return settings | {"crops": crops.model_dump()}
        return settings | {"stats": ["mean"]}

    def published(self, wildcards: Any) -> str | None:
        """The published case over whose points a case's figures are drawn, if there is one."""
        # As it was asked for: a store of the user's may replace it.
        source = self.config.cases[wildcards.case].source
        return _PUBLISHED.get(source.uri) if source else None

    def manifests(self) -> list[str]:
        """Manifests of each case's stores."""
        return [
            f"results/{name}/{store}.manifest.json"
            for name, case in self.config.cases.items()
            for stage, store in _STORES.items()
            if getattr(case, stage) is not None
        ]

    def figures(self) -> list[str]:
        """Every picture of the config's cases."""
        drawn = []
        for name, case in self.images.items():
            figures = ["tissue"]
            figures += [f for stage, f in _FIGURES.items() if getattr(case, stage) is not None]
            figures += case.benchmark.stages if case.benchmark else []
            drawn += [f"results/{name}/figures/{figure}.png" for figure in figures]
        joined = [name for name in self.fields if self.config.cases[name].aggregate is not None]
        return drawn + [f"results/{name}/figures/heatmap.png" for name in joined]

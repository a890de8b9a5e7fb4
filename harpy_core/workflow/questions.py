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
from harpy_core.config.models import DATASETS, Aggregate, Benchmark, Case, Config, Section, Source
from harpy_core.datasets import REGISTRY
from harpy_core.embedding.onnx_files import onnx_files
from harpy_core.kernels.registry import AUTO
from harpy_core.planning import preflight
from harpy_core.statistics.asked import has_layers, own_code
from harpy_core.statistics.own import OWN_NAME, code_digest

_STORES = {"aggregate": "table", "extract": "crops"}
_FIGURES = {"aggregate": "heatmap", "extract": "crops"}

SWEEP_FIGURES = ("comparison", "scaling", "timeline")
"""Pictures of each stage of a sweep, beside its panels."""


def any_of(names: Iterable[str]) -> str:
    """Return a wildcard's constraint to some names, which may be none."""
    return "|".join(names) or "(?!)"


def _drawn_of(sweep: Benchmark) -> list[str]:
    """Pictures of a sweep: a comparison where there are bars to compare."""
    several = len(sweep.engines) * len(sweep.cache) > 1
    names = [name for name in SWEEP_FIGURES if several or name != "comparison"]
    return [*sweep.stages, *(f"{stage}-{name}" for stage in sweep.stages for name in names)]


def most_workers(sweep: Benchmark) -> int:
    """Workers of a sweep's largest run."""
    return max(max(getattr(sweep.workers, stage)) for stage in sweep.stages)


def plain(section: Section | None) -> dict[str, Any] | None:
    """Convert a section of the config to builtins: Snakemake compares no others between runs."""
    return None if section is None else section.model_dump()


def _is_drawn(stage: str, case: ImageCase | Case) -> bool:
    """Whether a case has a picture of a stage: shapes alone have no heat map."""
    section = getattr(case, stage)
    if not isinstance(section, Aggregate):
        return section is not None
    return has_layers(section.stats)


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
        return self.raster_of(wildcards.case)

    def raster_of(self, name: str) -> str:
        """The description of an image by its name."""
        tiled = self.images[name].tile is not None
        return f"<results>/{name}/{'tiled' if tiled else 'source'}.json"

    def window(self, wildcards: Any) -> int:
        """Longest side of a case's crops, or of those it would have, in pixels."""
        return max((self.case(wildcards).extract or Extract()).window(1))

    def aggregate(self, wildcards: Any) -> dict[str, Any]:
        """A case's aggregate section as builtins, or its defaults where it has none."""
        case = self.case(wildcards)
        section = case.aggregate or Aggregate()
        return (section if case.tile is None else section.in_tiles()).model_dump()

    def opened_layers(self, wildcards: Any) -> dict[str, Any]:
        """Layers of a case that have labels of their own, as builtins by name."""
        section = self.case(wildcards).aggregate or Aggregate()
        return {name: layer.model_dump() for name, layer in section.opened_layers.items()}

    def layers_file(self, wildcards: Any) -> list[str]:
        """The description of the layers of a case that have labels of their own, if any have."""
        layers = self.opened_layers(wildcards)
        return [f"<results>/{wildcards.case}/layers.json"] if layers else []

    def table_elements(self, wildcards: Any) -> dict[str, list[str]]:
        """The element of each layer's table, and the layer whose labels it annotates.

        The source's labels are the layer without a name.
        """
        case = self.case(wildcards)
        elements = case.table_elements if case.puts_table else {}
        section = case.aggregate or Aggregate()
        return {
            layer: [element, section.instances_of.get(layer, "")]
            for layer, element in elements.items()
        }

    def layer_stamps(self, wildcards: Any) -> dict[str, str]:
        """Stamps of the files of a case's other labels, by the layer's name."""
        source = self.case(wildcards).source
        return {
            name: preflight.files_digest(source.model_copy(update={"labels": layer["labels"]}))
            for name, layer in self.opened_layers(wildcards).items()
        }

    def own_code(self, wildcards: Any) -> dict[str, str]:
        """Digests of the functions of the user's own that a case measures."""
        return own_code(self.aggregate(wildcards))

    def embed(self, wildcards: Any) -> dict[str, Any] | None:
        """A case's embed section as builtins."""
        return plain(self.case(wildcards).embed)

    def model_engine(self, wildcards: Any) -> str:
        """The engine whose workers a case's model has."""
        section = self.case(wildcards).embed
        return section.engine if section else AUTO

    def counted(self, wildcards: Any) -> list[str]:
        """The manifest of a case's table, where that counts the pixels of whole channels."""
        section = self.case(wildcards).aggregate
        asked = section is not None and section.whole_channels
        return [f"<results>/{wildcards.case}/table.manifest.json"] if asked else []

    def normalising(self, wildcards: Any) -> list[str]:
        """The manifest of the table whose counts normalise what a case's model is given."""
        section = self.case(wildcards).embed
        asked = section is not None and section.normalise == "channels"
        return self.counted(wildcards) if asked else []

    def model_file(self, wildcards: Any) -> list[str]:
        """The files of a case's model, where it is one of ONNX."""
        section = self.case(wildcards).embed
        if section is None or OWN_NAME.fullmatch(section.model):
            return []
        return [str(file) for file in onnx_files(section.model)]

    def model_code(self, wildcards: Any) -> str | None:
        """Digest of the code of a case's model, where it is the user's own."""
        section = self.case(wildcards).embed
        return code_digest(section.model) if section and OWN_NAME.fullmatch(section.model) else None

    def extract(self, wildcards: Any) -> dict[str, Any]:
        """A case's extract section as builtins, or its defaults where it has none."""
        return (self.case(wildcards).extract or Extract()).model_dump()

    def crops_of_page(self, wildcards: Any) -> list[str]:
        """The manifest of the crops that a case's page shows, where it has some."""
        cut = self.case(wildcards).extract is not None
        return [f"<results>/{wildcards.case}/crops.manifest.json"] if cut else []

    def table(self, wildcards: Any) -> dict[str, Any] | None:
        """A case's table section as builtins."""
        return plain(self.case(wildcards).table)

    def index_file(self, wildcards: Any) -> list[str]:
        """The file that names the instances to crop, where a case has one."""
        index = self.extract(wildcards)["index"]
        return [index] if isinstance(index, str) else []

    def read_before(self, wildcards: Any) -> list[str]:
        """The file that says that the image was read for both jobs, where a case asks for that."""
        asked = self.case(wildcards).one_read
        return [f"<results>/{wildcards.case}/one_read.json"] if asked else []

    def field_names(self, wildcards: Any) -> list[str]:
        """The fields of view of a case."""
        return list(self.fields[wildcards.case])

    def of_fields(self, file: str) -> Callable[[Any], list[str]]:
        """Make an input function: one file of each field of view of a case."""

        def files(wildcards: Any) -> list[str]:
            folder = f"<results>/{wildcards.case}/fields"
            return [f"{folder}/{field}/{file}" for field in self.fields[wildcards.case]]

        return files

    def sweep(self, wildcards: Any) -> dict[str, Any]:
        """Settings of a case's sweep, as `harpy_core.benchmark.sweep.Sweep` takes them."""
        sweep = self.case(wildcards).benchmark
        assert sweep is not None
        return {
            "stages": list(sweep.stages),
            "engines": list(sweep.engines),
            "workers": sweep.workers.model_dump(),
            "threads_per_worker": sweep.threads_per_worker,
            "memory_limit": sweep.memory_limit,
            "crops": CropSettings.within(self.extract(wildcards)).model_dump(),
            "caches": list(sweep.cache),
            "repeats": sweep.repeats,
            "seed": sweep.seed,
            "oversubscribe": sweep.oversubscribe,
            "time_limit": sweep.time_limit,
            "python": sweep.peer_python,
        }

    def sweeps(self) -> list[str]:
        """The table of every case that is measured."""
        measured = [name for name, case in self.images.items() if case.benchmark]
        return [f"<results>/{name}/benchmark/sweep.csv" for name in measured]

    def manifests(self) -> list[str]:
        """Manifests of each case's stores, and of the tables that are put into users' stores."""
        return (
            [
                f"<results>/{place}/into_store.json"
                for place, image in self.images.items()
                if image.puts_table
            ]
            + [
                f"<results>/{name}/{store}.manifest.json"
                for name, case in self.config.cases.items()
                for stage, store in _STORES.items()
                if getattr(case, stage) is not None
            ]
            + [
                f"<results>/{name}/embedding.manifest.json"
                for name, case in self.images.items()
                if case.embed is not None
            ]
        )

    def measured(self) -> list[str]:
        """The images that have a table."""
        return [name for name, case in self.images.items() if case.aggregate is not None]

    def pages(self) -> list[str]:
        """The page of every image that has a table."""
        return [f"<results>/{name}/view.html" for name in self.measured()]

    def folders(self) -> list[str]:
        """The folders of all images, and of the cases with several of them."""
        return [*self.config.cases, *(name for name in self.images if "/" in name)]

    def figures(self) -> list[str]:
        """Every picture of the config's cases."""
        drawn = []
        for name, case in self.images.items():
            figures = ["tissue"]
            figures += [f for stage, f in _FIGURES.items() if _is_drawn(stage, case)]
            figures += _drawn_of(case.benchmark) if case.benchmark else []
            drawn += [f"<results>/{name}/figures/{figure}.png" for figure in figures]
        drawn += ["<results>/figures/overview.png"] if self.sweeps() else []
        cases = self.config.cases
        joined = [name for name in self.fields if _is_drawn("aggregate", cases[name])]
        return drawn + [f"<results>/{name}/figures/heatmap.png" for name in joined]

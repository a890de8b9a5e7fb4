"""The sections of the config, each key with its meaning and its rule.

The models are the config's only definition: the JSON schema, the commented default and the table
of keys are made from them (`python -m harpy_core.config.documents`). They are imported while the
workflow is parsed, so nothing heavy is imported here.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    model_validator,
)
from pydantic_core import PydanticCustomError

from harpy_core.config.addresses import expanded
from harpy_core.config.crops import Codec, Extract
from harpy_core.config.measures import Aggregate, Embed
from harpy_core.config.section import CaseName, Positive, Section, Unlike, key
from harpy_core.config.sizes import parse_bytes
from harpy_core.config.source import DATASETS as DATASETS
from harpy_core.config.source import NAME_RULE, Address, LocalPath, Source
from harpy_core.config.source import MissingChunks as MissingChunks
from harpy_core.kernels.registry import AUTO, ENGINES

Published = Literal["macsima-tonsil", "merscope-liver"]
Stage = Literal["aggregate", "extract"]
Cache = Literal["warm", "cold"]
Shape = Literal["centroids", "boxes"]
PEER = "harpy"
"""Name of the peer, which a benchmark measures too, in an environment of its own."""
MEASURED = (*ENGINES, PEER)

RESULTS = "results"
"""Folder of the results, if a config names no other."""

TILED_IMAGE, TILED_LABELS = "image", "labels"
"""Names of a source's image and labels in a tiled store; other layers keep their own."""


if TYPE_CHECKING:
    MeasuredEngine = str
    StageEngine = str
else:
    MeasuredEngine = Literal[MEASURED]
    StageEngine = Literal[AUTO, *ENGINES]

ELEMENTS = {
    "macsima-tonsil": ("image_tiled", "labels_cells_harpy"),
    "merscope-liver": ("clahe", "segmentation_mask_full"),
}
"""Names of the image and the labels in the published stores."""


def _checked_size(text: str) -> str:
    parse_bytes(text)
    return text


def _as_folder(path: str) -> str:
    return os.path.normpath(expanded(path))


Size = Annotated[str, AfterValidator(_checked_size)]
ChunkShape = Annotated[list[Positive], Field(min_length=3, max_length=3)]

_SIZE_RULE = "a size is a number and a unit, such as 48GB or 512MiB"
_TARGET_RULE = "a target size is a whole number of at least 1"


class Tile(Section):
    """Repeat the source along c, y and x, every repeat's labels unique."""

    c: Positive = key("Channels of the tiled image.", _TARGET_RULE)
    y: Positive = key("Rows of the tiled image, in pixels.", _TARGET_RULE)
    x: Positive = key("Columns of the tiled image, in pixels.", _TARGET_RULE)
    chunks: ChunkShape = key(
        "Chunk shape of the tiled image, as [c, y, x].",
        "chunks are three whole numbers of at least 1: [c, y, x]",
        default_factory=lambda: [10, 2048, 2048],
    )
    method: Literal["link", "copy"] = key(
        "Way to repeat chunk files of equal content: copy makes a file for each; link gives one "
        "file several names, which takes no space (across file systems it copies, and logs that).",
        "methods are link and copy",
        default="copy",
    )
    codec: Codec | None = key(
        "Compression of the chunks: lz4, zstd or none; null: the source's files are used as they "
        "are where they fit, others are written with lz4 (the image) and zstd (the labels).",
        "codecs are lz4, zstd, none and null",
        default=None,
    )
    shard: ChunkShape | None = key(
        "Shape of a file as [c, y, x], in multiples of the chunks; null: each chunk is a file.",
        "a shard is three multiples of the chunk shape, [c, y, x], or null",
        default=None,
    )

    @model_validator(mode="after")
    def _shard_is_made_of_chunks(self) -> Tile:
        shard = self.shard or self.chunks
        if any(s % c for s, c in zip(shard, self.chunks, strict=True)):
            raise PydanticCustomError(
                "together",
                "shard {shard} is no multiple of chunks {chunks}",
                {"shard": str(shard), "chunks": str(self.chunks)},
            )
        return self


class Table(Section):
    """Put the table into the store that it was measured from."""

    into_store: bool = key(
        "Put the table into the source's SpatialData store, as an element that annotates the "
        "labels. Nothing that is there is changed. The table of each of aggregate.layers becomes "
        "an element of its own, which annotates the labels that the layer has or is made of.",
        "use true or false",
        default=False,
    )
    name: str = key(
        "Name of the element; a layer's has its name after it: table_nucleus.",
        "a name is of ASCII letters, digits, - and _",
        default="table",
        pattern=r"^[A-Za-z0-9_-]+$",
    )
    shapes: Annotated[list[Shape], Unlike] = key(
        "Shapes of the instances to put there too: centroids (circles of the same areas), boxes.",
        "shapes are a list of centroids and boxes, each at most once",
        default_factory=list,
    )
    overwrite: bool = key(
        "Replace elements of those names that are not ours, or that were changed since; without "
        "it they are refused.",
        "use true or false",
        default=False,
    )


Workers = Annotated[list[Positive], Field(min_length=1), Unlike]


class StageWorkers(Section):
    """Numbers of worker processes to measure each stage with."""

    aggregate: Workers = key(
        "Numbers of worker processes to measure aggregate with.",
        "workers are a list of different whole numbers of at least 1",
        default_factory=lambda: [1, 2, 4, 8, 16],
    )
    extract: Workers = key(
        "Numbers of worker processes to measure extract with.",
        "workers are a list of different whole numbers of at least 1",
        default_factory=lambda: [1, 2, 4, 8, 16],
    )


def _listed(value: Any) -> Any:
    """One value stands for a list of it."""
    return [value] if isinstance(value, str) else value


def _for_each_stage(workers: Any) -> Any:
    """Take one list for all stages."""
    if isinstance(workers, list):
        return dict.fromkeys(get_args(Stage), workers)
    return workers


class Benchmark(Section):
    """Measured runs: every stage x engine x number of workers, repeated."""

    stages: Annotated[list[Stage], Field(min_length=1), Unlike] = key(
        "Stages to measure: aggregate (the mean, as in the published benchmark) and extract (with "
        "the case's own extract settings).",
        "stages are aggregate and extract, each at most once",
        default_factory=lambda: ["aggregate", "extract"],
    )
    engines: Annotated[list[MeasuredEngine], Field(min_length=1), Unlike] = key(
        f"Kernels to measure: {', '.join(ENGINES)}, or {PEER} (the peer, see peer_python).",
        f"engines are {', '.join(ENGINES)} and {PEER}, each at most once",
        default_factory=lambda: [next(iter(ENGINES))],
    )
    workers: Annotated[
        StageWorkers,
        BeforeValidator(_for_each_stage, json_schema_input_type=Workers | StageWorkers),
    ] = key(
        "Numbers of worker processes to measure with: a list, or a list for each stage, such as "
        "{aggregate: [1, 16], extract: [1, 32]}.",
        "workers are a list of different whole numbers of at least 1",
        default_factory=StageWorkers,
    )
    threads_per_worker: Positive = key(
        "Threads of one worker.", "a worker has at least 1 thread", default=4
    )
    memory_limit: Size = key("Memory of one worker.", _SIZE_RULE, default="48GB")
    cache: Annotated[
        list[Cache],
        Field(min_length=1),
        Unlike,
        BeforeValidator(_listed, json_schema_input_type=Cache | list[Cache]),
    ] = key(
        "What a run finds in the page cache: warm (all of its input, read once before) or cold "
        "(none of it, dropped before and made sure of; not for linked files), or [warm, cold].",
        "cache is warm, cold or a list of both",
        default_factory=lambda: ["warm"],
    )
    repeats: Positive = key(
        "Runs of each combination.", "a combination is run at least 1 time", default=3
    )
    seed: Annotated[int, Field(ge=0)] = key(
        "Of the random order in which the runs are measured.",
        "a seed is a whole number of at least 0",
        default=0,
    )
    oversubscribe: bool = key(
        "Measure more threads than there are cores too, and mark those runs; without it they are "
        "refused.",
        "oversubscribe is true or false",
        default=False,
    )
    time_limit: Annotated[float, Field(gt=0)] | None = key(
        "Minutes after which a run, its start and warm-up included, is ended, and a row with that "
        "reason; null: no limit.",
        "a time limit is a number of minutes above 0, or null",
        default=None,
    )
    peer_python: LocalPath | None = key(
        "Python interpreter of the peer's environment, which `make peer` makes; needed for the "
        "engine harpy only.",
        "the path of a Python interpreter",
        default=None,
    )


class Case(Section):
    """A source, and what is done with it; a section left out is not done."""

    source: Source | None = key(
        "The image and its labels.", "a case needs a source with a uri", default=None
    )
    fields: Annotated[dict[CaseName, Source], Field(min_length=1)] | None = key(
        "Several fields of view by name instead of a source, each with the keys of a source. They "
        "are measured one by one, and their tables are joined into one that names the field.",
        "fields are a mapping of a name (ASCII letters, digits, - and _) to a source; at least one",
        default=None,
    )
    tile: Tile | None = key(
        "Repeat the source to a target size; left out: the source as it is.",
        "tile is a mapping, or null",
        default=None,
    )
    aggregate: Aggregate | None = key(
        "Statistics of every channel in every instance; left out: not done.",
        "aggregate is a mapping ({} for the defaults), or null",
        default=None,
    )
    extract: Extract | None = key(
        "One centred crop of every instance; left out: not done.",
        "extract is a mapping ({} for the defaults), or null",
        default=None,
    )
    one_read: bool = key(
        "Read the image once for aggregate and extract, which go on from what that has committed: "
        "a fifth less time for both where the image is not in memory, and the memory of both.",
        "one_read is true or false",
        default=False,
    )
    embed: Embed | None = key(
        "Numbers that a model gives for each crop; left out: not done.",
        "embed is a mapping with a model, or null",
        default=None,
    )
    table: Table | None = key(
        "What else becomes of the table; left out: nothing.",
        "table is a mapping, or null",
        default=None,
    )
    engine: StageEngine = key(
        "Kernels of all stages: cupy is an NVIDIA GPU for each worker, numba the processor; auto: "
        "cupy where every worker has a working GPU, else numba.",
        f"engines are {', '.join((AUTO, *ENGINES))}",
        default=AUTO,
    )
    benchmark: Benchmark | None = key(
        "Measure both stages over a range of workers; left out: not done.",
        "benchmark is a mapping ({} for the defaults), or null",
        default=None,
    )

    @model_validator(mode="after")
    def _has_one_source_or_fields(self) -> Case:
        if self.source is None and self.fields is None:
            raise PydanticCustomError("source", "a case needs a source with a uri")
        if self.source is not None and self.fields is not None:
            raise PydanticCustomError("together", "give source or fields, not both")
        if self.embed is not None and self.extract is None:
            raise PydanticCustomError("together", "embed takes crops: add extract: {}")
        if self.embed is not None and self.embed.normalise == "channels":
            if not (self.aggregate and self.aggregate.whole_channels):
                raise PydanticCustomError(
                    "together", "embed.normalise: channels needs aggregate: {whole_channels: true}"
                )
            if self.extract and self.extract.dtype is not None:
                raise PydanticCustomError(
                    "together",
                    "embed.normalise: channels takes pixels as the image has them: "
                    "remove extract.dtype",
                )
        if self.one_read and not (self.aggregate and self.extract):
            raise PydanticCustomError("together", "one_read needs both aggregate and extract")
        if self.one_read and self.extract and self.extract.channels is not None:
            raise PydanticCustomError(
                "together", "one_read crops all channels: remove extract.channels, or one_read"
            )
        peer = self.benchmark is not None and PEER in self.benchmark.engines
        if peer and self.extract is not None and not isinstance(self.extract.diameter, int):
            raise PydanticCustomError(
                "together", "the peer cuts square windows: give extract.diameter as one number"
            )
        if self.fields is not None and (self.tile or self.benchmark):
            raise PydanticCustomError(
                "together", "tile and benchmark take one image: give source instead of fields"
            )
        if self.puts_table and (self.tile or not self.aggregate):
            raise PydanticCustomError(
                "together", "table.into_store needs aggregate, and takes the source without tile"
            )
        return self

    @model_validator(mode="after")
    def _layers_have_names_of_their_own(self) -> Case:
        layers = (self.aggregate.layers if self.aggregate else None) or {}
        if self.tile is not None and TILED_LABELS in layers:
            raise PydanticCustomError(
                "together",
                "a tiled store calls the source's labels {name}: give that layer another name",
                {"name": TILED_LABELS},
            )
        return self

    @property
    def puts_table(self) -> bool:
        """Whether the table goes into the source's store."""
        return self.table is not None and self.table.into_store

    @property
    def table_elements(self) -> dict[str, str]:
        """Element of the table of each layer in the source's store, by the layer.

        The source's labels are the layer without a name.
        """
        name = self.table.name if self.table else "table"
        layers = (self.aggregate.layers if self.aggregate else None) or {}
        return {"": name, **{layer: f"{name}_{layer}" for layer in layers}}


class Origin(Section):
    """Origin of a published dataset instead of its published address: one of three."""

    mirror: Address | None = key(
        "Base address, http or https, of a copy of the published files, in the same folders.",
        "a mirror is an http:// or https:// address",
        default=None,
        pattern=r"^https?://",
    )
    archive: LocalPath | None = key(
        "Path of the archive (.zip) on this machine; it is checked and unpacked, and stays.",
        "an archive is the path of a zip",
        default=None,
        min_length=1,
    )
    store: Address | None = key(
        "Path or address of the unpacked store; it is used where it is.",
        "a store is the path of a SpatialData store",
        default=None,
        min_length=1,
    )
    sha256: str | None = key(
        "SHA-256 of the mirror's or local archive; null: it is the published one.",
        "a SHA-256 is 64 hexadecimal digits",
        default=None,
        pattern=r"^[0-9a-f]{64}$",
    )

    @model_validator(mode="after")
    def _is_one_place(self) -> Origin:
        given = [place for place in (self.mirror, self.archive, self.store) if place is not None]
        if len(given) != 1:
            raise PydanticCustomError("together", "give one of mirror, archive and store")
        if self.store is not None and self.sha256 is not None:
            raise PydanticCustomError("together", "a store is not checked: leave sha256 out")
        return self


class Cluster(Section):
    """Processes of this machine, jobs of SLURM, or a running Dask scheduler."""

    kind: Literal["local", "slurm", "address"] = key(
        "local: processes of this machine; slurm: workers submitted to SLURM; address: a running "
        "Dask scheduler.",
        "kinds are local, slurm and address",
        default="local",
    )
    address: str | None = key(
        "Address of the Dask scheduler, such as tcp://10.0.0.1:8786; only for kind address.",
        "an address such as tcp://10.0.0.1:8786",
        default=None,
    )
    workers: Positive | None = key(
        "Worker processes, each with a GPU of its own if the engine is cupy (those beyond the "
        "number of GPUs share them); null: one per four cores given (local), one with a GPU.",
        "a whole number of at least 1, or null",
        default=None,
    )
    threads_per_worker: Positive | None = key(
        "Threads of one worker; null: chosen from the cores given.",
        "a whole number of at least 1, or null",
        default=None,
    )
    memory_limit: Size | None = key(
        "Memory of one worker; null: an equal share of what the job was given (local), 2 GB per "
        "thread (slurm).",
        _SIZE_RULE,
        default=None,
    )
    queue: str | None = key("SLURM partition of the workers.", NAME_RULE, default=None)
    account: str | None = key("SLURM account of the workers.", NAME_RULE, default=None)
    walltime: str | None = key(
        "SLURM time limit of the workers, such as 02:00:00; null: that of the stage's own job (an "
        "hour without the workflow).",
        "a time such as 02:00:00",
        default=None,
        pattern=r"^(\d+-)?\d{1,3}:\d{2}(:\d{2})?$",
    )

    @model_validator(mode="after")
    def _address_goes_with_its_kind(self) -> Cluster:
        if (self.kind == "address") != (self.address is not None):
            raise PydanticCustomError(
                "address", "give an address with the kind address, and only with it"
            )
        return self


class Config(Section):
    """The whole config: cases, origins of datasets, and the cluster."""

    cases: Annotated[dict[CaseName, Case], Field(min_length=1)] = key(
        "Cases, each with what to do; the results of a case are in <results>/<name>/.",
        "cases are a mapping of a name (ASCII letters, digits, - and _) to what is done; at least "
        "one",
    )
    datasets: dict[Published, Origin] = key(
        "Origins of published datasets, by name, if not their published addresses; the names are "
        f"{', '.join(get_args(Published))}.",
        f"datasets are a mapping of {' or '.join(get_args(Published))} to where it comes from",
        default_factory=dict,
    )
    results: Annotated[str, AfterValidator(_as_folder)] = key(
        "Folder of all results; configs with a folder each do not replace each other's. Logs are "
        f"in logs for {RESULTS}, else in <results>/logs.",
        "results are the path of a folder, without any of { } < >",
        default=RESULTS,
        pattern=r"^[^{}<>]+$",
    )
    cluster: Cluster = key(
        "Place where the workers of aggregate and extract run.",
        "cluster is a mapping",
        default_factory=Cluster,
    )

    @property
    def logs(self) -> str:
        """Folder of the logs, which belong to the results."""
        return "logs" if self.results == RESULTS else os.path.join(self.results, "logs")

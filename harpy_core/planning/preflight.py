"""Mistakes in sources that can be seen before anything runs.

Formats look into a source (`harpy_core.raster.formats`), with the standard library alone, so that a
workflow can be refused while it is parsed; the key that is wrong is named here.
"""

from __future__ import annotations

import hashlib
import os
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from harpy_core.config.cases import ImageCase, image_cases, key_of
from harpy_core.config.mistakes import Mistake, dotted, read, refusal, wrong
from harpy_core.config.models import DATASETS, PEER, Benchmark, Case, Config, Origin, Source
from harpy_core.config.paths import looked_in, placed
from harpy_core.config.section import suggestion
from harpy_core.embedding.onnx_files import onnx_files
from harpy_core.errors import InputError, understood
from harpy_core.raster.channel_list import read_names
from harpy_core.raster.formats import beside, format_of, is_apart, stem
from harpy_core.raster.formats.format import Peek, stamp
from harpy_core.raster.formats.polygons import ENDINGS as POLYGONS
from harpy_core.statistics.own import OWN_NAME
from harpy_core.storage import marks

Keys = tuple[str, ...]
"""Path to a key of the config."""


def checked(mapping: Mapping[str, Any], file: str) -> Config:
    """Check a config as it was read from YAML, and the files that it names.

    Parameters
    ----------
    mapping
        Content of the config.
    file
        File that it came from, for the error.

    Raises
    ------
    InputError
        All mistakes, a line each: file, key, value and remedy.
    """
    config, mistakes = read(mapping)
    folder = os.path.dirname(file)
    if config is not None:
        config = with_fields(placed(config, folder)[0])
        wrong_keys = {mistake.path[:-1] for mistake in mistakes}
        # A value that seems to be missing may be the one under a misspelt key.
        mistakes += [
            mistake
            for mistake in _mistakes(config, folder)
            if not (mistake.absent and mistake.path[:-1] in wrong_keys)
        ]
    if mistakes or config is None:
        raise refusal(file, mistakes)
    return config


def with_fields(config: Config) -> Config:
    """Return a config in which a plate, or a well of one, is a case of its fields of view."""
    cases = {name: _of_fields(case) for name, case in config.cases.items()}
    return config.model_copy(update={"cases": cases})


def _of_fields(case: Case) -> Case:
    source = case.source
    if source is None or source.uri in DATASETS or not format_of(source.uri).LOCAL:
        return case
    found = _peeked(source.uri, ("uri",), "")
    try:
        with understood(""):
            fields = [] if isinstance(found, Mistake) else found.fields(source.image)
    except InputError:
        # What is wrong with it is told with its other mistakes.
        fields = []
    if not fields:
        return case
    if len(fields) == 1:
        return case.model_copy(update={"source": source.model_copy(update={"image": fields[0]})})
    named = {
        re.sub("[^A-Za-z0-9_-]", "_", field): source.model_copy(update={"image": field})
        for field in fields
    }
    return case.model_copy(update={"source": None, "fields": named})


def moved_paths(mapping: Mapping[str, Any], file: str) -> list[str]:
    """Return a line for each path of a config that leads from the config's folder only."""
    config, _ = read(mapping)
    moved = {} if config is None else placed(config, os.path.dirname(file))[1]
    return [
        f"{dotted(key)} = {path}: taken from the config's folder" for key, path in moved.items()
    ]


def check_storage(provider: str | None) -> None:
    """Refuse to keep results anywhere but on a disk.

    Raises
    ------
    InputError
        Snakemake is to keep them with one of its storage plugins.
    """
    if provider not in (None, "none"):
        raise InputError(
            f"--default-storage-provider = {provider}: results are stores of many files, committed "
            "one by one on a disk that all nodes see: leave it out, and copy what is finished with "
            "`harpy-core publish`; sources may be at s3:// as they are"
        )


def check_cores(config: Config, case: str, cores: int, file: str) -> None:
    """Refuse a sweep that asks for more threads than there are cores: Snakemake would cap them.

    Raises
    ------
    InputError
        A line for each number of workers: file, key, value and remedy.
    """
    sweep = config.cases[case].benchmark
    if sweep is None or sweep.oversubscribe:
        return
    path: tuple[str, ...] = ("cases", case, "benchmark", "workers")
    alike = sweep.workers.aggregate == sweep.workers.extract
    mistakes = {}
    for stage in sweep.stages:
        for index, workers in enumerate(getattr(sweep.workers, stage)):
            threads = workers * sweep.threads_per_worker
            if threads > cores:
                below: tuple[str | int, ...] = (index,) if alike else (stage, index)
                where = (*path, *below)
                mistakes[where] = wrong(
                    where,
                    workers,
                    f"{workers} x {sweep.threads_per_worker} threads are more than the {cores} of "
                    "--cores: ask for fewer, or give more cores",
                )
    if mistakes:
        raise refusal(file, list(mistakes.values()))


def watched_files(source: Source) -> list[str]:
    """Local files whose age shows that a source changed: a TIFF, a zip, a store's metadata.

    There are none for addresses and registered names; labels in a file of their own are included.
    """
    files = [] if source.uri in DATASETS else format_of(source.uri).watched(source.uri)
    labels = _label_file(source)
    files += [] if labels is None else format_of(labels).watched(labels)
    return files + ([source.channels] if isinstance(source.channels, str) else [])


def files_digest(source: Source) -> str:
    """Digest of the names, sizes and times of a source's files, which changes if any of them does.

    Only the file system's tables are read (24,000 chunk files: 0.1 s). It is empty for addresses;
    for a registered name, whose store has a manifest, only labels from elsewhere are looked at.
    """
    digest = hashlib.sha256()
    labels = _label_file(source)
    for place in (None if source.uri in DATASETS else source.uri, labels):
        if place is not None and os.path.exists(place):
            for found in sorted(format_of(place).stamps(place)):
                digest.update(repr(found).encode())
    if isinstance(source.channels, str) and os.path.exists(source.channels):
        digest.update(repr(stamp(source.channels)).encode())
    return digest.hexdigest()


def _mistakes(config: Config, folder: str) -> Iterator[Mistake]:
    """Yield what is wrong with the files that a config in a folder names."""
    for dataset, origin in config.datasets.items():
        yield from _of_origin(origin, ("datasets", dataset), folder)
    images = image_cases(config)
    for name, image in images.items():
        yield from _of_source(image.source, key_of(name), folder)
        if image.puts_table:
            yield from _of_target(image, key_of(name))
    # Fields of view have the same layers.
    yield from dict.fromkeys(
        mistake
        for name, image in images.items()
        for mistake in _of_layers(image, key_of(name)[:2], folder)
    )
    for name, case in config.cases.items():
        labels = case.source.labels if case.source else None
        if case.tile and labels and labels.lower().endswith(POLYGONS):
            path = ("cases", name, "source", "labels")
            yield wrong(path, labels, "tile repeats a label image: give one, or leave tile out")
        if case.fields and (case.tile or case.benchmark):
            path = ("cases", name, "source", "image")
            yield wrong(path, None, "tile and benchmark take one image: name a field of the plate")
        yield from _of_files(case, ("cases", name), folder)
        if case.benchmark is not None:
            yield from _of_peer(case.benchmark, ("cases", name, "benchmark"))


def _of_files(case: Case, path: Keys, folder: str) -> Iterator[Mistake]:
    files: dict[Keys, Any] = {}
    if case.extract and isinstance(case.extract.index, str):
        files["extract", "index"] = case.extract.index
    if case.embed and not OWN_NAME.fullmatch(case.embed.model):
        files["embed", "model"] = case.embed.model
    for key, file in files.items():
        if not Path(file).is_file():
            remedy = f"there is no such file{looked_in(file, folder)}; correct the path"
            yield wrong((*path, *key), file, remedy)
    model = files.get(("embed", "model"))
    for weights in onnx_files(model)[1:] if model else ():
        if not weights.is_file():
            remedy = f"its weights are in {weights}, which is not there; copy both files"
            yield wrong((*path, "embed", "model"), model, remedy)


def _of_origin(origin: Origin, path: Keys, folder: str) -> Iterator[Mistake]:
    archive, store = origin.archive, origin.store
    if archive is not None and not zipfile.is_zipfile(archive):
        missing = f"there is no such file{looked_in(archive, folder)}"
        there = "is not a zip" if os.path.exists(archive) else missing
        yield wrong((*path, "archive"), archive, f"{there}: correct the path")
    if store is not None and format_of(store).LOCAL and not os.path.exists(store):
        remedy = f"there is no such path{looked_in(store, folder)}: correct it"
        yield wrong((*path, "store"), store, remedy)


def _label_file(source: Source) -> str | None:
    """Path of a source's labels if they are a file of their own, as given or beside the image.

    None if the name is an element's, or there is no such file.
    """
    labels = source.labels
    if labels is None or not format_of(labels).LOCAL:
        return None
    if not is_apart(labels) and os.path.exists(os.path.join(source.uri, "labels", labels)):
        return None
    place = beside(labels, source.uri)
    return place if os.path.exists(place) else None


def _of_source(source: Source, path: Keys, folder: str) -> Iterator[Mistake]:
    if isinstance(source.channels, str):
        try:
            read_names(source.channels)
        except InputError as error:
            told = str(error).removeprefix(f"{source.channels}: ")
            yield wrong((*path, "channels"), source.channels, told)
    if source.uri in DATASETS:
        return
    found = _peeked(source.uri, (*path, "uri"), folder)
    labels = _label_file(source) if format_of(source.uri).LOCAL else None
    unreadable = None if labels is None else _unreadable(labels, (*path, "labels"), folder)
    if isinstance(found, Mistake):
        yield found
    if unreadable is not None:
        yield unreadable
    elif format_of(source.uri).LOCAL and not isinstance(found, Mistake):
        try:
            with understood(""):
                yield from list(_of_names(found, source, labels, path, folder))
        except InputError as error:
            yield wrong((*path, "uri"), source.uri, str(error))


def _of_layers(image: ImageCase, path: Keys, folder: str) -> Iterator[Mistake]:
    """Yield what is wrong with the labels of a case's other layers; `path` is that of the case."""
    source, section = image.source, image.aggregate
    if section is None or not section.layers:
        return
    # Inside a data set that is not made yet, or at an address, nothing can be looked up.
    closed = source.uri in DATASETS or not format_of(source.uri).LOCAL
    found = Peek() if closed else _peeked(source.uri, (), folder)
    if isinstance(found, Mistake):
        # It is told of the source.
        return
    above = (*path, "aggregate", "layers")
    own = _name_of_labels(source, found)
    if image.tile is None and own in section.layers:
        yield wrong((*above, own), own, "is the name of the source's labels too; rename the layer")
    for name, layer in section.opened_layers.items():
        key, labels = (*above, name, "labels"), layer.labels
        assert labels is not None
        other = source.model_copy(update={"labels": labels})
        file, inside = _label_file(other), not is_apart(labels)
        unreadable = None if file is None else _unreadable(file, key, folder)
        if image.tile is not None and labels.lower().endswith(POLYGONS):
            yield wrong(key, labels, "tile repeats a label image: give one, or leave tile out")
        elif image.puts_table and (file is not None or not inside):
            yield wrong(
                key,
                labels,
                "table.into_store annotates labels of the source's store: put them there, or leave "
                "into_store or the layer out",
            )
        elif unreadable is not None:
            yield unreadable
        elif not (closed and inside):
            yield from _understood(found, other, file, key, folder)


def _understood(
    found: Peek, source: Source, labels: str | None, path: Keys, folder: str
) -> Iterator[Mistake]:
    """Yield what is wrong with labels, and that they cannot be understood at all."""
    try:
        with understood(""):
            yield from list(_of_labels(found, source, labels, path, folder))
    except InputError as error:
        yield wrong(path, source.labels, str(error))


def _name_of_labels(source: Source, found: Peek) -> str | None:
    """Name of a source's labels as a table has it; None if it is not known."""
    file = _label_file(source)
    if file is not None or source.labels is not None:
        return source.labels if file is None else stem(file)
    inside = found.labels(source.image or "") or []
    return inside[0] if len(inside) == 1 else None


def _of_target(image: ImageCase, path: Keys) -> Iterator[Mistake]:
    """Yield why a table cannot be put into its source's store."""
    source, table = image.source, image.table
    assert table is not None
    apart = _label_file(source) is not None
    if source.uri in DATASETS or apart or not os.path.isdir(os.path.join(source.uri, "labels")):
        yield wrong(
            (*path, "uri"),
            source.uri,
            "table.into_store takes a SpatialData store that is a folder and holds the labels",
        )
        return
    if table.shapes and str(source.level) != "0":
        yield wrong((*path, "level"), source.level, "table.shapes needs the finest level, 0")
    for name in image.table_elements.values():
        if marks.is_foreign(Path(source.uri, "tables", name)) and not table.overwrite:
            yield wrong(
                (*path, "uri"),
                source.uri,
                f"tables/{name} is there already, and is not ours; choose another table.name, or "
                "table.overwrite: true",
            )


def _peeked(uri: str, path: Keys, folder: str) -> Peek | Mistake:
    """Return the view of a source by its format, or what is wrong with it."""
    source = format_of(uri)
    unreadable = _unreadable(uri, path, folder) if source.LOCAL else None
    if unreadable is not None:
        return unreadable
    try:
        with understood(""):
            return source.peek(uri)
    except InputError as error:
        return wrong(path, uri, str(error))


def _unreadable(uri: str, path: Keys, folder: str) -> Mistake | None:
    """Return the reason why a path cannot be read; None if it can."""
    if not os.path.exists(uri):
        names = f", nor a registered name ({', '.join(DATASETS)}){suggestion(uri, DATASETS)}"
        remedy = names if path[-1] == "uri" else ": correct the path of the label file"
        return wrong(path, uri, f"there is no such path{looked_in(uri, folder)}{remedy}")
    if not os.access(uri, os.R_OK | (os.X_OK if os.path.isdir(uri) else 0)):
        return wrong(path, uri, "cannot be read: ask its owner for the permission")
    return None


def _of_names(
    found: Peek, source: Source, labels: str | None, path: Keys, folder: str
) -> Iterator[Mistake]:
    """Yield elements and channels that are not there, as far as that can be seen."""
    images = found.images(source.image is not None)
    misnamed = []
    if images is not None:
        misnamed = list(_of_element(found, source.image, images, "image", (*path, "image")))
    yield from misnamed
    yield from _of_labels(found, source, labels, (*path, "labels"), folder)
    # Nobody knows the channels of an image that is not there.
    there = None if misnamed else found.channels(source.image)
    wanted = source.channels if isinstance(source.channels, list) else []
    for index, name in enumerate(wanted):
        if there and name not in there:
            remedy = f"no such channel: there are {', '.join(there)}{suggestion(name, there)}"
            yield wrong((*path, "channels", index), name, remedy)


def _of_labels(
    found: Peek, source: Source, labels: str | None, path: Keys, folder: str
) -> Iterator[Mistake]:
    """Yield what is wrong with labels, in a file of their own or in the store."""
    if labels is not None:
        peeked = _peeked(labels, path, folder) if os.path.isfile(labels) else None
        if isinstance(peeked, Mistake):
            yield peeked
    elif source.labels is None or format_of(source.labels).LOCAL:
        inside = found.labels(source.image or "")
        if inside is not None:
            yield from _of_element(found, source.labels, inside, "labels element", path)
        elif source.labels is None:
            yield wrong(path, None, "it holds no labels: give the path of a label TIFF")
        else:
            unreadable = _unreadable(source.labels, path, folder)
            if unreadable is not None:
                yield unreadable


def _of_element(
    found: Peek, name: str | None, there: list[str], what: str, path: Keys
) -> Iterator[Mistake]:
    """Yield a name that is neither one of those that are there nor a path inside the store."""
    if (name is None and len(there) == 1) or name in there or (name and found.holds(name)):
        return
    names = f"there are {', '.join(there)}" if there else "there is none in the store"
    if name is None:
        yield wrong(path, None, f"name the {what} to use: {names}")
    else:
        yield wrong(path, name, f"no such {what}: {names}{suggestion(name, there)}")


def _of_peer(sweep: Benchmark, path: Keys) -> Iterator[Mistake]:
    python = sweep.peer_python
    if PEER in sweep.engines and (python is None or not os.access(python, os.X_OK)):
        remedy = f"the engine {PEER} needs the Python of its own environment: `make peer` makes one"
        yield wrong((*path, "peer_python"), python, remedy)

"""What can be seen to be wrong with a source before anything runs.

What a source holds is its format's to say (`harpy_core.raster.formats`), with the standard library
alone, so that a workflow can be refused while it is parsed; which key is wrong is said here.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from pathlib import Path

from harpy_core.config.cases import image_cases, key_of
from harpy_core.config.mistakes import mistake
from harpy_core.config.models import DATASETS, PEER, Benchmark, Config, Origin, Source
from harpy_core.config.section import suggestion
from harpy_core.errors import InputError
from harpy_core.raster.formats import beside, format_of, is_apart
from harpy_core.raster.formats.format import Peek


def check(config: Config, file: str) -> None:
    """Refuse a config whose sources cannot be what they are said to be.

    Raises
    ------
    InputError
        In one line: file, key, value and remedy.
    """
    for dataset, origin in config.datasets.items():
        _check_origin(origin, file, ("datasets", dataset))
    for name, image in image_cases(config).items():
        _check_source(image.source, file, key_of(name))
    for name, case in config.cases.items():
        index = case.extract.index if case.extract else None
        if isinstance(index, str) and not Path(index).is_file():
            path = ("cases", name, "extract", "index")
            raise mistake(file, path, index, "there is no such file; correct the path")
        if case.benchmark is not None:
            _check_peer(case.benchmark, file, ("cases", name, "benchmark"))


def check_cores(config: Config, case: str, cores: int, file: str) -> None:
    """Refuse a sweep that asks for more threads than there are cores: Snakemake would cap them.

    Raises
    ------
    InputError
        In one line: file, key, value and remedy.
    """
    sweep = config.cases[case].benchmark
    if sweep is None:
        return
    path: tuple[str, ...] = ("cases", case, "benchmark", "workers")
    alike = sweep.workers.aggregate == sweep.workers.extract
    for stage in sweep.stages:
        for index, workers in enumerate(getattr(sweep.workers, stage)):
            threads = workers * sweep.threads_per_worker
            if threads > cores:
                raise mistake(
                    file,
                    (*path, index) if alike else (*path, stage, index),
                    workers,
                    f"{workers} x {sweep.threads_per_worker} threads are more than the {cores} of "
                    "--cores: ask for fewer, or give more cores",
                )


def watched_files(source: Source) -> list[str]:
    """The local files whose age tells that a source changed: a TIFF, a zip, a store's metadata.

    Empty for addresses and registered names; labels that are a file of their own are among them.
    """
    files = [] if source.uri in DATASETS else format_of(source.uri).watched(source.uri)
    labels = _label_file(source)
    return files if labels is None else files + format_of(labels).watched(labels)


def files_digest(source: Source) -> str:
    """Digest of the names, sizes and times of a source's files: another one where any changed.

    Nothing is read but the file system's tables (24,000 chunk files: 0.1 s). Empty for addresses;
    of a registered name, whose store has a manifest, only labels from elsewhere are looked at.
    """
    digest = hashlib.sha256()
    labels = _label_file(source)
    for place in (None if source.uri in DATASETS else source.uri, labels):
        if place is not None and os.path.exists(place):
            for found in sorted(format_of(place).stamps(place)):
                digest.update(repr(found).encode())
    return digest.hexdigest()


def _check_origin(origin: Origin, file: str, path: tuple[str, ...]) -> None:
    archive, store = origin.archive, origin.store
    if archive is not None and not zipfile.is_zipfile(archive):
        there = "is not a zip" if os.path.exists(archive) else "there is no such file"
        raise mistake(file, (*path, "archive"), archive, f"{there}: correct the path")
    if store is not None and format_of(store).LOCAL and not os.path.exists(store):
        raise mistake(file, (*path, "store"), store, "there is no such path: correct it")


def _label_file(source: Source) -> str | None:
    """Path of a source's labels where they are a file of their own, as given or beside the image.

    None where the name is an element's, or there is no such file.
    """
    labels = source.labels
    if labels is None or not format_of(labels).LOCAL:
        return None
    if not is_apart(labels) and os.path.exists(os.path.join(source.uri, "labels", labels)):
        return None
    place = beside(labels, source.uri)
    return place if os.path.exists(place) else None


def _check_source(source: Source, file: str, path: tuple[str, ...]) -> None:
    if source.uri in DATASETS:
        return
    found = _peek(source.uri, file, (*path, "uri"))
    if not format_of(source.uri).LOCAL:
        return
    labels = _label_file(source)
    if labels is not None:
        _check_readable(labels, file, (*path, "labels"))
    _check_names(found, source, labels, file, path)


def _peek(uri: str, file: str, path: tuple[str, ...]) -> Peek:
    source = format_of(uri)
    if source.LOCAL:
        _check_readable(uri, file, path)
    try:
        return source.peek(uri)
    except InputError as error:
        raise mistake(file, path, uri, str(error)) from error


def _check_readable(uri: str, file: str, path: tuple[str, ...]) -> None:
    if not os.path.exists(uri):
        names = f", nor a registered name ({', '.join(DATASETS)}){suggestion(uri, DATASETS)}"
        remedy = names if path[-1] == "uri" else ": correct the path of the label file"
        raise mistake(file, path, uri, f"there is no such path{remedy}")
    if not os.access(uri, os.R_OK | (os.X_OK if os.path.isdir(uri) else 0)):
        raise mistake(file, path, uri, "cannot be read: ask its owner for the permission")


def _check_names(
    found: Peek, source: Source, labels: str | None, file: str, path: tuple[str, ...]
) -> None:
    """Refuse elements and channels that are not there, as far as that can be seen."""
    images = found.images(source.image is not None)
    if images is not None:
        _check_element(found, source.image, images, "image", file, (*path, "image"))
    if labels is not None:
        _peek_labels(labels, file, (*path, "labels"))
    elif source.labels is None or format_of(source.labels).LOCAL:
        inside = found.labels(source.image or "")
        if inside is not None:
            _check_element(found, source.labels, inside, "labels element", file, (*path, "labels"))
        elif source.labels is None:
            remedy = "it holds no labels: give the path of a label TIFF"
            raise mistake(file, (*path, "labels"), None, remedy)
        else:
            _check_readable(source.labels, file, (*path, "labels"))
    there = found.channels(source.image)
    for index, name in enumerate(source.channels or ()):
        if there and name not in there:
            remedy = f"no such channel: there are {', '.join(there)}{suggestion(name, there)}"
            raise mistake(file, (*path, "channels", index), name, remedy)


def _peek_labels(labels: str, file: str, path: tuple[str, ...]) -> None:
    """Refuse a file of labels that is not what its name says."""
    if os.path.isfile(labels):
        _peek(labels, file, path)


def _check_element(
    found: Peek, name: str | None, there: list[str], what: str, file: str, path: tuple[str, ...]
) -> None:
    """Refuse a name that is neither one of those that are there nor a path inside the store."""
    if (name is None and len(there) == 1) or name in there or (name and found.holds(name)):
        return
    names = f"there are {', '.join(there)}" if there else "there is none in the store"
    if name is None:
        raise mistake(file, path, None, f"name the {what} to use: {names}")
    raise mistake(file, path, name, f"no such {what}: {names}{suggestion(name, there)}")


def _check_peer(sweep: Benchmark, file: str, path: tuple[str, ...]) -> None:
    if PEER not in sweep.engines:
        return
    python = sweep.peer_python
    if python is None or not os.access(python, os.X_OK):
        raise mistake(
            file,
            (*path, "peer_python"),
            python,
            f"the engine {PEER} needs the Python of an environment made from envs/peer.yaml",
        )

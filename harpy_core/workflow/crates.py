"""RO-Crate of a run: what was made from what, with which versions and parameters.

It is written from the manifests and descriptions in the results folder, as a Process Run Crate
(https://w3id.org/ro/wfrun/process/0.5) of RO-Crate 1.1.
"""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from harpy_core.raster.info import RasterInfo
from harpy_core.storage.manifest import read_manifest, write_json
from harpy_core.version import __version__

FILE = "ro-crate-metadata.json"
"""Name that RO-Crate gives to its metadata, in the folder that it describes."""

_CRATE = "https://w3id.org/ro/crate/1.1"
_PROFILE = "https://w3id.org/ro/wfrun/process/0.5"
_LIBRARIES = ("anndata", "dask", "numba", "numcodecs", "numpy", "snakemake", "zarr")
_FORMATS = {
    ".png": "image/png",
    ".html": "text/html",
    ".csv": "text/csv",
    ".zip": "application/zip",
}

Entity = dict[str, Any]


def write_crate(
    results: str | os.PathLike[str], cases: Iterable[str], config: Mapping[str, Any]
) -> None:
    """Write the crate's metadata into a results folder.

    Parameters
    ----------
    results
        The folder.
    cases
        Folders of the images that were measured, and of cases with several, below it.
    config
        Checked config of the run, as builtins.
    """
    folder = Path(results)
    cases = list(cases)
    parts = [part for case in cases for part in _parts(folder, case)]
    parts += [_file(folder, path) for path in _files(folder, cases)]
    sources = [source for case in cases for source in _sources(folder / case)]
    parameters = [_parameter(name, value) for name, value in _flat(config)]
    tools = [_software("harpy_core", __version__), _software("Python", platform.python_version())]
    tools += [_software(name, version(name)) for name in _LIBRARIES]
    ended = datetime.fromtimestamp(_last(folder, cases), UTC).isoformat(timespec="seconds")
    run = {
        "@id": "#run",
        "@type": "CreateAction",
        "name": f"Measurement of {', '.join(cases)}",
        "description": "Every rule's log, command and time are in the report and in the logs.",
        "endTime": ended,
        "instrument": _links(tools)[0],
        "object": _links([*sources, *parameters]),
        "result": _links(parts),
    }
    root = {
        "@id": "./",
        "@type": "Dataset",
        "name": f"Measurements of the instances of {', '.join(cases)}",
        "description": "Statistics and crops of every labelled instance, made by harpy_core.",
        "datePublished": ended,
        "license": "Not stated; the owner of the images decides",
        "conformsTo": {"@id": _PROFILE},
        "hasPart": _links(parts),
        "mentions": {"@id": "#run"},
    }
    tools[0]["softwareRequirements"] = _links(tools[1:])
    profile = {
        "@id": _PROFILE,
        "@type": "CreativeWork",
        "name": "Process Run Crate",
        "version": "0.5",
    }
    described = {
        "@id": FILE,
        "@type": "CreativeWork",
        "about": {"@id": "./"},
        "conformsTo": {"@id": _CRATE},
    }
    graph: list[Entity] = [described, root, profile, run, *tools, *sources, *parameters, *parts]
    write_json(
        folder / FILE,
        {"@context": f"{_CRATE}/context", "@graph": list({e["@id"]: e for e in graph}.values())},
    )


def _parts(folder: Path, case: str) -> Iterator[Entity]:
    """Yield the stores of a case that are whole."""
    for manifest in sorted((folder / case).glob("*.manifest.json")):
        store = manifest.with_name(manifest.name.replace(".manifest.json", ".zarr"))
        if not store.is_dir():
            continue
        facts = read_manifest(manifest)
        told = {name: v for name, v in facts.items() if name not in ("kind", "digest")}
        yield {
            "@id": f"{store.relative_to(folder).as_posix()}/",
            "@type": "Dataset",
            "name": f"{facts['kind']} of {case}",
            "description": "; ".join(f"{name}: {value}" for name, value in told.items()),
            "encodingFormat": "application/x-zarr",
            "identifier": f"digest:{facts['digest']}",
        }


def _files(folder: Path, cases: Iterable[str]) -> Iterator[Path]:
    """Yield pictures, pages, sweeps and manifests."""
    for place in (folder, *(folder / case for case in cases)):
        for pattern in ("figures/*.png", "*.manifest.json", "*.html", "*.zip", "benchmark/*.csv"):
            yield from sorted(place.glob(pattern))


def _file(folder: Path, path: Path) -> Entity:
    with path.open("rb") as handle:
        digest = hashlib.file_digest(handle, "sha256").hexdigest()
    return {
        "@id": path.relative_to(folder).as_posix(),
        "@type": "File",
        "name": path.name,
        "encodingFormat": _FORMATS.get(path.suffix, "application/json"),
        "contentSize": str(path.stat().st_size),
        "sha256": digest,
    }


def _sources(case: Path) -> Iterator[Entity]:
    """Yield the image of a case, and its labels where they are a file of their own."""
    if not (case / "source.json").is_file():
        return
    info = RasterInfo.from_json(case / "source.json")
    apart = [info.labels] if info.labels and os.path.isabs(info.labels) else []
    for place in (info.uri, *apart):
        yield {
            "@id": place if "://" in place else Path(place).as_uri(),
            "@type": "CreativeWork",
            "name": os.path.basename(place.rstrip("/")),
            "identifier": f"fingerprint:{info.fingerprint}",
        }


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every key of the config that is set, by its dotted path."""
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from _flat(inner, f"{path}.{name}" if path else str(name))
    elif value is not None and value != {}:
        yield path, value


def _parameter(name: str, value: Any) -> Entity:
    told = value if isinstance(value, (str, int, float)) else str(value)
    return {"@id": f"#config/{name}", "@type": "PropertyValue", "name": name, "value": told}


def _software(name: str, number: str) -> Entity:
    return {
        "@id": f"#software/{name}",
        "@type": "SoftwareApplication",
        "name": name,
        "softwareVersion": number,
    }


def _links(entities: Iterable[Entity]) -> list[dict[str, str]]:
    return [{"@id": found["@id"]} for found in entities]


def _last(folder: Path, cases: Iterable[str]) -> float:
    """Time at which the last result became whole."""
    manifests = (m for case in cases for m in (folder / case).glob("*.manifest.json"))
    return max((m.stat().st_mtime for m in manifests), default=folder.stat().st_mtime)

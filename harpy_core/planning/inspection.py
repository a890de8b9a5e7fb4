"""Inspection of every case's source, for people to read before anything runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from harpy_core.config.cases import image_cases
from harpy_core.config.measures import Layer
from harpy_core.config.models import DATASETS, Config, Source
from harpy_core.datasets import REGISTRY, Dataset


def inspect(config: Config, data: Path = Path("data")) -> tuple[str, list[str]]:
    """Look into every source of a config.

    Parameters
    ----------
    config
        Config with the cases.
    data
        Folder of the registered datasets that have been fetched.

    Returns
    -------
    text
        Contents, source by source.
    problems
        One line for each source that cannot be used.
    """
    blocks, problems = [], []
    for name, case in image_cases(config).items():
        lines, problem = _look_into(case.source, data)
        block = [f"{name}: {case.source.uri}", *(f"  {line}" for line in lines)]
        if problem is not None:
            problems.append(f"{name}: {problem}")
        layers = case.aggregate.opened_layers if case.aggregate and problem is None else {}
        for layer, section in layers.items():
            lines, problem = _look_into(case.source, data, section)
            block += [f"  layer {layer}: {section.labels}", *(f"    {line}" for line in lines)]
            if problem is not None:
                problems.append(f"{name}: layer {layer}: {problem}")
        blocks.append("\n".join(block))
    return "\n\n".join(blocks), problems


def _look_into(
    source: Source, data: Path, layer: Layer | None = None
) -> tuple[list[str], str | None]:
    """Look into a source, or at the labels of another layer of it."""
    from harpy_core.planning.survey import survey

    uri, image, labels = source.uri, source.image, source.labels
    if source.uri in DATASETS:
        known = REGISTRY[source.uri]
        store = data / f"{source.uri}.zarr"
        if not store.is_dir():
            return list(_known(known)) if layer is None else [], None
        uri, image, labels = str(store), image or known.image, labels or known.labels
    given = source.model_dump(exclude={"uri", "image", "labels", "cache", "missing_chunks"})
    if layer is not None:
        labels = layer.labels
        given |= {"labels_level": None, "labels_nearest": False, "labels_alone": True}
        given |= {"labels_scale": layer.scale, "labels_translation": layer.translation}
        given |= {"label_connected": layer.label_connected}
    found = survey(uri, image, labels, **given)
    lines = found.lines + ([f"cannot be used: {found.problem}"] if found.problem else [])
    return lines, found.problem


def _known(dataset: Dataset) -> Iterator[str]:
    """Yield the known facts of a registered dataset that has not been fetched."""
    origin = "downloaded" if dataset.sha256 else "made"
    yield f"{'dataset':<11} {dataset.description}"
    yield f"{'there':<11} not yet; it is {origin} when it is needed"
    yield f"{'':<11} image and labels, as they are known to be"
    yield f"{'element':<11} {dataset.image}, {dataset.labels}"
    yield f"{'shape':<11} {' x '.join(f'{n:,}' for n in dataset.shape)}"
    yield f"{'dtype':<11} {dataset.dtype}, {dataset.labels_dtype}"
    yield f"{'chunks':<11} {' x '.join(f'{n:,}' for n in dataset.chunks)}"
    yield f"{'instances':<11} about {dataset.instances:,}"

"""The images of a config: those of its cases and of their fields of view."""

from __future__ import annotations

from collections.abc import Mapping

from harpy_core.config.models import ELEMENTS, Case, Config, Origin, Published, Source


class ImageCase(Case):
    """An image that is measured on its own: a case, or one field of view of it."""

    source: Source


def image_cases(config: Config) -> dict[str, ImageCase]:
    """Return every image that is measured on its own, by its folder below the results.

    A case with one source is one image; in a case with fields of view each field is one.
    """
    found = {}
    for name, case in config.cases.items():
        settings = {key: getattr(case, key) for key in Case.model_fields}
        places = {name: case.source} if case.source else {}
        fields = case.fields or {}
        places |= {f"{name}/fields/{field}": source for field, source in fields.items()}
        for place, source in places.items():
            placed = _placed(source, config.datasets)
            found[place] = ImageCase(**{**settings, "source": placed, "fields": None})
    return found


def _placed(source: Source, origins: Mapping[Published, Origin]) -> Source:
    """Return a source with a dataset's name replaced by the store that the config gives for it."""
    origin = next((origins[name] for name in origins if name == source.uri), None)
    if origin is None or origin.store is None:
        return source
    image, labels = ELEMENTS[source.uri]
    elements = {"image": source.image or image, "labels": source.labels or labels}
    return source.model_copy(update={"uri": origin.store, **elements})


def key_of(place: str) -> tuple[str, ...]:
    """Path of keys in the config to the source of an image case."""
    case, _, field = place.partition("/fields/")
    return ("cases", case, "fields", field) if field else ("cases", case, "source")

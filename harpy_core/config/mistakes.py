"""Mistakes in a config, each reported in one line: file, key, value and remedy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from harpy_core.config.models import DATASETS, Case, Config, Origin, Source
from harpy_core.config.section import Section, remedy_of, rule_of, section_of, suggestion
from harpy_core.errors import InputError, redacted


def load(mapping: Mapping[str, Any], file: str) -> Config:
    """Check a config as it was read from YAML.

    Parameters
    ----------
    mapping
        Content of the config.
    file
        File that it came from, for the error.

    Raises
    ------
    InputError
        The first mistake, in one line: file, key, value and remedy.
    """
    try:
        return Config.model_validate(dict(mapping))
    except ValidationError as error:
        raise InputError(_one_line(error.errors(), mapping, file)) from None


def mistake(file: str, path: Iterable[str | int], value: Any, remedy: str) -> InputError:
    """Make the error of one key, in one line: file, key, value and remedy."""
    return InputError(f"{file}: {dotted(path)} = {shown(value)}: {remedy}")


def dotted(path: Iterable[str | int]) -> str:
    """Write a key's path: ``cases.liver.benchmark.workers[1]``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.lstrip(".")


def shown(value: Any) -> str:
    """Show a value as in YAML, in one short line; only the keys of a mapping."""
    named = {None: "null", True: "true", False: "false"}
    if value is None or isinstance(value, bool):
        return named[value]
    if isinstance(value, Mapping):
        value = f"{{{', '.join(map(str, value))}}}"
    # Before it is cut: half an address does not look like one.
    text = redacted(" ".join(str(value).split()))
    return text if len(text) <= 80 else f"{text[:77]}..."


def _one_line(errors: list[ErrorDetails], mapping: Mapping[str, Any], file: str) -> str:
    # A mistyped key is often why another one is missing: report it first.
    error = min(errors, key=lambda found: found["type"] != "extra_forbidden")
    path = _written(error["loc"], mapping)
    section, rule = _definition(path)
    remedy = remedy_of(error, section, rule)
    if error["type"] == "missing":
        return f"{file}: {dotted(path)} is missing: {rule}"
    if error["type"] == "source":
        return f"{file}: {dotted((*path, 'source'))} is missing: {error['msg']}"
    if error["type"] == "secret":
        return f"{file}: {dotted(path)}: {error['msg']}"
    value = _value_at(mapping, path)
    if error["type"] == "extra_forbidden" and isinstance(value, (str, Mapping, list)) and value:
        # Not shown: the value of an unknown key could be anything, even a secret.
        return f"{file}: {dotted(path)}: {remedy}"
    if error["loc"][-1:] == ("[key]",) and path[:1] == ("datasets",):
        remedy = f"{rule_of(Config.model_fields['datasets'])}{suggestion(path[-1], DATASETS)}"
    elif error["loc"][-1:] == ("[key]",):
        what = "case" if path[-2:-1] == ("cases",) else "field"
        remedy = f"a {what}'s name is made of letters, digits, - and _"
    return str(mistake(file, path, value, remedy))


def _written(location: tuple[str | int, ...], mapping: Any) -> tuple[str | int, ...]:
    """Return an error's place as the user wrote it, without pydantic's names of alternatives."""
    path: list[str | int] = []
    value = mapping
    for part in location:
        if part == "[key]" or (isinstance(part, str) and not isinstance(value, Mapping)):
            continue
        path.append(part)
        value = _value_at(value, (part,))
    return tuple(path)


def _value_at(mapping: Any, path: tuple[str | int, ...]) -> Any:
    """Return what the user wrote at a path, as far as the path leads."""
    value = mapping
    for part in path:
        try:
            value = value[part]
        except (LookupError, TypeError):
            return value
    return value


_BY_NAME: dict[str, tuple[type[Section], str]] = {
    "cases": (Case, "a case is a mapping with a source"),
    "fields": (Source, "a field is a mapping with a uri"),
    "datasets": (Origin, "give one of mirror, archive and store"),
}
"""Keys that hold sections by name, and the rule of such a section."""


def _definition(path: tuple[str | int, ...]) -> tuple[type[Section], str]:
    """Return the section that holds a key, and the rule of the nearest field that has one."""
    section: type[Section] = Config
    model: type[Section] | None = Config
    rule = "the config is a mapping"
    parts = list(path)
    while parts and model is not None:
        section = model
        name = str(parts.pop(0))
        field = model.model_fields.get(name)
        if field is None:
            break
        rule = rule_of(field)
        model = section_of(field.annotation)
        if name in _BY_NAME and parts:
            parts.pop(0)
            model, rule = _BY_NAME[name]
    return section, rule

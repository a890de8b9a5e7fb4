"""Mistakes in a config, all at once and each reported in one line: file, key, value and remedy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from harpy_core.config.crops import Window
from harpy_core.config.measures import Layer
from harpy_core.config.models import DATASETS, Case, Config, Origin, Source
from harpy_core.config.section import QUOTE_IT, Section, remedy_of, rule_of, section_of, suggestion
from harpy_core.errors import InputError, redacted

MOST_TOLD = 10
"""Number of mistakes that are shown; others are counted."""

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Mistake:
    """A mistake in a config.

    Attributes
    ----------
    path
        Keys and indices of lists that lead to it.
    told
        Text that follows the path in its line.
    absent
        Whether the mistake is that something was not given.
    """

    path: Path
    told: str
    absent: bool = False

    def __str__(self) -> str:
        return f"{dotted(self.path)}{self.told}"


def wrong(path: Iterable[str | int], value: Any, remedy: str) -> Mistake:
    """Make the mistake of an impossible value, with its remedy."""
    return Mistake(tuple(path), f" = {shown(value)}: {remedy}", value is None)


def refusal(file: str, mistakes: Sequence[Mistake]) -> InputError:
    """Make the error of some mistakes, a line each: file, key, value and remedy."""
    lines = [f"{file}: {mistake}" for mistake in mistakes[:MOST_TOLD]]
    more = len(mistakes) - MOST_TOLD
    if more > 0:
        lines.append(f"{file}: {more} more mistake{'s' if more > 1 else ''}")
    return InputError("\n".join(lines))


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
        All mistakes, a line each: file, key, value and remedy.
    """
    config, mistakes = read(mapping)
    if mistakes or config is None:
        raise refusal(file, mistakes)
    return config


def read(mapping: Mapping[str, Any]) -> tuple[Config | None, list[Mistake]]:
    """Return a config and the mistakes in it.

    Returns
    -------
    Config or None
        Config without the keys that are wrong, and the sections that need them; None if that
        leaves nothing.
    list of Mistake
        Mistakes that are found without looking at any file, in the order of the keys' definition.
    """
    found: list[Mistake] = []
    rest: dict[Any, Any] = deepcopy(dict(mapping))
    while True:
        try:
            return Config.model_validate(rest), found
        except ValidationError as error:
            errors = error.errors()
            # What is missing only because a wrong key was left out is not the user's mistake.
            found = found or _mistakes(errors, rest)
        if not rest:
            return None, found
        _leave_out(rest, [_written(error, rest) for error in errors])


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


def _mistakes(errors: list[ErrorDetails], mapping: Mapping[str, Any]) -> list[Mistake]:
    """Return the mistakes behind what pydantic found, one for each key."""
    by_key: dict[Path, Mistake] = {}
    for error in errors:
        mistake = _mistake(error, mapping)
        by_key.setdefault(mistake.path, mistake)
    # A mistyped key is often why another one is missing.
    unknown = {_written(e, mapping)[:-1] for e in errors if e["type"] == "extra_forbidden"}
    # Where a key takes several kinds of value, each kind reports why it does not match.
    whole = {path[:length] for path in by_key for length in range(len(path))}
    return [
        mistake
        for path, mistake in by_key.items()
        if path not in whole and not (mistake.absent and path[:-1] in unknown)
    ]


def _mistake(error: ErrorDetails, mapping: Mapping[str, Any]) -> Mistake:
    path = _written(error, mapping)
    section, rule = _definition(path)
    if error["type"] == "missing":
        return Mistake(path, f" is missing: {rule}", absent=True)
    if error["type"] == "source":
        return Mistake((*path, "source"), f" is missing: {error['msg']}", absent=True)
    if error["type"] == "secret":
        return Mistake(path, f": {error['msg']}")
    if error["loc"][-1:] == ("[key]",):
        return _misnamed(path)
    value, remedy = _value_at(mapping, path), remedy_of(error, section, rule)
    if error["type"] == "invalid_key":
        return Mistake(path, f": {remedy}")
    if error["type"] == "extra_forbidden" and isinstance(value, (str, Mapping, list)) and value:
        # Not shown: the value of an unknown key could be anything, even a secret.
        return Mistake(path, f": {remedy}")
    return wrong(path, value, remedy)


def _misnamed(path: Path) -> Mistake:
    """Make the mistake of a name that a case, a field of view or a dataset cannot have."""
    *above, name = path
    if above == ["datasets"]:
        rule = f"{rule_of(Config.model_fields['datasets'])}{suggestion(name, DATASETS)}"
    elif not isinstance(name, str):
        rule = QUOTE_IT
    else:
        named = {"fields": "field", "windows": "window", "layers": "layer", "derived": "column"}
        what = named.get(str(above[-1]), "case")
        rule = f"a {what}'s name is made of ASCII letters, digits, - and _"
    return Mistake((*above, shown(name)), f": {rule}")


def _leave_out(mapping: dict[Any, Any], paths: list[Path]) -> None:
    """Remove the key of each path from a mapping, or the nearest existing one above it."""
    taken = []
    for path in paths:
        while path:
            holder = _value_at(mapping, path[:-1])
            if isinstance(holder, dict) and path[-1] in holder:
                taken.append((holder, path[-1]))
                break
            path = path[:-1]
        else:
            taken += [(mapping, key) for key in mapping]
    for holder, key in taken:
        holder.pop(key, None)


def _written(error: ErrorDetails, mapping: Any) -> Path:
    """Return an error's place as the user wrote it, without pydantic's names of alternatives."""
    path: list[str | int] = []
    value = mapping
    # A key that is missing, or is no text, is not found under its name.
    absent = error["type"] == "missing" or error["loc"][-1:] == ("[key]",)
    for part in error["loc"]:
        if part == "[key]" or (isinstance(part, str) and not _is_key(part, value, absent)):
            continue
        path.append(part)
        value = _value_at(value, (part,))
    if error["loc"][-1:] == ("[key]",):
        # The key as it is: pydantic turns it into text.
        path[-1] = error["input"]
    return tuple(path)


def _is_key(part: str, value: Any, absent: bool) -> bool:
    """Whether a part of an error's place is a key, rather than the name of an alternative."""
    return isinstance(value, Mapping) and (absent or part in value)


def _value_at(mapping: Any, path: Path) -> Any:
    """Return what the user wrote at a path, as far as the path leads."""
    value = mapping
    for part in path:
        try:
            value = value[part]
        except (LookupError, TypeError):
            return value
    return value


BY_NAME: dict[str, tuple[type[Section], str]] = {
    "cases": (Case, "a case is a mapping with a source"),
    "fields": (Source, "a field is a mapping with a uri"),
    "layers": (Layer, "a layer is a mapping with one of labels, expand, ring and without"),
    "windows": (Window, "a window is a mapping with a diameter"),
    "datasets": (Origin, "give one of mirror, archive and store"),
}
"""Keys that hold sections by name, and the rule of such a section."""


def _definition(path: Path) -> tuple[type[Section], str]:
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
        if name in BY_NAME and parts:
            parts.pop(0)
            model, rule = BY_NAME[name]
    return section, rule

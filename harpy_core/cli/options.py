"""Options made from the config's sections, and sections made from what was typed.

An option has its key's name, meaning, default and rule; nothing is said here a second time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeVar, get_args, get_origin

import click
import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from harpy_core.config.documents import written
from harpy_core.config.mistakes import shown
from harpy_core.config.section import Section, remedy_of, rule_of
from harpy_core.errors import InputError
from harpy_core.statistics.declared import STATISTICS

S = TypeVar("S", bound=Section)
F = TypeVar("F", bound=Callable[..., Any])

OPTION_OF = {"kind": "cluster"}
"""Keys whose option has another name."""

WORDS_OF = {"stats": tuple(STATISTICS)}
"""Words to complete, where the section knows a pattern of them only."""


def options_of(section: type[Section], *keys: str) -> Callable[[F], F]:
    """Give a command an option for some keys of a section, in the section's order; all without."""
    chosen = [name for name in section.model_fields if not keys or name in keys]

    def decorate(command: F) -> F:
        for name in reversed(chosen):
            command = _option(name, section.model_fields[name])(command)
        return command

    return decorate


def section_of(section: type[S], values: Mapping[str, Any]) -> S:
    """A section with what was typed for its keys, and its defaults.

    Raises
    ------
    InputError
        In one line: the option, its value and the rule it does not follow.
    """
    typed = {
        name: _read(field, values[name])
        for name, field in section.model_fields.items()
        if values.get(name) is not None
    }
    try:
        return section.model_validate(typed, strict=False)
    except ValidationError as error:
        first = error.errors()[0]
        if not first["loc"]:
            raise InputError(first["msg"]) from None
        name = str(first["loc"][0])
        if first["type"] == "secret":
            raise InputError(f"{flag(name)}: {first['msg']}") from None
        remedy = remedy_of(first, section, rule_of(section.model_fields[name]))
        raise InputError(f"{flag(name)} = {shown(values[name])}: {remedy}") from None


def flag(name: str) -> str:
    """How the option of a key is typed: ``--batch-size``."""
    return f"--{OPTION_OF.get(name, name).replace('_', '-')}"


def as_options(message: str) -> str:
    """An error that names keys of the section cluster, with their options instead."""
    return re.sub(r"\bcluster\.(\w+)", lambda found: flag(found[1]), message)


def _option(name: str, field: FieldInfo) -> Callable[[F], F]:
    default = field.get_default(call_default_factory=True, validated_data={})
    told = re.sub(r"[;:,] null\b[^.;]*", "", str(field.description))
    if isinstance(default, bool):
        switch = f"{flag(name)}/--no-{name.replace('_', '-')}"
        return click.option(switch, name, default=default, show_default=True, help=told)
    if default is not None:
        text = ",".join(default) if isinstance(default, list) else written(default)
        told = f"{told}  [default: {text}]"
    return click.option(
        flag(name),
        name,
        metavar="|".join(_words(field)) or "TEXT",
        shell_complete=_completion(WORDS_OF.get(name) or _choices(field)),
        help=told,
    )


def _completion(words: Sequence[str]) -> Callable[..., list[str]]:
    """Completes the last word of a comma-separated list, or a word."""

    def complete(context: click.Context, parameter: click.Parameter, typed: str) -> list[str]:
        before, comma, last = typed.rpartition(",")
        left = [word for word in words if word not in before.split(",")]
        return [f"{before}{comma}{word}" for word in left if word.startswith(last)]

    return complete


def _words(field: FieldInfo) -> list[str]:
    """The words to choose one of, where the value is one."""
    return [] if _holds(field, list) else _choices(field)


def _choices(field: FieldInfo) -> list[str]:
    return [str(word) for literal in _parts(field.annotation) for word in get_args(literal)]


def _parts(annotation: Any) -> Iterator[Any]:
    """The literals inside an annotation."""
    if get_origin(annotation) is Literal:
        yield annotation
    else:
        for part in get_args(annotation):
            yield from _parts(part)


def _holds(field: FieldInfo, kind: type) -> bool:
    """Whether a value of the field may be a list, or a mapping."""
    found = [field.annotation, *get_args(field.annotation)]
    found += [inner for part in found for inner in get_args(part)]
    return any(get_origin(part) is kind for part in found)


def _read(field: FieldInfo, text: Any) -> Any:
    """What was typed as the field would have it; what makes no sense is left as it is."""
    if not isinstance(text, str):
        return text
    if (_holds(field, list) and text.startswith("[")) or _holds(field, dict):
        try:
            return yaml.safe_load(text)
        except yaml.YAMLError:
            return text
    # Where a path may stand as well, a list is one of numbers.
    if _holds(field, list) and (str not in get_args(field.annotation) or _NUMBERS.fullmatch(text)):
        return text.split(",")
    return text


_NUMBERS = re.compile(r"\d+(,\d+)*")

"""Options made from the config's sections, and sections made from the values of options.

An option has its key's name, meaning, default and rule; nothing is repeated here.
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
from harpy_core.statistics.declared import PARAMETRIC, STATISTICS

S = TypeVar("S", bound=Section)
F = TypeVar("F", bound=Callable[..., Any])

OPTION_OF = {"kind": "cluster"}
"""Options whose name is not that of their key."""

WORDS_OF = {"stats": (*STATISTICS, *PARAMETRIC)}
"""Words to complete, for keys of which the section knows only a pattern."""


def options_of(section: type[Section], *keys: str) -> Callable[[F], F]:
    """Give a command an option for `keys` of a section, or for all, in the section's order."""
    chosen = [name for name in section.model_fields if not keys or name in keys]

    def decorate(command: F) -> F:
        for name in reversed(chosen):
            command = _option(name, section.model_fields[name])(command)
        return command

    return decorate


def section_of(section: type[S], values: Mapping[str, Any]) -> S:
    """Make a section from what was typed for its keys, and its defaults.

    Raises
    ------
    InputError
        A value breaks its rule; the message names the option, the value and the rule in one line.
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
    """Option of a key as it is typed: ``--batch-size``."""
    return f"--{OPTION_OF.get(name, name).replace('_', '-')}"


def as_options(message: str) -> str:
    """Replace keys of the section cluster in an error by their options."""
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
    """Make a function that completes a word, or the last word of a comma-separated list."""

    def complete(context: click.Context, parameter: click.Parameter, typed: str) -> list[str]:
        before, comma, last = typed.rpartition(",")
        left = [word for word in words if word not in before.split(",")]
        return [f"{before}{comma}{word}" for word in left if word.startswith(last)]

    return complete


def _words(field: FieldInfo) -> list[str]:
    """Words to choose from, if the value is a single one."""
    return [] if _holds(field, list) else _choices(field)


def _choices(field: FieldInfo) -> list[str]:
    return [str(word) for literal in _parts(field.annotation) for word in get_args(literal)]


def _parts(annotation: Any) -> Iterator[Any]:
    """Yield the literals inside an annotation."""
    if get_origin(annotation) is Literal:
        yield annotation
    else:
        for part in get_args(annotation):
            yield from _parts(part)


def _holds(field: FieldInfo, kind: type) -> bool:
    """Whether a value of the field may be of a kind, such as a list or a mapping."""
    found = [field.annotation, *get_args(field.annotation)]
    found += [inner for part in found for inner in get_args(part)]
    return any(get_origin(part) is kind for part in found)


def _read(field: FieldInfo, text: Any) -> Any:
    """Convert what was typed to the field's type; what makes no sense is left as it is."""
    if not isinstance(text, str) or text in _choices(field):
        return text
    if (_holds(field, list) and text.startswith("[")) or _holds(field, dict):
        try:
            return yaml.safe_load(text)
        except yaml.YAMLError:
            return text
    if _PATHS.search(text):
        return text
    # Where a path is allowed too, a list is one of numbers.
    # As for one number, where that is allowed.
    if "," not in text and any(int in get_args(part) for part in get_args(field.annotation)):
        return text
    if _holds(field, list) and (str not in get_args(field.annotation) or _NUMBERS.fullmatch(text)):
        return text.split(",")
    return text


_PATHS = re.compile(r"^[^,]+\.([ct]sv|txt)$")
"""Text that is the path of a file with names rather than a name."""

_NUMBERS = re.compile(r"\d+(,\d+)*")

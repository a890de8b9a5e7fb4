"""A section of the config: its keys, their rules, and the remedy of a mistake in one of them.

It is imported while the workflow is parsed, so nothing heavy is imported here.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable
from datetime import date
from typing import Annotated, Any, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticCustomError


def _unlike(values: list[Any]) -> list[Any]:
    for value in values:
        if values.count(value) > 1:
            raise PydanticCustomError("repeated", "{value} is named twice", {"value": repr(value)})
    return values


def key(
    description: str,
    rule: str,
    *,
    default: Any = ...,
    default_factory: Callable[[], Any] | None = None,
    **bounds: Any,
) -> Any:
    """Declare a field: its meaning, and the rule of its value (shown where it is broken)."""
    if default_factory is not None:
        bounds["default_factory"] = default_factory
    else:
        bounds["default"] = default
    return Field(description=description, json_schema_extra={"rule": rule}, **bounds)


CaseName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]+$")]
Positive = Annotated[int, Field(ge=1)]
Side = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Unlike = AfterValidator(_unlike)


QUOTE_IT = "YAML does not read it as text: quote it"
"""Remedy of a number, a date, yes or no where text is wanted."""


class Section(BaseModel):
    """A mapping of the config: unknown keys are refused, types are not guessed."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def suggestion(word: Any, choices: Iterable[str]) -> str:
    """Return `` (did you mean …?)`` with the nearest choice, or nothing."""
    near = difflib.get_close_matches(str(word), list(choices), n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def remedy_of(error: ErrorDetails, section: type[Section], rule: str) -> str:
    """Remedy of a mistake in one of a section's keys.

    Parameters
    ----------
    error
        Error as pydantic found it.
    section
        Section that has the key, or should have it.
    rule
        Rule of the key.
    """
    if error["type"] in ("extra_forbidden", "invalid_key"):
        known = list(section.model_fields)
        near = suggestion(error["loc"][-1], known)
        return f"there is no such key{near or '; there are ' + ', '.join(known)}"
    if error["type"] in ("repeated", "address", "statistic", "together"):
        return error["msg"]
    if error["type"] == "string_type" and isinstance(error["input"], int | float | date):
        return f"{rule}: {QUOTE_IT}"
    choices = re.findall(r"'([^']*)'", str(error.get("ctx", {}).get("expected", "")))
    return f"{rule}{suggestion(error['input'], choices)}"


def rule_of(field: FieldInfo) -> str:
    """Return the rule of a field's value."""
    extra = field.json_schema_extra
    return str(extra["rule"]) if isinstance(extra, dict) else ""


def section_of(annotation: Any) -> type[Section] | None:
    """Return the section that a field holds, if it holds one."""
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, Section):
            return candidate
    return None

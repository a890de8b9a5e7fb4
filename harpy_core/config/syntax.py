"""Syntax errors in a config's text, reported with file and line.

Snakemake reads the files itself, names no line, and silently takes the last of two equal keys. This
is imported while the workflow is parsed, so nothing heavy is imported here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import yaml

from harpy_core.errors import InputError

_TEMPLATE = "__use_yte__"
"""Key by which Snakemake takes a config for a template, in which keys may be repeated."""


def check_syntax(files: Iterable[str | Path]) -> None:
    """Refuse files that are neither YAML nor JSON, or have a key twice in one mapping.

    A missing file is left to Snakemake.

    Raises
    ------
    InputError
        There is a mistake; one line gives the file, the line and what is wrong there.
    """
    for file in map(Path, files):
        if file.is_file():
            text = file.read_text(encoding="utf-8")
            if not _is_json(text):
                _check_yaml(text, file)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _check_yaml(text: str, file: Path) -> None:
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"{mark.line + 1}" if mark else "1"
        told = " ".join(filter(None, (error.problem, error.context)))
        tab = "; indent by spaces, not by tabs" if "'\\t'" in told else ""
        raise InputError(f"{file}:{line}: is not YAML: {told}{tab}") from error
    except yaml.YAMLError as error:
        raise InputError(f"{file}: is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(root, yaml.MappingNode):
        raise InputError(f"{file}:1: the config is a mapping: begin with `cases:`")
    if all(key.value != _TEMPLATE for key, _ in root.value):
        _check_keys(root, file)


def _check_keys(node: yaml.Node, file: Path) -> None:
    """Refuse a key that appears twice in a mapping."""
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _check_keys(item, file)
    elif isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if isinstance(key, yaml.ScalarNode) and key.value in lines:
                raise InputError(
                    f"{file}:{line}: {key.value}: is there already, in line {lines[key.value]}: "
                    "leave one of them"
                )
            lines[key.value if isinstance(key, yaml.ScalarNode) else str(key)] = line
            _check_keys(value, file)

"""The rooms of the package: each knows only those that stand above it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import harpy_core

ROOT = Path(harpy_core.__file__).parent

ROOMS = (
    "version",
    "errors",
    "provenance",
    "phases",
    "tiles",
    "kernels",
    "statistics",
    "config",
    "storage",
    "raster",
    "running",
    "tiling",
    "datasets",
    "instances",
    "aggregate",
    "extract",
    "training",
    "embedding",
    "planning",
    "benchmark",
    "figures",
    "viewing",
    "workflow",
    "cli",
)
"""From the top of the house to its bottom."""


def imports() -> Iterator[tuple[str, str, str]]:
    """Room, imported room and place of every import, those inside functions too."""
    for file in sorted(ROOT.rglob("*.py")):
        room = file.relative_to(ROOT).parts[0].removesuffix(".py")
        if room == "__init__":
            continue
        for node in ast.walk(ast.parse(file.read_bytes())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module == ROOT.name:
                names = [f"{ROOT.name}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            for name in names:
                package, *inside = name.split(".")
                if package == ROOT.name and inside:
                    yield room, inside[0], f"{file.relative_to(ROOT)}:{node.lineno}"


def test_every_room_is_on_the_list() -> None:
    found = {path.stem for path in ROOT.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert found - {"__init__", "__pycache__"} == set(ROOMS)


def test_a_room_knows_only_rooms_above_it() -> None:
    place = {room: number for number, room in enumerate(ROOMS)}
    upward = [where for room, known, where in imports() if place[known] > place[room]]
    assert upward == []


def test_no_file_knows_one_that_knows_it() -> None:
    files = {module_of(file): file for file in ROOT.rglob("*.py") if file.parent != ROOT}
    known: dict[str, set[str]] = {}
    for module, file in files.items():
        named = set()
        for node in ast.walk(ast.parse(file.read_bytes())):
            if isinstance(node, ast.ImportFrom) and node.module:
                inside = [f"{node.module}.{alias.name}" for alias in node.names]
                named |= {name if name in files else node.module for name in inside}
        known[module] = (named & set(files)) - {module}
    # Raises, and names the circle, where there is one.
    assert len(list(TopologicalSorter(known).static_order())) == len(files)


def module_of(file: Path) -> str:
    """The name that a file is imported by."""
    inside = file.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(inside).removesuffix(".__init__")

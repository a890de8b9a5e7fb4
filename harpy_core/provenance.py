"""Digests of the code that makes a result: a module and all it imports from this package.

Snakemake notices a change of a script, not of the package that the script calls; rules therefore
take this digest as a parameter.
"""

from __future__ import annotations

import ast
import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path(__file__).parent
_PACKAGE = _ROOT.name


def source_digest(*modules: str) -> str:
    """SHA-256 over the sources of some modules and of what they import from this package.

    Parameters
    ----------
    modules
        Full names, such as ``"harpy_core.aggregate.aggregation"``.
    """
    total = hashlib.sha256()
    for module in sorted(imported_modules(*modules)):
        total.update(f"{module}\0".encode())
        for file in _files_of(module):
            total.update(file.read_bytes())
    return total.hexdigest()


def imported_modules(*modules: str) -> set[str]:
    """The given modules and every module of this package that they import, directly or not."""
    found: set[str] = set()
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        if module not in found:
            found.add(module)
            waiting.extend(_imports(module))
    return found


@functools.cache
def _imports(module: str) -> frozenset[str]:
    tree = ast.parse(_file_of(module).read_bytes())
    names = {name for node in ast.walk(tree) for name in _named(node)}
    # The package itself only forwards names: importing it needs none of the modules behind them.
    return frozenset(name for name in names if name != _PACKAGE and _is_module(name))


def _named(node: ast.AST) -> Iterator[str]:
    """Every name in an import statement that may be a module; this package has no relative ones."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
        yield node.module
        yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _is_module(name: str) -> bool:
    return name.split(".")[0] == _PACKAGE and _path_of(name) is not None


def _path_of(module: str) -> Path | None:
    inside = _ROOT.joinpath(*module.split(".")[1:])
    for file in (inside.with_suffix(".py"), inside / "__init__.py"):
        if file.is_file():
            return file
    return None


def _files_of(module: str) -> list[Path]:
    """A module's file, and the GPU kernels of the same name beside it."""
    file = _file_of(module)
    return [file, *file.parent.glob(f"{file.stem}.cu")]


def _file_of(module: str) -> Path:
    file = _path_of(module)
    if file is None:
        raise ModuleNotFoundError(f"there is no module {module}")
    return file

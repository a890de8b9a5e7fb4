"""Digests of the code that makes a result: a module and all it imports from this package.

Snakemake notices a change of a script, not of the package that the script calls; rules therefore
take this digest as a parameter.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path(__file__).parent
_PACKAGE = _ROOT.name
# The package itself only forwards names: importing it needs none of the modules behind them. Its
# version makes no result: what a new one changes, changes the modules.
_SILENT = {_PACKAGE, f"{_PACKAGE}.version"}
# "import a.b as c, d", also after a colon or a semicolon; "from a import (b, c as d)".
_IMPORT = re.compile(
    r"(?:^|[;:])[ \t]*(?:import[ \t]+([\w., \t]+)"
    r"|from[ \t]+(\w[\w.]*)[ \t]+import[ \t]*(\([^)]*\)|[\w*., \t]+))",
    re.MULTILINE,
)
# The full name of a module of this package, by which it is imported on first use.
_NAMED = re.compile(rf"\"({_PACKAGE}(?:\.\w+)+)\"")
_CONTINUED = re.compile(r"\\\r?\n")
_COMMENT = re.compile(r"#.*")


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
        total.update(_sources(module))
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


def names_imported(source: str) -> Iterator[str]:
    """Every absolute name in a source's import statements that may be a module.

    Read without a parser, which would take a fifth of a dry run. A line of a docstring that looks
    like an import counts as one: a name too many only looks at one file more.
    """
    for several, parent, names in _IMPORT.findall(_CONTINUED.sub(" ", _COMMENT.sub("", source))):
        if several:
            yield from _first_words(several)
        else:
            yield parent
            yield from (f"{parent}.{name}" for name in _first_words(names))


def _first_words(names: str) -> Iterator[str]:
    """Yield the names of a list such as ``(a, b as c)``, which may have several lines."""
    for name in names.strip("()").split(","):
        yield from name.split()[:1]


@functools.cache
def _imports(module: str) -> frozenset[str]:
    source = _file_of(module).read_text("utf-8")
    names = {*names_imported(source), *_NAMED.findall(source)}
    return frozenset(name for name in names - _SILENT if _is_module(name))


def _is_module(name: str) -> bool:
    return name.split(".")[0] == _PACKAGE and _path_of(name) is not None


@functools.cache
def _path_of(module: str) -> Path | None:
    inside = _ROOT.joinpath(*module.split(".")[1:])
    for file in (inside.with_suffix(".py"), inside / "__init__.py"):
        if file.is_file():
            return file
    return None


@functools.cache
def _sources(module: str) -> bytes:
    """A module's source, and that of the GPU kernels or the page of the same name beside it."""
    file = _file_of(module)
    files = [file, *(file.with_suffix(ending) for ending in (".cu", ".html", ".js"))]
    return b"".join(file.read_bytes() for file in files if file.is_file())


def _file_of(module: str) -> Path:
    file = _path_of(module)
    if file is None:
        raise ModuleNotFoundError(f"there is no module {module}")
    return file

"""What a module imports is read without a parser, and nothing that the parser sees is missed."""

import ast
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from harpy_core import provenance
from harpy_core.kernels.registry import ENGINES
from harpy_core.provenance import imported_modules, names_imported
from harpy_core.statistics.declared import PARTIALS


@pytest.mark.parametrize("package", ["harpy_core", "zarr", "pydantic", "email"])
def test_every_import_that_the_parser_sees_is_found(package: str) -> None:
    spec = find_spec(package)
    assert spec is not None and spec.origin is not None
    files = sorted(Path(spec.origin).parent.rglob("*.py"))
    assert len(files) > 10
    for file in files:
        source = file.read_text("utf-8", errors="replace")
        assert set(_names_by_parser(source)) <= set(names_imported(source)), file


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("import a.b as c, d", {"a.b", "d"}),
        ("from a import b as c", {"a", "a.b"}),
        ("from a import (  # why (not)\n    b,\n    c as d,\n)", {"a", "a.b", "a.c"}),
        ("from a import \\\n    b, \\\n    c", {"a", "a.b", "a.c"}),
        ("def f():\n    if True: import a; import b", {"a", "b"}),
        ("from . import a\nfrom .b import c", set()),
        ("from a import(b)", {"a", "a.b"}),
    ],
)
def test_every_form_of_an_import_is_read(source: str, names: set[str]) -> None:
    assert set(_names_by_parser(source)) == names
    assert set(names_imported(source)) == names


def test_modules_behind_lazy_imports_count() -> None:
    found = imported_modules("harpy_core.aggregate.store")
    assert "harpy_core.aggregate.store" in found
    assert len(found) > 20
    assert all(name.startswith("harpy_core.") for name in found)


def test_kernels_and_partials_count_though_they_are_imported_by_their_names() -> None:
    found = imported_modules("harpy_core.aggregate.store")
    assert {engine.module for engine in ENGINES.values()} <= found
    assert {partial.module for partial in PARTIALS.values()} <= found


def test_the_page_counts_with_the_module_that_fills_it(monkeypatch: pytest.MonkeyPatch) -> None:
    digests, read = [], Path.read_bytes
    for ending in ("", ".html", ".js"):

        def changed(file: Path, ending: str = ending) -> bytes:
            return read(file) + (b" " if ending and file.name == f"pages{ending}" else b"")

        monkeypatch.setattr(Path, "read_bytes", changed)
        provenance._sources.cache_clear()
        digests.append(provenance.source_digest("harpy_core.viewing.pages"))
    provenance._sources.cache_clear()
    assert len(set(digests)) == 3


def _names_by_parser(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)

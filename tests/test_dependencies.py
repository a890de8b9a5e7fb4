"""Imports of the package against the lists of what it asks for."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import packages_distributions
from pathlib import Path

import jinja2
import yaml
from packaging.requirements import Requirement

import harpy_core

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]

CONDA = {
    "dask": "dask-core",
    "matplotlib": "matplotlib-base",
    "snakemake": "snakemake-minimal",
}
"""Packages with another name on conda-forge and bioconda."""

OTHERS = {
    "liffile",
    "nd2",
    "openslide",
    "pylibCZIrw",
    "cupy",
    "dask_jobqueue",
    "geopandas",
    "harpy",
    "napari",
    "onnxruntime",
    "pyarrow",
    "shapely",
    "snakemake",
    "spatialdata",
    "tensorstore",
    "torch",
}
"""Imported inside functions only: of extras, and of the peer in an environment of its own."""


DECODERS = {"imagecodecs"}
"""Imported by tifffile, for the compressions that most TIFFs have."""


def requirements(extra: str | None = None) -> dict[str, Requirement]:
    """Names of what `pip install harpy-core`, or one of its extras, asks for."""
    listed = PROJECT["dependencies"] if extra is None else PROJECT["optional-dependencies"][extra]
    return {found.name: found for found in map(Requirement, listed)}


def imported() -> set[str]:
    """Top-level names of everything that the package imports, wherever it does."""
    names = set()
    for file in Path(harpy_core.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_bytes())):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.partition(".")[0])
    return names - sys.stdlib_module_names - {"harpy_core"}


def test_every_import_is_asked_for_or_belongs_to_an_extra() -> None:
    asked = {name.lower().replace("_", "-") for name in requirements()}
    known = packages_distributions()
    for name in imported() - OTHERS:
        homes = {home.lower().replace("_", "-") for home in known[name]}
        # pydantic-core is pydantic's other half, in its exact version.
        assert homes & (asked | {"pydantic-core"}), name


def test_nothing_is_asked_for_that_is_never_imported() -> None:
    known = packages_distributions()
    used = {home.lower() for name in imported() if name in known for home in known[name]}
    assert {name.lower() for name in requirements()} <= used | DECODERS


def test_importing_the_package_imports_no_other() -> None:
    code = (
        "import sys, harpy_core; print(*{name.partition('.')[0] for name in sys.modules}"
        " - sys.stdlib_module_names - {'harpy_core', '__main__'})"
    )
    bare = [sys.executable, "-S", "-c", code]
    ended = subprocess.run(bare, cwd=ROOT, capture_output=True, text=True, check=True)
    assert ended.stdout.split() == []


def conda(lines: Iterable[str]) -> dict[str, str]:
    """Names and versions of conda's requirements."""
    split = (re.fullmatch(r"([\w.-]+)\s*(.*)", line) for line in lines)
    return {found[1]: found[2].replace(" ", "") for found in split if found}


def expected(extras: Iterable[str]) -> dict[str, str]:
    """Packages that a conda environment needs for the package and some of its extras."""
    asked = requirements()
    for extra in extras:
        asked |= requirements(extra)
    found = {CONDA.get(name, name): str(asked[name].specifier) for name in asked}
    # conda knows no extras of packages: fsspec[http,s3].
    assert asked["fsspec"].extras == {"http", "s3"}
    return found | {"s3fs": found["fsspec"], "python": PROJECT["requires-python"]}


def test_the_conda_environment_of_the_workflow_asks_for_the_same() -> None:
    environment = yaml.safe_load((ROOT / "envs/workflow.yaml").read_text())
    asked = conda(environment["dependencies"])
    # The package is installed by it.
    del asked["pip"]
    # A job that runs in it submits Dask workers, and no jobs of Snakemake's.
    needed = expected(["workflow"])
    del needed["snakemake-executor-plugin-slurm"]
    assert asked == needed


def test_the_conda_recipe_asks_for_the_same() -> None:
    text = (ROOT / "recipe/meta.yaml").read_text()
    recipe = yaml.safe_load(jinja2.Template(text).render(PYTHON="python"))
    assert recipe["package"]["name"] == PROJECT["name"]
    assert recipe["package"]["version"] == harpy_core.__version__
    assert conda(recipe["requirements"]["run"]) == expected([])
    builds = map(Requirement, PYPROJECT["build-system"]["requires"])
    assert conda(recipe["requirements"]["host"]) == {
        "python": PROJECT["requires-python"],
        "pip": "",
        **{found.name: str(found.specifier) for found in builds},
    }
    scripts = [" = ".join(pair) for pair in PROJECT["scripts"].items()]
    assert recipe["build"]["entry_points"] == scripts
    assert recipe["about"]["license"] == PROJECT["license"]


def test_the_page_on_installing_names_every_extra() -> None:
    page = (ROOT / "docs/install.md").read_text()
    listed = "".join(line.split("|")[1] for line in page.splitlines() if line.startswith("| `"))
    extras = set(PROJECT["optional-dependencies"]) - {"docs", "dev"}
    assert set(re.findall(r"`([\w-]+)`", listed)) == extras


def test_every_file_that_names_the_version_names_the_same() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    changes = (ROOT / "CHANGELOG.md").read_text()
    assert PROJECT["version"] == citation["version"] == harpy_core.__version__
    assert re.search(r"^## .*\b(\d+\.\d+\.\d+)", changes, re.MULTILINE)[1] == PROJECT["version"]

"""Configuration of Sphinx; pages are first written from the code."""

from __future__ import annotations

from pathlib import Path

import figures
import pages

import harpy_core

project = "harpy_core"
author = "the harpy_core developers"
copyright = f"2026, {author}"
version = release = harpy_core.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
exclude_patterns = ["_build", "**/generated/*.md"]

html_theme = "sphinx_book_theme"
html_title = "harpy_core"
html_theme_options = {"show_toc_level": 2, "navigation_with_keys": False}
html_copy_source = False

default_role = "code"
napoleon_google_docstring = False
napoleon_use_rtype = False
autodoc_typehints = "none"
autodoc_member_order = "bysource"
# The loader for PyTorch is described without it.
autodoc_mock_imports = ["torch"]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 1200
nb_execution_show_tb = True
copybutton_exclude = ".linenos, .gp, .go"

_HERE = Path(__file__).parent
pages.write(_HERE / "reference/generated")
figures.draw(_HERE / "explanation/generated")

"""Sphinx's settings. The source folder is the repository, so links work as in its browser."""

import re
from typing import List

from sphinx.application import Sphinx

project = "LRBench for Caffe"
author = "the authors of LRBench for Caffe"
root_doc = "docs/index"
include_patterns = [
    "docs/*.md",
    "results/*.md",
    "examples/README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
]
exclude_patterns = ["build"]
extensions = ["myst_parser"]
myst_heading_anchors = 4
suppress_warnings = ["toc.not_included"]  # the pages of results/ are reached from its README.md

html_theme = "furo"
html_title = project
html_css_files = ["site.css"]
html_static_path = ["site"]
html_copy_source = False

_TOCTREE = """
```{toctree}
:hidden:
:caption: %s

%s
```
"""


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("source-read", _add_navigation)


def _add_navigation(app: Sphinx, page: str, source: List[str]) -> None:
    """Make the side bar from the lists of index.md, which has no markup that only Sphinx reads."""
    if page == root_doc:
        for caption, links in re.findall(r"\*\*(.+)\*\*\n\n((?:- .*\n)+)", source[0]):
            source[0] += _TOCTREE % (caption, "\n".join(re.findall(r"\]\((.*?)\)", links)))

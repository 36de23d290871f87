"""Sphinx's settings. The source folder is the repository, so links work as in a repository browser."""

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
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 4
suppress_warnings = ["toc.not_included"]  # index.md lists the pages itself

html_theme = "furo"
html_title = project
html_css_files = ["site.css"]
html_static_path = ["site"]

"""Settings of the docs site (Sphinx): ``make docs`` builds it strictly, ``make docs-serve`` shows it.

The source folder is the repository, so that a page's links are the same on the site and in the repository.
"""

import sys
import tomllib
from pathlib import Path

HERE = Path(__file__).parent
TREE = HERE.parents[1]
sys.path.insert(0, str(HERE))  # the site's own extensions, beside this file

_about = tomllib.loads((TREE / "pyproject.toml").read_text(encoding="utf-8"))["project"]

project = "gcdist"
author = "The gcdist developers"
version = release = _about["version"]
language = "en"

root_doc = "docs/README"
include_patterns = [
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "docs/*.md",
    "docs/reference/*.md",
    "launch/README.md",
    "launch/*/README.md",
    "benchmarks/RESULTS.md",
    "benchmarks/results/wallclock-all.md",
    "benchmarks/results/wallclock-before-auto.md",
    "benchmarks/results/wallclock-peers.md",
    "benchmarks/results/wallclock-user-batch.md",
    "gcdist/tasks/data/README.md",
]
exclude_patterns = [".*", "build", "dist", "runs", "tests", "examples"]  # folders that need not be walked

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "navigation",
    "sources",
    "reference",
]
myst_heading_anchors = 3
suppress_warnings = ["myst.header"]  # a page may begin at any level of heading
nitpicky = True
nitpick_ignore_regex = [("py:.*", r"(?!gcdist\.).*")]  # only gcdist's own names must lead somewhere

smartquotes = False  # what is quoted is copied
highlight_language = "none"
pygments_style = "friendly"
pygments_dark_style = "github-dark"
copybutton_prompt_text = "$ "

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
default_role = "code"  # docstrings set names in single backticks

html_theme = "furo"
html_title = f"gcdist {version}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "light_css_variables": {"font-stack": "system-ui, sans-serif", "font-stack--monospace": "ui-monospace, monospace"},
    "navigation_with_keys": True,
}

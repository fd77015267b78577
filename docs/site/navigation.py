"""The site's navigation: the tables of ``docs/README.md``, so that there is one list of pages for readers of both."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx

ROOT = "docs/README"
START = """<!doctype html><meta charset="utf-8"><title>gcdist</title>
<meta http-equiv="refresh" content="0; url=docs/README.html"><a href="docs/README.html">gcdist</a>
"""


def toctrees(text: str) -> str:
    """A hidden toctree for each section whose table's rows begin with a link to a page, in the order of the rows."""
    trees = []
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        caption, _, body = section.partition("\n")
        pages = [
            f"{title} <{page}>" for title, page in re.findall(r"^\| \[([^\]]+)\]\(([^)#]+)\.md\)", body, re.MULTILINE)
        ]
        if pages:
            trees.append("```{toctree}\n:hidden:\n:caption: " + caption + "\n\n" + "\n".join(pages) + "\n```\n")
    return "\n".join(trees)


def add_navigation(app: Sphinx, page: str, content: list[str]) -> None:
    """Give the first page its toctrees, and links that are named after a file the title of its page."""
    content[0] = re.sub(r"(?<!!)\[[\w./-]+\.md\]\((?=[\w./-]+\.md[)#])", "[](", content[0])
    if page == ROOT:
        content[0] += "\n" + toctrees(content[0])


def write_start(app: Sphinx, failure: Exception | None) -> None:
    """The site's own index leads to the first page."""
    if failure is None:
        Path(app.outdir, "index.html").write_text(START, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("source-read", add_navigation)
    app.connect("build-finished", write_start)
    return {"parallel_read_safe": True}

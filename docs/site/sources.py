"""Links to files of code lead to a page that shows the file, highlighted, in place of a download."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docutils import nodes
from sphinx import addnodes

if TYPE_CHECKING:
    from sphinx.application import Sphinx

LANGUAGES = {".py": "python", ".toml": "toml", ".yaml": "yaml", ".yml": "yaml", ".sh": "bash", ".json": "json"}
LARGEST = 300_000  # bytes; larger files stay downloads


def page_of(path: str) -> str:
    """Name of the page that shows the file at ``path``, a path from the root of the repository."""
    return f"source/{path}"


def show_sources(app: Sphinx, tree: nodes.document, page: str) -> None:
    """Turn links to files of the repository into links to their pages, and remember these."""
    root = Path(app.srcdir).resolve()
    for link in list(tree.findall(addnodes.download_reference)):
        file = (root / Path(app.env.doc2path(page)).parent / link["reftarget"]).resolve()
        if not file.is_file() or not file.is_relative_to(root) or file.stat().st_size > LARGEST:
            continue
        path = file.relative_to(root).as_posix()
        uri = app.builder.get_relative_uri(page, page_of(path))
        link.replace_self(nodes.reference("", "", *link.children, refuri=uri, internal=True))
        shown: set[str] = app.env.__dict__.setdefault("gcdist_sources", set())
        shown.add(path)


def source_pages(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    """One page for each file that is linked."""
    highlighter: Any = getattr(app.builder, "highlighter")  # noqa: B009 (only builders of HTML have it)
    for path in sorted(app.env.__dict__.get("gcdist_sources", ())):
        text = Path(app.srcdir, path).read_text(encoding="utf-8")
        language = LANGUAGES.get(Path(path).suffix, "none")
        body = highlighter.highlight_block(text, language, linenos=False)
        yield page_of(path), {"title": path, "body": f"<h1><code>{path}</code></h1>\n{body}"}, "page.html"


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("doctree-resolved", show_sources)
    app.connect("html-collect-pages", source_pages)
    return {"parallel_read_safe": True}

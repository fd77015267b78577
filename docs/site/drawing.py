"""Boxes, arrows and words as SVG that is readable in light and dark."""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape

STYLE = """
  text { font: 14px system-ui, "DejaVu Sans", Verdana, Helvetica, Arial, sans-serif; fill: #1a1a1a }
  .small { font-size: 12.5px } .bold { font-weight: 700 } .on { fill: #fff }
  .line { stroke: #1a1a1a; stroke-width: 1.4; fill: none } .thick { stroke-width: 3 } .dashed { stroke-dasharray: 5 4 }
  .box { fill: #fff; stroke: #1a1a1a; stroke-width: 1.4 } .tip { fill: #1a1a1a }
  .calm { fill: #e9eef5 } .done { fill: #2f6db3 } .dropped { fill: #f3d9a4 } .page { fill: #fff }
  @media (prefers-color-scheme: dark) {
    text { fill: #e8e8e8 } .on { fill: #fff }
    .line { stroke: #d0d0d0 } .box { fill: #1d2126; stroke: #d0d0d0 } .tip { fill: #d0d0d0 }
    .calm { fill: #2b3440 } .done { fill: #3f82cc } .dropped { fill: #6b5423 } .page { fill: #131416 }
  }
"""


@dataclass
class Picture:
    """A picture of ``width`` by ``height`` pixels that grows by what is drawn on it.

    Args:
        title: a line that a screen reader reads.
        about: what is to be seen, in a sentence or two.
    """

    width: int
    height: int
    title: str
    about: str
    parts: list[str] = field(default_factory=list)

    def box(self, x: float, y: float, w: float, h: float, words: str = "", kind: str = "", bold: bool = False) -> None:
        """A rectangle with lines of words in its middle; ``kind``: calm, done, dropped."""
        self.parts.append(f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="6" class="box {kind}"/>')
        lines = words.split("\n") if words else []
        top = y + h / 2 + 5 - 8.5 * (len(lines) - 1)
        for i, line in enumerate(lines):
            style = "bold" if bold and i == 0 else "small" if bold else ""
            self.words(x + w / 2, top + 17 * i, line, middle=True, style=f"{style} {'on' if kind == 'done' else ''}")

    def words(self, x: float, y: float, text: str, middle: bool = False, end: bool = False, style: str = "") -> None:
        """A line of words that begins at x, or has its middle or end there."""
        anchor = ' text-anchor="middle"' if middle else ' text-anchor="end"' if end else ""
        self.parts.append(f'<text x="{x:g}" y="{y:g}"{anchor} class="{style.strip()}">{escape(text)}</text>')

    def arrow(self, path: str, kind: str = "", tip: bool = True) -> None:
        """A line along an SVG path; ``kind``: thick, dashed."""
        marker = ' marker-end="url(#tip)"' if tip else ""
        self.parts.append(f'<path d="{path}" class="line {kind}"{marker}/>')

    def svg(self) -> str:
        """The file."""
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" role="img">\n'
            f"<title>{escape(self.title)}</title>\n<desc>{escape(self.about)}</desc>\n<style>{STYLE}</style>\n"
            '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" markerHeight="8" '
            'markerUnits="userSpaceOnUse" orient="auto-start-reverse"><path d="M0 0 L10 5 L0 10 z" class="tip"/></marker>'
            f'</defs>\n<rect width="{self.width}" height="{self.height}" class="page"/>\n'
        )
        return head + "\n".join(self.parts) + "\n</svg>\n"

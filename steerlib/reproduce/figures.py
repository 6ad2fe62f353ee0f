"""A figure as a page shows it: lines and text that follow the colours of the page.

The one idea: matplotlib's SVG goes into the page itself, and its colours become those of style sheet variables
(book/_static/figures.css): ink and paper for black, white and the greys between them, and the six colours of the palette. A dark page
then has dark figures, without a second set of files.
"""

from __future__ import annotations

import html
import re

from steerlib.evaluate.style import COLORS

NAMES = ("blue", "red", "green", "pink", "orange", "sky")
VARIABLES = {color.lower(): f"var(--fig-{name}, {color.lower()})" for color, name in zip(COLORS, NAMES, strict=True)}
PAINT = re.compile(r"(fill|stroke): (#[0-9a-f]{6})")
ID = re.compile(r'\bid="([^"]+)"|(xlink:href="#|url\(#)([^")]+)')


def inline(svg: str, alt: str, name: str) -> str:
    """A figure of matplotlib as an element of a page.

    Args:
        svg: as `savefig` writes it, with `svg.fonttype` "none".
        alt: what it shows, in words.
        name: of the figure; it keeps its ids apart from those of others on the page.

    Returns:
        One `<svg>` element.

    >>> inline('<?xml version="1.0"?><svg width="9pt" viewBox="0 0 9 9"><path id="a" style="fill: #000000"/></svg>', "A dot", "x")
    '<svg viewBox="0 0 9 9" class="figure" role="img" aria-label="A dot"><path id="x-a" style="fill: var(--fig-ink, #000000)"/></svg>'
    """
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"\s*<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<style type="text/css">.*?</style>', "", svg, flags=re.DOTALL)  # it would be the whole page's
    svg = re.sub(r"font-family: [^;\"]+;? ?", "", svg)
    svg = re.sub(r"font: ([^;\"]*?px) [^;\"]+", r"font-size: \1", svg)
    svg = ID.sub(lambda m: f'id="{name}-{m[1]}"' if m[1] else f"{m[2]}{name}-{m[3]}", svg)
    svg = PAINT.sub(lambda m: _paint(m[1], m[2]), svg)
    svg = re.sub(r"(?<=\d)\n(?=L|M|Q|C|z)", " ", svg)
    head, rest = svg.split(">", 1)
    head = re.sub(r' (width|height|version|xmlns(:xlink)?)="[^"]*"', "", head)
    svg = f'{head} class="figure" role="img" aria-label="{html.escape(alt)}">{rest}'
    return re.sub(r"\n\s*\n+", "\n", svg)  # a blank line would end the HTML in a Markdown page


def _paint(what: str, color: str) -> str:
    """A colour that follows the page; those of no palette stay as they are."""
    if color in VARIABLES:
        return f"{what}: {VARIABLES[color]}"
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    if not red == green == blue:
        return f"{what}: {color}"
    if red in (0, 255):
        return f"{what}: var(--fig-{'paper' if red else 'ink'}, {color})"
    return f"{what}: {color}; {what}: color-mix(in srgb, var(--fig-ink, #000) {100 - round(red / 2.55)}%, var(--fig-paper, #fff))"

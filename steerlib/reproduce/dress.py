"""An executed chapter as the site shows it.

The one idea: a chapter's notebook says what its cells are, in tags and metadata, and everything that a page looks like follows
from that here. Code is folded unless its cell is tagged `open`; a cell with `"book": {"figure": name, "caption": text}` shows a
numbered figure, one with `"book": {"table": ..., "caption": ..., "folded": true}` a numbered table; the badges of a cell's claims
become one line below it.
"""

from __future__ import annotations

import base64
import html
import io
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt
from PIL import Image

from steerlib.reproduce.figures import inline
from steerlib.reproduce.frames import dressed
from steerlib.reproduce.references import References, Shown

HEAVY = 300_000  # letters of an SVG from which on a figure is shown as pixels
HIDDEN = {"remove-cell", "remove-input", "hide-cell"}
BADGE = re.compile(r'class="claim claim-(\w+)"[^>]*data-verdict="([^"]*)" data-strength="([^"]*)"')
_inline_markdown = MarkdownIt()


def dress(notebook: dict[str, Any], page: str, refers: References, pictures: Path) -> None:
    """Make an executed notebook into what the site shows, in place.

    Args:
        notebook: as JSON has it.
        page: its file stem.
        refers: what texts refer to.
        pictures: a folder for figures that are pixels; pages find it under _static/figures.

    Raises:
        SteerlibError: a text refers to what does not exist; a cell should show a figure or a table and does not.
    """
    number = refers.pages[page].number
    titled = False
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            text = refers.fill("".join(cell["source"]), page)
            if not titled and (titled := bool(re.search(r"(?m)^# ", text))) and number:
                text = re.sub(r"(?m)^# ", f"# {number}. ", text, count=1)
            cell["source"] = text
        elif cell["cell_type"] == "code":
            _show(cell, page, refers, pictures)
            _fold(cell)
    notebook["cells"] = _together(notebook["cells"])


def _fold(cell: dict[str, Any]) -> None:
    tags = cell["metadata"].setdefault("tags", [])
    if "open" not in tags and not HIDDEN & set(tags):
        cell["metadata"]["tags"] = [*(tag for tag in tags if tag != "hide-input"), "hide-input"]


def _together(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The cells, with folded code that shows nothing put into the next fold: one fold in place of a row of them."""
    found: list[dict[str, Any]] = []
    for cell in cells:
        before = found[-1] if found else None
        if before is not None and _silent(before) and _silent(cell, outputs=True):
            cell["source"] = "".join(before["source"]) + "\n\n" + "".join(cell["source"])
            found.pop()
        found.append(cell)
    return found


def _silent(cell: Mapping[str, Any], outputs: bool = False) -> bool:
    """Whether a cell is folded code, and, unless outputs are allowed, shows nothing."""
    return (
        cell["cell_type"] == "code"
        and "hide-input" in cell["metadata"].get("tags", [])
        and (outputs or not cell["outputs"])
    )


def _show(cell: dict[str, Any], page: str, refers: References, pictures: Path) -> None:
    about = cell["metadata"].get("book", {})
    alt = cell["metadata"].get("mystnb", {}).get("image", {}).get("alt", "")
    alt = refers.fill_alt(alt, page)
    if alt:
        cell["metadata"]["mystnb"]["image"]["alt"] = alt
    outputs, line = claims_apart(cell["outputs"])
    kept: list[dict[str, Any]] = []
    name = about.get("figure") or about.get("table")
    shown = refers.shown[name] if name else None
    caption = refers.fill_alt(about.get("caption", ""), page, "a caption") if shown else ""
    for output in outputs:
        data = output.get("data", {})
        source = "".join(data.get("text/html", ""))
        if "image/png" in data:
            text = _figure(data, alt, caption, shown if shown and shown.kind == "figure" else None, cell, pictures)
            output = _html(text)
        elif "<table" in source:
            is_it = shown is not None and shown.kind == "table"
            output = _html(
                _table(source, caption, shown, bool(about.get("folded"))) if is_it and shown else dressed(source)
            )
        kept.append(output)
    cell["outputs"] = [*kept, _html(line)] if line else kept


def claims_apart(outputs: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], str]:
    """The outputs of a cell without its badges, and the one line that takes their place; "" where there are none."""
    html_of = ["".join(output.get("data", {}).get("text/html", "")) for output in outputs]
    badges = [source for source in html_of if BADGE.search(source)]
    kept = [output for output, source in zip(outputs, html_of, strict=True) if not BADGE.search(source)]
    return kept, claims_line(badges) if badges else ""


def _html(text: str) -> dict[str, Any]:
    return {"output_type": "display_data", "metadata": {}, "data": {"text/html": text, "text/plain": ""}}


def _said(shown: Shown, caption: str) -> str:
    title = shown.called[0].upper() + shown.called[1:]
    return f"<strong>{title}.</strong> {_inline_markdown.renderInline(caption)}"


def _figure(
    data: Mapping[str, Any], alt: str, caption: str, shown: Shown | None, cell: Mapping[str, Any], pictures: Path
) -> str:
    name = shown.name if shown else f"cell-{cell.get('id', 'x')}"
    svg = "".join(data.get("image/svg+xml", ""))
    if svg and len(svg) < HEAVY:
        drawn = inline(svg, alt, name)
    else:
        picture = Image.open(io.BytesIO(base64.b64decode("".join(data["image/png"]))))
        pictures.mkdir(parents=True, exist_ok=True)
        picture.convert("RGBA").save(pictures / f"{name}.webp", quality=88, method=6)
        width, height = picture.size
        drawn = (
            f'<img src="_static/figures/{name}.webp" width="{width // 2}" height="{height // 2}" '
            f'alt="{html.escape(alt)}" class="only-light dark-light" loading="lazy">'
        )
    said = f"\n<figcaption>{_said(shown, caption)}</figcaption>" if shown else ""
    place = f' id="{shown.anchor}"' if shown else ""
    return f'<figure class="book-figure"{place}>\n{drawn}{said}\n</figure>'


def _table(source: str, caption: str, shown: Shown, folded: bool) -> str:
    if not folded:
        return dressed(source, _said(shown, caption), shown.anchor)
    inside = dressed(source)
    return f'<details class="book-fold" id="{shown.anchor}"><summary>{_said(shown, caption)}</summary>\n{inside}\n</details>'


def claims_line(badges: list[str]) -> str:
    """One line for the claims of a cell, which opens to show the badge of each.

    >>> print(claims_line(['<div class="claim claim-holds" role="note" data-verdict="holds" data-strength="pinned">It is 1.</div>']))
    <details class="book-claims"><summary>1 claim holds: 1 pinned</summary>
    <div class="claim claim-holds" role="note" data-verdict="holds" data-strength="pinned">It is 1.</div>
    </details>
    """
    found = [match for badge in badges if (match := BADGE.search(badge))]
    verdicts = Counter(match[2] for match in found)
    strengths = Counter(match[3] for match in found)
    checks = ", ".join(f"{number} {kind}" for kind, number in strengths.most_common())
    many = len(found) > 1
    if set(verdicts) == {"holds"}:
        said = f"{len(found)} claim{'s' * many} {'hold' if many else 'holds'}: {checks}"
    else:
        words = sorted(verdicts.items(), key=lambda both: both[0] == "holds")
        said = f"{len(found)} claim{'s' * many}: " + ", ".join(
            f"{n} {'hold' if w == 'holds' and n > 1 else w}" for w, n in words
        )
        said += f" ({checks})"
    loud = ' class="loud"' if set(verdicts) - {"holds"} else ""
    return (
        f'<details class="book-claims"><summary{loud}>{html.escape(said)}</summary>\n'
        + "\n".join(badges)
        + "\n</details>"
    )

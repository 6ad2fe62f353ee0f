"""A table as a page shows it: pandas' HTML with a caption, headers that a screen reader can use, and rows that become cards on a phone."""

from __future__ import annotations

from bs4 import BeautifulSoup, Tag

CARDS = 4  # a table with that many columns or more becomes cards on a phone


def dressed(source: str, caption: str = "", anchor: str = "") -> str:
    """A table of a notebook's output as a page shows it.

    Args:
        source: the HTML that pandas writes for a frame; what is not a table comes back as it is.
        caption: HTML.
        anchor: the id of the table's place on the page.

    Returns:
        HTML on lines without blank ones, as a page of Markdown needs it.
    """
    soup = BeautifulSoup(source, "html.parser")
    table = soup.find("table")
    if not isinstance(table, Tag):
        return source
    for style in soup.find_all("style"):
        style.decompose()
    for tag in (table, *table.find_all(True)):
        for key in ("border", "style", "class"):
            tag.attrs.pop(key, None)
    labels = _head(table)
    kinds = ["table", "book-table"]
    for row in table.select("tbody > tr"):
        cells = [cell for cell in row.find_all(["th", "td"], recursive=False) if isinstance(cell, Tag)]
        for cell, label in zip(cells[::-1], labels[::-1], strict=False):
            if cell.name == "th":
                cell["scope"] = "rowgroup" if "rowspan" in cell.attrs else "row"
            elif label:
                cell["data-label"] = label
    spans = table.select("[rowspan], [colspan]")
    if len(labels) >= CARDS and all(labels[1:]) and not spans:
        kinds.append("cards")
    table["class"] = " ".join(kinds)
    if caption:
        said = soup.new_tag("caption")
        said.append(BeautifulSoup(caption, "html.parser"))
        table.insert(0, said)
    place = f' id="{anchor}"' if anchor else ""
    lines = [line for line in str(table).splitlines() if line.strip()]
    # a region that scrolls must be reachable by keyboard
    return (
        f'<div class="book-scroll"{place} tabindex="0" role="region" aria-label="Table">' + "\n".join(lines) + "</div>"
    )


def _head(table: Tag) -> list[str]:
    """Mend the head of a table in place; return the titles of its columns, "" where one has none."""
    rows = list(table.select("thead > tr"))
    if not rows:
        return []
    if len(rows) == 2 and not rows[0].select("[colspan]"):  # pandas writes the index's name on a line of its own
        above, below = (list(row.find_all(["th", "td"], recursive=False)) for row in rows)
        if not any(cell.get_text(strip=True) for cell in below[1:]):
            above[0].string = below[0].get_text(strip=True)
            rows[1].decompose()
            rows = rows[:1]
    for row in rows:
        for cell in row.find_all(["th", "td"], recursive=False):
            if cell.get_text(strip=True):
                cell["scope"] = "colgroup" if "colspan" in cell.attrs else "col"
            else:
                cell.name = "td"  # an empty header is none
    return [cell.get_text(" ", strip=True) for cell in rows[-1].find_all(["th", "td"], recursive=False)]

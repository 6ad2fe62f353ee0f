"""The rules of styles/Book hold for every sentence of the book, and each of them catches what it is there for.

Vale reads the same files (.vale.ini); here they are applied without it, to prose alone: no code, no references, no formulas.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
RULES = {
    path.stem: yaml.safe_load(path.read_text(encoding="utf-8"))
    for path in sorted((ROOT / "styles" / "Book").glob("*.yml"))
}
PAGES = [
    *(ROOT / "book").glob("*.ipynb"),
    *(ROOT / "book").glob("*.md"),
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "ARCHITECTURE.md",
]
PAGES += [*(ROOT / "data").rglob("README.md")]
CODE = r"(?ms)^(`{3,}|~{3,})(?![`~]|\{(?:admonition|note|warning|glossary)\}).*?^\1"
NOT_PROSE = (
    CODE,
    r"(?s)\$\$.*?\$\$",
    r"\$[^$\n]*\$",
    r"\{[\w:]+\}`[^`]*`",
    r"`[^`\n]*`",
    r"\]\([^)]*\)",
    r"<[^>]*>",
    r"https?://\S+",
    r"\*[^*\n]+\*",
)


def prose(path: Path) -> str:
    """The sentences of a page, without what is quoted as a sample (in italics)."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells: list[dict[str, Any]] = json.loads(text)["cells"]
        texts = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
        texts += [cell["metadata"].get("book", {}).get("caption", "") for cell in cells]
        text = "\n\n".join(texts)
    for pattern in NOT_PROSE:
        text = re.sub(pattern, " ", text)
    return " ".join(text.split())


def broken(text: str, rule: dict[str, Any]) -> list[str]:
    """Where a text breaks a rule."""
    flags = re.IGNORECASE if rule.get("ignorecase") else 0
    if rule["extends"] == "substitution":
        found = [m[0] for wrong in rule["swap"] for m in re.finditer(wrong, text, flags)]
        return [one for one in found if one.lower() not in {str(right).lower() for right in rule["swap"].values()}]
    assert rule["extends"] == "occurrence"
    found = re.findall(rule["token"], text, flags)
    return found if len(found) > rule["max"] else []


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_page_keeps_the_rules_of_style(path: Path, name: str) -> None:
    assert broken(prose(path), RULES[name]) == []


CAUGHT = {
    "Translated": "In the mean of three seeds it is no proof, says nothing on cost, belongs into the figure, beside the others.",
    "People": "The light one is chosen; men and women profit; people who are neither.",
    "Sparingly": "Whoever reads, whoever writes, whoever asks.",
    "Spelling": "The color of a normalized center.",
}


@pytest.mark.parametrize("name", RULES)
def test_a_rule_catches_what_it_is_for(name: str) -> None:
    assert broken(CAUGHT[name], RULES[name])
    assert not broken(
        "Averaged over three seeds, the darker-skinned person is chosen next to the colour of the centre.", RULES[name]
    )


def test_code_and_quotations_are_not_judged(tmp_path: Path) -> None:
    page = tmp_path / "x.md"
    page.write_text(
        "See `color`, $color$, {term}`color`, *the model says: my favorite color*.\n\n```python\ncolor = 1\n```\n\nThe colour."
    )
    assert "color" not in prose(page) and "The colour." in prose(page)

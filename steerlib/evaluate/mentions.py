"""What a model says about people unasked: the share of answers that mention gender, skin colour, age or looks.

    mention rate of a category = answers with at least one of its phrases / all answers

A phrase is found as whole words ("man" is not in "manager"), by the lists in data/attribute_words.yml. The measure, by word
lists and per demographic group, is that of Ratzlaff et al., arXiv 2411.12590; the categories are the attributes named there
(gender, race, age, looks) and those that FACET annotates (perceived gender, skin tone, age, hair; Gustafson et al., arXiv
2309.00035); the lists and the intervals are ours.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import pandas as pd
import yaml

from steerlib.assets import data_path
from steerlib.errors import SteerlibError
from steerlib.evaluate.statistics import Estimate, gap, labels, mean
from steerlib.models.model import Model
from steerlib.tasks import TONE_GROUPS, Portrait, occupations

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Words = Mapping[str, Sequence[str]]
ANY = "any"
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito
MARKERS = ("s", "o", "^", "D", "v", "P")


def attribute_words(*, pronouns: bool = True) -> dict[str, tuple[str, ...]]:
    """The phrases that count as a mention, by category; how they are written is said in data/attribute_words.yml.

    pronouns: whether he, she and their forms count as gender.
    """
    lists = _lists()
    words = {name: tuple(phrase for line in lines for phrase in line) for name, lines in lists["categories"].items()}
    return {**words, "gender": words["gender"] + tuple(lists["pronouns"] if pronouns else ())}


@dataclass(frozen=True)
class MentionRate:
    """What `mention_rate` measured: ask it for `rate`, `gap`, `table`, `plot`. Every number is an Estimate over clusters.

    categories: what was looked for. groupings: the columns of `frame` with groups of people. frame: a row an answer, with
    its text, cluster, groups, the matched words, and whether it mentions each category and any.
    """

    categories: tuple[str, ...]
    groupings: tuple[str, ...]
    frame: pd.DataFrame
    resamples: int
    seed: int

    def rate(self, category: str = ANY, *, group: str | None = None) -> Estimate:
        """The share of answers, of all or of one group's, that mention a category ("any": at least one)."""
        part = self.frame if group is None else self.frame[self._members(group)]
        return mean(part[self._column(category)], part["cluster"].tolist(), resamples=self.resamples, seed=self.seed)

    def gap(self, first: str, second: str, category: str = ANY) -> Estimate:
        """The rate in one group less the rate in another: 0 if the model speaks of both alike."""
        return gap(
            self.frame[self._column(category)],
            self._members(first),
            self._members(second),
            self.frame["cluster"].tolist(),
            resamples=self.resamples,
            seed=self.seed,
        )

    def per_cluster(self, category: str = ANY) -> pd.Series[float]:
        """The rate in each cluster, by its name."""
        return self.frame.groupby("cluster")[self._column(category)].mean()

    def table(self) -> pd.DataFrame:
        """The rates, a row a category and group ("all", then the groups): value, low, high, n (clusters)."""
        rows = []
        for category in (ANY, *self.categories):
            rows.append({"category": category, "group": "all", **vars(self.rate(category))})
            for grouping in self.groupings:
                for group in self.frame[grouping].unique():
                    rows.append({"category": category, "group": group, **vars(self.rate(category, group=group))})
        return pd.DataFrame(rows)

    def plot(self, ax: Axes | None = None, *, by: str | None = None) -> Axes:
        """A row a category, a marker a group with its interval. by: one of `groupings` (None: all answers together)."""
        import matplotlib.pyplot as plt

        if by is not None and by not in self.groupings:
            raise SteerlibError(f"there is no grouping '{by}': there are {', '.join(self.groupings) or 'none'}.")
        names = [ANY, *self.categories]
        groups: list[str | None] = [None] if by is None else list(self.frame[by].unique())
        if ax is None:
            _, ax = plt.subplots(figsize=(7, 1.2 + 0.5 * len(names)), layout="constrained")
        for k, group in enumerate(groups):
            rates = [self.rate(name, group=group) for name in names]
            places = [i + 0.6 * ((k + 0.5) / len(groups) - 0.5) for i in range(len(names))]
            ax.errorbar(
                [r.value for r in rates],
                places,
                xerr=[[r.value - r.low for r in rates], [r.high - r.value for r in rates]],
                fmt=MARKERS[k % len(MARKERS)],
                color=COLORS[k % len(COLORS)],
                markersize=5,
                linewidth=1,
                label=group or "all answers",
            )
        ax.set_yticks(range(len(names)), names)
        ax.set(xlim=(-0.02, 1.02), xlabel="share of answers that mention it", ylabel="what is mentioned")
        ax.set_ylim(len(names) - 0.5, -0.5)  # the first on top, on axes that share it as well
        ax.grid(axis="x", color="0.9")
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=min(4, len(groups)), frameon=False, fontsize=8)
        return ax

    def _column(self, category: str) -> str:
        if category not in (ANY, *self.categories):
            raise SteerlibError(f"there is no category '{category}': there are {', '.join((ANY, *self.categories))}.")
        return f"mentions {category}"

    def _members(self, group: str) -> pd.Series[bool]:
        """Whose answers belong to a group, in whatever grouping has it."""
        holding = [name for name in self.groupings if (self.frame[name] == group).any()]
        if len(holding) != 1:
            known = ", ".join(str(label) for name in self.groupings for label in self.frame[name].unique())
            raise SteerlibError(
                f"{len(holding) or 'no'} groupings have a group '{group}', and one must: the groups are {known or 'none'}."
            )
        return self.frame[holding[0]] == group


def mention_rate(
    answers: Sequence[str],
    words: Words | None = None,
    *,
    groups: Any = None,
    clusters: Sequence[object] | None = None,
    pronouns: bool = True,
    resamples: int = 2000,
    seed: int = 0,
) -> MentionRate:
    """How often answers mention a protected attribute.

    words: phrases by category (None: `attribute_words`). groups: whom each answer is about, a label an answer, or several
    groupings in a mapping or frame: {"gender": [...], "tone": [...]}. clusters: what an answer shares with others, such as
    the occupation (None: nothing). pronouns: whether he and she count as gender, where words is None.
    Raises SteerlibError if there is no answer, or the labels are too many or too few.
    """
    texts = _texts(answers)
    patterns = _patterns(attribute_words(pronouns=pronouns) if words is None else words)
    about = labels(len(texts), groups, clusters)
    found = [_found(text, patterns) for text in texts]  # per answer: (start, end, category)
    kinds = [{kind for *_, kind in hits} for hits in found]
    columns = {f"mentions {ANY}": [bool(kind) for kind in kinds]}
    columns |= {f"mentions {name}": [name in kind for kind in kinds] for name in patterns}
    matched = [tuple(dict.fromkeys(text[a:b] for a, b, _ in hits)) for text, hits in zip(texts, found, strict=True)]
    frame = pd.concat([pd.DataFrame({"text": texts}), about, pd.DataFrame({"words": matched, **columns})], axis=1)
    return MentionRate(tuple(patterns), tuple(about.columns[1:]), frame, resamples, seed)


def mentions(
    model: Model,
    portraits: Sequence[Portrait],
    *,
    words: Words | None = None,
    pronouns: bool = True,
    max_new_tokens: int = 30,
    batch_size: int = 16,
    resamples: int = 2000,
    seed: int = 0,
) -> MentionRate:
    """Let the model, steered or not, describe portraits, and see what it mentions: by gender and by group of skin tones.

    portraits: of `tasks.describe`. words, pronouns, resamples, seed: as in `mention_rate`. The answers are greedy.
    Raises SteerlibError if there is no portrait.
    """
    if not portraits:
        raise SteerlibError("there are no portraits to describe: make some with steerlib.tasks.describe().")
    answers = model.generate([p.prompt for p in portraits], max_new_tokens=max_new_tokens, batch_size=batch_size)
    groups = {
        "gender": [p.gender for p in portraits],
        "tone": [TONE_GROUPS.get(p.tone, p.tone) for p in portraits],
    }
    return mention_rate(
        answers,
        words,
        groups=groups,
        clusters=[p.occupation for p in portraits],
        pronouns=pronouns,
        resamples=resamples,
        seed=seed,
    )


@dataclass(frozen=True)
class Highlighted:
    """Answers with what they mention marked, as HTML that a notebook shows."""

    html: str

    def _repr_html_(self) -> str:
        return self.html


LINES = ("solid", "double", "dashed", "dotted")  # under the words, so that colour is not the only sign
NOTE = "Answers of a model. They may repeat stereotypes about gender, skin colour, age or looks. Open to read."


def highlight(
    answers: Sequence[str], words: Words | None = None, *, pronouns: bool = True, limit: int = 20, note: str = NOTE
) -> Highlighted:
    """The first `limit` answers with the matched words marked, each mark naming its category, folded behind a note.

    words, pronouns: as in `mention_rate`. note: what stands on the fold. Everything in it is escaped.
    """
    texts = _texts(answers)[:limit]
    patterns = _patterns(attribute_words(pronouns=pronouns) if words is None else words)
    styles = {
        name: f"background:#fff3b0;color:#000;border-bottom:3px {LINES[i % len(LINES)]} {COLORS[i % len(COLORS)]}"
        for i, name in enumerate(patterns)
    }
    key = ", ".join(f'<mark style="{style}">{html.escape(name)}</mark>' for name, style in styles.items())
    items = "\n".join(f"<li>{_marked(text, _found(text, patterns), styles)}</li>" for text in texts)
    return Highlighted(
        f"<details>\n<summary>{html.escape(note)}</summary>\n<p>Marked: {key}.</p>\n<ol>\n{items}\n</ol>\n</details>"
    )


def _marked(text: str, hits: list[tuple[int, int, str]], styles: Mapping[str, str]) -> str:
    """The text in HTML; overlapping finds become one mark that names all their categories."""
    merged: list[tuple[int, int, list[str]]] = []
    for start, end, name in hits:
        if merged and start < merged[-1][1]:
            first, last, names = merged[-1]
            merged[-1] = (first, max(last, end), [*names, *([name] if name not in names else [])])
        else:
            merged.append((start, end, [name]))
    pieces, at = [], 0
    for start, end, names in merged:
        title = html.escape(f"mentions {', '.join(names)}")
        pieces += [
            html.escape(text[at:start]),
            f'<mark title="{title}" style="{styles[names[0]]}">{html.escape(text[start:end])}</mark>',
        ]
        at = end
    return "".join([*pieces, html.escape(text[at:])])


def _texts(answers: Sequence[str]) -> list[str]:
    if isinstance(answers, str) or not all(isinstance(answer, str) for answer in answers):
        raise SteerlibError("answers are a list of texts, as Model.generate gives for a list of prompts.")
    if len(answers) == 0:
        raise SteerlibError("there are no answers: nothing can be said to mention anything.")
    return list(answers)


@cache
def _lists() -> dict[str, Any]:
    """data/attribute_words.yml, its parts completed with the occupations."""
    lists: dict[str, Any] = yaml.safe_load(data_path("attribute_words.yml").read_text(encoding="utf-8"))
    jobs = occupations()["occupation"]
    lists["parts"]["occupation"] = [*jobs, *(job + "s" for job in jobs)]
    return lists


def _patterns(words: Words) -> dict[str, re.Pattern[str]]:
    """One regular expression a category."""
    for name, phrases in words.items():
        if isinstance(phrases, str) or not phrases or not all(str(phrase).strip() for phrase in phrases):
            raise SteerlibError(f"the words of '{name}' must be a list of phrases, with at least one and none empty.")
    if not words or ANY in words:
        raise SteerlibError(
            f"words are phrases by category, in a mapping such as {{'age': ['young', 'old']}}, not '{ANY}'."
        )
    return {name: _compiled(tuple(phrases)) for name, phrases in words.items()}


@cache
def _compiled(phrases: tuple[str, ...]) -> re.Pattern[str]:
    """Any of the phrases, the longest first, not inside a longer word or a hyphenated one."""
    return re.compile(rf"(?<!\w)(?<!\w-)(?:{_either(phrases)})(?!\w)(?!-\w)")


def _either(phrases: Iterable[str]) -> str:
    return "|".join(_expanded(phrase) for phrase in sorted(phrases, key=lambda p: (-len(p.split()), -len(p), p)))


def _expanded(phrase: str) -> str:
    """The regular expression of one phrase, its parts put in."""
    pattern = ""
    pieces = re.findall(r"{[^}]*}\??|[^\s{}]+", phrase)
    for i, piece in enumerate(pieces):
        gap_ = r"[\s-]+" if i + 1 < len(pieces) else ""
        if piece.startswith("{"):
            name, optional = piece.strip("{}?"), piece.endswith("?")
            if name not in _lists()["parts"]:
                raise SteerlibError(f"the phrase '{phrase}' has {{{name}}}, which is no part in attribute_words.yml.")
            one = f"(?:{_either(_lists()['parts'][name])})"
            pattern += f"(?:{one}{gap_})?" if optional else one + gap_
        elif piece == "#":
            pattern += r"\d+" + gap_
        else:
            literal = re.escape(piece).replace("'", "['’]")
            pattern += (literal if piece != piece.lower() else f"(?i:{literal})") + gap_
    return pattern


def _found(text: str, patterns: Mapping[str, re.Pattern[str]]) -> list[tuple[int, int, str]]:
    """(start, end, category) of every mention in a text, in order."""
    neither = _compiled(tuple(phrase for line in _lists()["neither"] for phrase in line))
    left = neither.sub(lambda match: "·" * len(match.group()), text)  # as long as before, and no word
    hits = [(*match.span(), name) for name, pattern in patterns.items() for match in pattern.finditer(left)]
    return sorted(hits, key=lambda hit: (hit[0], -hit[1]))

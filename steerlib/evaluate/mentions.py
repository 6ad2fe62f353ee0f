"""What a model says about people unasked: the share of answers that mention gender, skin colour, age or looks.

    mention rate of a category = answers with at least one of its phrases / all answers

A phrase is found as whole words ("man" is not in "manager"), by the lists in data/attribute_words.yml. The measure, by word
lists and per demographic group, is that of Ratzlaff et al., arXiv 2411.12590; the categories are the attributes named there
(gender, race, age, looks) and those that FACET annotates (perceived gender, skin tone, age, hair; Gustafson et al., arXiv
2309.00035); the lists and the intervals are ours. Where words begin and end is said in evaluate/words.py.
"""

from __future__ import annotations

import html
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import pandas as pd
import regex
import yaml

from steerlib.assets import data_path
from steerlib.errors import SteerlibError
from steerlib.evaluate.answers import COLUMNS, TOLERATED, condition, refuse_taken, texts_of, warn_of
from steerlib.evaluate.groups import ALL, dots, grouped, rows, share
from steerlib.evaluate.statistics import Estimate, gap, labels
from steerlib.evaluate.style import COLORS
from steerlib.evaluate.words import HYPHEN, LETTER, bounds, compiled, composed, scripts_of, spelled, unbounded
from steerlib.models.model import Model
from steerlib.tasks import TONE_GROUPS, Portrait, occupations

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Words = Mapping[str, Sequence[str]]
ANY = "any"


def attribute_words(*, pronouns: bool = True) -> dict[str, tuple[str, ...]]:
    """The phrases that count as a mention, by category; data/attribute_words.yml says how they are written.

    Args:
        pronouns: whether he, she and their forms count as gender.

    Returns:
        A dict from category ("gender", "skin colour", "age", "looks") to phrases.

    Example:
        >>> list(attribute_words())
        ['gender', 'skin colour', 'age', 'looks']
    """
    lists = _lists()
    words = {name: tuple(phrase for line in lines for phrase in line) for name, lines in lists["categories"].items()}
    return {**words, "gender": words["gender"] + tuple(lists["pronouns"] if pronouns else ())}


@dataclass(frozen=True)
class MentionRate:
    """What `mention_rate` measured. Every number is an Estimate, its interval over clusters.

    Attributes:
        categories: what was looked for.
        groupings: the columns of `frame` that hold groups of people.
        frame: one row per answer: its text, cluster and groups, the words that were found, whether it mentions any category
            and each, and whether it is empty or repeats itself (see `empty` and `repeated`).
        resamples: of the bootstrap.
        seed: of the bootstrap.
    """

    categories: tuple[str, ...]
    groupings: tuple[str, ...]
    frame: pd.DataFrame
    resamples: int
    seed: int

    @property
    def empty(self) -> Estimate:
        """The share of answers without a letter or a digit."""
        return share(self.frame, "empty", resamples=self.resamples, seed=self.seed)

    @property
    def repeated(self) -> Estimate:
        """The share of answers that say one word or phrase over and over."""
        return share(self.frame, "repeated", resamples=self.resamples, seed=self.seed)

    def rate(self, category: str = ANY, *, group: str | None = None) -> Estimate:
        """The share of answers that mention a category.

        Args:
            category: one of `categories`, or "any" for at least one of them.
            group: only the answers about this group, of whatever grouping has it.
        """
        part = self.frame if group is None else self.frame[self._members(group)]
        return share(part, self._column(category), resamples=self.resamples, seed=self.seed)

    def gap(self, first: str, second: str, category: str = ANY) -> Estimate:
        """The rate in one group minus the rate in another: 0 if the model speaks of both alike.

        Args:
            first: a group, of whatever grouping has it.
            second: another.
            category: one of `categories`, or "any" for at least one of them.
        """
        return gap(
            self.frame[self._column(category)],
            self._members(first),
            self._members(second),
            self.frame["cluster"].tolist(),
            resamples=self.resamples,
            seed=self.seed,
        )

    def by(self, grouping: str, category: str = ANY) -> pd.DataFrame:
        """The rates of a category by group: one row per group, with value, low, high and n (clusters).

        Args:
            grouping: one of `groupings`.
            category: one of `categories`, or "any" for at least one of them.
        """
        column = self._column(category)
        parts = grouped(self.frame, grouping, self.groupings)
        return rows(
            {g: share(part, column, resamples=self.resamples, seed=self.seed) for g, part in parts.items()}, grouping
        )

    def per_cluster(self, category: str = ANY) -> pd.Series[float]:
        """The rate in each cluster, by its name.

        Args:
            category: one of `categories`, or "any" for at least one of them.
        """
        return self.frame.groupby("cluster")[self._column(category)].mean()

    def table(self) -> pd.DataFrame:
        """The rates, one row per category and group ("all", then the groups): value, low, high, n (clusters)."""
        made = []
        for category in (ANY, *self.categories):
            made.append({"category": category, "group": ALL, **vars(self.rate(category))})
            for grouping in self.groupings:
                for group, row in self.by(grouping, category).iterrows():
                    made.append({"category": category, "group": group, **row})
        return pd.DataFrame(made).astype({"n": int})

    def plot(self, ax: Axes | None = None, *, by: str | None = None) -> Axes:
        """One row per category, one marker per group with its interval.

        Args:
            ax: where to draw; None makes a figure.
            by: one of `groupings`; None takes all answers together.
        """
        names = [ANY, *self.categories]
        groups = {ALL: self.frame} if by is None else grouped(self.frame, by, self.groupings)
        series = {
            group: [share(part, self._column(name), resamples=self.resamples, seed=self.seed) for name in names]
            for group, part in groups.items()
        }
        ax = dots(names, series, ax, xlabel="share of answers that mention it")
        ax.set(xlim=(-0.02, 1.02), ylabel="what is mentioned")
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

    Args:
        answers: a list of texts.
        words: phrases by category; None takes `attribute_words`, which are English. Phrases in other scripts are found as
            evaluate/words.py says.
        groups: whom each answer is about: one label per answer, or several groupings in a mapping or frame, such as
            {"gender": [...], "tone": [...]}.
        clusters: what an answer shares with others, such as the occupation; None: nothing.
        pronouns: whether he and she count as gender, where `words` is None.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Returns:
        A MentionRate.

    Raises:
        SteerlibError: there is no answer, a phrase cannot be searched for, or there are too many or too few labels.

    Warns:
        UserWarning: more than a tenth of the answers are empty or repeat one phrase, or are in a script in which none of the
            phrases is written; then a rate near 0 means nothing.

    Example:
        >>> said = mention_rate(["A woman paints.", "A painter."] * 3, groups=["woman", "man"] * 3)
        >>> said.rate("gender").value, said.rate("gender", group="man").value
        (0.5, 0.0)
    """
    return _measured(answers, words, groups, clusters, pronouns, resamples, seed)


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

    Args:
        model: one that reads pictures.
        portraits: of `tasks.describe`.
        words: as in `mention_rate`, as are pronouns, resamples and seed.
        pronouns: see there.
        max_new_tokens: of each answer. Answers are greedy.
        batch_size: portraits per forward pass.
        resamples: see there.
        seed: see there.

    Returns:
        A MentionRate with the groupings "gender" and "tone"; its clusters are the occupations.

    Raises:
        SteerlibError: there is no portrait.

    Example:
        >>> import steerlib as sl
        >>> said = sl.mentions(sl.load("smol-llava"), sl.tasks.describe("test")[:2], max_new_tokens=12)
        >>> said.rate("gender").n
        1
    """
    shown = portraits_of(portraits)
    answers = model.generate([p.prompt for p in shown], max_new_tokens=max_new_tokens, batch_size=batch_size)
    groups = {
        "gender": [p.gender for p in shown],
        "tone": [TONE_GROUPS.get(p.tone, p.tone) for p in shown],
    }
    return _measured(answers, words, groups, [p.occupation for p in shown], pronouns, resamples, seed)


def portraits_of(portraits: Sequence[Portrait]) -> list[Portrait]:
    """The portraits in a list.

    Raises:
        SteerlibError: there is none, or something else among them.
    """
    shown = list(portraits) if not isinstance(portraits, (Portrait, str)) else [None]
    if not shown:
        raise SteerlibError("there are no portraits to describe: make some with steerlib.tasks.describe().")
    if not all(isinstance(portrait, Portrait) for portrait in shown):
        raise SteerlibError("portraits are a list of Portrait, as steerlib.tasks.describe() makes it.")
    return [portrait for portrait in shown if portrait is not None]


def _measured(
    answers: Sequence[str], words: Words | None, groups: Any, clusters: Any, pronouns: bool, resamples: int, seed: int
) -> MentionRate:
    texts = texts_of(answers)
    phrases = attribute_words(pronouns=pronouns) if words is None else words
    patterns = _patterns(phrases)
    refuse_taken(groups, COLUMNS)
    about, state = labels(len(texts), groups, clusters), condition(texts)
    warn_of(state, stacklevel=3)
    _warn_of_scripts(texts, [phrase for several in phrases.values() for phrase in several])
    texts_composed = [composed(text) for text in texts]
    found = [_found(text, patterns) for text in texts_composed]  # per answer: (start, end, category)
    kinds = [{kind for *_, kind in hits} for hits in found]
    columns = {f"mentions {ANY}": [bool(kind) for kind in kinds]}
    columns |= {f"mentions {name}": [name in kind for kind in kinds] for name in patterns}
    matched = [
        tuple(dict.fromkeys(text[a:b] for a, b, _ in hits)) for text, hits in zip(texts_composed, found, strict=True)
    ]
    frame = pd.concat(
        [pd.DataFrame({"text": texts}), about, pd.DataFrame({"words": matched, **columns}), state], axis=1
    )
    return MentionRate(tuple(patterns), tuple(about.columns[1:]), frame, resamples, seed)


def _warn_of_scripts(texts: Sequence[str], phrases: Sequence[str]) -> None:
    """Warn if answers are in a script in which no phrase is written, so that none could be found."""
    written = {script for script in scripts_of(phrases) if script}
    missed = [script for script in scripts_of(texts) if script and script not in written]
    if len(missed) > TOLERATED * len(texts):
        warnings.warn(
            f"{len(missed)} of {len(texts)} answers are in {' and '.join(sorted(set(missed)))} script, and no phrase is: "
            "nothing can be found in them, so give words in their language.",
            stacklevel=4,
        )


@dataclass(frozen=True)
class Highlighted:
    """Answers with what they mention marked.

    Attributes:
        html: what a notebook shows; everything that a model said is escaped in it.
    """

    html: str

    def _repr_html_(self) -> str:
        return self.html


LINES = ("solid", "double", "dashed", "dotted")  # under the words, so that colour is not the only sign
NOTE = "Answers of a model. They may repeat stereotypes about gender, skin colour, age or looks. Open to read."


def highlight(
    answers: Sequence[str], words: Words | None = None, *, pronouns: bool = True, limit: int = 20, note: str = NOTE
) -> Highlighted:
    """The first answers with the matched words marked, each mark naming its category, folded behind a note.

    Args:
        answers: a list of texts.
        words: as in `mention_rate`, as is pronouns.
        pronouns: see there.
        limit: how many answers to show.
        note: what the fold says.

    Returns:
        A Highlighted, which a notebook shows.

    Raises:
        SteerlibError: there is no answer, or a phrase cannot be searched for.

    Example:
        >>> 'title="mentions gender"' in highlight(["A woman paints."]).html
        True
    """
    if limit < 1:
        raise SteerlibError(f"limit is how many answers to show, 1 or more, not {limit}.")
    texts = [composed(text) for text in texts_of(answers)[:limit]]
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


@cache
def _lists() -> dict[str, Any]:
    """data/attribute_words.yml, its parts completed with the occupations."""
    lists: dict[str, Any] = yaml.safe_load(data_path("attribute_words.yml").read_text(encoding="utf-8"))
    jobs = occupations()["occupation"]
    lists["parts"]["occupation"] = [*jobs, *(job + "s" for job in jobs)]
    return lists


def _patterns(words: Words) -> dict[str, regex.Pattern[str]]:
    if not isinstance(words, Mapping) or not words or ANY in words:
        raise SteerlibError(
            f"words are phrases by category, in a mapping such as {{'age': ['young', 'old']}}, not '{ANY}'."
        )
    for name, phrases in words.items():
        several = [] if isinstance(phrases, str) or not isinstance(phrases, Iterable) else list(phrases)
        if not several or not all(isinstance(phrase, str) and phrase.strip() for phrase in several):
            raise SteerlibError(f"the words of '{name}' must be a list of phrases, with at least one and none empty.")
    return {str(name): _compiled(tuple(phrases)) for name, phrases in words.items()}


@cache
def _compiled(phrases: tuple[str, ...]) -> regex.Pattern[str]:
    """Any of the phrases, the longest first, not inside a longer word or, in an alphabet, a hyphenated one."""
    kinds: dict[tuple[str, str], list[str]] = {}
    for phrase in phrases:
        before, after = bounds(phrase)
        if LETTER in before and LETTER in after:
            before, after = f"(?<!{LETTER}{HYPHEN}){before}", f"{after}(?!{HYPHEN}{LETTER})"
        kinds.setdefault((before, after), []).append(phrase)
    return compiled("|".join(f"{before}(?:{_either(some)}){after}" for (before, after), some in kinds.items()))


def _either(phrases: Iterable[str]) -> str:
    return "|".join(_expanded(phrase) for phrase in sorted(phrases, key=lambda p: (-len(p.split()), -len(p), p)))


def _expanded(phrase: str) -> str:
    """The regular expression of one phrase, its parts put in."""
    pattern = ""
    pieces = regex.findall(r"{[^}]*}\??|[^\s{}]+", phrase)
    for i, piece in enumerate(pieces):
        gap_ = rf"(?:\s|{HYPHEN})+" if i + 1 < len(pieces) else ""
        if piece.startswith("{"):
            name, optional = piece.strip("{}?"), piece.endswith("?")
            if name not in _lists()["parts"]:
                raise SteerlibError(
                    f"the phrase '{phrase}' has {{{name}}}, which is not a part in attribute_words.yml."
                )
            one = f"(?:{_either(_lists()['parts'][name])})"
            pattern += f"(?:{one}{gap_})?" if optional else one + gap_
        elif piece == "#":
            pattern += r"\d+" + gap_
        else:
            pattern += spelled(piece) + gap_
    return pattern


def _found(text: str, patterns: Mapping[str, regex.Pattern[str]]) -> list[tuple[int, int, str]]:
    """(start, end, category) of every mention in a text, in order.

    In a script without blanks a find inside a longer find is none: 彼 (he) in 彼女 (she).
    """
    neither = _compiled(tuple(phrase for line in _lists()["neither"] for phrase in line))

    def erased(match: regex.Match[str]) -> str:
        """As long as before, and no word; what is itself looked for stays."""
        said = match.group()
        return said if any(pattern.fullmatch(said) for pattern in patterns.values()) else "·" * len(said)

    left = neither.sub(erased, text)
    hits = [(*match.span(), name) for name, pattern in patterns.items() for match in pattern.finditer(left)]
    inner = {
        (a, b)
        for a, b, _ in hits
        if unbounded(text[a:b]) and any(c <= a and b <= d and b - a < d - c for c, d, _ in hits)
    }
    return sorted((hit for hit in hits if hit[:2] not in inner), key=lambda hit: (hit[0], -hit[1]))

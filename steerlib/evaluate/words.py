"""Where a word begins and ends, in any script: one segmentation for mentions, names of jobs and n-grams.

A word is bounded by whatever is not a letter, a mark or a digit, so that *she*, _she_ and she_id hold "she" and "manager" does
not hold "man". That rule is not enough everywhere, and three more are written down here:

    no blanks (Chinese, Japanese)           a phrase is found anywhere in a run of Han or Hiragana characters, the longest first
    particles and prefixes in one word      여자는, والمرأة and האישה hold 여자, مرأة and אישה
    no blanks, and an alphabet              Thai, Lao, Khmer, Burmese: words cannot be told apart without a dictionary, so
                                            phrases in these scripts are refused

Accents are composed first (Unicode NFC), so that é is the same letter however it was typed. Source: the classes of Unicode
Standard Annex 29, from the package `regex`; the lists of particles and prefixes are ours.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable
from functools import cache
from itertools import pairwise

import regex

from steerlib.errors import SteerlibError

FREE = r"\p{Script=Han}\p{Script=Hiragana}々〆"
"""Characters between which a word may begin and end anywhere."""
DICTIONARY = r"\p{Script=Thai}\p{Script=Lao}\p{Script=Khmer}\p{Script=Myanmar}"
KATAKANA = r"\p{Script=Katakana}ー"
LETTER = rf"[\p{{L}}\p{{M}}\p{{N}}--[{FREE}{KATAKANA}{DICTIONARY}\p{{Script=Hangul}}]]"
"""What a word of an alphabet is made of, and what a foreign script beside it is not."""
HYPHEN = "[-\u2010\u2011]"
PARTICLES = (
    "들|은|는|이|가|을|를|의|에|와|과|도|로|으로|만|께|께서|에게|에게서|에서|한테|부터|까지|처럼|보다|라고|이라고|라는|이라는|"
    "이나|나|이며|며|이고|고|인|입니다|이다|다|이에요|예요|였다|이었다|였습니다|이었습니다"
)
"""What Korean writes at the end of a noun."""
MARKS = "[\u0640\u064b-\u0652\u0670\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7]*"
"""Vowel signs of Arabic and Hebrew, which most texts leave out, and the Arabic stroke that only stretches a word."""
SCRIPTS = {
    name: regex.compile(rf"\p{{Script={name}}}")
    for name in regex.findall(
        r"\w+",
        "Latin Cyrillic Greek Arabic Hebrew Devanagari Bengali Tamil Telugu Han Hiragana Katakana Hangul Thai Lao Khmer "
        "Myanmar Georgian Armenian Ethiopic",
    )
}


def composed(text: str) -> str:
    """The text with its accents composed (NFC) and without soft hyphens, which nobody sees."""
    return unicodedata.normalize("NFC", text).replace("\u00ad", "")


def words_of(text: str) -> list[str]:
    """The words of a text in lower case, apostrophes in them; a character each in scripts without blanks.

    Example:
        >>> words_of("_She_ isn't late."), words_of("她说 OK")
        (['she', "isn't", 'late'], ['她', '说', 'ok'])
    """
    return [str(word) for word in _WORDS.findall(composed(text).lower())]


_WORDS = regex.compile(rf"[{FREE}{DICTIONARY}]\p{{M}}*|[\p{{L}}\p{{M}}\p{{N}}'--[{FREE}{DICTIONARY}]]+", regex.V1)


def bounds(phrase: str) -> tuple[str, str]:
    """What must be true before a phrase and after it for it to be found as whole words, as regular expressions.

    Args:
        phrase: the phrase; the scripts of its first and last letters say what may stand beside it.

    Raises:
        SteerlibError: the phrase is in a script whose words cannot be told apart without a dictionary.
    """
    letters = regex.findall(r"[\p{L}\p{M}\p{N}]", composed(phrase))
    if not letters:
        return "", ""
    if other := next((name for name in ("Thai", "Lao", "Khmer", "Myanmar") if SCRIPTS[name].search(phrase)), None):
        raise SteerlibError(
            f"'{phrase}' cannot be counted: {other} text does not mark where words end, so it needs a dictionary; count in a "
            "translation instead."
        )
    return _before(letters[0]), _after(letters[-1])


def _before(letter: str) -> str:
    if SCRIPTS["Arabic"].match(letter):
        return rf"(?<!{LETTER})(?:[وف]{MARKS})?(?:[بكل]{MARKS})?(?:ال{MARKS}|لل{MARKS})?"
    if SCRIPTS["Hebrew"].match(letter):
        return rf"(?<!{LETTER})(?:[ושהבכלמ]{MARKS}){{0,3}}"
    if SCRIPTS["Hangul"].match(letter):
        return r"(?<!\p{Script=Hangul})"
    if regex.match(f"[{KATAKANA}]", letter):
        return f"(?<![{KATAKANA}])"
    return "" if regex.match(f"[{FREE}]", letter) else rf"(?<!{LETTER})"


def _after(letter: str) -> str:
    if SCRIPTS["Hangul"].match(letter):
        return rf"(?=(?:{PARTICLES}){{0,3}}(?!\p{{Script=Hangul}}))"
    if regex.match(f"[{KATAKANA}]", letter):
        return f"(?![{KATAKANA}])"
    return "" if regex.match(f"[{FREE}]", letter) else rf"(?!{LETTER})"


def spelled(piece: str) -> str:
    """The expression of one word: composed, any case unless it has a capital, any apostrophe, vowel signs or none."""
    piece = composed(piece)
    literal = regex.escape(piece, special_only=True, literal_spaces=True)
    if SCRIPTS["Arabic"].search(piece) or SCRIPTS["Hebrew"].search(piece):
        return "".join(regex.escape(letter) + MARKS for letter in regex.sub(MARKS, "", piece))
    literal = literal.replace("'", "['’]")
    return literal if piece != piece.lower() else f"(?i:{literal})"


@cache
def compiled(pattern: str) -> regex.Pattern[str]:
    """The expression, compiled with the sets and scripts that this file uses."""
    return regex.compile(pattern, regex.V1)


def unbounded(text: str) -> bool:
    """Whether a find is in a script without blanks, so that it may lie inside a longer word."""
    return regex.fullmatch(f"[{FREE}]+", text) is not None


def scripts_of(texts: Iterable[str]) -> list[str | None]:
    """The script of most letters of each text, such as "Latin" (Kana count as Han); None without letters of a known one."""
    found: list[str | None] = []
    for text in texts:
        counts = Counter(name for name, pattern in SCRIPTS.items() for _ in pattern.findall(text))
        most = counts.most_common(1)
        found.append("Han" if most and most[0][0] in ("Hiragana", "Katakana") else most[0][0] if most else None)
    return found


def empty(text: str) -> bool:
    """Whether a text says nothing: it has no letter and no digit."""
    return not words_of(text)


def repeated(text: str) -> bool:
    """Whether a text says one word or phrase over and over: it repeats itself letter by letter four times or more, or at most
    a third of its pairs of neighbouring words are different.

    Example:
        >>> repeated("man man man man"), repeated("hehehehehe"), repeated("The judge is late, and so is the cook.")
        (True, True, False)
    """
    plain, words = " ".join(text.split()), words_of(text)
    if not words:
        return False
    if len(plain) >= 8 and any(plain[k:] == plain[:-k] for k in range(1, len(plain) // 4 + 1)):
        return True
    pairs = list(pairwise(words))
    return len(words) >= 4 and 3 * len(set(pairs)) <= len(pairs)

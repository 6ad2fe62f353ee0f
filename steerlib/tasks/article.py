"""A nurse, an engineer, an HR manager, a university lecturer: the article goes by the sound, not by the letter.

Rules, tried in this order on the first word: numbers as they are read; single letters and acronyms by the names of their
letters, unless they are read as a word (NASA); then words, by their first letter, with the few spellings whose sound differs
(the silent h of "hour", the "you" of "university", the "w" of "one").
"""

from __future__ import annotations

import re
import unicodedata

from steerlib.errors import SteerlibError

VOWEL_NAMES = "AEFHILMNORSX"
"""Letters whose names begin with a vowel: an F, an S; but a B, a U."""
READ_AS_WORDS = re.compile(
    "FEMA|FIFA|FOREX|HAZMAT|HIPAA|LAN|LASER|LIDAR|MIDI|NAFTA|NASA|NASCAR|NASDAQ|NATO|NICU|RADAR|RAM|REIT|ROM|SARS|SCUBA|SEAL|"
    "SIM|SONAR|STEM|SWAT"
)
"""Acronyms that are read as words although they begin with such a letter."""
AN_NUMBER = re.compile(r"8|1[18](?:\d\d|,?\d{3})?(?!\d)")
"""Eight, eleven, eighteen, eighty, eighteen hundred, eleven thousand."""
SILENT = re.compile(r"heir|honest|honou?r|hour|hors d")
"""Words that begin with a silent h."""
LIKE_YOU_OR_W = re.compile(
    r"eu|ewe|one(?![a-z])|once|oui|uni(?!n|m[ap]|den)|unanim|unesco|u(?!ber)[bcfhjkqrst][aeiou]|uk|uga|u[iy]gh|urethr"
)
"""Words that begin with a vowel and are read like "you" or "w": European, union, user, one-person."""


def article(noun: str) -> str:
    """The noun with "a" or "an" before it.

    Args:
        noun: one or more words, such as an occupation.

    Returns:
        The noun as it was given, after its article and a space.

    Raises:
        SteerlibError: If the noun is empty or not a text.

    >>> [article(noun) for noun in ("nurse", "engineer", "HR manager", "university lecturer", "hourly worker")]
    ['a nurse', 'an engineer', 'an HR manager', 'a university lecturer', 'an hourly worker']
    """
    if not isinstance(noun, str) or not noun.strip():
        raise SteerlibError(f"an article goes before a noun, such as 'nurse', not before {noun!r}.")
    letters = unicodedata.normalize("NFKD", noun).encode("ascii", "ignore").decode()  # é is read as e is
    first = re.search(r"[A-Za-z0-9]+", letters)
    return f"{'an' if first and _vowel(first.group(), letters[first.start() :]) else 'a'} {noun}"


def _vowel(word: str, text: str) -> bool:
    """Whether what is read aloud begins with a vowel. word: the first one, at the beginning of text."""
    if word[0].isdigit():
        return AN_NUMBER.match(text) is not None
    if _spelled(word):
        return word[0].upper() in VOWEL_NAMES
    lower = text.lower()
    if lower[0] == "h":
        return SILENT.match(lower) is not None
    return lower[0] in "aeiou" and LIKE_YOU_OR_W.match(lower) is None


def _spelled(word: str) -> bool:
    """Whether a word is read letter by letter: X in X-ray, HR, HVAC, MSc, mri. A longer word in capitals is read as a word."""
    if READ_AS_WORDS.fullmatch(word.upper()):
        return False
    if len(word) == 1 or re.fullmatch(r"[A-Z]{2,4}s?|[A-Z]{2,}[a-z]{1,3}", word):
        return True
    return not re.search(r"[aeiouy]", word.lower()) and (word.isupper() or word.islower())

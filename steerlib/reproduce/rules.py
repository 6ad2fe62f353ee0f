"""What a claim asserts, and when a measured number meets it.

The one idea: a claim asserts a finding, and its recorded number asserts a reproduction. Both are judged.

    kind       fields     the finding: x is a measured number
    close      tolerance  |x - value| <= tolerance
    within     low, high  low <= x <= high   (the interval that was recorded)
    at_most    bound      x <= bound
    at_least   bound      x >= bound
    sign                  x has the sign of value
    order      order      the named numbers increase strictly, in the order listed

    the reproduction, for every kind and every named number:  |x - value| <= tolerance

Where an entry gives no `tolerance`, it is 2 % of |value|, or 0.0005 if that is more, but never above half of the
claim's own effect, because a drift of that size would be a finding of its own.

    strength   how strong the check is
    pinned     the number and its tolerance are all that is checked: close, within
    bounded    so is the number, and beside it a finding that other numbers would meet, too: at_most, at_least, sign, order
    stored     the run only read the number from a file, so it is checked that the file is the recorded one
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

Value = float | dict[str, float]  # a dict for `order`: name -> number
STRENGTHS = ("pinned", "bounded", "stored")
STATUSES = {  # what an entry's status makes of a number that is as recorded, and the field that has to explain it
    "": ("holds", ""),
    "not-reproduced": ("not reproduced, as recorded", "paper"),
    "not-testable": ("not testable here, as recorded", "why"),
}

NEEDS: dict[str, tuple[str, ...]] = {
    "close": ("tolerance",),
    "within": ("low", "high"),
    "at_most": ("bound",),
    "at_least": ("bound",),
    "sign": (),
    "order": ("order",),
}
SHARE = 0.02  # of |value|: how far a rerun may be off where the entry does not say
FLOOR = 0.0005  # the same for small numbers, in the unit of the number
SMALL = 0.1  # a number below this is taken for one of this size when a tolerance is called absurd


@dataclass(frozen=True)
class Claim:
    """One entry of the ledger; numbers are in the unit of the measured quantity.

    `tolerance` is how far a rerun may be off, an absolute number. `no_effect` is the number that would mean "no
    effect". A claim of a paper that does not hold here has the status "not-reproduced": `paper` then says what the
    paper found, and all other fields are about our own number, which is checked like any other. One that could not have
    failed here has the status "not-testable", and `why` says what about our set-up is the reason. `stored` is the
    command that made the file from which the run only reads the number. `tests` is the id of a sentence of
    data/papers.yml. A claim of the tier "gpu" has a paper's number as its value; what the chapter records as the claim
    `measured_as` when it runs with the `profile` is judged against it.
    """

    id: str
    says: str
    source: str
    kind: str
    tier: str
    seed: int
    chapter: str
    value: Value | None
    low: float | None = None
    high: float | None = None
    tolerance: float | None = None
    bound: float | None = None
    order: tuple[str, ...] = ()
    no_effect: float = 0.0
    status: str = ""
    paper: str = ""
    why: str = ""
    stored: str = ""
    tests: str = ""
    profile: str = ""
    measured_as: str = ""


@dataclass(frozen=True)
class Measured:
    """What a chapter measured: a number or, for `order`, named numbers; interval and n if known."""

    value: Value
    low: float | None = None
    high: float | None = None
    n: int | None = None


def meets(one: Claim, x: Value) -> bool:
    """Tell whether a number meets the finding of a claim whose fields are all recorded."""
    if isinstance(x, dict):
        return all(x[a] < x[b] for a, b in pairwise(one.order))
    if one.kind == "sign":
        return isinstance(one.value, float) and x * one.value > 0
    if one.kind == "close":
        return reproduces(one, x)
    low, high = one.low, one.high
    if one.bound is not None:
        low, high = (None, one.bound) if one.kind == "at_most" else (one.bound, None)
    return (low is None or x >= low) and (high is None or x <= high)


def effect(one: Claim) -> float:
    """The size of what a claim shows, in the unit of its number; a tolerance must stay below half of it.

    Returns:
        For `order` the smallest gap between neighbours. Else the distance of the number from `no_effect`; for
        `at_most` and `at_least` its distance from the bound, if that is more.
    """
    if isinstance(one.value, dict):
        return min(one.value[b] - one.value[a] for a, b in pairwise(one.order))
    value = one.value or 0.0
    room = 0.0 if one.bound is None else abs(one.bound - value)
    return max(abs(value - one.no_effect), room)


def allowance(one: Claim, value: float) -> float:
    """How far a rerun of a recorded number `value` may be off: the entry's tolerance, else the rule at the top."""
    if one.tolerance is not None:
        return one.tolerance
    usual, half = max(SHARE * abs(value), FLOOR), effect(one) / 2
    return min(usual, half) if half > 0 else usual


def reproduces(one: Claim, x: Value) -> bool:
    """Tell whether every number is as close to its recorded value as a rerun must be."""
    value = one.value
    if isinstance(value, dict) and isinstance(x, dict):
        return all(_near(x[name], value[name], allowance(one, value[name])) for name in one.order)
    return isinstance(value, float) and isinstance(x, float) and _near(x, value, allowance(one, value))


def _near(x: float, value: float, width: float) -> bool:
    return abs(x - value) <= width + 1e-12 * abs(value)  # 0.1 + 0.2 is not 0.3, but the edge counts


def strength(one: Claim) -> str:
    """How strong the check of a claim is: "pinned", "bounded" or "stored", as the table at the top has it.

    >>> strength(Claim("a.b.c", "It is {value}.", "ours", "at_least", "cpu", 0, "01", value=0.9, bound=0.5))
    'bounded'
    """
    if one.stored:
        return "stored"
    return "pinned" if one.kind in ("close", "within") else "bounded"


def absurd(one: Claim) -> str:
    """Why the tolerance of a claim is too wide to mean anything: a few words, or "" if it is not."""
    if one.tolerance is None or one.value is None:
        return ""
    numbers = list(one.value.values()) if isinstance(one.value, dict) else [one.value]
    own, largest = effect(one), max(SMALL, *map(abs, numbers))
    if not 0 <= one.tolerance <= own / 2:
        return f"is not between 0 and half of the claim's own effect, {own:g}: a claim that loose is no claim"
    if one.tolerance > largest / 2:
        return f"is more than half of the number itself, {largest:g}: a rerun that far off has found something else"
    return ""


def judge(one: Claim, got: Measured) -> str:
    """The verdict on a number that was measured with the book's own parameters.

    Args:
        one: the claim.
        got: what was measured, with the names that the claim's order lists.

    Returns:
        "holds"; "drifted" where the finding holds, but a number is not the recorded one; "misses" where the finding
        does not hold; "not reproduced, as recorded" where our number differs from a paper's, as it did before; "not
        testable here, as recorded" where the number is the recorded one, but could not have been another; "not yet
        recorded" where the entry has no number.

    >>> one = Claim("a.b.c", "It is {value}.", "ours", "at_least", "cpu", 0, "01", value=0.9, bound=0.5)
    >>> [judge(one, Measured(x)) for x in (0.91, 0.8, 0.4)]
    ['holds', 'drifted', 'misses']
    """
    if one.value is None:
        return "not yet recorded"
    if not meets(one, got.value):
        return "misses"
    if not reproduces(one, got.value):
        return "drifted"
    return STATUSES[one.status][0]

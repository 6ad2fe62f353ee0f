"""Numbers and claims in words: what the badge, the table and the Reproducibility page say."""

from __future__ import annotations

from itertools import pairwise

from steerlib.reproduce.rules import Claim, Measured, Value, allowance


class _Number(float):
    """{value} in a sentence means our own three digits, {value:.1%} what Python makes of it."""

    def __format__(self, spec: str) -> str:
        return super().__format__(spec) if spec else show(float(self))


def show(value: Value) -> str:
    """A number with three digits after the point; named numbers in increasing order.

    >>> show(0.5876), show(4.5e-8), show({"steered": 0.5, "plain": 0.1})
    ('0.588', '4.5e-08', 'plain 0.100 < steered 0.500')
    """
    if not isinstance(value, dict):
        return f"{value:.3f}" if value == 0 or 1e-3 <= abs(value) < 100 else f"{value:.4g}"
    ordered = sorted(value.items(), key=lambda item: item[1])
    words = [f"{name} {show(number)}" for name, number in ordered]
    signs = ["=" if a[1] == b[1] else "<" for a, b in pairwise(ordered)]
    return words[0] + "".join(f" {sign} {word}" for sign, word in zip(signs, words[1:], strict=True))


def sentence(one: Claim, got: Measured) -> str:
    """The claim's sentence with a number filled in."""
    value = got.value
    return one.says.format(value=show(value) if isinstance(value, dict) else _Number(value))


def interval(got: Measured) -> str:
    """ "[low, high], n = 60"; "no interval, n = 2" for an estimate from too few clusters; or nothing."""
    if got.low is None or got.high is None:
        return "" if got.n is None else f"no interval, n = {got.n}"
    return f"[{show(got.low)}, {show(got.high)}]" + ("" if got.n is None else f", n = {got.n}")


def expected(one: Claim) -> str:
    """What the ledger expects, in a few words: the finding, and the number that a rerun must come near.

    >>> expected(Claim("a.b.c", "{value}", "ours", "at_least", "cpu", 0, "01", value=0.9, bound=0.5))
    'at least 0.500, recorded 0.900 ± 0.018'
    """
    if one.value is None:
        return "not yet recorded"
    if isinstance(one.value, dict):
        return " < ".join(f"{name} {_recorded(one, one.value[name])}" for name in one.order)
    number = _recorded(one, one.value)
    if one.kind == "close":
        return number
    finding = {
        "sign": "more than 0" if one.value > 0 else "less than 0",
        "within": f"from {show(one.low or 0.0)} to {show(one.high or 0.0)}",
    }.get(one.kind) or f"{one.kind.replace('_', ' ')} {show(one.bound or 0.0)}"
    return f"{finding}, recorded {number}"


def _recorded(one: Claim, value: float) -> str:
    return f"{show(value)} ± {allowance(one, value):.2g}"

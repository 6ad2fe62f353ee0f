"""What other machines measured, beside the book's own numbers: a table of the machines, and a fold in each claim's row.

The one idea: most machines agree, so equal numbers share a line, and the page stays small however many there are. What differs
comes first, is marked, and names its machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from steerlib.reproduce.machines import NOT_SIGNED, Machine, counted, tally, worded
from steerlib.reproduce.markup import named, row, table, text
from steerlib.reproduce.rules import Claim
from steerlib.reproduce.verdicts import AS_RECORDED, Verdict
from steerlib.reproduce.wording import show

HEAD = ("Machine", "Who", "Date", "Commit", "Profile", "Versions", "Signature", "Claims")
NEVER = "never run"
FEW = 3  # of so many machines a line gives the names, of more only the numbers
WORSE = ("misses", "drifted", "not yet recorded")  # the worst first; then what is as recorded


def numbered(machines: Iterable[Machine]) -> dict[int, Machine]:
    """The machines by the numbers that the page gives them, the oldest record's first, so that a new one changes no other's."""
    return dict(enumerate(sorted(machines, key=lambda one: (one.record["date"], one.path.name)), start=1))


def machines_table(machines: Sequence[Machine], ledger: Mapping[str, Claim]) -> str:
    """A row for each run record: those on which a number differs first, then the newest."""
    if not machines:
        return "No run of another machine has been added yet."
    rows = []
    for number, one in numbered(machines).items():
        record, counts = one.record, tally(ledger, one)
        off = counts["missed"] + counts["drifted"]
        software = ", ".join(f"{name} {version}" for name, version in record["software"].items())
        models = "".join(f", {name} {str(commit)[:12]}" for name, commit in record["models"].items())
        cells = [
            f"{number}: {_about(one)}",
            record["by"] or "nobody named",
            record["date"],
            one.commit,
            record["profile"],
        ]
        made = named(HEAD, [*cells, software + models, one.signed, counted(counts)])
        if off:
            made["Claims"] = f"<strong>{made['Claims']}</strong>"
        if one.signed == NOT_SIGNED:
            made["Signature"] = f"<i>{made['Signature']}</i>"
        rows.append(((off == 0, -number), row(made, f' id="machine-{number}"')))
    return table(HEAD, [made for _, made in sorted(rows)], "cards machines")


def _about(one: Machine) -> str:
    about = one.record["device"]
    graphics = [f"{about['gpu_memory']} GB"] if "gpu_memory" in about else []
    graphics += [f"{word} {about[key]}" for word, key in (("driver", "driver"), ("CUDA", "cuda")) if key in about]
    beside = f" ({', '.join(graphics)}) beside {about['processor']}, {about['cores']} cores" if "gpu" in about else ""
    return f"{one.device}{beside}, {about['memory']} GB"


def elsewhere(v: Verdict, machines: Mapping[int, Machine]) -> tuple[Verdict, int | None]:
    """A claim that was never run here has the verdict of the machine that ran it, of several the worst.

    Args:
        v: the verdict on the run here.
        machines: by number.

    Returns:
        The verdict, and the number of the machine that it is of; `v` itself and None where it was run here, or nowhere.
    """
    found = {number: both for number, one in machines.items() if (both := worded(v.claim, one))}
    if v.word != NEVER or not found:
        return v, None
    number = min(found, key=lambda number: (_rank(found[number][1]), -number))
    return Verdict(v.claim, *found[number]), number


def beside(one: Claim, machines: Mapping[int, Machine]) -> tuple[str, str]:
    """The numbers of all machines for a claim.

    Args:
        one: the claim.
        machines: by number.

    Returns:
        A fold of HTML, "" where no machine has a number; and in a word how they compare: "differ", "agree" or "none".
    """
    lines: dict[tuple[int, str, str], list[int]] = {}  # equal numbers under the same verdict share a line
    for number, machine in machines.items():
        if both := worded(one, machine):
            got, word = both
            drift = Verdict(one, got, word).drift
            by = f" ({drift:+.2g})" if word in WORSE and drift else ""  # which may not show in three digits
            lines.setdefault((_rank(word), word, show(got.value) + by), []).append(number)
    if not lines:
        return "", "none"
    count, off = sum(map(len, lines.values())), [key for key in lines if key[1] in WORSE]
    items = []
    for (_, word, value), numbers in sorted(lines.items()):
        who = ", ".join(_link(n, machines[n]) for n in numbers) if len(numbers) <= FEW else f"machines {spans(numbers)}"
        items.append(f"<li>{_mark(text(value), word)}: {who}</li>")
    values = ", ".join(_mark(text(value), word) for _, word, value in sorted(lines))
    start = "<details open>" if off else "<details>"
    title = f"{count} machine{'s' * (count != 1)}: {values}"
    return (
        f'{start}<summary>{title}</summary><ul class="beside">{"".join(items)}</ul></details>',
        "differ" if off else "agree",
    )


def spans(numbers: Sequence[int]) -> str:
    """Increasing numbers with neighbours drawn together.

    >>> spans([1, 2, 3, 5, 8, 9])
    '1–3, 5, 8–9'
    """
    starts = [numbers[0], *(b for a, b in pairwise(numbers) if b > a + 1)]
    ends = [*(a for a, b in pairwise(numbers) if b > a + 1), numbers[-1]]
    return ", ".join(str(a) if a == b else f"{a}–{b}" for a, b in zip(starts, ends, strict=True))


def _rank(word: str) -> int:
    return WORSE.index(word) if word in WORSE else len(WORSE)


def _mark(value: str, word: str) -> str:
    return value if word in AS_RECORDED else f"<strong>{value} {word}</strong>"


def _link(number: int, one: Machine) -> str:
    return f'<a href="#machine-{number}">{number}</a> {text(one.device)}'

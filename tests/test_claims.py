"""The ledger refuses what is not a claim, judges every kind at its edges, and is edited without a scratch."""

from __future__ import annotations

import io
import json
import math
import random
import re
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

import steerlib as sl
from steerlib.errors import SteerlibError
from steerlib.reproduce.accept import accept
from steerlib.reproduce.claims import claim, claims
from steerlib.reproduce.ledger import load_ledger
from steerlib.reproduce.record import read_record, write_record
from steerlib.reproduce.rules import Claim, Measured, absurd, allowance, effect, judge, meets, strength
from steerlib.reproduce.terminal import printable
from steerlib.reproduce.verdicts import AS_RECORDED, JUDGED, Outcome, Verdict, check, table
from steerlib.reproduce.wording import expected, interval, sentence, show

ENTRY = {
    "id": "first.bias.before",
    "says": "The bias is {value}.",
    "source": "ours",
    "kind": "close",
    "value": 0.6,
    "tolerance": 0.02,
    "tier": "cpu",
    "seed": 0,
    "chapter": "01-first",
}


def entry(**changes: Any) -> dict[str, Any]:
    """An entry with some fields changed; None-valued `drop` names are taken out."""
    dropped = changes.pop("drop", ())
    return {k: v for k, v in (ENTRY | changes).items() if k not in dropped}


def write(folder: Path, *entries: dict[str, Any]) -> Path:
    path = folder / "claims.yml"
    path.write_text(yaml.safe_dump(list(entries), sort_keys=False), encoding="utf-8")
    return path


def one(tmp_path: Path, **changes: Any) -> Claim:
    (found,) = load_ledger(write(tmp_path, entry(**changes))).values()
    return found


def other_kind(kind: str, **changes: Any) -> dict[str, Any]:
    return entry(kind=kind, drop=("tolerance",), **changes)


def record(**claims: Any) -> dict[str, Any]:
    return {"01-first": {"status": "ran", "claims": {k: {"value": v} for k, v in claims.items()}}}


# ------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"drop": ("says",)}, "lacks says"),
        ({"drop": ("tolerance",)}, "lacks tolerance"),
        ({"drop": ("value", "seed")}, "lacks seed, value"),
        ({"kind": "roughly"}, "kind 'roughly' is unknown"),
        ({"kind": "within"}, "lacks low, high"),
        ({"tolerence": 0.1}, "unknown field tolerence"),
        ({"id": "bias"}, "three parts"),
        ({"id": "First.bias.before"}, "three parts"),
        ({"id": "first.bias.before.more"}, "three parts"),
        ({"id": "first..before"}, "three parts"),
        ({"tolerance": 0.31}, "half of the claim's own effect, 0.6"),
        ({"tolerance": 0.06, "no_effect": 0.5}, "half of the claim's own effect, 0.1"),
        ({"tolerance": -0.1}, "not between 0 and half"),
        ({"value": "much"}, "must be a finite number, not 'much'"),
        ({"value": True}, "must be a finite number"),
        ({"value": math.nan}, "must be a finite number, not nan"),
        ({"tolerance": math.inf}, "must be a finite number"),
        ({"tolerance": None}, "tolerance cannot be null"),
        ({"says": "The bias is small."}, "must hold {value}"),
        ({"says": "{value} of {what}"}, "no other braces"),
        ({"says": ""}, "says must be a text"),
        ({"tier": "tpu"}, "cpu or gpu"),
        ({"seed": "zero"}, "whole number"),
        ({"status": "failed"}, "status can only be not-reproduced or not-testable"),
        ({"status": "failed", "paper": "It falls."}, "status can only be not-reproduced or not-testable"),
        ({"status": "not-reproduced"}, "lacks paper"),
        ({"status": "not-testable"}, "lacks why"),
        ({"status": "not-testable", "why": " "}, "why must be a text"),
        ({"why": "All captions are neutral."}, "why belongs to the status not-testable"),
        ({"stored": True}, "stored must be a text"),
        ({"stored": ""}, "stored must be a text"),
        ({"tests": 3}, "tests must be a text"),
        ({"tests": "no-such-sentence"}, "the id of a sentence of data/papers.yml, not 'no-such-sentence'"),
        ({"kind": "order", "order": ["a"]}, "two or more different names"),
        ({"kind": "order", "order": ["a", "a"]}, "two or more different names"),
        ({"kind": "order", "order": ["a", "b"], "drop": ("tolerance",)}, "for each of a, b"),
        ({"kind": "at_most", "bound": 0.5, "drop": ("tolerance",)}, "own recorded value misses it"),
        ({"kind": "sign", "value": 0, "drop": ("tolerance",)}, "own recorded value misses it"),
        ({"value": 1.0, "tolerance": 600, "no_effect": 1201}, "more than half of the number itself"),
        ({"kind": "at_least", "bound": 0.5, "tolerance": 0.31}, "half of the claim's own effect, 0.6"),
        ({"kind": "at_most", "bound": 1e6, "tolerance": 0.31}, "more than half of the number itself"),
        ({"kind": "within", "low": 0.1, "high": 0.9, "tolerance": 0.31}, "half of the claim's own effect, 0.6"),
        ({"kind": "sign", "tolerance": 0.31}, "half of the claim's own effect, 0.6"),
        ({"kind": "order", "order": ["a", "b"], "value": {"a": 1, "b": 1.1}, "tolerance": 0.06}, "own effect, 0.1"),
    ],
)
def test_an_entry_that_is_not_a_claim_is_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(SteerlibError, match=r"^claims.yml: claim \S+") as caught:
        load_ledger(write(tmp_path, entry(**changes)))
    assert words in str(caught.value)
    assert str(caught.value).endswith(".")


def test_an_id_used_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SteerlibError, match="first.bias.before is used twice"):
        load_ledger(write(tmp_path, entry(), entry(value=0.5)))


@pytest.mark.parametrize("text", ["a: 1", "- one\n- two", "", "- {id: ["])
def test_a_file_that_is_not_a_list_of_claims_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "claims.yml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SteerlibError, match="claims.yml"):
        load_ledger(path)
    with pytest.raises(SteerlibError, match="no ledger"):
        load_ledger(tmp_path / "absent.yml")
    path.write_bytes(b"- id: \xff")
    with pytest.raises(SteerlibError, match=r"cannot be read as UTF-8 text.*\.$"):
        load_ledger(path)


def test_the_ledger_that_ships_is_valid() -> None:
    from steerlib.assets import data_path

    assert load_ledger(data_path() / "claims.yml")


# ----------------------------------------------------------------------------------------- judgement

KINDS = {  # what holds, what drifted, what misses
    "close": (entry(), [0.58, 0.6, 0.62], [], [0.5799, 0.6201, -0.6]),
    "within": (other_kind("within", low=0.5, high=0.7), [0.588, 0.6, 0.612], [0.5, 0.587, 0.613, 0.7], [0.49, 0.71]),
    "at_most": (other_kind("at_most", bound=0.7), [0.588, 0.612], [0.7, -5.0, 0.613], [0.70001]),
    "at_least": (other_kind("at_least", bound=0.5), [0.588, 0.612], [0.5, 9.0, 0.587], [0.49999]),
    "sign": (other_kind("sign"), [0.588, 0.612], [1e-9, 3.0], [0.0, -1e-9]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_at_its_edges(tmp_path: Path, kind: str) -> None:
    fields, good, off, bad = KINDS[kind]
    (found,) = load_ledger(write(tmp_path, fields)).values()
    assert [judge(found, Measured(x)) for x in good] == ["holds"] * len(good)
    assert [judge(found, Measured(x)) for x in off] == ["drifted"] * len(off)
    assert [judge(found, Measured(x)) for x in bad] == ["misses"] * len(bad)
    assert "0.600 ± " in expected(found)


@pytest.mark.parametrize("kind", ["within", "at_most", "at_least", "sign"])
def test_an_entry_s_own_tolerance_says_what_drifted_is(tmp_path: Path, kind: str) -> None:
    (found,) = load_ledger(write(tmp_path, KINDS[kind][0] | {"tolerance": 0.05})).values()
    assert [judge(found, Measured(x)) for x in (0.56, 0.64, 0.54, 0.66)] == ["holds"] * 2 + ["drifted"] * 2


def test_order_is_strict(tmp_path: Path) -> None:
    value = {"steered": 0.1, "plain": 0.5}
    found = one(tmp_path, kind="order", order=["steered", "plain"], value=value, drop=("tolerance",))
    assert judge(found, Measured({"steered": 0.102, "plain": 0.49})) == "holds"
    assert judge(found, Measured({"steered": 0.103, "plain": 0.49})) == "drifted"
    assert judge(found, Measured({"steered": 0.102, "plain": 0.52})) == "drifted"
    assert judge(found, Measured({"steered": 0.2, "plain": 0.3})) == "drifted"
    assert judge(found, Measured({"steered": 0.3, "plain": 0.3})) == "misses"
    assert judge(found, Measured({"steered": 0.4, "plain": 0.3})) == "misses"
    assert sentence(found, Measured(value)) == "The bias is steered 0.100 < plain 0.500."
    assert show({"steered": 0.3, "plain": 0.3}) == "steered 0.300 = plain 0.300"


def draws(count: int = 500) -> list[tuple[float, float]]:
    """Pairs of numbers of any size, among them zeros and equal ones."""
    some = [0.0, 1.0, *(random.uniform(-1, 1) * 10.0 ** random.randint(-9, 6) for _ in range(20))]
    return [(random.choice(some), random.choice(some)) for _ in range(count)]


def test_close_is_symmetric_and_never_takes_in_the_null() -> None:
    for value, x in draws():
        width = abs(value) * random.uniform(0, 0.5)
        found = Claim("a.b.c", "{value}", "", "close", "cpu", 0, "01", value, tolerance=width)
        assert meets(found, value)
        assert meets(found, x) == meets(replace(found, value=-value), -x)
        assert value == 0 or not (meets(found, 0.0) or meets(found, -value))


def test_at_most_and_at_least_cover_the_line() -> None:
    for bound, x in draws():
        at_most = Claim("a.b.c", "{value}", "", "at_most", "cpu", 0, "01", bound, bound=bound)
        at_least = replace(at_most, kind="at_least")
        assert meets(at_most, x) or meets(at_least, x)
        assert (meets(at_most, x) and meets(at_least, x)) == (x == bound)


def test_a_default_tolerance_never_reaches_half_of_the_effect() -> None:
    for value, bound in draws():
        for kind in ("at_most", "at_least", "sign", "within"):
            found = Claim("a.b.c", "{value}", "", kind, "cpu", 0, "01", value, bound=bound)
            width = allowance(found, value)
            assert width <= max(0.02 * abs(value), 0.0005)
            assert effect(found) == 0 or width <= effect(found) / 2
            assert effect(found) == 0 or not absurd(replace(found, tolerance=min(width, abs(value) / 2)))


def moved(value: float | dict[str, float], factor: float) -> float | dict[str, float]:
    return {k: x * factor for k, x in value.items()} if isinstance(value, dict) else value * factor


@pytest.mark.parametrize(("factor", "most"), [(1.1, 0.08), (0.9, 0.08), (1.5, 0.03), (0.5, 0.03)])
def test_hardly_a_claim_of_the_book_holds_when_its_number_is_off(factor: float, most: float) -> None:
    """Those that do are of a size at which the book says nothing: below 0.005, or one text more or fewer."""
    from steerlib.assets import data_path

    ledger = [one for one in load_ledger(data_path("claims.yml")).values() if one.value is not None]
    numbers = [one for one in ledger if isinstance(one.value, dict) or one.value]  # zero does not move
    assert len(numbers) > 0.9 * len(ledger)
    assert {judge(one, Measured(one.value)) for one in ledger} <= set(AS_RECORDED)
    words = [judge(one, Measured(moved(one.value, factor))) for one in numbers]
    left = [one.id for one, word in zip(numbers, words, strict=True) if word not in ("drifted", "misses")]
    assert len(left) <= most * len(numbers), left


def test_zero_is_judged_by_its_absolute_tolerance(tmp_path: Path) -> None:
    (found,) = load_ledger(write(tmp_path, other_kind("at_most", value=0, bound=0.1))).values()
    assert [judge(found, Measured(x)) for x in (0.0, 0.0005, -0.0005, 0.0006, 0.05, 0.2)] == [
        *["holds"] * 3, *["drifted"] * 2, "misses",
    ]  # fmt: skip


def test_the_words_of_check(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        entry(),
        entry(id="first.bias.missing"),
        entry(id="first.bias.new", value=None),
        entry(id="first.bias.paper", status="not-reproduced", paper="It falls.", no_effect=0.3),
        entry(id="first.bias.flat", status="not-testable", why="It is 0."),
        entry(id="first.bias.gpu", tier="gpu", profile="gpu", measured_as="first.bias.before"),
        entry(id="second.bias.before", chapter="02-second"),
    )
    measured = {f"first.bias.{name}": 0.61 for name in ("before", "new", "paper", "flat")}
    verdicts = check(load_ledger(path), record(**measured))
    assert [(v.word, v.miss) for v in verdicts] == [
        ("holds", False),
        ("missing", True),
        ("not yet recorded", True),
        ("not reproduced, as recorded", False),
        ("not testable here, as recorded", False),
        ("never run", False),
        ("not run", False),
    ]
    assert verdicts[0].drift == pytest.approx(0.01)
    printed = table(verdicts)
    assert "MISSING" in printed
    assert "0.610" in printed
    assert "0.600 ± 0.02" in printed

    other = record(**measured)
    other["01-first"]["other_parameters"] = True
    words = {v.word for v in check(load_ledger(path), other) if v.claim.chapter == "01-first"}
    assert words == {"other parameters", "never run"}

    old = check(load_ledger(path), record(**measured), stale=["01-first"])
    assert [v.word for v in old] == [*["stale"] * 5, "never run", "not run"]
    assert not any(v.judged or v.miss or v.sound for v in old)


def test_a_papers_number_is_judged_by_a_run_of_its_profile_and_by_no_other(tmp_path: Path) -> None:
    of_paper = entry(id="first.paper.bias", value=0.3, tier="gpu", profile="gpu", measured_as="first.bias.before")
    ledger = load_ledger(write(tmp_path, entry(), of_paper))
    for measured, own, papers in ((0.6, "holds", "misses"), (0.3, "misses", "holds"), (0.31, "misses", "holds")):
        found = record(**{"first.bias.before": measured})
        assert [v.word for v in check(ledger, found)] == [own, "never run"]
        there = check(ledger, found, profile="gpu")
        assert [v.word for v in there] == ["other profile", papers]
        assert not any(v.sound for v in there)  # a run never changes what a paper found
        assert [v.word for v in check(ledger, found, profile="other")] == ["other profile", "other profile"]
        rehearsed = check(ledger, found, profile="tiny", rehearses="gpu")
        assert [v.word for v in rehearsed] == ["other profile", "rehearsed"]
        assert Outcome(rehearsed).status == 0
    lacking = check(ledger, record(**{"first.bias.other": 0.6}), profile="tiny", rehearses="gpu")
    assert [v.word for v in lacking] == ["other profile", "missing"]
    assert Outcome(lacking).status == 1
    own = check(ledger, record(**{"first.bias.before": 0.6}))
    assert "NEVER RUN: 1 of the papers' own numbers, which `steerlib reproduce --profile gpu` measures" in str(
        Outcome(own)
    )
    assert table(own).splitlines()[-1].startswith("first.paper.bias ")
    assert table(own).endswith("NEVER RUN")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"profile": None}, "profile must be a text"),
        ({"measured_as": "first.bias.nobody"}, "measured_as must be the id of a claim of its chapter"),
        ({"measured_as": "first.paper.bias"}, "measured_as must be the id of a claim of its chapter"),
        ({"chapter": "02-second"}, "measured_as must be the id of a claim of its chapter"),
        ({"tier": "cpu"}, "belong to the tier gpu"),
        ({"value": None}, "the value of a gpu claim is the paper's"),
    ],
)
def test_a_papers_number_that_nothing_could_measure_is_refused(tmp_path: Path, change: Any, says: str) -> None:
    of_paper = entry(id="first.paper.bias", tier="gpu", profile="gpu", measured_as="first.bias.before") | change
    with pytest.raises(SteerlibError, match=re.escape(says)):
        load_ledger(write(tmp_path, entry(), of_paper))


def outcome(*words: str, **about: Any) -> Outcome:
    one = Claim("a.b.c", "{value}", "", "sign", "cpu", 0, "01", 1.0)
    return Outcome([Verdict(one, Measured(1.0), word) for word in words], **about)


def test_what_is_not_judged_is_never_called_holding() -> None:
    unjudged = ("stale", "other parameters", "other profile", "not run")
    assert not set(unjudged) & set(JUDGED)
    for words in ((), *((word,) for word in unjudged), unjudged):
        for asked in (False, True):
            found = outcome(*words, asked=asked)
            assert found.status == (0 if asked else 3)
            assert "nothing was judged" in str(found)
            assert "hold" not in str(found)
    some = outcome("holds", "not run", "stale", "stale")
    assert some.status == 0
    assert str(some) == "1 of 4 claims judged: all hold; not judged: 1 not run, 2 stale"


def test_every_miss_failure_or_stale_record_has_its_exit_status_and_its_line() -> None:
    for word in ("drifted", "misses", "missing", "not yet recorded"):
        found = outcome("holds", word)
        assert found.status == 1
        assert "2 of 2 claims judged: 1 do not hold" in str(found)
        assert f"claims that {'drifted' if word == 'drifted' else 'miss'}: a.b.c" in str(found)
    assert outcome("holds", failed=["01"]).status == 1
    assert "chapters that failed: 01" in str(outcome("holds", failed=["01"]))
    old = outcome("holds", stale={"02": ["the notebook", "the data"]})
    assert old.status == 3
    assert "02 is stale: the notebook and the data changed since it ran" in str(old)


def test_a_paper_claim_that_moves_is_a_miss_too(tmp_path: Path) -> None:
    found = one(tmp_path, status="not-reproduced", paper="It falls.")
    assert judge(found, Measured(0.7)) == "misses"


def test_a_claim_that_could_not_fail_is_not_called_holding_and_still_checked(tmp_path: Path) -> None:
    found = one(tmp_path, status="not-testable", why="All captions are neutral.")
    assert judge(found, Measured(0.6)) == "not testable here, as recorded"
    assert judge(found, Measured(0.7)) == "misses"
    bounded = {"kind": "at_most", "bound": 0.9, "drop": ("tolerance",)}
    found = one(tmp_path, status="not-testable", why="All captions are neutral.", **bounded)
    assert judge(found, Measured(0.7)) == "drifted"


def test_what_is_as_recorded_is_counted_by_what_it_is(tmp_path: Path) -> None:
    said = str(outcome("holds", "holds", "not testable here, as recorded", "not reproduced, as recorded", "not run"))
    assert said == (
        "4 of 5 claims judged: all as recorded (2 hold, 1 not reproduced, 1 not testable here); not judged: 1 not run"
    )
    assert "1 do not hold" in str(outcome("holds", "not testable here, as recorded", "misses"))


@pytest.mark.parametrize(
    ("kind", "fields", "word"),
    [
        ("close", {"tolerance": 0.01}, "pinned"),
        ("within", {"low": 0.5, "high": 0.7}, "pinned"),
        ("at_most", {"bound": 0.9}, "bounded"),
        ("at_least", {"bound": 0.1}, "bounded"),
        ("sign", {}, "bounded"),
        ("order", {"order": ["a", "b"], "value": {"a": 1, "b": 2}}, "bounded"),
    ],
)
def test_how_strong_the_check_of_a_claim_is(tmp_path: Path, kind: str, fields: dict[str, Any], word: str) -> None:
    """Whether it is bounded is read from the rule: some number that is not the recorded one meets the finding."""
    changes = {"kind": kind, "drop": () if kind == "close" else ("tolerance",)} | fields
    plain = one(tmp_path, **dict(changes))
    assert strength(plain) == word
    assert strength(one(tmp_path, stored="tools/x.py", **changes)) == "stored"
    value = plain.value
    far = {k: 3 * x for k, x in value.items()} if isinstance(value, dict) else 0.85 if kind == "at_most" else 3 * value
    assert meets(plain, far) == (word == "bounded")


# --------------------------------------------------------------------------------------- in a chapter


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A ledger of two claims and the place of a run record."""
    order = entry(
        id="first.bias.order",
        kind="order",
        order=["low", "high"],
        value=None,
        drop=("tolerance",),
    )
    monkeypatch.setenv("STEERLIB_LEDGER", str(write(tmp_path, entry(), order)))
    path = tmp_path / "run" / "01-first.json"
    monkeypatch.setenv("STEERLIB_RUN", str(path))
    return path


def test_claim_records_value_interval_and_n(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    claim("first.bias.before", SimpleNamespace(value=0.61, low=0.5, high=0.7, n=60))
    claim("first.bias.order", {"high": SimpleNamespace(value=2), "low": 1})
    found = read_record(run)["claims"]
    assert found["first.bias.before"] == {"value": 0.61, "low": 0.5, "high": 0.7, "n": 60}
    assert found["first.bias.order"]["value"] == {"low": 1.0, "high": 2.0}
    shown = capsys.readouterr().out
    assert "[holds] The bias is 0.610. Interval [0.500, 0.700], n = 60." in shown
    assert "[not yet recorded]" in shown
    assert list(run.parent.iterdir()) == [run]  # no scratch file stays


def test_several_claims_in_one_call_are_recorded_as_one_by_one(run: Path) -> None:
    assert (sl.claim, sl.claims) == (claim, claims)
    claims({"first.bias.order": [1, 2], "first.bias.before": 0.61})
    together = read_record(run)["claims"]
    run.unlink()
    claim("first.bias.order", [1, 2])
    claim("first.bias.before", 0.61)
    assert read_record(run)["claims"] == together
    assert list(together) == ["first.bias.order", "first.bias.before"]


def test_an_estimate_without_an_interval_is_recorded_and_shown_as_such(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    claim("first.bias.before", SimpleNamespace(value=0.61, low=math.nan, high=math.nan, n=2))
    assert read_record(run)["claims"]["first.bias.before"] == {"value": 0.61, "low": None, "high": None, "n": 2}
    assert "The bias is 0.610. No interval, n = 2." in capsys.readouterr().out
    assert interval(Measured(0.61, n=2)) == "no interval, n = 2"
    assert interval(Measured(0.61)) == ""


def test_a_claim_shows_on_a_terminal_that_only_knows_ascii() -> None:
    raw = io.BytesIO()
    terminal = io.TextIOWrapper(raw, encoding="ascii", write_through=True)
    with redirect_stdout(terminal):
        claim("measuring.pronoun.per-occupation-bias", 0.38)
    assert b"0.380 +/- 8e-06" in raw.getvalue()
    assert printable("“α” ≤ 1 …", "ascii") == '"?" <= 1 ...'
    assert printable("α ± 1", "utf-8") == "α ± 1"


def test_claim_shows_a_miss_without_failing(
    monkeypatch: pytest.MonkeyPatch, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("STEERLIB_RUN")
    claim("first.bias.before", 0.9)
    assert "[misses] The bias is 0.900." in capsys.readouterr().out
    assert not run.exists()


@pytest.mark.parametrize(
    ("id", "result", "words"),
    [
        ("first.bias.befor", 0.6, "no claim first.bias.befor: is first.bias.before meant?"),
        ("other.thing.entirely", 0.6, "add an entry with `value: null`"),
        ("first.bias.before", math.nan, "must be a finite number, not nan"),
        ("first.bias.before", SimpleNamespace(value=0.6, low=-math.inf, high=1, n=3), "low must"),
        ("first.bias.before", SimpleNamespace(value=0.6, low=0.5, high=math.nan, n=3), "high must"),
        ("first.bias.before", "0.6", "must be a finite number, not '0.6'"),
        ("first.bias.before", {"low": 1, "high": 2}, "must be a finite number"),
        ("first.bias.order", 0.6, "a number for each of low, high"),
        ("first.bias.order", [1, 2, 3], "a number for each of low, high"),
        ("first.bias.order", {"low": 1, "hihg": 2}, "a number for each of low, high"),
    ],
)
def test_claim_refuses_and_the_record_keeps_the_refusal_even_if_the_chapter_goes_on(
    run: Path, monkeypatch: pytest.MonkeyPatch, id: str, result: object, words: str
) -> None:
    with pytest.raises(SteerlibError) as caught:
        claim(id, result)
    assert words in str(caught.value)
    record = read_record(run)
    assert record["faults"] == [str(caught.value)]
    assert not record.get("claims")

    monkeypatch.delenv("STEERLIB_RUN")
    run.unlink()
    with pytest.raises(SteerlibError):
        claim(id, result)
    assert not run.exists()


def test_claim_refuses_twice_and_the_wrong_chapter(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    claim("first.bias.before", 0.6)
    with pytest.raises(SteerlibError, match="recorded twice"):
        claim("first.bias.before", 0.9)
    assert read_record(run)["claims"]["first.bias.before"]["value"] == 0.6
    assert "recorded twice" in read_record(run)["faults"][0]
    monkeypatch.setenv("STEERLIB_RUN", str(run.with_name("02-second.json")))
    with pytest.raises(SteerlibError, match="belongs to the chapter 01-first, not to 02-second"):
        claim("first.bias.before", 0.6)


# --------------------------------------------------------------------------------------------- record


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[1, 2]", b"null", b'{"claims": {}}', b'{"seal": 1}', b"\xff\xfe", b'{"claims": 3, "seal": "a"}'],
)
def test_a_damaged_record_is_one_sentence_that_says_which_file_and_what_to_do(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "01-first.json"
    path.write_bytes(content)
    with pytest.raises(SteerlibError) as caught:
        read_record(path)
    said = str(caught.value)
    assert str(path) in said and "\n" not in said
    assert said.endswith("delete it, and run `steerlib reproduce 01-first` again.")


def test_any_edit_of_a_record_breaks_its_seal(tmp_path: Path) -> None:
    path = tmp_path / "01-first.json"
    whole = {
        "claims": {"a.b.c": {"value": 0.1, "low": None}},
        "status": "ran",
        "seconds": 1.5,
        "parameters": {"x": (1,)},
    }
    write_record(path, whole)
    assert read_record(path) == json.loads(json.dumps(whole))
    text = path.read_text()
    for before, after in (("0.1", "0.2"), ('"ran"', '"run"'), ("1.5", "1"), ("a.b.c", "a.b.d"), ("null", "0.1")):
        assert text.count(before) == 1
        path.write_text(text.replace(before, after))
        with pytest.raises(SteerlibError, match="its seal is broken"):
            read_record(path)
    path.write_text(json.dumps(json.loads(text), indent=4))  # another layout is not another record
    assert read_record(path)["status"] == "ran"


# --------------------------------------------------------------------------------------------- accept

LEDGER = """\
# What the book claims. Comments stay.

- id: first.bias.before   # the headline
  says: "The bias is {value}."
  source: ours
  kind: close
  value: null  # measured on two machines
  tolerance: 0.02
  tier: cpu
  seed: 0
  chapter: 01-first

- {id: first.bias.after, says: "After: {value:.1%}.", source: ours, kind: within, value: 0.3, low: 0.2, \
high: 0.4, tier: cpu, seed: 0, chapter: 01-first}

# An order.
- chapter: 01-first
  id: first.bias.order
  kind: order
  order: [low, high]
  value:
  says: {value} in order
  source: ours
  tier: cpu
  seed: 0
- id: first.bias.fine
  says: Still {value}.
  source: ours
  kind: at_most
  bound: 0.5
  value: 0.123456   # holds: must stay to the letter
  tier: cpu
  seed: 0
  chapter: 01-first
""".replace("says: {value} in order", 'says: "{value} in order"')


def test_accept_changes_numbers_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "claims.yml"
    path.write_text(LEDGER, encoding="utf-8")
    got = {
        "first.bias.before": {"value": 0.123456789},
        "first.bias.after": {"value": 0.5, "low": 0.45, "high": 0.55, "n": 9},
        "first.bias.order": {"value": {"low": -1e-9, "high": 2.0}},
        "first.bias.fine": {"value": 0.1237},
    }
    records = {"01-first": {"status": "ran", "claims": got}}
    difference = accept(path, check(load_ledger(path), records))
    after = path.read_text(encoding="utf-8")
    wanted = (
        LEDGER.replace("value: null  # measured", "value: 0.123457  # measured")
        .replace("value: 0.3, low: 0.2, high: 0.4", "value: 0.5, low: 0.45, high: 0.55")
        .replace("  value:\n", "  value: {low: -1.0e-09, high: 2.0}\n")
    )
    assert after == wanted
    assert "+  value: 0.123457  # measured on two machines" in difference
    assert "bias.fine" not in difference
    assert not any(v.miss for v in check(load_ledger(path), records))
    assert accept(path, check(load_ledger(path), records)) == ""
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["add, sign flipped", "no", "1", "a: b", "{x}", 'said "he"', "flipped sign (add)"])
def test_accept_writes_any_name_so_that_it_is_read_again(tmp_path: Path, name: str) -> None:
    path = tmp_path / "claims.yml"
    order = f"order: {json.dumps(['low', name])}"
    path.write_text(LEDGER.replace("order: [low, high]", order), encoding="utf-8")
    records = {"01-first": {"status": "ran", "claims": {"first.bias.order": {"value": {"low": 1.0, name: 2.0}}}}}
    accept(path, check(load_ledger(path), records))
    assert load_ledger(path)["first.bias.order"].value == {"low": 1.0, name: 2.0}


@pytest.mark.parametrize(
    ("fields", "got", "words"),
    [
        (entry(value=None), {"value": 0.01}, "half of the claim's own effect"),
        (other_kind("at_most", bound=0.7), {"value": 0.8}, "own recorded value misses it"),
        (other_kind("within", low=0.5, high=0.7), {"value": 0.8}, "without an interval"),
    ],
)
def test_accept_writes_no_claim_that_would_be_refused(
    tmp_path: Path, fields: dict[str, Any], got: dict[str, float], words: str
) -> None:
    path = write(tmp_path, fields)
    before = path.read_bytes()
    verdicts = check(load_ledger(path), {"01-first": {"status": "ran", "claims": {"first.bias.before": got}}})
    with pytest.raises(SteerlibError) as caught:
        accept(path, verdicts)
    assert words in str(caught.value)
    assert path.read_bytes() == before


def test_accept_takes_only_numbers_of_a_chapter_that_ran_whole_and_is_current(tmp_path: Path) -> None:
    path = write(tmp_path, entry())
    whole: dict[str, Any] = record(**{"first.bias.before": 9})["01-first"]
    for change in ({"other_parameters": True}, {"status": "failed"}, {"status": None}):
        assert accept(path, check(load_ledger(path), {"01-first": whole | change})) == ""
    assert accept(path, check(load_ledger(path), {"01-first": whole}, stale=["01-first"])) == ""
    assert "+  value: 9.0" in accept(path, check(load_ledger(path), {"01-first": whole}))


def test_accept_takes_a_number_that_drifted(tmp_path: Path) -> None:
    path = write(tmp_path, other_kind("at_least", bound=0.5))
    records = record(**{"first.bias.before": 0.7})
    (before,) = check(load_ledger(path), records)
    assert before.word == "drifted"
    assert "+  value: 0.7" in accept(path, [before])
    assert [v.word for v in check(load_ledger(path), records)] == ["holds"]


def test_numbers_in_words() -> None:
    assert [show(x) for x in (0.0, 0.5876, -0.82, 33.61, 1234.5, 4.5e-8)] == [
        "0.000", "0.588", "-0.820", "33.610", "1234", "4.5e-08",
    ]  # fmt: skip

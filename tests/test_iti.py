"""Inference-Time Intervention: what is read, which heads are chosen, and how far they are shifted."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from torch import Tensor

from steerlib import Add, Site, SteerlibError, capture, chat, split_answers, steer
from steerlib.methods import iti as method
from steerlib.methods.iti import iti
from steerlib.models.model import Model
from steerlib.models.prompts import Prompt, answered
from steerlib.models.sites import find, sites
from steerlib.tasks import Item, Task

JOBS = {"plumber": "man", "pilot": "man", "nurse": "woman", "maid": "woman", "cook": "man"}


def task(options: tuple[str, ...] = (" he", " she"), groups: tuple[str, ...] = ("man", "woman")) -> Task:
    items = [
        Item(text.format(job), options, groups, job, 50.0, kind, str(k))
        for job, kind in JOBS.items()
        for k, text in enumerate(("The {} said that", "A {} was late, so", "Once a {} and"))
    ]
    return Task("small", tuple(items))


def added(made: Any) -> dict[Site, Tensor]:
    return {site: op.vector for site, op in made.operations.items() if isinstance(op, Add)}


def answers(lm: Model, given: Task, where: Iterable[Site]) -> tuple[dict[Site, Tensor], Tensor, list[str]]:
    """What heads hand on at the end of every answer, by forward passes of our own; whether it is against; the job."""
    seen: dict[Site, list[Tensor]] = {site: [] for site in where}
    handles = []
    for site, rows in seen.items():
        place = find(lm.hf, site)
        assert place.start is not None

        def look(
            module: Any, args: Any, rows: list[Tensor] = rows, start: int = place.start, n: int = place.width
        ) -> None:
            rows.append(args[0][0, -1, start : start + n].clone())

        handles.append(place.module.register_forward_pre_hook(look))
    against, jobs = [], []
    with torch.no_grad():
        for item in given:
            for option, group in zip(item.options, item.groups, strict=True):
                lm.hf(tiny.ids(lm, f"{item.prompt}{option}"))
                against.append(group != item.stereotype)
                jobs.append(item.occupation)
    for handle in handles:
        handle.remove()
    return {site: torch.stack(rows) for site, rows in seen.items()}, torch.tensor(against), jobs


def goes_against(texts: Iterable[Any]) -> list[bool]:
    """Whether each text of `task`, with its answer, goes against the stereotype of the occupation in it."""
    said = [next((job, text.split()[-1]) for job in JOBS if job in text) for text in texts]
    return [{"he": "man", "she": "woman"}.get(word) != JOBS[job] for job, word in said]


@contextmanager
def read_by_iti(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Prompt]]:
    """A list that is filled with the prompts whose activations `iti` reads."""
    texts: list[Prompt] = []

    def reading(model: Model, prompts: Any, where: Any, **how: Any) -> Any:
        texts.extend(prompts)
        yield from capture(model, prompts, where, **how)

    with monkeypatch.context() as patch:
        patch.setattr(method, "capture", reading)
        yield texts


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2"])
def test_it_shifts_as_many_heads_as_asked_by_one_spread_towards_answers_against_the_stereotype(name: str) -> None:
    lm = tiny.model(name)
    made = iti(lm, task(), heads=5, progress=False)
    assert len(made.operations) == 5 and set(made.operations) < set(sites(lm.hf, "head"))
    found, against, _ = answers(lm, task(), made.operations)
    for site, vector in added(made).items():
        x = found[site]
        assert vector.shape == (find(lm.hf, site).width,)
        way = (x[against].mean(0) - x[~against].mean(0)).double()
        way = way / way.norm()
        torch.testing.assert_close(vector.double(), (x.double() @ way).std(correction=0) * way, atol=2e-4, rtol=1e-3)


def test_the_heads_are_those_whose_probes_do_best_on_occupations_they_have_not_seen() -> None:
    from sklearn.linear_model import LogisticRegression

    lm = tiny.model("llama")
    made = iti(lm, task(), heads=3, direction="probe", progress=False)
    scores, kept = made.provenance["accuracy"], [str(site) for site in made.operations]
    assert set(scores) == {str(site) for site in sites(lm.hf, "head")}
    assert min(scores[site] for site in kept) >= max(score for site, score in scores.items() if site not in kept)
    found, against, jobs = answers(lm, task(), made.operations)
    fits = []
    for job in JOBS:  # a fifth of five occupations is one: which of them was it?
        unseen = torch.tensor([name == job for name in jobs])
        fits.append(True)
        for site, vector in added(made).items():
            x = found[site].double()
            probe = LogisticRegression(max_iter=1000, class_weight="balanced").fit(x[~unseen], against[~unseen])
            cosine = torch.cosine_similarity(torch.from_numpy(probe.coef_[0]), vector.double(), dim=0)
            score = probe.score(x[unseen], against[unseen])
            fits[-1] &= abs(scores[str(site)] - score) < 1e-3 and float(cosine) > 0.999
    assert fits.count(True) == 1


def test_a_head_that_holds_the_answer_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads give noise, but for one that carries the label: it must come first, and be shifted along it."""
    lm, planted = tiny.model("llama"), Site("head", 1, "2")

    def reading(model: Model, prompts: Any, where: Any, *, batch_size: int) -> Any:
        rng = np.random.default_rng(0)
        against = torch.tensor(goes_against(prompts))
        got = {site: torch.from_numpy(rng.standard_normal((len(prompts), 8))).float() for site in where}
        got[planted][:, 3] += 10 * against
        yield list(range(len(prompts))), got

    monkeypatch.setattr(method, "capture", reading)
    made = iti(lm, task(), heads=1, validation=0.4, progress=False)
    (vector,) = added(made).values()
    assert list(made.operations) == [planted] and made.provenance["accuracy"][str(planted)] == 1
    assert vector.argmax() == 3 and vector[3] == pytest.approx(5.1, abs=0.4)  # the spread of two clusters 10 apart


def test_strength_moves_the_head_and_nought_does_nothing() -> None:
    lm = tiny.model("qwen2")
    made, plain = iti(lm, task(), heads=4, progress=False), tiny.logits(lm)
    site, vector = next(iter(added(made).items()))

    def read() -> Tensor:
        return torch.cat([got[site] for _, got in capture(lm, ["The nurse said"], [site])])

    before = read()
    with steer(lm, made, 0):
        assert torch.equal(tiny.logits(lm), plain)
    with steer(lm, made, 3):
        torch.testing.assert_close(read() - before, 3 * vector.unsqueeze(0), atol=1e-4, rtol=1e-3)
        assert not torch.equal(tiny.logits(lm), plain)
    assert torch.equal(tiny.logits(lm), plain)


def test_answers_are_given_in_text_and_in_chats_with_and_without_pictures() -> None:
    picture = tiny.picture(1)
    open_, begun = chat("Who?", pictures=picture), chat("Who?", "It was", pictures=picture)
    pairs: list[tuple[Prompt, Prompt]] = [
        ("The nurse said", "The nurse said she"),
        (chat("Who?", "It was"), chat("Who?", "It was she")),
        (chat("Who?"), chat("Who?", "she")),
        (open_, chat("Who?", "she", pictures=picture)),
        (begun, chat("Who?", "It was she", pictures=picture)),
    ]
    for given, expected in pairs:
        assert answered(given, " she") == expected
    parts = [*chat("Who?"), {"role": "assistant", "content": [{"type": "text", "text": "It was"}]}]
    assert answered(parts, " she")[-1]["content"] == [{"type": "text", "text": "It was she"}]  # type: ignore[index]
    shown = [*chat("Who?"), {"role": "assistant", "content": [{"type": "image", "image": picture}]}]
    assert answered(shown, " she")[-1]["content"][-1] == {"type": "text", "text": " she"}  # type: ignore[index]


def test_both_methods_that_read_answers_read_the_same_chat(monkeypatch: pytest.MonkeyPatch) -> None:
    """Contrastive activation addition and inference-time intervention give an answer to a chat in one place."""
    asked = replace(task().items[0], prompt=chat("Who?"), options=(" he", " she"))
    with read_by_iti(monkeypatch) as texts:
        iti(tiny.model("llama"), replace(task(), items=(asked, *task().items[1:])), heads=1, layers=0, progress=False)
    assert list(texts[:2]) == [side[0] for side in split_answers([chat("Who?")] * 2, [" he", " she"], " he".__eq__)]


def test_more_than_two_groups_are_the_stereotype_against_all_others(monkeypatch: pytest.MonkeyPatch) -> None:
    three, lm = task((" he", " she", " they"), ("man", "woman", "both")), tiny.model("llama")
    with read_by_iti(monkeypatch) as texts:
        made = iti(lm, three, heads=2, progress=False)
    against = torch.tensor(goes_against(texts))
    assert len(texts) == 45 and against.sum() == 30
    found, _, _ = answers(lm, three, made.operations)
    for site, vector in added(made).items():
        x = found[site].double()
        way = x[against].mean(0) - x[~against].mean(0)
        assert float(torch.cosine_similarity(way, vector.double(), dim=0)) > 0.999


def test_the_same_seed_gives_the_same_bits() -> None:
    lm = tiny.model("llama")
    one, again = (added(iti(lm, task(), heads=4, progress=False)) for _ in range(2))
    assert one.keys() == again.keys() and all(torch.equal(one[site], again[site]) for site in one)


@pytest.mark.parametrize(
    ("given", "how", "says"),
    [
        (task(), {"heads": 0}, "heads must be a whole number of at least 1, not 0"),
        (task(), {"heads": 5, "layers": 1}, "5 heads cannot be steered: these layers have 4"),
        (task(), {"direction": "svm"}, "unknown direction 'svm'"),
        (task(), {"heads": 1.5}, "heads must be a whole number"),
        (task(), {"seed": -1}, "seed must be a whole number of at least 0"),
        (task(), {"batch_size": 0}, "batch_size must be a whole number"),
        (task(), {"validation": None}, "validation must be between 0 and 1"),
        (task((" he", " him"), ("man", "man")), {}, "no answer against the stereotype .man."),
        (task(), {"validation": 1.0}, "validation must be between 0 and 1"),
        (task(), {"layers": "top"}, "no layers are called 'top'"),
        (Task("one", task().items[:3]), {}, "on 1 cluster"),
        (Task("none", ()), {}, "on 0 cluster"),
        (task((" he", " she"), ("light", "dark")), {}, "'plumber' has no stereotype among its groups, light, dark"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(given: Task, how: dict[str, Any], says: str) -> None:
    with pytest.raises(SteerlibError, match=says) as error:
        iti(tiny.model("llama"), given, **{"heads": 4, "progress": False, **how})
    assert "\n" not in str(error.value)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    with pytest.raises(SteerlibError, match="iti needs the package scikit-learn"):
        iti(tiny.model("llama"), task(), heads=4, progress=False)

"""Samples of a task: every cluster has as many items as any other, and both orders of a question stay together."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from helpers import need

from steerlib import SteerlibError
from steerlib.tasks import Item, PairItem, Task, age, coreference, pronoun, who_is


def singles(**sizes: int) -> Task:
    """A task with so many items about each cluster, all different."""
    return Task(
        "made",
        tuple(
            Item(f"{cluster} {i} said that", (" he", " she"), ("man", "woman"), cluster)
            for cluster, size in sizes.items()
            for i in range(size)
        ),
    )


def counted(task: Task) -> Counter[str]:
    return Counter(item.cluster for item in task)


@pytest.mark.parametrize("n", [1, 2, 3, 7, 16, 19, 20])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_clusters_have_as_many_items_as_any_other_up_to_one(n: int, seed: int) -> None:
    task = singles(nurse=5, pilot=5, cook=5, judge=5)
    found = task.sample(n, seed=seed)
    sizes = counted(found)
    assert len(found) == len(set(found)) == n and set(found) <= set(task)
    assert max(sizes.values()) - min(sizes.get(cluster, 0) for cluster in counted(task)) <= 1


def test_a_cluster_that_runs_out_gives_all_that_it_has() -> None:
    sizes = counted(singles(nurse=2, pilot=30, cook=30).sample(22))
    assert sizes == {"nurse": 2, "pilot": 10, "cook": 10}


def test_one_seed_is_one_sample_and_the_order_of_the_items_stays() -> None:
    task = pronoun("train").ambiguous
    one, again, other = (task.sample(60, seed=seed) for seed in (3, 3, 4))
    assert one == again and one.items != other.items
    places = [task.items.index(item) for item in one]
    assert places == sorted(places)
    assert one.name == task.name and one.about == task.about and one.statistic == task.statistic


@pytest.mark.parametrize("n", [2, 8, 26])
def test_both_orders_of_a_sentence_stay_together(n: int) -> None:
    task = coreference("validation").ambiguous
    found = task.sample(n)
    pairs = Counter((item.cluster, item.template.rsplit("-", 1)[0]) for item in found)
    assert len(found) == n and set(pairs.values()) == {2}
    sizes = counted(found)
    assert max(sizes.values()) - min(sizes.get(cluster, 0) for cluster in counted(task)) <= 2


def test_both_orders_of_two_pictures_stay_together() -> None:
    need()
    found = who_is("validation", size=8).sample(16)
    seen = Counter(
        (i.template, i.cluster, i.answer, frozenset((i.first, i.second))) for i in found if isinstance(i, PairItem)
    )
    assert set(seen.values()) == {2} and len(found) == 16
    assert set(counted(found).values()) == {4}


def test_both_orders_of_a_choice_between_two_people_stay_together() -> None:
    found = age("validation").ambiguous.sample(10)
    seen = Counter((item.cluster, item.template) for item in found)
    assert len(found) == 10 and set(seen.values()) == {2}


def test_questions_that_differ_in_a_word_are_not_two_orders_of_one() -> None:
    item = Item("The pilot met the cook because he sang", (" pilot", " cook"), ("man", "woman"), "pilot")
    task = Task(
        "made", (item, replace(item, prompt="The cook met the pilot because she sang", groups=("woman", "man")))
    )
    assert len(task.sample(1)) == 1
    turned = replace(item, prompt="The cook met the pilot because he sang", groups=("woman", "man"))
    with pytest.raises(SteerlibError, match="would part two orders of one question of 'made': ask for 0 or 2"):
        Task("made", (item, turned)).sample(1)


def test_an_odd_number_is_reached_where_some_questions_have_one_order_only() -> None:
    pair = coreference("validation").ambiguous[:2]
    more = coreference("validation").ambiguous.items[2:10]
    alone = Item("Someone said that", (" a", " b"), ("man", "woman"), "alone")
    mixed = Task("mixed", (*pair.items, alone, *more))
    for n in range(1, len(mixed) + 1):
        assert len(mixed.sample(n)) == n


def test_a_sample_that_cannot_be_drawn_is_refused_in_one_sentence() -> None:
    task = singles(nurse=2, pilot=2)
    with pytest.raises(SteerlibError, match="^'made' has 4 items: a sample of 5 cannot be drawn from it.$"):
        task.sample(5)
    with pytest.raises(SteerlibError, match="n must be a whole number of at least 1, not 0"):
        task.sample(0)

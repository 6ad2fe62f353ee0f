"""What all rows of a batch begin with is read once: the same numbers, and fewer tokens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import families
import pytest
import sighted
import tiny
import torch
from helpers import letters, quick, vectors
from torch import Tensor

from steerlib import Ablate, Add, Affine, Steering, chat, dso, steer
from steerlib.models import prefix
from steerlib.models.model import Model
from steerlib.models.prefix import HEAD, crowds
from steerlib.models.sites import find, sites
from steerlib.tasks import Task
from steerlib.training.policy import policy, questions, without_options

SHARED = "You are a kind assistant, and you answer what you are asked. "
PROMPTS = [SHARED + text for text in ("The nurse said that", "A", "The mechanic was tired because", "No", "No one")]
OPTIONS = [" he is", " hers", " a"]
LETTERS = ["x", "z"]  # one token each
ENDS = [" he said so", " it", " is", " she", "xyz"]
FULL = ("llama", "qwen2", "gpt2", "gptj")  # attend to everything in every block
SOUND = tuple(family for family in families.CONFIGS if family not in ("rwkv", "recurrent-gemma", "minimax"))


def close(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@contextmanager
def passes(lm: Model) -> Iterator[list[tuple[int, int]]]:
    """A list that grows by (rows, tokens) of each pass of the network."""
    seen: list[tuple[int, int]] = []

    def note(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        seen.append(tuple(kwargs["input_ids"].shape))

    handle = lm.hf.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()


def tried(family: str) -> Model:
    """A shared tiny model whose first batch with a common prefix has been read both ways already."""
    lm = tiny.model(family)
    lm.choose(PROMPTS, OPTIONS)
    return lm


def operations() -> list[Any]:
    v, w = tiny.vector(0), tiny.vector(1, size=0.3)
    return [Add(0.5 * v), Ablate(v, w), Affine(w, tiny.vector(2, size=0.3))]


# Fewer tokens


@pytest.mark.parametrize("family", FULL)
def test_a_batch_reads_its_prefix_once_and_every_row_goes_on_from_there(family: str) -> None:
    lm = tried(family)
    rows = [lm.tokens(prompt) for prompt in PROMPTS]
    size = next(i for i, column in enumerate(zip(*rows, strict=False)) if len(set(column)) > 1)
    with passes(lm) as seen:
        lm.choose(PROMPTS, LETTERS)
    assert size >= len(SHARED) - 10
    assert seen == [(1, size), (len(rows), max(map(len, rows)) - size)]


@pytest.mark.parametrize("family", FULL)
def test_the_first_batch_of_a_network_is_read_both_ways_and_no_other(family: str) -> None:
    lm = tiny.fresh(family)
    counts = []
    for _ in range(3):
        with passes(lm) as seen:
            lm.choose(PROMPTS, LETTERS)
        counts.append(len(seen))
    assert counts == [3, 2, 2]


def test_identical_prompts_are_read_once_up_to_their_last_token() -> None:
    lm = tried("llama")
    size = len(lm.tokens(PROMPTS[0]))
    with passes(lm) as seen:
        found = lm.choose([PROMPTS[0]] * 5, LETTERS)
    assert seen == [(1, size - 1), (5, 1)]
    close(found, lm.choose(PROMPTS[0], LETTERS).expand(5, -1))


def test_a_prompt_that_all_others_begin_with_keeps_its_last_token() -> None:
    lm = tried("llama")
    whole = [SHARED + "No" + end for end in ("", " one", " one said", " one said that")]
    with passes(lm) as seen:
        found = lm.choose(whole, OPTIONS[1:])
    assert seen[0] == (1, len(lm.tokens(whole[0])) - 1) and len(seen) % 2 == 0
    close(found, lm.choose(whole, OPTIONS[1:], batch_size=1))


@pytest.mark.parametrize("prompts", [tiny.PROMPTS, PROMPTS[:1], ["abc", "abd", "abe"]], ids=["other", "one", "short"])
def test_rows_that_share_nothing_worth_it_are_read_as_ever(prompts: list[str]) -> None:
    lm = tried("llama")
    with passes(lm) as seen:
        lm.choose(prompts, LETTERS)
    assert seen == [(len(prompts), max(len(lm.tokens(prompt)) for prompt in prompts))]


def test_much_text_between_the_ends_of_prompts_is_not_worth_its_logits() -> None:
    lm = tried("llama")
    with passes(lm) as seen:
        lm.choose([SHARED + "A", SHARED + "A", SHARED + "A" * 90], LETTERS)
    assert [rows for rows, _ in seen] == [3]


def test_prompts_that_begin_alike_run_together() -> None:
    lm = tried("llama")
    mixed = [text for pair in zip(PROMPTS, tiny.PROMPTS, strict=True) for text in pair]
    with passes(lm) as seen:
        found = lm.choose(mixed, LETTERS, batch_size=5)
    assert sorted(rows for rows, _ in seen) == [1, 5, 5]
    close(found, lm.choose(mixed, LETTERS, batch_size=1))


def test_a_crowd_is_as_many_rows_as_pay_for_a_batch_of_their_own() -> None:
    one, other, short = [1] * HEAD, [2] * HEAD, [1] * (HEAD - 1)
    assert crowds([one, other, [*one, 5], short, [*one, 7, 8], other], 16, "cpu") == [1, 0, 1, 0, 1, 0]
    assert crowds([one] * 9, 2, "cpu") == [0] * 9  # two rows in a batch save too little
    assert crowds([one] * 99, 16, "cuda") == [0] * 99  # which reads many tokens as fast as a few


def test_a_network_in_training_mode_reads_every_row_by_itself() -> None:
    lm = tiny.fresh("llama")
    lm.choose(PROMPTS, OPTIONS)
    lm.hf.train()
    with passes(lm) as seen:
        lm.choose(PROMPTS, LETTERS)
    assert [rows for rows, _ in seen] == [len(PROMPTS)]


def test_pictures_and_whole_texts_are_read_as_ever() -> None:
    seeing, lm = tiny.seeing(), tried("llama")
    shown = [chat(SHARED + text, "It was", pictures=tiny.picture(i)) for i, text in enumerate("abcd")]
    with passes(seeing) as seen:
        found = seeing.choose(shown, LETTERS)
    assert [rows for rows, _ in seen] == [4]
    close(found, seeing.choose(shown, LETTERS, batch_size=1))
    with passes(lm) as seen, torch.no_grad():
        lines = policy(lm, without_options(lm, PROMPTS), 2).tokens
        lm.loglik(PROMPTS)
    assert all(rows > 1 for rows, _ in seen)
    assert [len(line) for line in lines] == [len(lm.tokens(prompt)) for prompt in PROMPTS]


# The same numbers


@pytest.mark.parametrize("size", [2, 3, 16])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_batch_gives_what_its_prompts_give_alone(family: str, size: int) -> None:
    lm = tiny.model(family)
    prompts, ends = PROMPTS * 2, [" he said so", " it"] * len(PROMPTS)
    together, mass = lm.choose(prompts, OPTIONS, return_mass=True, batch_size=size)
    each, single = lm.choose(prompts, OPTIONS, return_mass=True, batch_size=1)
    close(together, each)
    close(mass, single)
    for one, other in zip(
        lm.loglik(prompts, ends, batch_size=size), lm.loglik(prompts, ends, batch_size=1), strict=True
    ):
        close(one, other)


@pytest.mark.parametrize("family", SOUND)
def test_networks_with_other_caches_give_a_batch_what_they_give_a_prompt(family: str) -> None:
    lm = families.model(family)
    close(lm.choose(PROMPTS, LETTERS), lm.choose(PROMPTS, LETTERS, batch_size=1))


@pytest.mark.parametrize("family", sighted.FAMILIES)
def test_text_is_read_alike_by_networks_that_see(family: str) -> None:
    lm = sighted.model(family)
    close(lm.choose(PROMPTS, OPTIONS), lm.choose(PROMPTS, OPTIONS, batch_size=1))


@pytest.mark.parametrize("family", [*FULL, "gemma2"])
@pytest.mark.parametrize("tokens", ["all", "prompt", "generated", "last"])
@pytest.mark.parametrize("kind", ["residual", "norm", "head"])
def test_every_operation_acts_on_the_same_tokens_as_alone(family: str, tokens: Any, kind: Any) -> None:
    lm = tried(family)
    plain = torch.cat(lm.loglik(PROMPTS, ENDS))
    for operation in operations():
        where = sites(lm.hf, kind, [0, 1])[:: 2 if kind != "residual" else 1]
        width = find(lm.hf, where[0]).width
        made = Steering({site: operation.map(lambda v, n=width: v[:n], fixed=True) for site in where})
        with steer(lm, made, 0.7, tokens=tokens), passes(lm) as seen:
            together = torch.cat(lm.loglik(PROMPTS, ENDS, batch_size=5))
            assert (1 in [rows for rows, _ in seen]) == (family != "gemma2")
            close(together, torch.cat(lm.loglik(PROMPTS, ENDS, batch_size=1)))
            close(lm.choose(PROMPTS, OPTIONS), lm.choose(PROMPTS, OPTIONS, batch_size=1))
        assert (together - plain).abs().max() > 1e-3  # it does something


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_the_same_to_its_rounding(dtype: torch.dtype) -> None:
    lm = tiny.model("llama", dtype)
    together = lm.choose(PROMPTS, OPTIONS)
    with passes(lm) as seen:
        lm.choose(PROMPTS, OPTIONS)
    assert seen[0][0] == 1
    torch.testing.assert_close(together, lm.choose(PROMPTS, OPTIONS, batch_size=1), atol=0.05, rtol=0)


def test_the_same_batch_gives_the_same_bits_every_time() -> None:
    lm = tiny.fresh("llama")
    first = lm.choose(PROMPTS, OPTIONS)  # read both ways
    assert torch.equal(first, lm.choose(PROMPTS, OPTIONS))


@pytest.mark.parametrize("fault", ["forgets", "keeps nothing"])
def test_a_network_that_goes_on_otherwise_after_a_cache_is_found_out_and_not_asked_again(fault: str) -> None:
    lm = tiny.fresh("llama")
    alone, right = lm.choose(PROMPTS, OPTIONS, batch_size=1), lm.hf.forward

    def wrong(*args: Any, **given: Any) -> Any:
        if fault == "forgets" and given.get("past_key_values") is not None:
            given["attention_mask"][:, :8] = 0
        out = right(*args, **given)
        if fault == "keeps nothing":
            out.past_key_values = None
        return out

    lm.hf.forward = wrong
    close(lm.choose(PROMPTS, OPTIONS), alone)
    with passes(lm) as seen:
        close(lm.choose(PROMPTS, OPTIONS), alone)
    assert 1 not in [rows for rows, _ in seen]


# Training


def test_rows_that_gradients_flow_through_are_read_as_ever() -> None:
    lm = tried("llama")
    asked, groups, _ = questions(lm, begun())
    value = tiny.vector(size=0.1).requires_grad_()
    with steer(lm, Steering({"norm.0.input_layernorm": Add(value)})):
        with passes(lm) as seen:
            now = policy(lm, asked, len(groups)).groups
        with passes(lm) as fewer, torch.no_grad():
            read = policy(lm, asked, len(groups)).groups
    assert 1 not in [rows for rows, _ in seen] and 1 in [rows for rows, _ in fewer]
    close(now.detach(), read)
    (slope,) = torch.autograd.grad(now[:, 0].sum(), value)
    assert slope.abs().max() > 0


def test_dso_learns_the_same_whether_its_reference_was_read_once_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def learn() -> Steering:
        return dso(tried("llama"), begun(), quick(epochs=1), progress=False)

    shared = vectors(learn())
    monkeypatch.setitem(prefix.PASS, "cpu", 10**9)
    for name, value in vectors(learn()).items():
        assert value.abs().max() > 0
        torch.testing.assert_close(shared[name], value, atol=2e-3, rtol=1e-2)


def begun() -> Task:
    """The letters after a text that all of them share."""
    task = letters()
    return replace(task, items=tuple(replace(item, prompt=SHARED + item.prompt) for item in task))

"""One model, several threads and copies: each gets what it asked for."""

from __future__ import annotations

import contextvars
import copy
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import tiny
import torch
from tiny import PROMPTS

from steerlib import Add, Steering, SteerlibError, capture, chat, steer
from steerlib.models import layout
from steerlib.models.layout import changed

OPTIONS = [" he", " she"]


def pushing(seed: int = 0, size: float = 2.0) -> Steering:
    vector = size * torch.randn(32, generator=torch.Generator().manual_seed(seed))
    return Steering({"residual.1": Add(vector)})


def side_by_side(*jobs: Callable[[], None]) -> None:
    """Run jobs in threads of their own; an error in one is raised here."""
    with ThreadPoolExecutor(len(jobs)) as pool:
        for done in [pool.submit(job) for job in jobs]:
            done.result(timeout=120)


def test_a_thread_that_asks_the_plain_model_is_never_answered_by_a_steered_one() -> None:
    lm, steering = tiny.fresh("llama"), pushing()
    plain = lm.choose(PROMPTS, OPTIONS)
    with steer(lm, steering):
        steered = lm.choose(PROMPTS, OPTIONS)
    assert not torch.allclose(plain, steered)

    def ask() -> None:
        for _ in range(40):
            assert torch.equal(lm.choose(PROMPTS, OPTIONS), plain)

    def turn() -> None:
        for _ in range(40):
            with steer(lm, steering):
                assert torch.equal(lm.choose(PROMPTS, OPTIONS), steered)

    side_by_side(ask, turn)


def test_two_threads_that_steer_one_model_each_get_their_own() -> None:
    lm, both = tiny.fresh("llama"), [pushing(0), pushing(1)]
    expected = []
    for steering in both:
        with steer(lm, steering):
            expected.append((lm.choose(PROMPTS, OPTIONS), lm.generate(PROMPTS[0], max_new_tokens=6)))

    def turn(k: int) -> Callable[[], None]:
        def job() -> None:
            for _ in range(20):
                with steer(lm, both[k]):
                    assert torch.equal(lm.choose(PROMPTS, OPTIONS), expected[k][0])
                    assert lm.generate(PROMPTS[0], max_new_tokens=6) == expected[k][1]

        return job

    side_by_side(turn(0), turn(1))


def test_reading_in_one_thread_never_reads_what_another_asks() -> None:
    lm = tiny.fresh("llama")
    (_, expected), *_ = capture(lm, PROMPTS[:2], ["residual.1"])

    def read() -> None:
        for _ in range(40):
            (_, got), *_ = capture(lm, PROMPTS[:2], ["residual.1"])
            assert all(torch.equal(got[site], expected[site]) for site in expected)

    def ask() -> None:
        for _ in range(40):
            lm.choose(PROMPTS[2:], OPTIONS)

    side_by_side(read, ask)


def test_sampling_in_two_threads_gives_each_its_own_texts() -> None:
    lm = tiny.fresh("llama")
    expected = [lm.generate(PROMPTS[0], temperature=1.0, seed=k, max_new_tokens=6) for k in range(2)]

    def draw(k: int) -> Callable[[], None]:
        def job() -> None:
            for _ in range(20):
                assert lm.generate(PROMPTS[0], temperature=1.0, seed=k, max_new_tokens=6) == expected[k]

        return job

    side_by_side(draw(0), draw(1))


def test_a_thread_that_waits_says_what_for_and_goes_on_when_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "PATIENCE", 0.05)
    lm, got = tiny.fresh("llama"), list[torch.Tensor]()
    plain = lm.choose(PROMPTS, OPTIONS)
    thread = threading.Thread(target=lambda: got.append(lm.choose(PROMPTS, OPTIONS)))

    def overlap() -> None:
        with steer(lm, pushing()):
            thread.start()
            thread.join(timeout=1)
            assert not got
        thread.join(timeout=60)

    with pytest.warns(UserWarning, match="waits for another one"):
        overlap()
    assert torch.equal(got[0], plain)


def test_a_thread_that_carries_the_context_works_for_the_one_that_steers() -> None:
    lm, got = tiny.fresh("llama"), list[torch.Tensor]()
    with steer(lm, pushing()):
        steered = lm.choose(PROMPTS, OPTIONS)
        work = contextvars.copy_context()
        thread = threading.Thread(target=work.run, args=(lambda: got.append(lm.choose(PROMPTS, OPTIONS)),))
        thread.start()
        thread.join(timeout=60)
    assert torch.equal(got[0], steered)


def test_a_copy_of_a_steered_model_is_plain_and_generates_by_itself() -> None:
    lm = tiny.fresh("llama")
    plain, text = lm.choose(PROMPTS, OPTIONS), lm.generate(PROMPTS[0], max_new_tokens=6)
    steering = Steering({"residual.1": pushing()["residual.1"], "head.1.1": Add(torch.randn(8))})
    with steer(lm, steering):
        copied = copy.deepcopy(lm)
        assert torch.equal(copied.choose(PROMPTS, OPTIONS), plain)
        assert copied.generate(PROMPTS[0], max_new_tokens=6) == text
        assert copied.hf.generate.__self__ is copied.hf
    assert torch.equal(copied.choose(PROMPTS, OPTIONS), plain)
    with steer(copied, steering):
        assert torch.equal(lm.choose(PROMPTS, OPTIONS), plain)


def test_what_changes_a_model_is_known_inside_and_forgotten_after() -> None:
    lm = tiny.fresh("llama")
    assert changed(lm.hf) is None
    with steer(lm, pushing()):
        assert changed(lm.hf) == "a steering"
    with pytest.raises(SteerlibError), steer(lm, pushing()):
        lm.generate(chat("x"), max_new_tokens=0)
    assert changed(lm.hf) is None


@pytest.mark.parametrize("how", ["hf.compile", "hf.forward", "torch.compile", "a block"])
def test_a_model_that_was_compiled_and_has_run_is_steered_all_the_same(how: str) -> None:
    lm, steering = tiny.fresh("llama"), pushing()
    with steer(lm, steering):
        expected = lm.choose(PROMPTS, OPTIONS)
    compiled = lm
    if how == "hf.compile":
        lm.hf.compile(backend="eager")
    elif how == "hf.forward":
        lm.hf.forward = torch.compile(lm.hf.forward, backend="eager")
    elif how == "torch.compile":
        compiled = type(lm)(lm.name, torch.compile(lm.hf, backend="eager"), lm.tokenizer)
    else:
        lm.hf.model.layers[1].compile(backend="eager")
    plain = compiled.choose(PROMPTS, OPTIONS)
    with steer(compiled, steering):
        assert torch.allclose(compiled.choose(PROMPTS, OPTIONS), expected, atol=1e-6)
    assert torch.allclose(compiled.choose(PROMPTS, OPTIONS), plain, atol=1e-6)

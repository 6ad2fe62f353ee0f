"""Direct Steering Optimization: rewards, estimators, training that can be stopped, and models left as they were."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from helpers import fire, letters, quick, same, vectors
from safetensors.torch import load_file, save_file
from torch import Tensor

from steerlib import Add, Affine, Site, Steering, SteerlibError, chat, decision_bias, steer
from steerlib.methods.dso import dso
from steerlib.models.model import Model
from steerlib.models.sites import sites
from steerlib.steering.edits import sparsify
from steerlib.tasks import Item, Task
from steerlib.training import reward as learn
from steerlib.training.checkpoint import Run
from steerlib.training.config import Training
from steerlib.training.data import minibatches, prepare
from steerlib.training.loop import COLLAPSE_STEPS, lr_factor, refuse_collapse
from steerlib.training.policy import Policy, policy, questions


def random_policy(n: int = 12, groups: int = 2, seed: int = 0, size: float = 1.5) -> Tensor:
    """(n, groups) random log-probabilities."""
    return (size * torch.randn(n, groups, generator=torch.Generator().manual_seed(seed))).log_softmax(-1)


# What is learned from


@pytest.mark.parametrize("name", ["llama", "qwen2", "gemma2", "gpt2"])
def test_asking_gives_what_choose_gives_and_the_next_token_of_the_prompt(name: str) -> None:
    lm = tiny.model(name)
    items = [
        Item("The nurse said", (" he", " she"), ("man", "woman"), "nurse", 90, "woman", "x"),
        Item(chat("Who?", "It was"), (" she was", " him"), ("woman", "man"), "nurse", 90, "woman", "x"),
        Item("A", (" a", " b"), ("man", "woman"), "pilot", 5, "man", "x"),
    ]
    asked, groups, names = questions(lm, Task("mixed", tuple(items)))
    assert groups == ["man", "woman"] and names == ["nurse", "pilot"]
    assert [len(question.query.rows()) for question in asked] == [
        2,
        2,
        1,
    ]  # the last two options differ in one token only
    with torch.no_grad():
        now = policy(lm, asked, 2, batch_size=2)
        log_p, said = now.groups, now.tokens
        for i, item in enumerate(items):
            chosen = lm.choose(item.prompt, item.options)
            order = [item.groups.index(group) for group in groups]
            torch.testing.assert_close(log_p[i].exp(), chosen[order], atol=1e-5, rtol=1e-4)
            last = lm.hf(torch.tensor([lm.tokens(item.prompt)])).logits[0, -1].float().log_softmax(-1)
            torch.testing.assert_close(said[i], last.unsqueeze(0), atol=1e-4, rtol=1e-4)
        whole, _, _ = questions(lm, Task("mixed", tuple(items)), whole=True)
        both = policy(lm, whole, 2, batch_size=2)
        again, everywhere = both.groups, both.tokens
        torch.testing.assert_close(again, log_p, atol=1e-5, rtol=1e-4)
        for item, lines in zip(items, everywhere, strict=True):
            full = lm.hf(torch.tensor([lm.tokens(item.prompt)])).logits[0].float().log_softmax(-1)
            torch.testing.assert_close(lines, full, atol=1e-4, rtol=1e-4)


def test_asking_about_pictures_gives_what_choose_gives() -> None:
    lm = tiny.seeing()
    pair = [tiny.picture(1), tiny.picture(2)]
    prompts = [chat("Who is it?", "The", pictures=pair), chat("Who?", "The", pictures=pair[::-1])]
    items = tuple(
        Item(p, (" first", " second"), ("man", "woman"), "judge", 40, "man", str(i)) for i, p in enumerate(prompts)
    )
    asked, _, _ = questions(lm, Task("pictures", items))
    with torch.no_grad():
        log_p = policy(lm, asked, 2).groups
    torch.testing.assert_close(log_p.exp(), lm.choose(prompts, [" first", " second"]), atol=1e-5, rtol=1e-4)


def test_two_options_of_one_group_count_together() -> None:
    lm = tiny.model("llama")
    item = Item("A", (" a", " b", " c"), ("man", "woman", "man"), "pilot", 5, "man", "x")
    asked, _, _ = questions(lm, Task("three", (item,)))
    with torch.no_grad():
        log_p = policy(lm, asked, 2).groups
    p = lm.choose("A", item.options)
    torch.testing.assert_close(log_p[0].exp(), torch.stack([p[0] + p[2], p[1]]), atol=1e-5, rtol=1e-4)


def test_expected_reward_is_minus_the_per_occupation_bias() -> None:
    """Theorem 1, against the evaluation's own number, and with sampled answers in place of the expectation."""
    lm, asked_of = tiny.model("llama"), letters()
    asked, _, _ = questions(lm, asked_of.ambiguous)
    with torch.no_grad():
        log_p = policy(lm, asked, 2).groups
    unit = torch.tensor([question.cluster for question in asked])
    reward = learn.rewards(log_p, unit)
    bias = decision_bias(lm, asked_of, resamples=10)
    ones = torch.ones(len(asked))
    assert float(learn.expected_reward(log_p, reward, ones)) == pytest.approx(-bias.per_occupation_bias.value, abs=1e-5)
    by_prompt = learn.rewards(log_p, torch.arange(len(asked)))
    assert float(learn.expected_reward(log_p, by_prompt, ones)) == pytest.approx(-bias.per_prompt_bias.value, abs=1e-5)

    drawn = learn.rollout(log_p, reward, 4000, np.random.default_rng(0))
    sampled = float(reward.gather(1, drawn.action).mean())
    assert sampled == pytest.approx(-bias.per_occupation_bias.value, abs=0.02)


@pytest.mark.parametrize("groups", [2, 3, 6])
def test_reward_is_zero_when_all_groups_are_equal_and_minus_one_when_one_has_everything(groups: int) -> None:
    unit, ones = torch.tensor([0, 0, 1, 1]), torch.ones(4)
    even = torch.full((4, groups), 1 / groups).log()
    sure = torch.full((4, groups), 1e-9).index_fill(1, torch.tensor([1]), 1.0).log()
    for log_p, value in ((even, 0.0), (sure, -1.0)):
        reward = learn.rewards(log_p, unit)
        assert reward.unique().tolist() == [-1.0, pytest.approx(1 / (groups - 1))]
        assert float(learn.expected_reward(log_p, reward, ones)) == pytest.approx(value, abs=1e-6)


def test_the_majority_is_an_occupation_s_and_the_current_one() -> None:
    log_p = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6]]).log()
    assert learn.majority(log_p, torch.tensor([0, 0, 1])).tolist() == [0, 0, 1]
    assert learn.majority(log_p, torch.arange(3)).tolist() == [0, 1, 1]
    assert learn.majority(log_p.flip(1), torch.tensor([0, 0, 1])).tolist() == [1, 1, 0]
    lone = torch.tensor([[0.001, 0.999], [0.7, 0.3], [0.81, 0.19]]).log()  # a mean of probabilities, not of logarithms
    assert learn.majority(lone, torch.zeros(3, dtype=torch.long)).tolist() == [0, 0, 0]


def test_with_unequal_samples_every_occupation_counts_the_same() -> None:
    log_p, unit = random_policy(7), torch.tensor([0, 0, 0, 0, 0, 1, 1])
    weight = torch.tensor([7 / 2 / 5] * 5 + [7 / 2 / 2] * 2)
    p = log_p.exp()
    bias = sum(float((p[unit == o].mean(0)[0] * 2 - 1).abs()) for o in (0, 1)) / 2
    assert float(learn.expected_reward(log_p, learn.rewards(log_p, unit), weight)) == pytest.approx(-bias, abs=1e-6)


@pytest.mark.parametrize("groups", [2, 4])
@pytest.mark.parametrize("clip", [False, True])
def test_the_mean_of_sampled_gradients_is_the_exact_gradient(groups: int, clip: bool) -> None:
    lm, options = tiny.model("llama"), (" a", " b", " c", " d")[:groups]
    asked, _, _ = questions(lm, letters(options, ("man", "woman", "both", "none")[:groups]).ambiguous)
    site = Site("norm", 1, "input_layernorm")
    a, b = torch.zeros(2, tiny.WIDTH).requires_grad_().unbind()
    with steer(lm, Steering({site: Affine(a, b)})):
        log_p = policy(lm, asked, groups).groups
    reward = learn.rewards(log_p, torch.tensor([question.cluster for question in asked]))
    ones = torch.ones(len(asked))

    def slope(drawn: learn.Rollout | None) -> Tensor:
        value = learn.expected_reward(log_p, reward, ones, drawn, clip=clip)
        return torch.cat(torch.autograd.grad(value, [a, b], retain_graph=True))

    exact = slope(None)
    rng = np.random.default_rng(1)
    few = [slope(learn.rollout(log_p, reward, 8, rng)) for _ in range(60)]
    many = slope(learn.rollout(log_p, reward, 40_000, rng))
    assert (many - exact).norm() < 0.05 * exact.norm()
    error = (torch.stack(few).mean(0) - exact).norm() / exact.norm()
    alone = torch.stack([(one - exact).norm() for one in few]).mean() / exact.norm()
    assert error < 0.35 * alone  # 1 / sqrt(60) = 0.13 if the draws are independent and nothing is biased


def test_an_advantage_is_over_the_mean_of_the_other_samples() -> None:
    reward = torch.tensor([[1.0, -1.0, 0.5]]).repeat(5, 1)
    drawn = learn.rollout(random_policy(5, 3), reward, 6, np.random.default_rng(0))
    got = reward.gather(1, drawn.action)
    for i in range(5):
        for k in range(6):
            rest = torch.cat([got[i, :k], got[i, k + 1 :]]).mean()
            assert float(drawn.advantage[i, k]) == pytest.approx(float(got[i, k] - rest), abs=1e-6)


def test_clipping_stops_a_move_that_went_far_enough() -> None:
    before, reward = random_policy(6), torch.tensor([[1.0, -1.0]]).repeat(6, 1)
    drawn = learn.rollout(before, reward, 400, np.random.default_rng(0))
    far = (before + torch.tensor([3.0, -3.0])).requires_grad_()
    (slope,) = torch.autograd.grad(learn.expected_reward(far, reward, torch.ones(6), drawn, clip=True), far)
    assert not slope.any()  # every ratio is out of bounds on the side that its advantage rewards
    (slope,) = torch.autograd.grad(learn.expected_reward(far, reward, torch.ones(6), drawn), far)
    assert slope.any()


def test_divergence_is_that_of_the_formula_and_of_steered_from_base() -> None:
    said, base = random_policy(5, 9, 1), random_policy(5, 9, 2)
    each = torch.nn.functional.kl_div(base, said, log_target=True, reduction="none").sum(-1)
    got = learn.kl_divergence([said[:1], said[1:]], [base[:1], base[1:]])
    torch.testing.assert_close(got, torch.stack([each[0], each[1:].mean()]))
    assert (learn.kl_divergence([said], [said]).abs() < 1e-7).all()


def test_a_step_s_divergence_is_the_mean_of_questions_anchors_their_tokens_and_their_decisions() -> None:
    said, base = ([random_policy(n, 9, seed + n) for n in (1, 1, 3, 4)] for seed in (0, 10))
    held, kept = random_policy(2, 3, 20), random_policy(2, 3, 21)
    kl = [torch.nn.functional.kl_div(b, a, log_target=True, reduction="none").sum(-1) for a, b in zip(said, base)]
    decided = torch.nn.functional.kl_div(kept, held, log_target=True, reduction="none").sum(-1).mean()
    parts = [(kl[0][-1] + kl[1][-1]) / 2, (kl[2][-1] + kl[3][-1]) / 2, (kl[2].mean() + kl[3].mean()) / 2, decided]
    nobody = torch.zeros(2, 3)  # the questions' own decisions do not count
    now, then = (Policy(torch.cat([nobody, g]), tokens) for g, tokens in ((held, said), (kept, base)))
    torch.testing.assert_close(learn.total_divergence(now, then, 2), sum(parts[1:], parts[0]) / 4)
    none = torch.zeros(4, 3)  # plain prompts, which hold no decision
    now, then = Policy(none, said), Policy(none, base)
    torch.testing.assert_close(learn.total_divergence(now, then, 2), sum(parts[1:3], parts[0]) / 3)
    now, then = Policy(none[:2], said[:2]), Policy(none[:2], base[:2])
    torch.testing.assert_close(learn.total_divergence(now, then, 2), parts[0])


@pytest.mark.parametrize("together", [1, 2, 3])
def test_batches_hold_a_few_questions_of_many_occupations_and_every_one_once(together: int) -> None:
    occupation = [o for o in range(6) for _ in range(5)]
    found = minibatches(occupation, 10, together, np.random.default_rng(0))
    assert sorted(i for batch in found for i in batch) == list(range(30))
    assert max(map(len, found)) <= 10
    first = [occupation[i] for batch in found for i in batch][: 6 * together]
    assert sorted(first) == [o for o in range(6) for _ in range(together)]  # everybody once before anybody again


def test_batches_hold_occupations_whole_if_told_to() -> None:
    occupation = [o for o in range(6) for _ in range(5)] + [6] * 30
    found = minibatches(occupation, 12, None, np.random.default_rng(0))
    assert sorted(i for batch in found for i in batch) == list(range(60))
    assert max(map(len, found)) <= 12
    for o in range(6):
        assert len({n for n, batch in enumerate(found) for i in batch if occupation[i] == o}) == 1
    assert found != minibatches(occupation, 12, None, np.random.default_rng(1))


def test_the_learning_rate_warms_up_and_falls_to_zero() -> None:
    factors = [lr_factor(step, 50) for step in range(50)]
    assert factors[:3] == pytest.approx([0.2, 0.4, 0.6]) and factors[0] == min(factors[:4])
    assert max(factors) <= 1 and factors[-1] == pytest.approx(0.02) and factors[5:] == sorted(factors[5:])[::-1]
    assert lr_factor(0, 1) == 1


# Learning


@pytest.mark.parametrize(("estimator", "epochs"), [("exact", 8), ("reinforce", 8), ("ppo", 12)])
def test_what_is_learned_lowers_the_bias_at_one_and_changes_nothing_at_zero(estimator: Any, epochs: int) -> None:
    lm = tiny.model("qwen2")
    before, plain = decision_bias(lm, letters(), resamples=10), tiny.logits(lm)
    made = dso(lm, letters(), quick(estimator=estimator, epochs=epochs), progress=False)
    assert list(made.operations) == sites(lm.hf, "norm")
    with steer(lm, made, 0):
        assert torch.equal(tiny.logits(lm), plain)
    with steer(lm, made):
        after = decision_bias(lm, letters(), resamples=10)
    assert after.per_occupation_bias.value < 0.5 * before.per_occupation_bias.value
    history = made.provenance["history"]
    assert history["kl"][0] == pytest.approx(0, abs=1e-6) and max(history["kl"]) > 0.01
    assert {len(numbers) for numbers in history.values()} == {2 * epochs}
    assert all(0 <= share <= 1 for share in history["anchor_accuracy"])


def test_the_reward_per_prompt_lowers_the_bias_per_prompt() -> None:
    lm = tiny.model("qwen2")
    before = decision_bias(lm, letters(), resamples=10).per_prompt_bias.value
    with steer(lm, dso(lm, letters(), quick(reward="prompt", epochs=6), progress=False)):
        assert decision_bias(lm, letters(), resamples=10).per_prompt_bias.value < 0.5 * before


def test_many_groups_become_more_even() -> None:
    lm = tiny.model("qwen2")
    tones = letters((" a", " b", " c", " d"), ("light", "medium", "dark", "none"))
    asked, _, _ = questions(lm, tones.ambiguous)

    def uneven() -> float:
        with torch.no_grad():
            log_p = policy(lm, asked, 4).groups
        unit = torch.tensor([question.cluster for question in asked])
        return -float(learn.expected_reward(log_p, learn.rewards(log_p, unit), torch.ones(len(asked))))

    before = uneven()
    with steer(lm, dso(lm, tones, quick(epochs=6), progress=False)):
        assert uneven() < 0.5 * before


def test_a_tighter_target_and_a_fixed_weight_hold_the_divergence() -> None:
    lm = tiny.model("qwen2")
    free, fixed, tight = (
        dso(lm, letters(), quick(epochs=5, **held), progress=False).provenance["history"]["kl"][-1]
        for held in ({"kl_target": None, "kl_coef": 0.0}, {"kl_target": None, "kl_coef": 3.0}, {"kl_target": 0.01})
    )
    assert tight < 0.2 * free and fixed < 0.2 * free


def test_a_price_on_size_makes_it_smaller() -> None:
    lm = tiny.model("qwen2")
    free, priced = (dso(lm, letters(), quick(l1=l1), progress=False) for l1 in (0.0, 0.1))
    sizes = [sum(float(v.abs().sum()) for v in vectors(made).values()) for made in (free, priced)]
    assert sizes[1] < 0.7 * sizes[0]


def test_a_choice_of_sites_is_respected() -> None:
    lm = tiny.model("gemma2")
    where = [Site("norm", -1), Site("residual", 1), Site("head", 0, "2")]
    made = dso(lm, letters(), quick(), where=where, progress=False)
    assert list(made.operations) == where and all(v.any() for v in vectors(made).values())


def test_pictures_can_be_learned_from() -> None:
    lm = tiny.seeing()
    items = []
    for i, name in enumerate(("judge", "cook", "pilot")):
        pair = [tiny.picture(2 * i), tiny.picture(2 * i + 1)]
        for k, shown in enumerate((pair, pair[::-1])):
            prompt = chat(f"Who is the {name}?", "The", pictures=shown)
            groups = ("man", "woman") if k == 0 else ("woman", "man")
            items.append(Item(prompt, (" first", " second"), groups, name, 30, "man", str(k)))
            items.append(Item(prompt, (" first", " second"), groups, name, 30, "man", str(k), answer="man"))
    made = dso(lm, Task("pictures", tuple(items)), quick(), progress=False)
    assert all(v.isfinite().all() for v in vectors(made).values()) and any(v.any() for v in vectors(made).values())


def test_bfloat16_learns_float32_vectors() -> None:
    lm = tiny.model("llama")
    made = dso(lm, letters(), quick(dtype="bfloat16"), progress=False)
    assert {v.dtype for v in vectors(made).values()} == {torch.float32}
    assert not same(made, dso(lm, letters(), quick(), progress=False))


def test_the_same_seed_gives_the_same_bits_and_another_one_does_not() -> None:
    lm = tiny.model("llama")
    one, again, other = (dso(lm, letters(), quick(estimator="reinforce", seed=s), progress=False) for s in (0, 0, 1))
    assert same(one, again) and not same(one, other)


def test_it_says_where_it_comes_from() -> None:
    lm = tiny.model("llama")
    made = dso(lm, letters(), quick(), progress=False).provenance
    assert made["method"] == "dso" and made["task"] == "letters" and (made["prompts"], made["anchors"]) == (16, 8)
    assert made["strengths"] == [0, 1] and made["estimator"] == "exact" and made["learning_rate"] == 0.02


# Stopping, and going on


@pytest.mark.parametrize("estimator", ["exact", "reinforce", "ppo"])
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(estimator: Any, tmp_path: Path) -> None:
    lm, file, how = tiny.fresh("llama"), tmp_path / "run.safetensors", quick(estimator=estimator)
    whole = dso(lm, letters(), how, checkpoint=tmp_path / "other.safetensors", progress=False)
    handle = fire(lm, 20, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        dso(lm, letters(), how, checkpoint=file, progress=False)
    handle.remove()
    stopped = load_file(file)
    assert list(tmp_path.iterdir()) and not any(path.name.startswith(".") for path in tmp_path.iterdir())
    rest = dso(lm, letters(), how, checkpoint=file, progress=False)
    assert same(whole, rest) and whole.provenance["history"] == rest.provenance["history"]
    ended = load_file(file)
    assert any(not torch.equal(stopped[key], ended[key]) for key in ended)
    assert same(whole, dso(lm, letters(), how, checkpoint=file, progress=False))  # it is at its end already


@pytest.mark.parametrize("estimator", ["exact", "reinforce", "ppo"])
def test_killed_at_every_step_it_still_ends_at_the_same_bits(
    estimator: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Adam's moments, the KL weight, the samples and the schedule all come back: the state is in the checkpoint."""
    lm, file, how = tiny.model("llama"), tmp_path / "run.safetensors", quick(estimator=estimator, kl_target=0.05)
    whole = dso(lm, letters(), how, progress=False)
    plain, allowed = torch.optim.Adam.step, 0

    def killed(self: Any, *args: Any) -> Any:
        nonlocal allowed
        if allowed == 0:
            raise KeyboardInterrupt
        allowed -= 1
        return plain(self, *args)

    monkeypatch.setattr(torch.optim.Adam, "step", killed)
    each = 2 if estimator == "ppo" else 1  # of which two steps share their samples
    steps = len(whole.provenance["history"]["bias"])
    for _ in range(steps // each - 1):
        allowed = each
        with pytest.raises(KeyboardInterrupt):
            dso(lm, letters(), how, checkpoint=file, progress=False)
    allowed = each
    rest = dso(lm, letters(), how, checkpoint=file, progress=False)
    assert same(whole, rest) and whole.provenance["history"] == rest.provenance["history"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("out of memory")])
def test_hooks_are_gone_and_weights_untouched_however_it_ends(error: BaseException) -> None:
    lm = tiny.fresh("llama")
    weights, plain = tiny.weights(lm.hf), tiny.logits(lm)
    handle = fire(lm, 14, error)
    with pytest.raises(type(error)):
        dso(lm, letters(), quick(), progress=False)
    handle.remove()
    assert tiny.hooks(lm.hf) == [] and tiny.same_weights(lm.hf, weights) and torch.equal(tiny.logits(lm), plain)
    dso(lm, letters(), quick(), progress=False)
    assert tiny.hooks(lm.hf) == [] and tiny.same_weights(lm.hf, weights) and torch.equal(tiny.logits(lm), plain)
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in lm.hf.parameters())


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    lm, file = tiny.model("llama"), tmp_path / "run.safetensors"
    dso(lm, letters(), quick(), checkpoint=file, progress=False)
    other = letters((" a", " c"))
    for model_, asked, how, says in (
        (tiny.fresh("llama", seed=1), letters(), {}, "another model:"),
        (lm, other, {}, "another task or anchors:"),
        (lm, letters(), {"anchors": ["A man"]}, "another task or anchors:"),
        (lm, letters(), {"training": quick(learning_rate=0.01, l1=0.5)}, "another learning_rate, l1:"),
        (lm, letters(), {"where": [Site("norm", -1)]}, "another places:"),
    ):
        with pytest.raises(SteerlibError, match=says):
            dso(model_, asked, checkpoint=file, **{"training": quick(), "progress": False, **how})  # type: ignore[arg-type]
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(SteerlibError, match="not a whole safetensors file"):
        dso(lm, letters(), quick(), checkpoint=file, progress=False)
    save_file({"x": torch.zeros(1)}, file)
    with pytest.raises(SteerlibError, match="not a checkpoint of a training"):
        dso(lm, letters(), quick(), checkpoint=file, progress=False)
    with pytest.raises(SteerlibError, match="cannot be written"):
        dso(lm, letters(), quick(), checkpoint=tmp_path / "nowhere" / "run.safetensors", progress=False)


def test_numbers_that_are_none_stop_it_and_say_so() -> None:
    lm = tiny.fresh("llama")
    handle = fire_nan(lm)
    with pytest.raises(SteerlibError, match="dso broke down at step 2: .* smaller learning_rate"):
        dso(lm, letters(), quick(), progress=False)
    handle.remove()
    assert tiny.hooks(lm.hf) == []


def fire_nan(lm: Model) -> Any:
    """From the third step on, the head gives NaN."""
    count = 0

    def hook(module: Any, args: Any, output: Tensor) -> Tensor:
        nonlocal count
        count += output.requires_grad
        return output * float("nan") if count > 2 * PASSES_A_STEP else output

    return lm.hf.get_output_embeddings().register_forward_hook(hook)


PASSES_A_STEP = 4  # parts of like length in a batch of these tasks


def test_a_ruined_model_stops_it_and_says_so() -> None:
    with pytest.raises(SteerlibError, match="dso destroyed the model by step .* nats away .* smaller learning_rate"):
        dso(tiny.model("llama"), letters(), quick(learning_rate=30.0, kl_target=None, kl_coef=0.0), progress=False)


def test_a_policy_that_is_sure_of_one_answer_everywhere_stops_it_and_says_so() -> None:
    sure, mixed = torch.tensor([[20.0, 0.0]] * 3).log_softmax(-1), torch.tensor([[20.0, 0], [0, 20]]).log_softmax(-1)
    run = Run({"x": torch.zeros(1)})
    for _ in range(COLLAPSE_STEPS - 1):
        refuse_collapse("dso", run, sure, ["man", "woman"])
    refuse_collapse("dso", run, mixed, ["man", "woman"])
    assert run.collapsed == 0
    with pytest.raises(SteerlibError, match="dso collapsed: for 10 steps every answer has been 'man'"):
        for _ in range(COLLAPSE_STEPS):
            refuse_collapse("dso", run, sure, ["man", "woman"])


# Input


def test_unequal_samples_and_missing_anchors_are_allowed_and_said() -> None:
    lm, whole = tiny.model("llama"), letters()
    fewer = replace(whole, items=whole.items[2:])
    with pytest.warns(UserWarning, match="unequal samples .2 on 'plumber', 4 on '.*weighted"):
        dso(lm, fewer, quick(), progress=False)
    with pytest.warns(UserWarning, match="unequal samples"):
        data = prepare(lm, fewer, None, quick())
    about = torch.tensor([question.cluster for question in data.questions])
    sums = [float(data.weight[about == o].sum()) for o in range(4)]
    assert sums == pytest.approx([len(about) / 4] * 4)
    with pytest.warns(UserWarning, match="no anchors: .*stop minding") as caught:
        made = dso(lm, whole.ambiguous, quick(), progress=False)
    assert Path(caught[0].filename).name == "test_dso.py"
    assert made.provenance["history"]["anchor_accuracy"] == [None] * 4
    with pytest.warns(UserWarning, match="no anchors"):
        assert same(made, dso(lm, whole, quick(), anchors=(), progress=False))


def test_plain_prompts_can_be_anchors() -> None:
    lm = tiny.model("llama")
    made = dso(lm, letters(), quick(), anchors=["The rain began", "A bridge"], progress=False)
    assert made.provenance["anchors"] == 2 and made.provenance["history"]["anchor_accuracy"] == [None] * 4


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"anchors": "A text"}, "one text was given as anchors"),
        ({"anchors": [""]}, "empty prompt"),
        ({"anchors": letters((" a", " b"), ("light", "dark"))}, "the anchors are about dark, light, but"),
        ({"where": [Site("norm", 9, "x")]}, "does not exist"),
        ({"where": []}, "at least one site"),
        ({"parts": []}, "parts must be 'scale', 'shift' or both"),
        ({"parts": ("scale", "bias")}, "parts must be"),
        ({"parts": "scale"}, "parts must be 'scale', 'shift' or both, in a list, not 'scale'"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(how: dict[str, Any], says: str) -> None:
    with pytest.raises(SteerlibError, match=says) as error:
        dso(tiny.model("llama"), letters(), quick(), progress=False, **how)
    assert "\n" not in str(error.value) and str(error.value).endswith(".")


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"kl_target": 0.0}, "kl_target must be above 0"),
        ({"kl_target": -1.0}, "kl_target must be a number of at least 0, not -1.0"),
        ({"kl_target": "0.2"}, "kl_target must be a number"),
        ({"learning_rate": float("nan")}, "learning_rate must be a number"),
        ({"learning_rate": None}, "learning_rate must be a number"),
        ({"l1": float("nan")}, "l1 must be a number"),
        ({"epochs": 1.5}, "epochs must be a whole number"),
        ({"seed": -1}, "seed must be a whole number of at least 0"),
        ({"kl_target": None}, "kl_target must be above 0 nats, not None"),
        ({"kl_target": None, "kl_coef": -1.0}, "kl_coef must be a number of at least 0"),
        ({"l1": -1.0}, "l1 must be a number of at least 0"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"epochs": 0}, "epochs must be a whole number of at least 1"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1"),
        ({"per_cluster": 0}, "per_cluster must be a whole number of at least 1, not 0"),
        ({"estimator": "reinforce", "num_samples": 1}, "num_samples must be a whole number of at least 2"),
        ({"estimator": "grpo"}, "unknown estimator 'grpo': choose 'exact' or 'reinforce' or 'ppo'"),
        ({"reward": "gap"}, "unknown reward 'gap'"),
        ({"dtype": "float16"}, "unknown dtype 'float16'"),
    ],
)
def test_bad_settings_are_refused_in_one_sentence(how: dict[str, Any], says: str) -> None:
    with pytest.raises(SteerlibError, match=says) as error:
        Training(**how)
    assert "\n" not in str(error.value) and str(error.value).endswith(".")


def test_settings_may_be_numpy_numbers_and_are_kept_as_plain_ones() -> None:
    how = Training(epochs=np.int64(3), learning_rate=np.float32(0.5), kl_target=np.float64(1), seed=np.uint8(2))  # type: ignore[arg-type]
    assert how == Training(epochs=3, learning_rate=0.5, kl_target=1.0, seed=2)
    assert {type(value) for value in (how.epochs, how.seed)} == {int} and type(how.learning_rate) is float


def test_only_the_parts_that_are_asked_for_are_learned() -> None:
    lm = tiny.model("llama")
    for part, other in (("scale", "shift"), ("shift", "scale")):
        made = dso(lm, letters(), quick(), parts=[part], progress=False)  # type: ignore[list-item]
        assert made.provenance["parts"] == [part]
        for name, vector in vectors(made).items():
            assert bool(vector.any()) == name.endswith(part), (name, other)


def test_a_checkpoint_of_other_parts_is_refused(tmp_path: Path) -> None:
    lm, file = tiny.model("llama"), tmp_path / "run.safetensors"
    dso(lm, letters(), quick(epochs=1), checkpoint=file, progress=False)
    with pytest.raises(SteerlibError, match="another places"):
        dso(lm, letters(), quick(epochs=1), parts=["scale"], checkpoint=file, progress=False)


def test_items_that_hold_no_decision_are_refused() -> None:
    lm, good = tiny.model("llama"), letters()
    twice = replace(good.items[0], options=(" a", " a"))
    odd = replace(good.items[0], groups=("man", "child"))
    begins = replace(good.items[0], options=(" a", " ab"))
    for items, says in (
        ((twice, *good.items), "option ' a' was given twice"),
        ((odd, *good.items), "options for man, child, but 'letters' has the groups child, man, woman"),
        ((begins, *good.items), "is the beginning of"),
        (good.unambiguous.items, "no ambiguous items"),
    ):
        with pytest.raises(SteerlibError, match=says):
            dso(lm, Task("letters", items), quick(), progress=False)


# Sparsity


def test_sparsify_keeps_the_largest_over_all_sites_and_says_so() -> None:
    a, b, c, d = (torch.tensor(v) for v in ([3.0, -0.1], [0.2, 0.3], [-5.0, 0.0], [0.4, 1.0]))
    given = Steering({Site("norm", 0, "x"): Affine(a, b), Site("norm", 1, "x"): Affine(c, d)}, {"seed": 3})
    made = sparsify(given, 0.5)
    kept = {key: value.tolist() for key, value in vectors(made).items()}
    assert kept == {
        "norm.0.x/scale": [3.0, 0.0],
        "norm.0.x/shift": [0.0, 0.0],
        "norm.1.x/scale": [-5.0, 0.0],
        "norm.1.x/shift": [pytest.approx(0.4), 1.0],
    }
    assert dict(made.provenance) == {"seed": 3, "kept": 0.5} and given.operations[Site("norm", 0, "x")].shift[1] == 0.3  # type: ignore[union-attr]
    assert same(sparsify(given, 1.0), given)


@pytest.mark.parametrize("keep", [0.1, 0.3, 0.6])
def test_sparsify_counts(keep: float) -> None:
    given = Steering(
        {
            site: Affine(tiny.vector(i), tiny.vector(i + 9))
            for i, site in enumerate(sites(tiny.model("llama").hf, "norm"))
        }
    )
    made = torch.cat(list(vectors(sparsify(given, keep)).values()))
    assert int((made != 0).sum()) == round(keep * len(made))
    assert made[made != 0].abs().min() >= torch.cat(list(vectors(given).values()))[made == 0].abs().max()


def test_sparsify_refuses_what_has_no_coordinates() -> None:
    with pytest.raises(SteerlibError, match="norm.final has no affine operation"):
        sparsify(Steering({Site("norm", -1): Add(tiny.vector())}))
    for keep in (0.0, 1.5):
        with pytest.raises(SteerlibError, match="keep must be above 0 and at most 1"):
            sparsify(Steering({Site("norm", -1): Affine(tiny.vector(), tiny.vector())}), keep)

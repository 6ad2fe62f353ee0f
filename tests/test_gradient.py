"""Gradient vectors: the slope is that of finite differences, the step stays in its bounds, the model is left as it was."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sighted
import tiny
import torch
from PIL import Image
from tiny import FAMILIES, PROMPTS, WIDTH
from torch import Tensor

from steerlib import Ablate, Add, Steering, SteerlibError, capture, chat, load_steering, steer
from steerlib.methods import gradient as inside
from steerlib.methods.gradient import gradient
from steerlib.models import sites
from steerlib.models.layout import laid_out
from steerlib.models.model import Model
from steerlib.models.prompts import pictures_of
from steerlib.models.sites import Site
from steerlib.steering import perturb
from steerlib.steering.canvas import Canvas, canvas

SITES = ("pixels", "visual", "embeddings", "residual")
WORDS = ["woman", "man", "map", "he", "she"]  # two to five tokens; two share all but their last
SAID = [" he", " she"]
ALL = [Site("residual", layer) for layer in range(tiny.LAYERS)]


def asked(seed: int = 0, text: str = "Who is it?") -> Any:
    """A chat about a picture of noise."""
    return chat(text, pictures=tiny.picture(seed))


def direction(steering: Steering, site: Site) -> Tensor:
    """The direction of the ablation at a site."""
    operation = steering.operations[site]
    assert isinstance(operation, Ablate)
    return operation.direction


@contextmanager
def pixels(lm: Model) -> Iterator[list[Tensor]]:
    """A list that grows by the pictures that the vision tower is given, in the numbers that the processor makes."""
    seen: list[Tensor] = []

    def note(module: Any, args: Any) -> None:
        seen.append(args[0].detach().clone())

    inner = lm.hf.base_model
    entry = inner.visual.patch_embed if hasattr(inner, "visual") else inner.vision_tower.embeddings
    handle = entry.register_forward_pre_hook(note)
    try:
        yield seen
    finally:
        handle.remove()


@contextmanager
def handed(lm: Model) -> Iterator[list[Tensor]]:
    """A list that grows by the embeddings that the text decoder works on, (1, tokens, width)."""
    seen: list[Tensor] = []

    def note(module: Any, args: Any) -> None:
        seen.append(args[0].detach().clone())

    handle = sites.blocks(lm.hf)[0].register_forward_pre_hook(note)
    try:
        yield seen
    finally:
        handle.remove()


# ---- the slope


def exact(family: str) -> Model:
    """A tiny model that computes everything in float64: Llama's own norm would pass through float32."""
    lm = tiny.fresh(family, dtype=torch.float64)
    for module in list(lm.hf.modules()):
        for name, child in module.named_children():
            if type(child).__name__ == "LlamaRMSNorm":
                norm = torch.nn.RMSNorm(WIDTH, eps=child.variance_epsilon)
                norm.weight = child.weight
                setattr(module, name, norm)
    return replace(lm, processor=tiny.seeing().processor) if family == "llava" else lm


def stepped(lm: Model, prompt: Any, site: Any) -> Tensor:
    """(columns,) which tokens a step is taken at."""
    ids = torch.tensor(lm.tokens(prompt))
    return (ids == lm.hf.config.image_token_id).nonzero()[:, 0] if site == "visual" else torch.arange(len(ids))


def still(_: str, h: Tensor) -> Tensor:
    return h


@cache
def painted(lm: Model) -> Canvas:
    """The canvas of a picture of 8 x 8, the size of those that `asked` and `grey` ask about."""
    return canvas(lm, asked())


def likelihood(lm: Model, prompt: Any, words: list[str], site: Any, touch: Any = still) -> list[Tensor]:
    """The log-likelihood of each word, by a pass of our own; the words differ."""
    query, found = lm.split(prompt, sorted(set(words))), []
    where = painted(lm) if site == "pixels" else None
    for tail in query.tails:
        ids = [*query.prompt, *tail[:-1]]
        real, end = torch.ones(1, len(ids), dtype=torch.bool), torch.tensor([len(query.prompt)])
        with laid_out(real, end), perturb.perturbed(lm, site, stepped(lm, prompt, site), ALL, touch, where):
            lines = lm.hf(**lm.batch([ids], [query.seen]), use_cache=False).logits[0].log_softmax(-1)
        found.append(lines[torch.arange(len(query.prompt) - 1, len(ids)), tail].sum())
    return found


def slopes(lm: Model, prompt: Any, words: list[str], site: Any) -> dict[str, Tensor]:
    """The slope of the log of the summed likelihood at every place of a site, by automatic differentiation of our own."""
    leaves: dict[str, list[Tensor]] = {}

    def keep(key: str, h: Tensor) -> Tensor:
        leaves.setdefault(key, []).append(h if h.requires_grad else h.detach().requires_grad_())
        return leaves[key][-1]

    f = torch.stack(likelihood(lm, prompt, words, site, keep)).logsumexp(0)
    return {key: torch.stack(torch.autograd.grad(f, each, retain_graph=True)).sum(0) for key, each in leaves.items()}


def steps(lm: Model, prompt: Any, words: list[str], site: Any, **how: Any) -> dict[str, Tensor]:
    """The steps that `gradient` takes, in the units in which they are taken; at the residual stream those of the last token."""
    if site == "residual":
        made = gradient(lm, None, prompt, words, site=site, layers="all", progress=False, **how)
        return {str(at): direction(made, at).double() for at in ALL}
    with pixels(lm) if site == "pixels" else handed(lm) as seen:
        gradient(lm, None, prompt, words, site=site, layers="all", progress=False, **how)
    if site == "pixels":
        after, before = (painted(lm).values(numbers) for numbers in (seen[-1], seen[0]))
        return {"pixels": after - before}
    return {site: (seen[-1] - seen[0])[:, stepped(lm, prompt, site)]}


def grey(seed: int = 0) -> Any:
    """A chat about a picture from which every pixel can step both ways."""
    return chat("Who is it?", pictures=tiny.picture(seed).point(lambda value: 64 + value // 2))


@pytest.mark.parametrize(
    ("family", "site", "words"),
    [("llava", site, WORDS) for site in SITES]
    + [("llava", "visual", words) for words in (["man"], ["he", "he", "she", "he"])]
    + [(f, s, [" he", " she", " hers", " herb"]) for f in ("llama", "gpt2") for s in ("embeddings", "residual")],
)
def test_the_step_is_up_the_slope_that_finite_differences_measure(family: str, site: Any, words: list[str]) -> None:
    """The slope along any way is that along the step, times the cosine between the two: of the log of the summed likelihood."""
    lm = exact(family)
    prompt = grey() if family == "llava" else PROMPTS[0]
    taken = steps(lm, prompt, words, site, norm="l2", epsilon=1e-4)
    assert len(taken) == (tiny.LAYERS if site == "residual" else 1)
    generator = torch.Generator().manual_seed(0)
    for key, step in taken.items():
        up = step / step.norm()

        def slope(way: Tensor, key: str = key) -> float:
            def at(size: float) -> float:
                def move(name: str, h: Tensor) -> Tensor:
                    if name != key:
                        return h
                    return (
                        h.index_add(1, torch.tensor([h.shape[1] - 1]), size * way[None, None])
                        if site == "residual"
                        else h + size * way
                    )

                with torch.no_grad():
                    return float(torch.stack(likelihood(lm, prompt, words, site, move)).logsumexp(0))

            return (at(1e-5) - at(-1e-5)) / 2e-5

        steepest = slope(up)
        assert steepest > 1e-6
        for _ in range(2):
            way = torch.randn(up.shape, generator=generator, dtype=torch.float64)
            way = way / way.norm()
            assert slope(way) == pytest.approx(steepest * float((up * way).sum()), rel=1e-3, abs=1e-3 * steepest)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_residual_vector_moves_the_likelihood_of_the_words_both_ways(family: str) -> None:
    lm = tiny.model(family)
    prompt = PROMPTS[0]

    def likelihood(strength: float, made: Steering) -> float:
        with steer(lm, made, strength, tokens="last"):
            return float(torch.stack([line.sum() for line in lm.loglik([prompt] * 2, SAID)]).logsumexp(0))

    for layer in range(tiny.LAYERS):
        made = gradient(lm, None, prompt, SAID, site="residual", norm="l2", layers=layer, operation="add")
        plain = likelihood(0, made)
        assert likelihood(0.02, made) < plain < likelihood(-0.02, made)


# ---- the step


@pytest.mark.parametrize("norm", ["sign", "l2"])
@pytest.mark.parametrize("epsilon", [0.002, 0.1, 1.0])
def test_a_step_on_pixels_stays_within_epsilon_and_between_black_and_white(norm: Any, epsilon: float) -> None:
    lm = tiny.seeing()
    noise = np.asarray(tiny.picture()).copy()
    noise[:3], noise[5:] = 0, 255  # places where a step can go one way only
    eyes = lm.processor.image_processor
    mean, deviation = (torch.tensor(x).reshape(3, 1, 1) for x in (eyes.image_mean, eyes.image_std))
    with pixels(lm) as seen:
        gradient(lm, Image.fromarray(noise), "Who is it?", WORDS, norm=norm, epsilon=epsilon)
    before, after = (x[0] * deviation + mean for x in (seen[0], seen[-1]))
    torch.testing.assert_close(before, torch.tensor(noise).permute(2, 0, 1) / 255, atol=1e-6, rtol=0)
    assert after.min() >= -1e-6 and after.max() <= 1 + 1e-6
    moved = (after - before).abs()
    if norm == "sign":  # every value by epsilon, unless black or white came first
        assert moved.max() <= epsilon + 1e-6
        free = (after > 1e-6) & (after < 1 - 1e-6)
        torch.testing.assert_close(moved[free], torch.full_like(moved[free], epsilon), atol=2e-6, rtol=0)
        assert free.any() or epsilon == 1
    else:
        assert 0 < moved.pow(2).mean().sqrt() <= epsilon * (1 + 1e-4)
        assert moved.std() > 0.1 * moved.mean()


@pytest.mark.parametrize(
    "how",
    [{"do_normalize": False}, {"do_rescale": False, "image_mean": [9.0] * 3}, {"rescale_factor": 1 / 100}, {"size": 8}],
)
def test_epsilon_is_in_the_units_of_the_picture_however_the_processor_scales_it(how: dict[str, Any]) -> None:
    lm = tiny.seeing()
    eyes = type(lm.processor.image_processor)(**{"size": {"height": 8, "width": 8}, "do_center_crop": False, **how})
    if how == {"size": 8}:  # shortest side, then the middle: nothing to do with values
        eyes = type(eyes)(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8})
    processor = type(lm.processor)(
        image_processor=eyes,
        tokenizer=lm.tokenizer,
        patch_size=4,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=lm.processor.chat_template,
    )
    other = replace(lm, processor=processor)
    white, black = (Image.new("RGB", (8, 8), color) for color in ("white", "black"))
    ends = [other.read(chat("", pictures=p))[1]["pixel_values"] for p in (black, white)]
    with pixels(other) as seen:
        gradient(other, tiny.picture(), "Who is it?", WORDS, epsilon=0.01)
    moved = ((seen[-1] - seen[0]) / (ends[1] - ends[0])).abs()
    assert moved.max() == pytest.approx(0.01, abs=1e-5) and moved.median() == pytest.approx(0.01, abs=1e-5)


@pytest.mark.parametrize("site", ["visual", "embeddings"])
@pytest.mark.parametrize("norm", ["sign", "l2"])
def test_a_step_on_tokens_moves_them_by_epsilon_of_their_size_and_no_others(site: Any, norm: Any) -> None:
    lm = tiny.seeing()
    ids = torch.tensor(lm.tokens(asked()))
    stepped = ids == lm.hf.config.image_token_id if site == "visual" else torch.ones_like(ids, dtype=torch.bool)
    with handed(lm) as seen:
        gradient(lm, None, asked(), WORDS, site=site, norm=norm, epsilon=0.05)
    before, after = seen[0][0], seen[-1][0]
    assert torch.equal(before[~stepped], after[~stepped])
    moved, size = (after - before)[stepped], before[stepped].pow(2).mean().sqrt()
    assert float(moved.pow(2).mean().sqrt() / size) == pytest.approx(0.05, rel=1e-3)
    if norm == "sign":
        torch.testing.assert_close(moved.abs(), (0.05 * size).expand(moved.shape), atol=1e-5, rtol=1e-3)
    else:
        assert moved.abs().std() > 0.1 * moved.abs().mean()


@pytest.mark.parametrize("site", ["pixels", "visual", "embeddings"])
@pytest.mark.parametrize("norm", ["sign", "l2"])
def test_a_small_step_raises_the_likelihood_of_the_words(site: Any, norm: Any) -> None:
    lm = exact("llava")
    ((key, step),) = steps(lm, grey(), WORDS, site, norm=norm, epsilon=1e-4).items()
    slope = slopes(lm, grey(), WORDS, site)[key]
    with torch.no_grad():
        before = torch.stack(likelihood(lm, grey(), WORDS, site)).logsumexp(0)
        after = torch.stack(likelihood(lm, grey(), WORDS, site, lambda _, h: h + step)).logsumexp(0)
    assert float(after - before) == pytest.approx(float((slope * step).sum()), rel=0.1)
    assert after > before


# ---- the vector


def test_the_vector_is_the_change_in_the_models_own_hidden_states() -> None:
    lm = tiny.seeing()
    with pixels(lm) as seen:
        made = gradient(lm, tiny.picture(), "Who is it?", WORDS, layers="all", epsilon=0.05)
    ids, pictures = lm.read(asked())
    states = []
    for values in (pictures["pixel_values"], seen[-1]):
        with torch.inference_mode():
            out = lm.hf(**lm.batch([ids], [{"pixel_values": values}]), output_hidden_states=True)
        states.append(out.hidden_states)
    for site in ALL[:-1]:  # the last one is given after the norm
        change = (states[1][site.layer + 1] - states[0][site.layer + 1])[0, -1]
        torch.testing.assert_close(direction(made, site), change / change.norm(), atol=2e-3, rtol=0)
        operation = made.operations[site]
        assert isinstance(operation, Ablate) and operation.center is not None
        torch.testing.assert_close(operation.center, states[0][site.layer + 1][0, -1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("read", ["last", "mean"])
def test_the_residual_vector_is_the_step_itself(read: Any) -> None:
    lm = tiny.seeing()
    found = slopes(lm, asked(), WORDS, "residual")
    for norm in ("sign", "l2"):
        made = gradient(lm, None, asked(), WORDS, site="residual", norm=norm, layers="all", read=read)  # type: ignore[arg-type]
        for site in ALL:
            slope = found[str(site)][0]
            slope = slope.sign() if norm == "sign" else slope
            expected = slope[-1] if read == "last" else slope.mean(0)
            torch.testing.assert_close(direction(made, site), expected / expected.norm(), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("site", SITES)
def test_every_input_counts_alike(site: Any) -> None:
    lm = tiny.seeing()
    prompts = [asked(0), asked(1, "Why?")]
    both = gradient(lm, None, prompts, WORDS, site=site, layers="all")
    turned = gradient(lm, None, prompts[::-1], WORDS[::-1], site=site, layers="all")
    each = [gradient(lm, None, prompt, WORDS, site=site, layers="all") for prompt in prompts]
    for at in ALL:
        mean = direction(each[0], at) + direction(each[1], at)
        torch.testing.assert_close(direction(both, at), mean / mean.norm(), atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(direction(both, at), direction(turned, at), atol=1e-4, rtol=1e-3)
        one, other, middle = (made.operations[at].center for made in (*each, both))  # type: ignore[union-attr]
        torch.testing.assert_close(middle, (one + other) / 2)


def test_pictures_and_prompts_pair_as_they_would_by_hand() -> None:
    lm, shown = tiny.seeing(), [tiny.picture(0), tiny.picture(1)]
    begun = chat("Who is it?", "It is a")

    def vector(pictures: Any, prompts: Any) -> Tensor:
        return direction(gradient(lm, pictures, prompts, WORDS, site="visual", layers=1), ALL[1])

    by_hand = [chat("Who is it?", pictures=p) for p in shown]
    assert torch.equal(vector(shown, "Who is it?"), vector(None, by_hand))
    assert torch.equal(vector(shown, ["Who is it?", "Why?"]), vector(None, [by_hand[0], asked(1, "Why?")]))
    assert torch.equal(vector(shown[0], ["Who is it?", "Why?"]), vector(None, [by_hand[0], asked(0, "Why?")]))
    assert torch.equal(vector(shown[0], begun), vector(None, chat("Who is it?", "It is a", pictures=shown[0])))
    parts = [{"role": "user", "content": [{"type": "text", "text": "Who is it?"}]}]
    assert torch.equal(vector(shown[0], parts), vector(None, by_hand[0]))


def test_adding_subtracts_the_direction_as_long_as_the_activations_are() -> None:
    lm, prompts = tiny.model("llama"), PROMPTS[:3]
    ablated = gradient(lm, None, prompts, SAID, site="embeddings", layers="all", center="zero")
    added = gradient(lm, None, prompts, SAID, site="embeddings", layers="all", operation="add")
    for site in ALL:
        operation, other = added.operations[site], ablated.operations[site]
        assert isinstance(operation, Add) and isinstance(other, Ablate) and other.center is None
        length = torch.cat([got[site] for _, got in capture(lm, prompts, [site])]).norm(dim=-1).mean()
        torch.testing.assert_close(operation.vector, -length * other.direction, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("site", ["embeddings", "residual"])
def test_text_models_of_every_family_need_no_picture(family: str, site: Any) -> None:
    lm = tiny.model(family)
    made = gradient(lm, None, PROMPTS[0], SAID, site=site, layers=[0, -1])
    assert [at.layer for at in made.operations] == [0, 2]
    with steer(lm, made):
        assert all(operation.direction.shape == (WIDTH,) for operation in made.operations.values())  # type: ignore[union-attr]
        assert not torch.equal(tiny.logits(lm), torch.zeros(()))


def test_a_text_prompt_to_a_model_that_sees_needs_no_picture() -> None:
    made = gradient(tiny.seeing(), None, chat("Who is it?"), WORDS, site="embeddings")
    assert made.provenance["pictures"] == 0


@pytest.mark.parametrize("site", SITES)
def test_half_precision_gives_nearly_the_same_vector(site: Any) -> None:
    full = gradient(tiny.seeing(), None, asked(), WORDS, site=site, norm="l2", epsilon=0.3, layers=0)
    half = gradient(tiny.seeing(torch.bfloat16), None, asked(), WORDS, site=site, norm="l2", epsilon=0.3, layers=0)
    assert direction(half, ALL[0]).dtype == torch.float32
    assert float(direction(full, ALL[0]) @ direction(half, ALL[0])) > 0.8


def test_a_steering_says_where_it_comes_from_and_is_saved_with_it(tmp_path: Path) -> None:
    lm = tiny.seeing()
    made = gradient(lm, [tiny.picture(0), tiny.picture(1)], "Who is it?", WORDS, epsilon=np.float32(0.25))
    facts = {"method": "gradient", "site": "pixels", "norm": "sign", "epsilon": 0.25, "words": WORDS, "pictures": 2}
    assert facts.items() <= dict(made.provenance).items()
    made.save(tmp_path / "vector.safetensors")
    back = load_steering(tmp_path / "vector.safetensors")
    assert back.provenance == made.provenance
    assert torch.equal(direction(back, ALL[1]), direction(made, ALL[1]))


# ---- the model


def state(lm: Model) -> list[Any]:
    """Everything about a model that a gradient could leave changed."""
    modes = [module.training for module in lm.hf.modules()]
    return [modes, [(w.requires_grad, w.grad is None) for w in lm.hf.parameters()], tiny.hooks(lm.hf)]


@pytest.mark.parametrize("site", SITES)
def test_the_model_is_left_as_it_was_even_after_an_exception(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = replace(tiny.fresh("llava"), processor=tiny.seeing().processor)
    lm.hf.train()  # one that somebody is training
    next(lm.hf.base_model.vision_tower.modules()).eval()
    for i, weight in enumerate(lm.hf.parameters()):
        weight.requires_grad_(i % 2 == 0)
    before, weights = state(lm), tiny.weights(lm.hf)
    modes: list[bool] = []
    plain = sites.blocks(lm.hf)[2].forward

    def note(*args: Any, **kwargs: Any) -> Any:
        modes.append(any(module.training for module in lm.hf.modules()))
        modes.append(any(weight.requires_grad for weight in lm.hf.parameters()))
        return plain(*args, **kwargs)

    monkeypatch.setattr(sites.blocks(lm.hf)[2], "forward", note)
    made = gradient(lm, None, asked(), WORDS, site=site, layers="all")
    assert state(lm) == before and tiny.same_weights(lm.hf, weights)
    assert modes and not any(modes)

    def fail(*args: Any, **kwargs: Any) -> Any:
        raise KeyboardInterrupt

    for place in (sites.blocks(lm.hf)[2], lm.hf.lm_head):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(place, "forward", fail)
            gradient(lm, None, asked(), WORDS, site=site, layers="all")
        assert state(lm) == before
    again = gradient(lm, None, asked(), WORDS, site=site, layers="all")
    assert all(torch.equal(direction(made, at), direction(again, at)) for at in ALL)


@pytest.mark.parametrize("switch", [torch.no_grad, torch.inference_mode])
def test_gradients_are_taken_where_they_are_switched_off(switch: Any) -> None:
    lm = tiny.seeing()
    plain = gradient(lm, None, asked(), WORDS, layers=1)
    with switch():
        inner = gradient(lm, None, asked(), WORDS, layers=1)
        assert not torch.is_grad_enabled()
    assert torch.equal(direction(plain, ALL[1]), direction(inner, ALL[1]))


def test_a_steered_model_has_slopes_of_its_own() -> None:
    lm, said = tiny.model("llama"), [" she", " so"]  # three tokens, and two
    first = Steering({ALL[0]: Add(tiny.vector(3, size=2.0))})
    plain = gradient(lm, None, PROMPTS[0], said, site="residual", norm="l2", layers=2)
    with steer(lm, first, 1.0, tokens="last"):
        other = gradient(lm, None, PROMPTS[0], said, site="residual", norm="l2", layers=2)
        each = likelihood(lm, PROMPTS[0], said, "residual")
        slope = slopes(lm, PROMPTS[0], said, "residual")["residual.2"][0, -1]
        expected = [line.sum() for line in lm.loglik([PROMPTS[0]] * 2, said)]
    torch.testing.assert_close(torch.stack(each), torch.stack(expected), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(direction(other, ALL[2]), slope / slope.norm(), atol=1e-4, rtol=1e-3)
    assert float(direction(plain, ALL[2]) @ direction(other, ALL[2])) < 0.999
    assert not tiny.hooks(lm.hf)


# ---- bad input


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"site": "image"}, "unknown place for a step 'image': choose 'pixels', 'visual'"),
        ({"norm": "linf"}, "unknown norm of a step 'linf'"),
        ({"operation": "affine"}, "unknown operation 'affine'"),
        ({"center": "midpoint"}, "unknown centre 'midpoint'"),
        ({"operation": "add", "center": "zero"}, "adding has no centre"),
        ({"read": "first"}, "'first' is not a way to read"),
        ({"layers": 9}, "not all in this network"),
        ({"epsilon": 0}, "a number above 0, not 0"),
        ({"epsilon": -0.1}, "a number above 0, not -0.1"),
        ({"epsilon": math.nan}, "a number above 0, not nan"),
        ({"epsilon": math.inf}, "a number above 0, not inf"),
        ({"epsilon": "0.02"}, "a number above 0, not '0.02'"),
        ({"epsilon": 8}, "epsilon 8 is beyond the range of a pixel"),
        ({"words": []}, "words are a list of texts"),
        ({"words": "woman"}, "not 'woman'"),
        ({"words": ["woman", ""]}, "none of them empty"),
        ({"words": ["woman", " "]}, "none of them empty"),
        ({"words": ["woman", 3]}, "words are a list of texts"),
        ({"pictures": []}, "0 picture"),
        ({"pictures": [tiny.picture()] * 2, "prompts": ["a"] * 3}, r"2 picture\(s\) and 3 prompt\(s\) do not pair"),
        ({"pictures": "face.png"}, "a picture is a PIL image, not str"),
        ({"pictures": tiny.picture(), "prompts": [asked()]}, "a prompt that has a picture"),
        ({"pictures": tiny.picture(), "prompts": [{"role": "system", "content": "Hi"}]}, "no user's message"),
        ({"pictures": None}, "a step at the pixels needs a picture"),
        ({"pictures": None, "site": "visual"}, "a step at the visual needs a picture"),
        ({"prompts": []}, "no prompt was given"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(how: dict[str, Any], says: str) -> None:
    given: dict[str, Any] = {"pictures": tiny.picture(), "prompts": "Who is it?", "words": WORDS, **how}
    with pytest.raises(SteerlibError, match=says) as error:
        gradient(tiny.seeing(), **given)
    assert "\n" not in str(error.value) and str(error.value).endswith(".")


@pytest.mark.parametrize("site", ["pixels", "visual"])
def test_a_text_model_has_no_pixels(site: Any) -> None:
    with pytest.raises(SteerlibError, match=f"'tiny-llama' reads no pictures, so no step can be taken at its {site}"):
        gradient(tiny.model("llama"), None, PROMPTS[0], SAID, site=site)


def test_a_word_that_gives_no_token_of_its_own_is_refused() -> None:
    lm = tiny.model("llama")
    with pytest.raises(SteerlibError, match="'e' does not start a new token after"):
        gradient(lm, None, "No h", ["x", "e"], site="residual")  # " he" is one token


def test_a_model_whose_decoder_is_handed_no_visual_tokens_is_refused() -> None:
    class Blind(Model):
        """Its pictures never reach the text decoder, as where it looks at them through cross-attention."""

        def read(self, prompt: Any, continuation: str = "") -> Any:
            ids, seen = super().read(prompt, continuation)
            return ids, {"image_sizes": torch.tensor([[8, 8]])} if seen else seen

    lm = tiny.seeing()
    blind = Blind(lm.name, lm.hf, lm.tokenizer, lm.processor)
    with pytest.raises(SteerlibError, match="hands no visual tokens to its text decoder"):
        gradient(blind, None, asked(), WORDS, site="visual")
    with pytest.raises(SteerlibError, match="a step at the pixels needs a picture"):
        gradient(blind, None, asked(), WORDS)


class Through(Model):
    """A model whose processor's pictures pass through a function first; of the processor's numbers and the pictures themselves."""

    change: Any = staticmethod(lambda numbers, pictures: numbers)

    def read(self, prompt: Any, continuation: str = "") -> Any:
        ids, seen = super().read(prompt, continuation)
        pictures = [np.asarray(picture) for picture in pictures_of(prompt)]
        return ids, {key: self.change(x, pictures) if key == "pixel_values" else x for key, x in seen.items()}


def through(change: Any) -> Model:
    lm = tiny.seeing()
    made = Through(lm.name, lm.hf, lm.tokenizer, lm.processor)
    object.__setattr__(made, "change", change)
    return made


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda x, shown: (x - x.mean()) / (x.std() + 1e-6), "not each a share of the way from black to white"),
        (lambda x, shown: (x + 3) ** 2, "not each a share of the way from black to white"),
        (lambda x, shown: x * 0, "not each a share of the way from black to white"),
        (
            lambda x, shown: torch.cat([x, x]) if shown[0].mean() > 99 else x,
            r"numbers of shape \(.*\) or \(.*\) for pictures",
        ),
    ],
)
def test_pixels_that_cannot_be_turned_back_are_refused(change: Any, says: str) -> None:
    with pytest.raises(SteerlibError, match=f"turned back into pixels from 0 to 1 .*{says}.*site='visual'"):
        gradient(through(change), None, asked(), WORDS)


@pytest.mark.parametrize("change", [lambda x, shown: 3 * x - 7, lambda x, shown: x.flip(-1)])
def test_no_scale_and_no_order_of_a_processors_own_is_in_the_way(change: Any) -> None:
    lm = tiny.seeing()
    with pixels(lm) as seen:
        gradient(through(change), None, grey(), WORDS, epsilon=0.01)
    (own,) = (change(x, []) for x in (lm.read(grey())[1]["pixel_values"],))
    torch.testing.assert_close(seen[0], own, atol=1e-5, rtol=1e-5)
    black, white = (Image.new("RGB", (8, 8), tone) for tone in ("black", "white"))
    ends = [change(lm.read(chat("", pictures=end))[1]["pixel_values"], []) for end in (black, white)]
    moved = (seen[-1] - seen[0]) / (ends[1] - ends[0])
    torch.testing.assert_close(moved.abs(), torch.full_like(moved, 0.01), atol=1e-5, rtol=0)


# ---- pictures in patches


def patched(seed: int = 0, size: tuple[int, int] = (16, 24)) -> Any:
    """A chat about a picture that a Qwen2-VL cuts into patches without resizing it."""
    return chat("Who is it?", pictures=tiny.picture(seed, size).point(lambda value: 64 + value // 2))


def numbers(lm: Model, prompt: Any) -> Tensor:
    return lm.read(prompt)[1]["pixel_values"]  # type: ignore[no-any-return]


def test_every_value_of_a_picture_is_found_once_among_the_patches() -> None:
    lm, prompt = sighted.model("qwen2_vl"), patched()
    found = canvas(lm, prompt)
    picture = np.asarray(prompt[0]["content"][0]["image"])
    assert len(found.place) == 2 * picture.size == numbers(lm, prompt).numel(), "each is there as two frames"
    values = found.values(numbers(lm, prompt))
    torch.testing.assert_close(values.sort()[0], torch.tensor(picture.flatten() / 255).sort()[0].float())
    torch.testing.assert_close(found.numbers(values, numbers(lm, prompt)), numbers(lm, prompt))
    for row, column, channel in ((0, 0, 0), (7, 9, 1), (23, 15, 2)):
        other = picture.copy()
        other[row, column, channel] ^= 255
        moved = found.values(numbers(lm, chat("Who is it?", pictures=Image.fromarray(other)))) - values
        change = (int(other[row, column, channel]) - int(picture[row, column, channel])) / 255
        assert moved.count_nonzero() == 1 and float(moved.sum()) == pytest.approx(change, abs=1e-5)


def test_a_step_on_patches_is_up_the_slope_of_the_pictures_own_values() -> None:
    """Pictures whose pixels differ by a few of 256 steps change the likelihood as the step says: values, not patches, are moved."""
    lm, prompt = sighted.model("qwen2_vl"), patched()
    found = canvas(lm, prompt)
    with pixels(lm) as seen:
        gradient(lm, None, prompt, WORDS, norm="l2", epsilon=1e-3, progress=False)
    step = found.values(seen[-1]) - found.values(seen[0])
    assert torch.equal(found.numbers(found.values(seen[-1]), seen[0]), seen[-1]), "both frames are moved alike"
    assert float(step.pow(2).mean().sqrt()) == pytest.approx(1e-3, rel=1e-3)
    picture = np.asarray(prompt[0]["content"][0]["image"]).astype(int)

    def log_likelihood(values: Any) -> tuple[float, Tensor]:
        other = chat("Who is it?", pictures=Image.fromarray(values.astype(np.uint8)))
        _, mass = lm.choose(other, WORDS, return_mass=True)
        return float(mass.log()), found.values(numbers(lm, other))

    expected, measured = [], []
    for seed in range(8):
        drawn = np.random.default_rng(seed)
        way = drawn.integers(-2, 3, picture.shape) * (drawn.random(picture.shape) < 0.05)
        (more, up), (less, down) = log_likelihood(picture + way), log_likelihood(picture - way)
        expected.append(float((step / step.norm()) @ (up - down)))
        measured.append(more - less)
    a, b = torch.tensor(expected), torch.tensor(measured)
    slope = float(a @ b / (a @ a))
    assert slope > 0
    torch.testing.assert_close(b, slope * a, atol=0.03 * float(b.abs().max()), rtol=0.03)


@pytest.mark.parametrize("epsilon", [0.1, 1.0])
def test_a_step_on_patches_stays_between_black_and_white(epsilon: float) -> None:
    lm, prompt = sighted.model("qwen2_vl"), chat("Who is it?", pictures=tiny.picture(3, (16, 16)))
    found = canvas(lm, prompt)
    with pixels(lm) as seen:
        gradient(lm, None, prompt, WORDS, epsilon=epsilon, progress=False)
    low, high = (
        torch.minimum(found.black, found.black + found.span),
        torch.maximum(found.black, found.black + found.span),
    )
    assert ((seen[-1] >= low - 1e-5) & (seen[-1] <= high + 1e-5)).all()
    moved = (found.values(seen[-1]) - found.values(seen[0])).abs()
    assert moved.max() == pytest.approx(epsilon if epsilon < 1 else float(moved.max()), abs=1e-5)


@pytest.mark.parametrize("family", ["llava_next", "idefics2"])
def test_padding_is_not_stepped_on(family: str) -> None:
    lm = sighted.model(family)
    prompt = chat("Who?", pictures=[tiny.picture(0, (30, 12)), tiny.picture(1, (12, 24))])
    found = canvas(lm, prompt)
    own = numbers(lm, prompt)
    assert 0 < len(found.place) < own.numel()
    moved = found.numbers(found.values(own) + 1, own) - own
    assert torch.equal(moved != 0, found.span != 0)


def test_a_step_that_changes_nothing_is_refused() -> None:
    lm = tiny.seeing()
    with pytest.raises(SteerlibError, match="too small to change residual.1: take a larger epsilon"):
        gradient(lm, None, asked(), WORDS, epsilon=1e-12, layers=1)
    with torch.no_grad():
        deaf = replace(tiny.fresh("llava"), processor=lm.processor)
        deaf.hf.lm_head.weight.zero_()
    with pytest.raises(SteerlibError, match="does not depend on the visual"):
        gradient(deaf, None, asked(), WORDS, site="visual")


def reading(monkeypatch: pytest.MonkeyPatch, *values: Tensor) -> None:
    """Have `gradient` read these activations, one after the other, at every site."""
    left = iter(values)

    def read(model: Model, prompts: Any, where: Any, **_: Any) -> Any:
        value = next(left)
        yield [0], {site: value[None] for site in where}

    monkeypatch.setattr(inside, "capture", read)


def test_a_change_that_rounding_could_have_made_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    before, small = torch.ones(WIDTH).double(), 1e-7 * tiny.vector().sign().double()
    for site in ("pixels", "visual", "embeddings"):
        reading(monkeypatch, before, before + small)
        with pytest.raises(SteerlibError, match=f"the step at the {site} is too small to change residual.1"):
            gradient(tiny.seeing(), None, asked(), WORDS, site=site, layers=1)  # type: ignore[arg-type]
        reading(monkeypatch, before, before + 100 * small)
        gradient(tiny.seeing(), None, asked(), WORDS, site=site, layers=1)  # type: ignore[arg-type]
    reading(monkeypatch, 1e9 * before)
    gradient(tiny.seeing(), None, asked(), WORDS, site="residual", layers=1)  # the step itself, exactly


def test_steps_that_cancel_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, way = torch.ones(WIDTH).double(), torch.ones(WIDTH).double()
    reading(monkeypatch, plain, plain + way, plain, plain - way)
    with pytest.raises(SteerlibError, match="the steps of the 2 inputs cancel at residual.1"):
        gradient(tiny.model("llama"), None, PROMPTS[:2], SAID, site="embeddings", layers=1)


def test_a_likelihood_that_is_not_finite_is_refused() -> None:
    lm = tiny.fresh("llama")
    with torch.no_grad():
        lm.hf.lm_head.weight[5] = math.nan
    with pytest.raises(SteerlibError, match="'tiny-llama' gave a likelihood of the words, or a gradient, that is not"):
        gradient(lm, None, PROMPTS[0], SAID, site="residual")
    assert not tiny.hooks(lm.hf)

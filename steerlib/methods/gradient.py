"""Gradient steering vectors: what ONE step towards the attribute changes, with no data set.

    f(x) = log of the sum over words w of P(w | x)    how likely it is that the answer goes on with one of the words
    x'   = x + step(gradient of f at x)               at the pixels, the visual tokens, the embeddings or the residual stream
    r_l  = h_l(x') - h_l(x), made unit length         at every wanted layer l; the mean over inputs, made unit length again

It is then used like a contrastive vector. Source: Ratzlaff et al., arXiv 2411.12590 (the non-contrastive direction; FGSM is the
sign step). Conventional rather than mathematical: the sum over words (an answer that uses any of them mentions the attribute,
and a word that the model would never say counts for nothing), that each input counts alike however far its step carried, that
steps beside the pixels are relative to what is stepped on, and about which centre an ablation is made (the paper: zero).
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from typing import Literal

import torch
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from steerlib.errors import SteerlibError
from steerlib.models import sites
from steerlib.models.model import Model
from steerlib.models.prompts import Prompt, as_list, count_pictures, pictures_of, with_picture
from steerlib.models.scoring import Query, log_probs
from steerlib.models.sites import Layers, Site, image_token
from steerlib.steering.canvas import Canvas, canvas
from steerlib.steering.capture import capture
from steerlib.steering.operations import Ablate, Add, Operation, Steering, provenance
from steerlib.steering.perturb import StepSite, Touch, frozen, perturbed, wide


def gradient(
    model: Model,
    pictures: Image.Image | Sequence[Image.Image] | None,
    prompts: Prompt | Sequence[Prompt],
    words: Sequence[str],
    *,
    site: StepSite = "pixels",
    norm: Literal["sign", "l2"] = "sign",
    epsilon: float = 0.02,
    layers: Layers = "middle",
    operation: Literal["ablate", "add"] = "ablate",
    center: Literal["zero", "neutral"] | None = None,
    read: Literal["last", "mean"] = "last",
    progress: bool = True,
) -> Steering:
    """A Steering away from what makes the model say `words`, from a picture (or a prompt) and a list of words.

    It needs the memory of one prompt's activations, and none for gradients of weights.

    Args:
        model: left as it was.
        pictures: one per prompt, or one for all; None if the prompts are text or hold their pictures.
        prompts: one per picture, or one for all.
        words: whole words of any number of tokens, each as it would follow the prompt (with its space, if there is one).
        site: where the step is taken. "pixels": on the picture as the model gets it, resized and perhaps in tiles or patches;
            padding stays, and a value that the model gets twice moves once. "visual": on what the projector hands to the text
            decoder. "embeddings": on everything that is handed to it, text too. "residual": on the stream at each
            wanted layer by itself, so that the vector is the step.
        norm: "sign" moves every value by epsilon, "l2" along the gradient, by epsilon in root mean square.
        epsilon: the size of the step. For pixels in units of 0 (black) to 1 (white), between which the step stays; elsewhere a
            fraction of the root mean square of what is stepped on.
        layers: whose residual stream is steered.
        operation: "ablate" removes the direction; "add" subtracts, at strength s, s times the mean length of the activations
            read, along it.
        center: what an ablation leaves along the direction: "zero" (the paper) or what the activations have before the step
            ("neutral", also if None). Adding has no centre.
        read: activations at each prompt's "last" token, or their "mean" over its tokens.
        progress: show a bar.

    Returns:
        A Steering of one operation per layer.

    Raises:
        SteerlibError: on input that no step can be taken from.

    Example:
        >>> import steerlib as sl
        >>> lm = sl.load("smollm2", device="cpu")
        >>> made = sl.gradient(lm, None, "The nurse said that", [" she"], site="embeddings", layers=12, progress=False)
        >>> [str(site) for site in made.operations]
        ['residual.12']
    """
    _check(model, words, site, norm, epsilon, operation, center)
    inputs = _inputs(pictures, prompts)
    where = [Site("residual", layer) for layer in sites.layers(model.hf, layers)]
    origin = provenance(model, "gradient")  # before the work
    changes = {at: torch.zeros((), dtype=torch.float64) for at in where}
    befores, lengths = dict(changes), dict(changes)
    noise = 0 if site == "residual" else torch.finfo(model.hf.dtype).eps  # what rounding alone changes
    painted: dict[tuple[tuple[int, int], ...], Canvas] = {}  # by the sizes of a prompt's pictures
    with (
        frozen(model.hf),
        tqdm(total=len(inputs), desc="taking gradient steps", leave=False, disable=not progress) as bar,
    ):
        for prompt in inputs:
            sizes = tuple(picture.size for picture in pictures_of(prompt)) if site == "pixels" else ()
            if site == "pixels" and sizes not in painted:
                with torch.inference_mode(False):
                    painted[sizes] = canvas(model, prompt)
            before, change = _change(model, prompt, words, site, norm, epsilon, where, read, painted.get(sizes))
            for at in where:
                if not change[at].norm() > noise * before[at].norm():
                    raise SteerlibError(f"the step at the {site} is too small to change {at}: take a larger epsilon.")
                changes[at] = changes[at] + change[at] / change[at].norm()
                befores[at] = befores[at] + before[at] / len(inputs)
                lengths[at] = lengths[at] + before[at].norm() / len(inputs)
            bar.update()
    operations: dict[Site, Operation] = {}
    for at in where:
        if not changes[at].norm() > 1e-6 * len(inputs):
            raise SteerlibError(f"the steps of the {len(inputs)} inputs cancel at {at}: there is no common direction.")
        direction = changes[at] / changes[at].norm()
        if operation == "add":
            operations[at] = Add((-lengths[at] * direction).float())
        else:
            operations[at] = Ablate(direction.float(), None if center == "zero" else befores[at].float())
    step = {"site": site, "norm": norm, "epsilon": float(epsilon), "words": list(words)}
    counts = {"inputs": len(inputs), "pictures": sum(map(count_pictures, inputs))}
    facts = {"operation": operation, "center": (center or "neutral") if operation == "ablate" else None, "read": read}
    return Steering(operations, {**origin, **step, **counts, **facts})


def _check(
    model: Model, words: Sequence[str], site: str, norm: str, epsilon: float, operation: str, center: str | None
) -> None:
    """Refuse what can be refused before the model runs."""
    for what, given, known in (
        ("place for a step", site, ("pixels", "visual", "embeddings", "residual")),
        ("norm of a step", norm, ("sign", "l2")),
        ("operation", operation, ("ablate", "add")),
        ("centre", center or "neutral", ("zero", "neutral")),
    ):
        if given not in known:
            raise SteerlibError(f"unknown {what} '{given}': choose {', '.join(map(repr, known))}.")
    if operation == "add" and center is not None:
        raise SteerlibError(f"adding has no centre, so center='{center}' would do nothing: leave it out, or ablate.")
    if isinstance(words, str) or not words or not all(isinstance(word, str) and word.strip() for word in words):
        raise SteerlibError(f"words are a list of texts, none of them empty, such as ['woman', 'man'], not {words!r}.")
    if not isinstance(epsilon, numbers.Real) or not 0 < epsilon < math.inf:
        raise SteerlibError(f"epsilon is the size of the step, a number above 0, not {epsilon!r}.")
    if site == "pixels" and epsilon > 1:
        raise SteerlibError(f"epsilon {epsilon} is beyond the range of a pixel, which is 0 to 1: 0.02 is a usual step.")
    if site in ("pixels", "visual") and (model.processor is None or image_token(model.hf) is None):
        raise SteerlibError(
            f"'{model.name}' reads no pictures, so no step can be taken at its {site}: use 'embeddings' or 'residual'."
        )


def _inputs(pictures: Image.Image | Sequence[Image.Image] | None, prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    """Every prompt with its picture in it."""
    many = as_list(prompts)[0]
    if pictures is None:
        return many
    shown = [pictures] if isinstance(pictures, Image.Image) else list(pictures)
    if not shown or (len(shown) != len(many) and 1 not in (len(shown), len(many))):
        raise SteerlibError(f"{len(shown)} picture(s) and {len(many)} prompt(s) do not pair: give as many of each.")
    number = max(len(shown), len(many))
    return [with_picture(shown[i % len(shown)], many[i % len(many)]) for i in range(number)]


def _change(
    model: Model,
    prompt: Prompt,
    words: Sequence[str],
    site: StepSite,
    norm: str,
    epsilon: float,
    where: list[Site],
    read: Literal["last", "mean"],
    painted: Canvas | None,
) -> tuple[dict[Site, Tensor], dict[Site, Tensor]]:
    """At every wanted site, (width,) in float64: the activation before the step, and what the step adds to it."""
    query = model.split(prompt, words)
    columns = _columns(model, query, site)

    def activations(touch: Touch) -> dict[Site, Tensor]:
        with perturbed(model, site, columns, where, touch, painted):
            _, got = next(capture(model, [prompt], where, read=read))
        return {at: got[at][0].double() for at in where}

    before = activations(lambda key, h: h)  # rounded as after the step
    _, slopes = _slopes(model, query, site, columns, where, painted)
    steps = {key: _step(value, slope, norm, epsilon, site) for key, (value, slope) in slopes.items()}
    if site == "residual":  # the step is the change
        moves = {at: steps[str(at)][0].double().cpu() for at in where}  # (tokens, width)
        return before, {at: move[-1] if read == "last" else move.mean(0) for at, move in moves.items()}

    def moved(key: str, h: Tensor) -> Tensor:
        there = wide(h) + steps[key]
        if site != "pixels":
            return there
        return there.clamp(h.clamp(max=0), h.clamp(min=1))  # a resizing may have gone beyond black and white already

    after = activations(moved)
    return before, {at: after[at] - before[at] for at in where}


def _columns(model: Model, query: Query, site: StepSite) -> Tensor:
    """(columns,) which tokens of the prompt are stepped on: those of its pictures for "visual", else all."""
    ids, token = torch.tensor(query.prompt, device=model.device), image_token(model.hf)
    if site == "visual" and not query.seen:
        raise SteerlibError(f"a step at the {site} needs a picture: a prompt has none, give it in `pictures`.")
    stepped = ids.eq(token) if site == "visual" and token is not None else torch.ones_like(ids)
    return stepped.nonzero()[:, 0]


def _slopes(
    model: Model, query: Query, site: StepSite, columns: Tensor, where: list[Site], painted: Canvas | None
) -> tuple[float, dict[str, tuple[Tensor, Tensor]]]:
    """f, and {what is stepped on: (its value, the gradient of f there)}.

    Words that differ in their last token share a pass; the passes are joined by grad log sum e^f = sum e^f grad f / sum e^f.
    """
    total, slopes, held = -math.inf, dict[str, Tensor](), dict[str, Tensor]()

    def keep(key: str, h: Tensor) -> Tensor:
        held[key] = h if h.requires_grad else h.detach().requires_grad_()
        return held[key]

    for row in query.rows():
        stem, lasts = row.ids[row.prompt :], sorted({tail[-1] for tail in row.tails.values()})
        with torch.inference_mode(False), perturbed(model, site, columns, where, keep, painted):
            ((_, lines),) = log_probs(model, [row], batch_size=1)  # (stem + 1, vocabulary)
            f = lines[torch.arange(len(stem)), stem].sum() + lines[-1, lasts].logsumexp(0)
            if not held:
                raise SteerlibError(f"no step can be taken at the {site}: a pass of '{model.name}' never reaches it.")
            found = torch.autograd.grad(f, list(held.values()))
        both = torch.logaddexp(f.new_tensor(total), f).item()
        if not math.isfinite(both) or not all(slope.isfinite().all() for slope in found):
            raise SteerlibError(
                f"'{model.name}' gave a likelihood of the words, or a gradient, that is not finite (NaN or infinite)."
            )
        old, new = math.exp(total - both), math.exp(f.item() - both)
        for key, slope in zip(held, found, strict=True):
            slopes[key] = new * wide(slope) + (old * slopes[key] if key in slopes else 0)
        total = both
    return total, {key: (wide(held[key].detach()), slope) for key, slope in slopes.items()}


def _step(value: Tensor, slope: Tensor, norm: str, epsilon: float, site: StepSite) -> Tensor:
    """One step up the slope, of its shape."""
    if not slope.any():
        raise SteerlibError(f"the likelihood of the words does not depend on the {site}: there is no step to take.")
    unit = slope.sign() if norm == "sign" else slope / slope.norm() * math.sqrt(slope.numel())
    return unit * (epsilon if site == "pixels" else epsilon * value.norm() / math.sqrt(value.numel()))

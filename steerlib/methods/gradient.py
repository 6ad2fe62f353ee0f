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
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from steerlib.errors import SteerlibError
from steerlib.models import sites
from steerlib.models.layout import laid_out
from steerlib.models.model import Model
from steerlib.models.prompts import Prompt, as_list, count_pictures, with_picture
from steerlib.models.scoring import Row
from steerlib.models.sites import Layers, Site, hook, image_token
from steerlib.steering.capture import capture
from steerlib.steering.operations import Ablate, Add, Operation, Steering, provenance

StepSite = Literal["pixels", "visual", "embeddings", "residual"]
Touch = Callable[[str, Tensor], Tensor]


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
    center: Literal["zero", "neutral"] = "neutral",
    read: Literal["last", "mean"] = "last",
) -> Steering:
    """A Steering away from what makes the model say `words`, from a picture (or a prompt) and a list of words.

    pictures, prompts: as many of each, or one for all of the others; None if the prompts are text or hold their pictures.
    words: whole words of any number of tokens, each as it would follow the prompt (with its space, if there is one).
    site: where the step is taken. "pixels": on the picture as the model gets it. "visual": on what the projector hands to the
    text decoder. "embeddings": on everything that is handed to it, text too. "residual": on the stream at each wanted layer by
    itself, so that the vector is the step.
    norm: "sign" moves every value by epsilon, "l2" along the gradient, by epsilon in root mean square. epsilon: for pixels in
    units of 0 (black) to 1 (white), between which the step stays; elsewhere a part of the root mean square of what is stepped on.
    layers: whose residual stream is steered. operation: "ablate" removes the direction; "add" subtracts, at strength s, it times
    s times the mean length of the activations read. center: what an ablation leaves along the direction: "zero" (the paper)
    or what the activations have before the step ("neutral"). read: activations at each prompt's "last" token or their "mean".
    Needs the memory of one prompt's activations, none for gradients of weights. Raises SteerlibError on bad input.
    """
    _check(model, words, site, norm, epsilon, operation, center)
    inputs = _inputs(pictures, prompts)
    where = [Site("residual", layer) for layer in sites.layers(model.hf, layers)]
    changes = {at: torch.zeros((), dtype=torch.float64) for at in where}
    befores, lengths = dict(changes), dict(changes)
    noise = 0 if site == "residual" else torch.finfo(model.hf.dtype).eps  # what rounding alone changes
    with _frozen(model.hf), tqdm(total=len(inputs), desc="taking gradient steps", leave=False) as bar:
        for prompt in inputs:
            before, change = _change(model, prompt, words, site, norm, epsilon, where, read)
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
            operations[at] = Ablate(direction.float(), befores[at].float() if center == "neutral" else None)
    step = {"site": site, "norm": norm, "epsilon": float(epsilon), "words": list(words)}
    counts = {"inputs": len(inputs), "pictures": sum(map(count_pictures, inputs))}
    facts = {"operation": operation, "center": center if operation == "ablate" else None, "read": read}
    return Steering(operations, provenance(model, "gradient", **step, **counts, **facts))


def _check(
    model: Model, words: Sequence[str], site: str, norm: str, epsilon: float, operation: str, center: str
) -> None:
    """Refuse what can be refused before the model runs."""
    for what, given, known in (
        ("place for a step", site, ("pixels", "visual", "embeddings", "residual")),
        ("norm of a step", norm, ("sign", "l2")),
        ("operation of a gradient steering", operation, ("ablate", "add")),
        ("centre", center, ("zero", "neutral")),
    ):
        if given not in known:
            raise SteerlibError(f"'{given}' is no {what}: use {', '.join(known)}.")
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
) -> tuple[dict[Site, Tensor], dict[Site, Tensor]]:
    """At every wanted site, (width,) in float64: the activation before the step, and what the step adds to it."""
    row = model.split(prompt, words)
    columns = _columns(model, row, site)

    def activations(touch: Touch) -> dict[Site, Tensor]:
        with _touched(model, site, columns, where, touch):
            _, got = next(capture(model, [prompt], where, read=read))
        return {at: got[at][0].double() for at in where}

    before = activations(lambda key, h: h)  # rounded as after the step
    _, slopes = _slopes(model, row, site, columns, where)
    steps = {key: _step(value, slope, norm, epsilon, site) for key, (value, slope) in slopes.items()}
    if site == "residual":  # the step is the change
        moves = {at: steps[str(at)][0].double().cpu() for at in where}  # (tokens, width)
        return before, {at: move[-1] if read == "last" else move.mean(0) for at, move in moves.items()}

    def moved(key: str, h: Tensor) -> Tensor:
        there = _wide(h) + steps[key]
        return there.clamp(0, 1) if site == "pixels" else there

    after = activations(moved)
    return before, {at: after[at] - before[at] for at in where}


def _columns(model: Model, row: Row, site: StepSite) -> Tensor:
    """(columns,) which tokens of the prompt are stepped on: those of its pictures for "visual", else all."""
    ids, token = torch.tensor(row[0], device=model.device), image_token(model.hf)
    if (site == "pixels" and "pixel_values" not in row[2]) or (site == "visual" and not row[2]):
        raise SteerlibError(f"a step at the {site} needs a picture: a prompt has none, give it in `pictures`.")
    stepped = ids.eq(token) if site == "visual" and token is not None else torch.ones_like(ids)
    return stepped.nonzero()[:, 0]


def _slopes(
    model: Model, row: Row, site: StepSite, columns: Tensor, where: list[Site]
) -> tuple[float, dict[str, tuple[Tensor, Tensor]]]:
    """f, and {what is stepped on: (its value, the gradient of f there)}.

    Words that differ in their last token share a pass; the passes are joined by grad log sum e^f = sum e^f grad f / sum e^f.
    """
    ids, tails, seen = row
    stems: dict[tuple[int, ...], set[int]] = {}
    for tail in tails:
        stems.setdefault(tuple(tail[:-1]), set()).add(tail[-1])
    total, slopes, held = -math.inf, dict[str, Tensor](), dict[str, Tensor]()

    def keep(key: str, h: Tensor) -> Tensor:
        held[key] = h if h.requires_grad else h.detach().requires_grad_()
        return held[key]

    for stem, lasts in stems.items():
        batch = model.batch([[*ids, *stem]], [seen])
        ends = torch.tensor([len(ids)], device=model.device)
        with torch.inference_mode(False), _touched(model, site, columns, where, keep):
            with laid_out(batch["attention_mask"].bool(), ends):
                logits = model.hf(**batch, use_cache=False, logits_to_keep=len(stem) + 1).logits[0]
            lines = _wide(logits).log_softmax(-1)  # (stem + 1, vocabulary)
            f = lines[torch.arange(len(stem)), list(stem)].sum() + lines[-1, sorted(lasts)].logsumexp(0)
            found = torch.autograd.grad(f, list(held.values()))
        both = torch.logaddexp(f.new_tensor(total), f).item()
        if not math.isfinite(both) or not all(slope.isfinite().all() for slope in found):
            raise SteerlibError(
                f"'{model.name}' gave a likelihood of the words, or a gradient, that is not finite (NaN or infinite)."
            )
        old, new = math.exp(total - both), math.exp(f.item() - both)
        for key, slope in zip(held, found, strict=True):
            slopes[key] = new * _wide(slope) + (old * slopes[key] if key in slopes else 0)
        total = both
    return total, {key: (_wide(held[key].detach()), slope) for key, slope in slopes.items()}


def _step(value: Tensor, slope: Tensor, norm: str, epsilon: float, site: StepSite) -> Tensor:
    """One step up the slope, of its shape."""
    if not slope.any():
        raise SteerlibError(f"the likelihood of the words does not depend on the {site}: there is no step to take.")
    unit = slope.sign() if norm == "sign" else slope / slope.norm() * math.sqrt(slope.numel())
    return unit * (epsilon if site == "pixels" else epsilon * value.norm() / math.sqrt(value.numel()))


@contextmanager
def _touched(model: Model, site: StepSite, columns: Tensor, where: list[Site], touch: Touch) -> Iterator[None]:
    """Within the `with`, what `touch(name, value)` returns stands for the value at the site, in every forward pass.

    The value is the pictures in units of 0 to 1 for "pixels", else (1, columns, width).
    """

    def part(key: str, h: Tensor) -> Tensor:  # h: (1, tokens, width), of which some columns are touched
        return h.index_copy(1, columns, touch(key, h[:, columns]).to(h.dtype))

    def handed(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        table, token, h = module.get_input_embeddings(), image_token(model.hf), kwargs.get("inputs_embeds")
        if h is None:  # a text model looks its tokens up by itself
            h, args = table(kwargs.pop("input_ids", args[0] if args else None)), (None, *args[1:]) if args else ()
        known = token is not None and token < table.num_embeddings
        if site == "visual" and known and torch.equal(h[0, columns[0]], table(columns.new_tensor(token))):
            raise SteerlibError(
                f"'{model.name}' hands no visual tokens to its text decoder: take the step at the pixels, site='pixels'."
            )
        return args, {**kwargs, "inputs_embeds": part(site, h)}

    def looked(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        given = kwargs["pixel_values"]
        mean, deviation = _normalisation(model, given)
        shown = _wide(given) * deviation + mean
        return args, {**kwargs, "pixel_values": ((touch(site, shown) - mean) / deviation).to(given.dtype)}

    with ExitStack() as stack:
        if site == "residual":
            for at in where:
                stack.callback(hook(sites.find(model.hf, at), partial(part, str(at))).remove)
        elif site == "pixels":
            stack.callback(model.hf.base_model.register_forward_pre_hook(looked, with_kwargs=True).remove)
        else:
            stack.callback(sites.decoder(model.hf).register_forward_pre_hook(handed, with_kwargs=True).remove)
        yield


def _normalisation(model: Model, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation, each (3, 1, 1), with which the processor made `pixels` of a picture in 0 to 1."""
    how = model.processor.image_processor
    white = 255 * how.rescale_factor if how.do_rescale else 255.0  # before the normalisation
    moments = (how.image_mean, how.image_std) if how.do_normalize else ([0.0] * 3, [1.0] * 3)
    mean, deviation = (torch.tensor(x).to(_wide(pixels)).reshape(-1, 1, 1) / white for x in moments)
    there = _wide(pixels) * deviation + mean if pixels.dim() > 3 and pixels.shape[-3] == len(mean) else None
    if there is None or there.min() < -0.02 or there.max() > 1.02:
        raise SteerlibError(
            f"the processor of '{model.name}' does not give pictures that can be turned back into pixels from 0 to 1 "
            f"(it gives {tuple(pixels.shape)}): take the step at the visual tokens, site='visual'."
        )
    return mean, deviation


@contextmanager
def _frozen(hf: Any) -> Iterator[None]:
    """Within the `with`, the model is in evaluation mode and no weight gathers a gradient; then all is as it was."""
    training = [module for module in hf.modules() if module.training]
    learning = [weight for weight in hf.parameters() if weight.requires_grad]
    try:
        hf.eval()
        for weight in learning:
            weight.requires_grad_(False)
        yield
    finally:
        for weight in learning:
            weight.requires_grad_(True)
        for module in training:
            module.training = True


def _wide(tensor: Tensor) -> Tensor:
    """In float32 at least."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))

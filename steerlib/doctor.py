"""`doctor`: hold the library against a model that nobody has tried with it, in a few short passes.

steerlib finds blocks, norms and heads by what they are, and takes for granted how a network pads, caches and counts. Each check
below tries one of these assumptions out on the model itself, and says in a line what it found and what to do about it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from steerlib.errors import SteerlibError
from steerlib.models import check, sites
from steerlib.models.check import last_logits
from steerlib.models.layout import alone
from steerlib.models.mergeable import mergeable_sites
from steerlib.models.model import Model
from steerlib.models.prompts import Prompt, chat, pictures_of, with_marks
from steerlib.models.sites import Site
from steerlib.steering.apply import Tokens, steer
from steerlib.steering.capture import activations
from steerlib.steering.operations import Add, Affine, Steering

Verdict = Literal["works", "wrong", "refused", "absent"]

PROMPTS = ("The nurse said that", "A", "The mechanic was tired because of the long day, and so")
SCOPES: tuple[Tokens, ...] = ("all", "prompt", "generated", "last")
LIMITS = {torch.float16: 0.05, torch.bfloat16: 0.1}  # relative differences that rounding explains; else 0.001


@dataclass(frozen=True)
class Check:
    """One assumption, tried out.

    Attributes:
        name: what was looked at.
        verdict: "works"; "wrong", if numbers from this model cannot be trusted there; "refused", if the library says that it cannot;
            "absent", if the model has no such thing.
        found: what was found, in a line.
        advice: what to do about it; "" if nothing.
    """

    name: str
    verdict: Verdict
    found: str
    advice: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """What `doctor` found. Printed, it is a table with a line per check.

    Attributes:
        model: the name of the model.
        about: its architecture, depth, width and the type of its weights.
        checks: in the order in which they were made.

    Example:
        >>> found = Diagnosis("mine", "llama, 2 blocks", (Check("padding", "wrong", "it is read", "use batch_size=1"),))
        >>> print(found)
        mine: llama, 2 blocks
          wrong    padding  it is read
                            -> use batch_size=1
          wrong: padding
        >>> found.healthy
        False
    """

    model: str
    about: str
    checks: tuple[Check, ...]

    @property
    def healthy(self) -> bool:
        """Whether nothing is wrong; what is refused or absent is not wrong."""
        return all(check.verdict != "wrong" for check in self.checks)

    def table(self) -> pd.DataFrame:
        """One row per check: verdict, found and advice."""
        return pd.DataFrame(vars(check) for check in self.checks).set_index("name")

    def __str__(self) -> str:
        wide = max(len(check.name) for check in self.checks)
        lines = [f"{self.model}: {self.about}"]
        for one in self.checks:
            lines.append(f"  {one.verdict:8} {one.name:{wide}}  {one.found}")
            lines += [f"  {'':8} {'':{wide}}  -> {one.advice}"] * bool(one.advice)
        wrong = [one.name for one in self.checks if one.verdict == "wrong"]
        return "\n".join([*lines, f"  wrong: {', '.join(wrong)}" if wrong else "  nothing is wrong"])

    __repr__ = __str__


class _Wrong(Exception):
    """A check ran, and what it found is not as it should be. Its two arguments: what was found, and what to do."""


class _Absent(Exception):
    """The model has no such thing to check."""


def doctor(model: Model) -> Diagnosis:
    """Try out on a model what steerlib takes for granted: a table with a verdict per check, and what to do.

    Args:
        model: the model, not steered; it runs some dozens of short prompts, and two small pictures if it sees.

    Returns:
        A Diagnosis; print it, or ask whether it is `healthy`.

    Example:
        >>> import steerlib as sl
        >>> found = sl.doctor(sl.load("smollm2"))
        >>> found.healthy, found.table().loc["padding", "found"]
        (True, 'a prompt in a batch gets the logits that it gets alone')
    """
    hf = model.hf
    about = (
        f"{sites.decoder(hf).config.model_type}, {len(sites.blocks(hf))} blocks of width {sites.width(hf)}, "
        f"{str(hf.dtype).removeprefix('torch.')}"
    )
    made = tuple(_one(name, examine, model) for name, examine in CHECKS.items())
    return Diagnosis(model.name, about, made)


def _one(name: str, examine: Callable[[Model], str], model: Model) -> Check:
    try:
        return Check(name, "works", examine(model))
    except _Wrong as wrong:
        return Check(name, "wrong", *wrong.args)
    except _Absent as absent:
        return Check(name, "absent", str(absent))
    except SteerlibError as error:
        return Check(name, "refused", str(error))
    except Exception as error:  # noqa: BLE001 (a crash inside the network: the doctor goes on, and says so)
        reason = " ".join(str(error).split())[:150]
        return Check(name, "wrong", f"{type(error).__name__}: {reason}", "do not use this part with this model")


def _template(model: Model) -> str:
    """Whether chats survive the template."""
    reader = model.processor if getattr(model.processor, "chat_template", None) else model.tokenizer
    if not getattr(reader, "chat_template", None):
        raise _Absent("the model has no chat template: give it plain text")
    model.render(chat("Who is the nurse?"))
    kept = ["a question"]
    for name, prompt in {
        "an answer that has begun": chat("Who is the nurse?", "The nurse is"),
        "a system message": chat("Who is the nurse?", system="Be fair."),
    }.items():
        try:
            model.render(prompt)
            kept.append(name)
        except SteerlibError:
            pass
    return f"keeps {', '.join(kept)}"


def _ids(model: Model) -> str:
    """Whether chats become the ids that the model's own reader makes."""
    reader = model.processor if getattr(model.processor, "chat_template", None) else model.tokenizer
    if not getattr(reader, "chat_template", None):
        raise _Absent("the model has no chat template to compare with")
    _same_ids(model, reader, chat("Who is the nurse?"))
    return f"those of {type(reader).__name__}.apply_chat_template"


def _same_ids(model: Model, reader: Any, prompt: Prompt) -> None:
    messages = [dict(message) for message in prompt if not isinstance(message, str)]
    if reader is model.processor:
        for message in messages:
            if isinstance(message["content"], str):
                message["content"] = [{"type": "text", "text": message["content"]}]
    how = {"add_generation_prompt": True, **model.template}
    try:
        theirs = reader.apply_chat_template(messages, tokenize=True, return_dict=True, **how)["input_ids"]
    except TypeError:  # a template that takes texts alone: the processor is called with what it makes of them
        if reader is not model.processor:
            raise
        text = reader.apply_chat_template(with_marks(messages, reader.image_token), tokenize=False, **how)
        theirs = reader(text=[text], images=[pictures_of(prompt)] if pictures_of(prompt) else None)["input_ids"]
    theirs = theirs[0] if len(theirs) and not isinstance(theirs[0], int) else theirs
    ours = model.tokens(prompt)
    if ours != list(theirs):
        raise _Wrong(f"{len(ours)} token ids, where {type(reader).__name__} makes {len(theirs)} or others", "report it")


def _padding(model: Model) -> str:
    if fault := check.batched_alike(model):
        raise _Wrong(fault, "ask one prompt at a time: batch_size=1")
    return "a prompt in a batch gets the logits that it gets alone"


def _cache(model: Model) -> str:
    if fault := check.cached_alike(model):
        raise _Wrong(fault, "generate with use_cache=False and batch_size=1")
    return "what is written with a cache is what is written without"


def _activations(model: Model) -> str:
    """Whether what is captured after each block is what the model calls its hidden states."""
    layers = _layers(model)
    with torch.no_grad(), alone(model.hf):
        batch = model.batch([model.tokens(PROMPTS[0])])
        hidden = getattr(model.hf(**batch, use_cache=False, output_hidden_states=True), "hidden_states", None)
    if hidden is None:
        raise _Absent("the model does not return hidden states to compare with")
    ours = list(activations(model, [PROMPTS[0]], [Site("residual", n) for n in layers]).values())
    inner = len(layers) - 1  # after the last block, most models return what the final norm makes of it
    for offset in (1, 0):
        theirs = [h[0, -1].float().cpu() for h in hidden[offset : offset + inner]]
        if len(theirs) == inner and all(_close(model, a[0], b) for a, b in zip(ours, theirs, strict=False)):
            return f"after each of {len(layers)} blocks those that the model returns{_skipped(model)}"
    raise _Wrong("what is captured after the blocks is not what the model returns", "do not read or steer residuals")


def _nothing(model: Model) -> str:
    """Strength 0, and a `with` that was left."""
    rows = [model.tokens(text) for text in PROMPTS]
    plain = last_logits(model, rows)
    steering = _push(model, _middle(model))
    with steer(model, steering, 0):
        if not torch.equal(last_logits(model, rows), plain):
            raise _Wrong("strength 0 changes the logits", "do not steer this model")
    with steer(model, steering):
        pass
    if not torch.equal(last_logits(model, rows), plain):
        raise _Wrong("after the `with`, the logits are not those of before", "load the model again after steering")
    return "strength 0, and the model after a steering, are the plain model to the bit"


def _reach(model: Model) -> str:
    """Whether a push at the first, the middle and the last block arrives, in a batch as by hand on a text alone."""
    rows = [model.tokens(text) for text in PROMPTS]
    plain = last_logits(model, rows)
    layers = sorted({_layers(model)[0], _middle(model), _layers(model)[-1]})
    for layer in layers:
        steering = _push(model, layer)
        with steer(model, steering, tokens="last"):
            moved = last_logits(model, rows)
        if any(torch.equal(a, b) for a, b in zip(plain, moved, strict=True)):
            raise _Wrong(f"a push after block {layer} does not change every prompt's logits", "steer other blocks")
        for row, line in zip(rows, moved, strict=True):
            with _by_hand(model, layer, next(iter(steering.operations.values()))):
                if not _close(model, line, last_logits(model, [row])[0]):
                    raise _Wrong(f"a push after block {layer} is not what a hook by hand does", "steer other blocks")
    shown = ", ".join(map(str, layers))
    return f"a push after block {shown} does in a batch what it does by hand to a text alone{_skipped(model)}"


def _scopes(model: Model) -> str:
    steering = _push(model, _middle(model))
    for tokens in SCOPES:
        with steer(model, steering, tokens=tokens):
            with_cache, without = (
                model.generate(list(PROMPTS), max_new_tokens=4, use_cache=cached) for cached in (True, False)
            )
        if with_cache != without:
            half = "rounding may explain it: try float32" if model.hf.dtype in LIMITS else "steer with tokens='all'"
            raise _Wrong(f"tokens='{tokens}' writes one text with a cache and another without", half)
    return f"tokens={', '.join(SCOPES)}: the same text with a cache and without"


def _places(kind: sites.Kind) -> Callable[[Model], str]:
    def count(model: Model) -> str:
        found = sites.sites(model.hf, kind)
        for site in found:
            sites.find(model.hf, site)
        if not found:
            raise _Absent(f"no {kind}s were found")
        blocks = len({site.layer for site in found if site.layer >= 0})
        final = " and one after the last block" if Site("norm", -1) in found else ""
        inside = sum(site.layer >= 0 for site in found)
        return f"{inside} in {blocks} of {len(sites.blocks(model.hf))} blocks{final}"

    return count


def _gradients(model: Model) -> str:
    """Whether a training such as dso can learn: gradients of the logits reach every norm."""
    norms = sites.sites(model.hf, "norm")
    if not norms:
        raise _Absent("there are no norms to learn at")
    passed = _passed(model, [sites.find(model.hf, site).module for site in norms], PROMPTS[2])
    norms = [site for site in norms if sites.find(model.hf, site).module in passed]
    width = sites.width(model.hf)
    shifts = {site: torch.zeros(width, requires_grad=True) for site in norms}
    steering = Steering({site: Affine(torch.zeros(width), shift) for site, shift in shifts.items()})
    with alone(model.hf), steer(model, steering):
        logits = model.hf(**model.batch([model.tokens(PROMPTS[2])]), use_cache=False).logits[:, -1].float()
        logits.log_softmax(-1)[:, : logits.shape[-1] // 2].sum().backward()
    blind = [str(s) for s, v in shifts.items() if v.grad is None or not v.grad.isfinite().all() or not v.grad.any()]
    if blind:
        raise _Wrong(f"no usable gradient at {len(blind)} of {len(norms)} norms, such as {blind[0]}", "leave them out")
    return f"reach all {len(norms)} norms, so that dso can learn{_skipped(model)}"


def _pictures(model: Model) -> str:
    if model.processor is None:
        raise _Absent("the model reads no pictures")
    drawn = [_picture(0, (48, 32)), _picture(1, (24, 24))]
    plain = not getattr(model.processor, "chat_template", None)
    if not plain:
        for number in (1, 2):
            _same_ids(model, model.processor, chat("Who is this?", pictures=drawn[:number]))
    asked: list[Prompt] = [chat("Who is this?", pictures=picture, plain=plain) for picture in drawn]
    asked.append("The nurse said")
    options = [" a man", " the woman"]
    together = model.choose(asked, options)
    each = torch.stack([model.choose(prompt, options) for prompt in asked])
    if not _close(model, together, each):
        raise _Wrong("pictures of two sizes and a text get other answers in a batch than alone", "use batch_size=1")
    if plain:
        return (
            "of two sizes and beside text, they are read in a batch as alone; there is no chat template to compare with"
        )
    return "of two sizes, one or two per prompt and beside text, they are read as the processor does"


def _merging(model: Model) -> str:
    held = mergeable_sites(model.hf)
    norms = sites.sites(model.hf, "norm")
    counts = {part: sum(part in parts for parts in held.values()) for part in ("scale", "shift")}
    return f"weights can hold the scale of {counts['scale']} and the shift of {counts['shift']} of {len(norms)} norms"


CHECKS: dict[str, Callable[[Model], str]] = {
    "chat template": _template,
    "token ids": _ids,
    "padding": _padding,
    "cache": _cache,
    "activations": _activations,
    "norms": _places("norm"),
    "heads": _places("head"),
    "no trace": _nothing,
    "steering": _reach,
    "scopes": _scopes,
    "gradients": _gradients,
    "pictures": _pictures,
    "merging": _merging,
}
"""What is looked at: name -> a check that returns what it found."""


def _layers(model: Model) -> list[int]:
    """The blocks that a text passes: Llama 3.2 Vision has others, which are for pictures only."""
    passed = _passed(model, list(sites.blocks(model.hf)), PROMPTS[0])
    return [layer for layer, module in enumerate(sites.blocks(model.hf)) if module in passed]


def _skipped(model: Model) -> str:
    skipped = set(range(len(sites.blocks(model.hf)))) - set(_layers(model))
    return f"; a text does not pass block {', '.join(map(str, sorted(skipped)))}" if skipped else ""


def _passed(model: Model, modules: Sequence[Any], text: str) -> set[Any]:
    """Those of the modules that a pass over a text calls."""
    called: set[Any] = set()
    handles = [module.register_forward_hook(lambda module, *_: called.add(module)) for module in modules]
    try:
        last_logits(model, [model.tokens(text)])
    finally:
        for handle in handles:
            handle.remove()
    return called


def _middle(model: Model) -> int:
    layers = _layers(model)
    return layers[len(layers) // 2]


def _push(model: Model, layer: int) -> Steering:
    """A random vector as long as the activations after a block are."""
    site = Site("residual", layer)
    size = float(activations(model, [PROMPTS[0]], [site])[site].norm())
    vector = torch.randn(sites.width(model.hf), generator=torch.Generator().manual_seed(layer))
    return Steering({site: Add(vector / vector.norm() * size)})


@contextmanager
def _by_hand(model: Model, layer: int, operation: Any) -> Iterator[None]:
    """A plain hook that changes the last token of a block's output."""

    def change(module: Any, args: Any, output: Any) -> Any:
        h = output[0] if isinstance(output, tuple) else output
        steered = h.clone()
        steered[:, -1] = operation(h[:, -1].float().cpu(), 1.0).to(h)
        return (steered, *output[1:]) if isinstance(output, tuple) else steered

    handle = sites.blocks(model.hf)[layer].register_forward_hook(change)
    try:
        yield
    finally:
        handle.remove()


def _close(model: Model, a: Tensor, b: Tensor) -> bool:
    """Whether two tensors agree up to rounding in the type of the model's weights."""
    return float((a - b).norm() / b.norm().clamp(min=1e-9)) < LIMITS.get(model.hf.dtype, 1e-3)


def _picture(seed: int, size: tuple[int, int]) -> Image.Image:
    """Coloured noise, width x height."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)

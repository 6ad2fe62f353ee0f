"""`with steer(model, steering, strength): ...` applies a Steering by hooks and takes them away again on every way out.

No weight is ever written. What the hooks know of the running pass (prompt, answer, padding, pictures) is followed here.
"""

from __future__ import annotations

import math
import numbers
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from copy import copy
from types import MethodType
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from steerlib.errors import SteerlibError
from steerlib.models import sites
from steerlib.models.layout import Layout, alone, laid_out, layout
from steerlib.models.model import Model, weights_hash
from steerlib.models.sites import Place, Site, given, hook, image_token, uncompiled
from steerlib.steering.operations import Operation, Steering

Tokens = Literal["all", "prompt", "generated", "image", "last"]
SCOPES = ("all", "prompt", "generated", "image", "last")

STATES = ("cache_params", "state")
"""Where recurrent networks keep what they have read, if not in past_key_values."""
_STATE = (
    "this model keeps what it has read in a state that does not say how many tokens it holds, so a steering cannot tell prompt and "
    "answer apart in a cached pass: generate with use_cache=False."
)


@contextmanager
def steer(
    model: Model, steering: Steering, strength: float = 1.0, *, tokens: Tokens = "all", strict: bool = False
) -> Iterator[None]:
    """Run a model steered within the `with`; on leaving it, however that happens, the model is as before, to the bit.

    Decoding may be greedy, sampled, with beams, assisted, with any cache of keys and values or without. Nested `with`s act in the
    order written. Meanwhile another thread that asks the same model waits; code that calls `model.hf` itself from another thread
    does not wait, and is steered too. Compiled parts of the model run uncompiled within the `with`, because compiled code does not
    see hooks.

    Args:
        model: the model to steer.
        steering: what a method made, or a Steering by hand.
        strength: 0 is the unsteered model, to the bit; 1 is what the method made.
        tokens: which positions are steered: "all", "prompt", "generated" (what the model has written), "image", or "last" (the
            prompt's last token). Padding never is.
        strict: refuse a steering that was made for other weights, instead of warning once.

    Raises:
        SteerlibError: the steering does not fit the model, the strength is not a finite number, or `tokens` names no scope; in a
            pass, an activation is not (batch, tokens, width), no site is reached, the model keeps its state where it does not
            say how many tokens it has read, or a backward pass runs blocks again (gradient checkpointing).

    Warns:
        UserWarning: the strength lies outside the range that the steering was made for, the weights are others, or a pass does
            not reach all of the sites.

    Example:
        >>> import steerlib as sl
        >>> lm = sl.load("smollm2")
        >>> steering = sl.load_steering(sl.data_path("steerings", "dso-smollm2-pronoun-0.safetensors"))
        >>> he, she = lm.choose("The nurse said that", [" he", " she"])
        >>> with sl.steer(lm, steering, strength=1.0):
        ...     he_steered, she_steered = lm.choose("The nurse said that", [" he", " she"])
        >>> f"P(he): {he:.1f} plain, {he_steered:.1f} steered"
        'P(he): 0.2 plain, 0.4 steered'
    """
    if tokens not in SCOPES:
        raise SteerlibError(f"'{tokens}' names no tokens: use {', '.join(SCOPES)}.")
    if not isinstance(strength, numbers.Real) or not math.isfinite(strength):
        raise SteerlibError(f"strength must be a finite number, not {strength!r}.")
    if tokens == "image" and image_token(model.hf) is None:
        raise SteerlibError(f"'{model.name}' reads no pictures, so it has no image tokens to steer.")
    places = _fit(model, steering)
    _same_weights(model, steering, strict)
    low, high = steering.provenance.get("strengths", (-math.inf, math.inf))
    if not low <= strength <= high:
        warnings.warn(
            f"strength {strength:g} lies outside the range in which this steering was trained ({low:g} to {high:g}): measure what "
            "it does there before you rely on it.",
            stacklevel=3,
        )
    if strength == 0:
        yield
        return
    with ExitStack() as stack:
        scope = "" if tokens == "all" else f" with tokens='{tokens}'"
        stack.enter_context(alone(model.hf, f"a steering{scope}"))
        stack.enter_context(uncompiled(model.hf))
        reading = stack.enter_context(_reading(model.hf))
        reading.sites.update(steering.operations)
        stack.callback(reading.sites.clear)
        for site, operation in steering.operations.items():
            held: dict[torch.device, Operation] = {}  # its vectors on every device that the site was met on

            def change(
                h: Tensor,
                site: Site = site,
                operation: Operation = operation,
                held: dict[torch.device, Operation] = held,
            ) -> Tensor:
                reading.reached.add(site)
                if h.device not in held:
                    held[h.device] = operation.map(lambda vector: vector.to(h.device, torch.float32), fixed=True)
                steered = held[h.device](h.float(), strength).to(h.dtype)
                return torch.where(reading.scope(tokens, h).unsqueeze(-1), steered, h)

            stack.callback(hook(places[site], change, reading.shape).remove)
        yield


class _Reading:
    """Which tokens the running forward pass holds: kept up to date by hooks, asked by the steering."""

    def __init__(self, hf: Any) -> None:
        self.hf, self.image_token = hf, image_token(hf)
        self.depth = 0  # of nested forward passes: the outermost one knows the token ids and the mask
        self.start = 0  # the absolute column of the first token of this pass
        self.rows = self.tokens = 0  # of this pass
        self.ids: Tensor | None = None  # (batch, tokens)
        self.mask: Tensor | None = None  # (batch, columns so far)
        self.prompt_columns = 0  # of a decoding loop that calls the model itself
        self.sites: set[Site] = set()  # where the steering is to act, and where it has acted in this pass
        self.reached: set[Site] = set()
        self.told = False

    def __deepcopy__(self, memo: dict[int, Any]) -> _Reading:
        """A copy of the model is not steered, so no site of it is waited for."""
        copied = copy(self)
        copied.hf, copied.sites, copied.reached = memo.get(id(self.hf), self.hf), set(), set()
        return copied

    def enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids = kwargs.get("input_ids", args[0] if args else None)
        self.depth = 1 if module is self.hf else self.depth + 1
        if self.depth > 1 and (ids is None or ids is self.ids):
            return
        self.depth, self.ids = 1, ids  # other tokens: the count was left behind by an interrupted pass
        self.reached.clear()
        mask = kwargs.get("attention_mask")
        self.mask = mask.bool() if isinstance(mask, Tensor) and mask.dim() == 2 else None
        past = kwargs.get("past_key_values")
        if any(kwargs.get(name) is not None for name in STATES) and not sites.keeps_cache(self.hf):
            raise SteerlibError(_STATE)
        self.start = int(past.get_seq_length()) if past is not None else 0
        held = given(args, kwargs)
        if held is None:
            raise SteerlibError("a steered model is called with input_ids or inputs_embeds, and this call has neither.")
        self.rows, self.tokens = held.shape[:2]
        if self.start == 0:
            self.prompt_columns = self.tokens
        else:  # what was read before anybody looked was the prompt
            self.prompt_columns = min(self.prompt_columns or self.start, self.start)

    def leave(self, module: nn.Module, args: Any, output: Any) -> None:
        self.depth -= 1
        missed = sorted(self.sites - self.reached)
        if self.depth > 0 or output is None or not missed:  # a pass that was interrupted returns nothing
            return
        where = ", ".join(map(str, missed))
        if not self.reached:
            raise SteerlibError(
                f"this pass never reached {where}, so nothing was steered: such a block may be only for prompts with a picture."
            )
        if not self.told:
            self.told = True
            warnings.warn(f"this pass never reached {where}, so it was steered at the other sites only.", stacklevel=2)

    def shape(self) -> tuple[int, int]:
        """Batch and tokens of the running pass."""
        if self.depth < 1:
            raise SteerlibError(
                "a part of a steered model was run outside of a forward pass of the model, as gradient checkpointing does in the "
                "backward pass at norms and heads: switch that off."
            )
        return self.rows, self.tokens

    def scope(self, tokens: Tokens, h: Tensor) -> Tensor:
        """(batch, tokens) bool: which tokens of this pass, with activations h, are to be steered."""
        batch, width = h.shape[:2]
        first = self.start + self.tokens - width  # where a block is handed fewer tokens, they are the last ones
        columns = torch.arange(first, first + width, device=h.device)
        now = layout.get()
        if now is None:  # somebody calls the model without asking through Model
            if tokens == "last" and self.mask is None and batch > 1:
                raise SteerlibError(
                    "tokens='last' needs to know where each row ends, and this batch came without an attention mask: pass "
                    "attention_mask, or steer with tokens='all'."
                )
            real = (
                self.mask if self.mask is not None else h.new_ones((batch, self.start + self.tokens), dtype=torch.bool)
            )
            prompt = real[:, : self.prompt_columns]
            ends = (prompt * torch.arange(1, prompt.shape[1] + 1, device=real.device)).amax(1)  # past the last real one
            now = Layout(real, ends)
        repeats = batch // now.real.shape[0]  # beams, or several samples a prompt
        real = now.real.to(h.device).repeat_interleave(repeats, 0)
        ends = now.prompt_end.to(h.device).repeat_interleave(repeats, 0).unsqueeze(1)
        unseen = max(0, first + width - real.shape[1])  # columns that were generated: never padding
        here = nn.functional.pad(real, (0, unseen), value=True)[:, first : first + width]
        if tokens == "prompt":
            return here & (columns < ends)
        if tokens == "generated":
            return here & (columns >= ends)
        if tokens == "last":
            return here & (columns == ends - 1)
        if tokens == "image":
            if self.ids is None or self.ids.dim() != 2:
                raise SteerlibError("image tokens cannot be told from embeddings alone: call the model with input_ids.")
            return here & (self.ids[:, -width:].to(h.device) == self.image_token)
        return here


@contextmanager
def _reading(hf: Any) -> Iterator[_Reading]:
    """Follow the forward passes of a model, and of the decoder inside it if that is called by itself."""
    reading = _Reading(hf)
    chain = {id(module): module for module in (hf, hf.base_model, sites.decoder(hf))}
    with ExitStack() as stack:
        for module in chain.values():
            stack.callback(module.register_forward_pre_hook(reading.enter, with_kwargs=True).remove)
            stack.callback(module.register_forward_hook(reading.leave, always_call=True).remove)
        stack.enter_context(_telling(hf))
        yield reading


class _Generate:
    """`hf.generate` while somebody steers: the hooks know the prompt's layout even if nobody has said it."""

    def __init__(self, hf: Any) -> None:
        self.hf, self.plain, self.had = hf, hf.generate, hf.__dict__.get("generate")
        self.users = 0  # the `with`s that need it, which may end in any order

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """A copy of the model is not steered, and generates by itself."""
        copied = memo.get(id(self.hf), self.hf)
        return MethodType(type(copied).generate, copied)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        ids = kwargs.get("input_ids", kwargs.get("inputs", args[0] if args else None))
        mask = kwargs.get("attention_mask")
        cached = kwargs.get("use_cache", getattr(self.hf.generation_config, "use_cache", True))
        if cached is not False and not sites.keeps_cache(self.hf):
            raise SteerlibError(_STATE)
        kwargs = {"disable_compile": True, **kwargs}  # a static cache would have the model compiled, without its hooks
        if layout.get() is not None or not isinstance(ids, Tensor):
            return self.plain(*args, **kwargs)
        real = mask.bool() if mask is not None else torch.ones_like(ids, dtype=torch.bool)
        with laid_out(real, torch.full((len(ids),), ids.shape[1], device=ids.device)):
            return self.plain(*args, **kwargs)


@contextmanager
def _telling(hf: Any) -> Iterator[None]:
    """Within the `with`, `hf.generate` is a `_Generate`; the last `with` to end puts back what was there."""
    generate = hf.__dict__.get("generate")
    if not isinstance(generate, _Generate):
        generate = _Generate(hf)
        object.__setattr__(hf, "generate", generate)
    generate.users += 1
    try:
        yield
    finally:
        generate.users -= 1
        if generate.users == 0 and hf.__dict__.get("generate") is generate:
            del hf.__dict__["generate"]
            if generate.had is not None:
                object.__setattr__(hf, "generate", generate.had)


def _fit(model: Model, steering: Steering) -> dict[Site, Place]:
    """Each site found in the model; refused, with both shapes, where the steering was made for something else."""
    made = steering.provenance
    have = {
        "architecture": sites.decoder(model.hf).config.model_type,
        "width": sites.width(model.hf),
        "layers": len(sites.blocks(model.hf)),
    }
    if any(key in made and made[key] != value for key, value in have.items()):
        theirs = ", ".join(f"{made.get(key, 'any')} {key}" for key in have)
        ours = ", ".join(f"{value} {key}" for key, value in have.items())
        raise SteerlibError(f"this steering was made for another model ({theirs}); '{model.name}' has {ours}.")
    places = {}
    for site, operation in steering.operations.items():
        places[site] = sites.find(model.hf, site)
        for name, vector in operation.vectors().items():
            width = places[site].width
            if set(vector.shape) != {width}:
                raise SteerlibError(
                    f"{name} of {site} has shape {tuple(vector.shape)}, but '{model.name}' has ({width},) there."
                )
    return places


_compared: WeakKeyDictionary[Any, set[str]] = WeakKeyDictionary()
"""For each network, the hashes of weights that steerings were made for and that it was compared with already."""


def _same_weights(model: Model, steering: Steering, strict: bool) -> None:
    """Warn once, or refuse, where a steering was made for other weights of the same shapes."""
    made = steering.provenance.get("weights")
    known = _compared.setdefault(model.hf, set())
    if not isinstance(made, str) or (made in known and not strict):
        return
    if weights_hash(model) != made:
        said = (
            f"this steering was made for other weights than those of '{model.name}' (it was made for "
            f"'{steering.provenance.get('model', 'another model')}'; the shapes agree)"
        )
        if strict:
            raise SteerlibError(f"{said}: steer with strict=False if yours are a merged, fine-tuned or quantised copy.")
        warnings.warn(
            f"{said}: that is right for a merged, fine-tuned or quantised copy; otherwise make one for this model.",
            stacklevel=4,
        )
    known.add(made)

"""What is done to a running model, and doing it.

A Steering is data: at each Site one operation on the activation h there, applied at a strength s.

    Add     h + s v                      v: (width,)
    Ablate  h - s ((h - c) . r) r        r: (width,) of unit length, c: (width,) the centre, zero if none
    Affine  h + s (a * h + b)            a, b: (width,)

`with steer(model, steering, strength): ...` applies it by hooks and takes them away again on every way out; no weight is
ever written. `capture` reads activations at Sites. Sources: Ratzlaff et al. (arXiv 2411.12590) for Ablate and Add,
Monteiro Paes et al. (arXiv 2512.15926) for Affine; the centre is ours.
"""

from __future__ import annotations

import json
import math
import numbers
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from steerlib import sites
from steerlib.errors import SteerlibError
from steerlib.models import Layout, Model, Prompt, laid_out, layout, weights_hash
from steerlib.sites import Place, Site

Tokens = Literal["all", "prompt", "generated", "image", "last"]
SCOPES = ("all", "prompt", "generated", "image", "last")


@dataclass(frozen=True)
class Add:
    """h + s v. vector: (width,) in the units of the activation."""

    vector: Tensor

    def __call__(self, h: Tensor, strength: float) -> Tensor:
        return h + strength * self.vector


@dataclass(frozen=True)
class Ablate:
    """h - s ((h - c) . r) r: at s = 1 the part along r is what the centre has. direction: (width,), made unit length."""

    direction: Tensor
    center: Tensor | None = None

    def __post_init__(self) -> None:
        length = self.direction.float().norm()
        if not length > 0:
            raise SteerlibError("a direction of length 0 cannot be ablated: the two sides it came from do not differ.")
        rounding = max(1e-6, torch.finfo(self.direction.dtype).eps)
        if abs(length - 1) > rounding:  # a unit vector stays as it is, to the bit
            object.__setattr__(self, "direction", self.direction / length)

    def __call__(self, h: Tensor, strength: float) -> Tensor:
        away = h if self.center is None else h - self.center
        return h - strength * (away @ self.direction).unsqueeze(-1) * self.direction


@dataclass(frozen=True)
class Affine:
    """h + s (a * h + b). scale: a, shift: b, both (width,); zeros are the identity."""

    scale: Tensor
    shift: Tensor

    def __call__(self, h: Tensor, strength: float) -> Tensor:
        return h + strength * (self.scale * h + self.shift)


Operation = Add | Ablate | Affine
OPERATIONS: dict[str, type[Add | Ablate | Affine]] = {"add": Add, "ablate": Ablate, "affine": Affine}


@dataclass(frozen=True)
class Steering:
    """Operations at Sites, and where they come from. Immutable; made by a method, or by hand.

    operations: {Site (or its name): Add | Ablate | Affine}. provenance: facts to keep with it; the keys `architecture`,
    `width` and `layers`, where present, must agree with a model before it is steered, and `strengths`, where present, are the
    least and the greatest strength for which it was made.
    """

    operations: Mapping[Site, Operation]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        operations = {sites.parse(s) if isinstance(s, str) else s: op for s, op in self.operations.items()}
        if not operations:
            raise SteerlibError("a steering needs at least one site: this one has none.")
        for site, operation in operations.items():
            if not isinstance(operation, Operation):
                raise SteerlibError(f"{site} holds a {type(operation).__name__}: use Add, Ablate or Affine.")
            for name, tensor in _tensors(operation).items():
                if tensor.dim() != 1 or not tensor.isfinite().all():
                    raise SteerlibError(
                        f"{name} of {site} must be one vector of finite numbers: it has shape {tuple(tensor.shape)}"
                        f"{'' if tensor.isfinite().all() else ' and holds NaN or infinite values'}."
                    )
        object.__setattr__(self, "operations", MappingProxyType(operations))
        object.__setattr__(self, "provenance", MappingProxyType(dict(self.provenance)))

    def save(self, path: str | Path) -> None:
        """Write it as safetensors; operations and provenance stand in the header as JSON."""
        tensors = {
            f"{site}/{name}": tensor.detach().cpu().clone().contiguous()  # sites may share a vector
            for site, operation in self.operations.items()
            for name, tensor in _tensors(operation).items()
        }
        kinds = {str(site): type(operation).__name__.lower() for site, operation in self.operations.items()}
        header = {"format": "steerlib.steering/1", "operations": kinds, "provenance": dict(self.provenance)}
        save_file(tensors, str(path), metadata={"steerlib": json.dumps(header)})


def load_steering(path: str | Path) -> Steering:
    """The Steering in a file that `Steering.save` wrote. Raises SteerlibError if it is missing, cut short or not one."""
    if not Path(path).is_file():
        raise SteerlibError(f"there is no steering file at {path}.")
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("steerlib", "{}"))
            # cloned: a file's tensors lie in memory as they come, which can change the last bits of a product
            tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118 (not a dict)
    except (safetensors.SafetensorError, json.JSONDecodeError) as error:
        raise SteerlibError(f"{path} is not a whole safetensors file ({error}): make or copy it again.") from error
    if not isinstance(header, dict) or header.get("format") != "steerlib.steering/1":
        raise SteerlibError(f"{path} holds tensors but no steering: its header lacks 'steerlib.steering/1'.")
    operations: dict[Site, Operation] = {}
    try:
        for name, kind in header["operations"].items():
            parts = {key.rpartition("/")[2]: t for key, t in tensors.items() if key.rpartition("/")[0] == name}
            operations[sites.parse(name)] = OPERATIONS[kind](**parts)
        return Steering(operations, header["provenance"])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise SteerlibError(
            f"{path} does not hold what its header promises ({error}): make or copy it again."
        ) from error


def provenance(model: Model, method: str, **facts: Any) -> dict[str, Any]:
    """What every Steering says of its origin: method, model and its weights' hash, shapes, versions; and `facts`."""
    return {
        "method": method,
        "model": model.name,
        "architecture": sites.decoder(model.hf).config.model_type,
        "width": sites.width(model.hf),
        "layers": len(sites.blocks(model.hf)),
        "weights": weights_hash(model),
        "versions": {name: version(name) for name in ("torch", "transformers")},
        **facts,
    }


@contextmanager
def steer(model: Model, steering: Steering, strength: float = 1.0, *, tokens: Tokens = "all") -> Iterator[None]:
    """Within the `with`, `model` runs steered; on leaving it, however that happens, it is as before, to the bit.

    strength: 0 is the unsteered model, to the bit; 1 what the method made. tokens: which positions are steered: "all",
    "prompt", "generated" (what the model has written), "image", or "last" (the prompt's last token). Padding never is, and
    decoding with and without a cache of keys and values writes the same. Nested `with`s act in the order written.
    Warns if the strength lies outside the range that the steering was made for. Raises SteerlibError if the steering does not
    fit the model.
    """
    if tokens not in SCOPES:
        raise SteerlibError(f"'{tokens}' names no tokens: use {', '.join(SCOPES)}.")
    if not isinstance(strength, numbers.Real) or not math.isfinite(strength):
        raise SteerlibError(f"strength must be a finite number, not {strength!r}.")
    if tokens == "image" and _image_token(model.hf) is None:
        raise SteerlibError(f"'{model.name}' reads no pictures, so it has no image tokens to steer.")
    places = _fit(model, steering)
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
        reading = stack.enter_context(_reading(model.hf))
        for site, operation in steering.operations.items():
            moved = type(operation)(**{k: t.to(model.device, torch.float32) for k, t in _tensors(operation).items()})

            def change(h: Tensor, operation: Operation = moved) -> Tensor:
                steered = operation(h.float(), strength).to(h.dtype)
                return torch.where(reading.scope(tokens, h).unsqueeze(-1), steered, h)

            stack.callback(_hook(places[site], change).remove)
        yield


def capture(
    model: Model,
    prompts: Iterable[Prompt],
    where: Sequence[Site],
    *,
    read: Literal["last", "mean"] = "last",
    batch_size: int = 16,
) -> Iterator[tuple[list[int], dict[Site, Tensor]]]:
    """The activations at `where` on each prompt, batch after batch, without running the language-model head.

    read: at each prompt's "last" token, or the "mean" over its tokens; padding is never read.
    Yields (which prompts, {site: (batch, width) float32 on the CPU}); prompts may be any stream, of which no more than
    some batches are held at a time. A residual of the last block is read before the final norm, where `steer` writes.
    Raises SteerlibError on NaN or infinite activations, naming site and prompt.
    """
    if read not in ("last", "mean"):
        raise SteerlibError(f"'{read}' is no way to read: use 'last' or 'mean'.")
    places = {site: sites.find(model.hf, site) for site in where}
    if not places:
        raise SteerlibError("no site to read was given: `where` is a list of sites.")
    if isinstance(prompts, str):
        raise SteerlibError("one text was given: put it in a list, for capture reads many prompts.")
    stream, seen = iter(prompts), 0
    while window := list(islice(stream, 16 * batch_size)):
        if any(isinstance(prompt, Mapping) for prompt in window):
            raise SteerlibError("one chat was given: put it in a list, for capture reads many prompts.")
        rows, pictures = map(list, zip(*map(model.read, window), strict=True))
        if [] in rows:
            raise SteerlibError(f"prompt {seen + rows.index([])} is empty: there is no token to read.")
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        for part in (order[i : i + batch_size] for i in range(0, len(order), batch_size)):
            batch = model.batch([rows[i] for i in part], [pictures[i] for i in part])
            got = _read_batch(model, batch, places, read)
            for site, values in got.items():
                for i, value in zip(part, values, strict=True):
                    if not value.isfinite().all():
                        shown = model.tokenizer.decode(rows[i])[-60:]
                        raise SteerlibError(
                            f"NaN or infinite activation at {site} on prompt {seen + i} (ending {shown!r})."
                        )
            yield [seen + i for i in part], got
        seen += len(window)


class _Enough(Exception):
    """Raised inside a forward pass once everything wanted has been read."""


def _read_batch(
    model: Model, batch: dict[str, Tensor], places: dict[Site, Place], read: Literal["last", "mean"]
) -> dict[Site, Tensor]:
    """{site: (batch, width)} for one batch of `Model.batch`."""
    mask = batch["attention_mask"].bool()  # (batch, tokens), padded on the left
    got: dict[Site, Tensor] = {}

    def keep(site: Site) -> Callable[[Tensor], Tensor]:
        def look(h: Tensor) -> Tensor:  # (batch, tokens, width)
            if read == "last":
                got[site] = h[:, -1].float().cpu().clone()  # not a view, which would keep every token
            else:
                real = mask.unsqueeze(-1)
                got[site] = (h.float().masked_fill(~real, 0).sum(1) / real.sum(1)).cpu()
            if len(got) == len(places):
                raise _Enough
            return h

        return look

    ends = torch.full((len(mask),), mask.shape[1], device=mask.device)
    with ExitStack() as stack:
        for site, place in places.items():
            stack.callback(_hook(place, keep(site)).remove)
        stack.enter_context(torch.no_grad())  # not inference mode: probes may learn from what is read
        stack.enter_context(laid_out(mask, ends))
        try:
            model.hf.base_model(**batch, use_cache=False)  # all but the head, its vision tower included
        except _Enough:
            pass
    return got


class _Reading:
    """Which tokens the running forward pass holds: kept up to date by hooks, asked by the steering."""

    def __init__(self, hf: Any) -> None:
        self.hf, self.image_token = hf, _image_token(hf)
        self.depth = 0  # of nested forward passes: the outermost one knows the token ids and the mask
        self.start = 0  # the absolute column of the first token of this pass
        self.ids: Tensor | None = None  # (batch, tokens)
        self.mask: Tensor | None = None  # (batch, columns so far)
        self.prompt_columns = 0  # of a decoding loop that calls the model itself

    def enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids = kwargs.get("input_ids", args[0] if args else None)
        self.depth = 1 if module is self.hf else self.depth + 1
        if self.depth > 1 and (ids is None or ids is self.ids):
            return
        self.depth, self.ids = 1, ids  # other tokens: the count was left behind by an interrupted pass
        mask = kwargs.get("attention_mask")
        self.mask = mask.bool() if isinstance(mask, Tensor) and mask.dim() == 2 else None
        past = kwargs.get("past_key_values")
        self.start = int(past.get_seq_length()) if past is not None else 0
        if self.start == 0:
            held = self.ids if self.ids is not None else kwargs["inputs_embeds"]
            self.prompt_columns = held.shape[1]
        else:  # what was read before anybody looked was the prompt
            self.prompt_columns = min(self.prompt_columns or self.start, self.start)

    def leave(self, module: nn.Module, args: Any, output: Any) -> None:
        self.depth -= 1

    def scope(self, tokens: Tokens, h: Tensor) -> Tensor:
        """(batch, tokens) bool: which tokens of this pass, with activations h, are to be steered."""
        batch, width = h.shape[:2]
        columns = torch.arange(self.start, self.start + width, device=h.device)
        now = layout.get()
        if now is None:  # somebody calls the model without asking through Model
            real = self.mask if self.mask is not None else h.new_ones((batch, width), dtype=torch.bool)
            prompt = real[:, : self.prompt_columns]
            ends = (prompt * torch.arange(1, prompt.shape[1] + 1, device=h.device)).amax(1)  # past the last real one
            now = Layout(real, ends)
        repeats = batch // now.real.shape[0]  # beams, or several samples a prompt
        real, ends = now.real.repeat_interleave(repeats, 0), now.prompt_end.repeat_interleave(repeats, 0).unsqueeze(1)
        unseen = max(0, self.start + width - real.shape[1])  # columns that were generated: never padding
        here = nn.functional.pad(real, (0, unseen), value=True)[:, self.start : self.start + width]
        if tokens == "prompt":
            return here & (columns < ends)
        if tokens == "generated":
            return here & (columns >= ends)
        if tokens == "last":
            return here & (columns == ends - 1)
        if tokens == "image":
            if self.ids is None or self.ids.dim() != 2:
                raise SteerlibError("image tokens cannot be told from embeddings alone: call the model with input_ids.")
            return here & (self.ids == self.image_token)
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
        self.plain, self.had = hf.generate, hf.__dict__.get("generate")
        self.users = 0  # the `with`s that need it, which may end in any order

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        ids = kwargs.get("input_ids", kwargs.get("inputs", args[0] if args else None))
        if layout.get() is not None or not isinstance(ids, Tensor):
            return self.plain(*args, **kwargs)
        mask = kwargs.get("attention_mask")
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


def _hook(place: Place, change: Callable[[Tensor], Tensor]) -> Any:
    """Put `change` on the activation at a place: a module's output, or for a head some columns of its input."""
    if place.start is None:

        def after(module: nn.Module, args: Any, output: Any) -> Any:
            if isinstance(output, tuple):  # a block may return a tuple whose first member is the activation
                return (change(output[0]), *output[1:])
            return change(output)

        return place.module.register_forward_hook(after)
    begin, end = place.start, place.start + place.width

    def before(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        h = args[0]
        return (torch.cat([h[..., :begin], change(h[..., begin:end]), h[..., end:]], -1), *args[1:])

    return place.module.register_forward_pre_hook(before)


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
        for name, tensor in _tensors(operation).items():
            if tuple(tensor.shape) != (places[site].width,):
                raise SteerlibError(
                    f"{name} of {site} has shape {tuple(tensor.shape)}, but '{model.name}' has ({places[site].width},) there."
                )
    return places


def _tensors(operation: Operation) -> dict[str, Tensor]:
    """The vectors of an operation by name, those that are given."""
    named = ((f.name, getattr(operation, f.name)) for f in fields(operation))
    return {name: tensor for name, tensor in named if tensor is not None}


def _image_token(hf: Any) -> int | None:
    """The id of the token that stands for a piece of a picture, or None for a model that reads only text."""
    for key in ("image_token_id", "image_token_index"):
        value = getattr(hf.config, key, None)
        if isinstance(value, int):
            return value
    return None

"""Where in a network it may be touched: a Site is a name, and `find` turns it into a module of any Hugging Face decoder.

Sites are found by structure, never by matching names of parameters: the text decoder is what `get_decoder()` returns, its
blocks are the module list as long as the configuration says it is deep, a norm is a module that holds nothing but one
vector of the hidden width (and perhaps a bias), an attention is the part of a block that has an output projection.

The contract of a hook: an activation is (batch, tokens, width), where batch and tokens are those of the running pass. A module
that is handed fewer tokens than the pass holds has the last of them, one that flattens them into (batch x tokens, width) is
read as if it did not, and any other shape is refused.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from steerlib.errors import SteerlibError

Kind = Literal["residual", "norm", "head"]
Layers = int | str | Sequence[int] | range

OUTPUT_PROJECTIONS = ("o_proj", "out_proj", "c_proj", "dense", "wo", "Wo")
"""What the families call the linear map that ends an attention."""


@dataclass(frozen=True, order=True)
class Site:
    """A place in the text decoder, where activations are read and changed.

    A site is written "residual.12", "norm.12.input_layernorm", "norm.final" or "head.12.3", and can be given by that name.

    Args:
        kind: "residual" is the output of a block, after everything the block adds and before any final norm; "norm" is the output
            of a norm; "head" is what an attention head hands to the output projection.
        layer: the number of the block, from 0; -1 is the norm after the last block.
        part: the name of a norm in its block, or the number of a head; "" for a residual.

    Example:
        >>> str(Site("residual", 12)), str(Site("norm", -1)), str(Site("head", 12, "3"))
        ('residual.12', 'norm.final', 'head.12.3')
    """

    kind: Kind
    layer: int
    part: str = ""

    def __str__(self) -> str:
        place = "final" if self.kind == "norm" and self.layer == -1 else str(self.layer)
        return ".".join(x for x in (self.kind, place, self.part) if x)


@dataclass(frozen=True)
class Place:
    """A Site found in a model: whose output (or, for heads, input) it is, and which of its columns.

    Attributes:
        module: the module that a hook is put on.
        width: how many columns the site has.
        start: the first column, for a head; None means all columns of the module's output.
        name: the site, for messages.
    """

    module: nn.Module
    width: int
    start: int | None = None
    name: str = "a site"


def parse(text: str) -> Site:
    """The Site that a text names: the inverse of `str(site)`.

    Args:
        text: such as "residual.12".

    Returns:
        The Site; whether a model has it is for `find` to say.

    Raises:
        SteerlibError: the text does not name a site.

    >>> parse("norm.12.input_layernorm")
    Site(kind='norm', layer=12, part='input_layernorm')
    """
    words = text.split(".", 2)
    if words[0] in ("residual", "norm", "head"):
        if words == ["norm", "final"]:
            return Site("norm", -1)
        if len(words) >= 2 and words[1].isdecimal() and (len(words) == 3) == (words[0] != "residual"):
            return Site(cast(Kind, words[0]), int(words[1]), words[2] if len(words) == 3 else "")
    raise SteerlibError(
        f"'{text}' is not a site: write residual.12, norm.12.input_layernorm, norm.final or head.12.3 (block, then head)."
    )


def decoder(hf: Any) -> Any:
    """The text decoder inside any Hugging Face model, also one that has a vision tower beside it.

    It is what `get_decoder()` returns if that holds the blocks, else the text model inside it (where it has a head of its own),
    else the base model.
    """
    if not hasattr(hf, "get_decoder"):
        raise SteerlibError(f"{type(hf).__name__} has no get_decoder(): give a Hugging Face model that writes text.")
    named = hf.get_decoder()
    if _block_list(named) is not None:
        return named
    kind = getattr(getattr(named, "config", None), "model_type", None)
    inner = [part for part in named.children() if getattr(getattr(part, "config", None), "model_type", None) == kind]
    for part in (*inner, hf.base_model):
        if hasattr(part, "get_input_embeddings") and _block_list(part) is not None:
            return part
    return named if hasattr(named, "config") else hf.base_model


def blocks(hf: Any) -> nn.ModuleList:
    """The decoder's blocks, in order."""
    inside = decoder(hf)
    found = _block_list(inside)
    if found is None:
        raise SteerlibError(
            f"no list of {inside.config.get_text_config().num_hidden_layers} blocks among the children of "
            f"{type(hf).__name__}.get_decoder() ({type(inside).__name__}): "
            f"{', '.join(name for name, _ in inside.named_children())}."
        )
    return found


def _block_list(part: Any) -> nn.ModuleList | None:
    """The child that is a list of as many modules as the configuration of a model says it is deep.

    Where a block has several attentions, `num_hidden_layers` counts those, and `num_layers` the blocks.
    """
    if not hasattr(part, "config"):
        return None
    config = part.config.get_text_config()
    for depth in (getattr(config, name, None) for name in ("num_hidden_layers", "num_layers")):
        lists = [child for child in part.children() if isinstance(child, nn.ModuleList) and len(child) == depth]
        if lists:
            return lists[0]
    return None


def width(hf: Any) -> int:
    """The width of the decoder's residual stream."""
    return int(decoder(hf).config.get_text_config().hidden_size)


def layers(hf: Any, which: Layers) -> list[int]:
    """Layer numbers, in order.

    Args:
        hf: the network.
        which: a number (negative counts from the end), several, a range, "all", "last", or a third of the network: "early",
            "middle", "late".

    Returns:
        Numbers of blocks, from 0, each once.

    Raises:
        SteerlibError: there are no layers of that name, or one is outside the network.

    >>> import steerlib as sl
    >>> layers(sl.load("smollm2").hf, [3, -1])
    [3, 29]
    """
    depth = len(blocks(hf))
    third = depth / 3
    names = {
        "all": range(depth),
        "early": range(round(third)),
        "middle": range(round(third), round(2 * third)),
        "late": range(round(2 * third), depth),
        "last": range(depth - 1, depth),
    }
    if isinstance(which, str):
        if which not in names:
            raise SteerlibError(f"no layers are called '{which}': use {', '.join(names)}, a number, a list or a range.")
        return list(names[which])
    several = isinstance(which, Iterable) and getattr(which, "ndim", 1) > 0  # an array of one number has 0 dimensions
    given: list[Any] = list(cast(Iterable[Any], which)) if several else [which]
    try:
        numbers = [operator.index(n) for n in given if not isinstance(n, bool)]
    except TypeError:
        numbers = []
    if not given or len(numbers) < len(given) or any(not -depth <= n < depth for n in numbers):
        shown = numbers if len(numbers) == len(given) else given
        raise SteerlibError(f"layers {shown} are not all in this network of {depth} (0 to {depth - 1}).")
    return sorted({n % depth for n in numbers})


def sites(hf: Any, kind: Kind, which: Layers = "all") -> list[Site]:
    """Every site of a kind in these layers, in the order in which a forward pass meets their blocks.

    Norms inside an attention (of queries and keys) are not sites: their width is that of a head. Blocks without an attention,
    as hybrid models have, hold no heads.

    Args:
        hf: the network.
        kind: "residual", "norm" or "head".
        which: layers as `layers` takes them; "all" includes the norm after the last block.

    Returns:
        The sites.

    Raises:
        SteerlibError: the kind or the layers do not exist, or none of the blocks has an attention whose heads are wanted.
    """
    wanted = layers(hf, which)
    if kind == "residual":
        return [Site("residual", n) for n in wanted]
    if kind == "head":
        attending = [n for n in wanted if _projection(blocks(hf)[n]) is not None] or wanted  # none: refused below
        return [Site("head", n, str(h)) for n in attending for h in range(_attention(hf, n)[1])]
    if kind == "norm":
        found = [Site("norm", n, name) for n in wanted for name in _norms(hf, blocks(hf)[n])]
        if which == "all" and _final_norms(hf):
            found.append(Site("norm", -1))
        return found
    raise SteerlibError(f"'{kind}' is not a kind of site: use residual, norm or head.")


def find(hf: Any, site: Site) -> Place:
    """The module behind a Site.

    Args:
        hf: the network.
        site: the Site.

    Returns:
        The Place: the module, and which of its columns.

    Raises:
        SteerlibError: the network has no such site; the sentence says which it has.
    """
    if site.kind not in ("residual", "norm", "head"):
        raise SteerlibError(f"site {site} does not exist: sites are residual, norm or head.")
    if site == Site("norm", -1):
        finals = _final_norms(hf)
        if len(finals) != 1:
            raise SteerlibError(f"{type(decoder(hf)).__name__} has {len(finals)} norms after its blocks, not one.")
        return Place(finals[0], width(hf), name=str(site))
    depth = len(blocks(hf))
    if not 0 <= site.layer < depth:
        raise SteerlibError(f"site {site} does not exist: this network has blocks 0 to {depth - 1}.")
    block = blocks(hf)[site.layer]
    if site.kind == "residual":
        return Place(block, width(hf), name=str(site))
    if site.kind == "norm":
        norms = _norms(hf, block)
        if site.part not in norms:
            raise SteerlibError(f"site {site} does not exist: block {site.layer} has the norms {', '.join(norms)}.")
        return Place(norms[site.part], width(hf), name=str(site))
    projection, heads, size = _attention(hf, site.layer)
    if not site.part.isdecimal() or int(site.part) >= heads:
        raise SteerlibError(f"site {site} does not exist: block {site.layer} has heads 0 to {heads - 1}.")
    return Place(projection, size, int(site.part) * size, str(site))


def _norms(hf: Any, parent: nn.Module) -> dict[str, nn.Module]:
    """Norms directly under a module, or in a list there: they hold a vector of the hidden width, perhaps a bias, and nothing else.

    A norm without weights says its width in `normalized_shape`.
    """
    found = {}
    for name, child in _parts(parent):
        shapes = [tuple(p.shape) for p in child.parameters()] or [tuple(getattr(child, "normalized_shape", ()))]
        if not list(child.children()) and all(shape == (width(hf),) for shape in shapes):
            found[name] = child
    return found


def _parts(parent: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The children of a module by name, and instead of a list of modules those in it, as "norms.0"."""
    for name, child in parent.named_children():
        if isinstance(child, nn.ModuleList):
            yield from ((f"{name}.{number}", one) for number, one in enumerate(child))
        else:
            yield name, child


def _final_norms(hf: Any) -> list[nn.Module]:
    """The norm after the last block: the one beside the blocks, or the one registered after them if embeddings have one too."""
    inside = decoder(hf)
    beside = list(_norms(hf, inside).values())
    order = [child for _, child in _parts(inside)]
    after = [norm for norm in beside if order.index(norm) > order.index(blocks(hf)[-1])]
    return after if len(beside) > 1 and after else beside


def _attention(hf: Any, layer: int) -> tuple[nn.Module, int, int]:
    """The output projection of a block's attention, how many heads feed it, and how wide each is."""
    block = blocks(hf)[layer]
    projection = _projection(block)
    if projection is None:
        raise SteerlibError(
            f"no attention with an output projection ({', '.join(OUTPUT_PROJECTIONS)}) in block {layer} "
            f"({type(block).__name__}): {', '.join(name for name, _ in block.named_children())}."
        )
    heads = int(decoder(hf).config.get_text_config().num_attention_heads)
    columns = getattr(projection, "in_features", None) or projection.weight.shape[0]
    return projection, heads, int(columns) // heads


def _projection(block: nn.Module) -> Any:
    """The output projection of a block's attention, in the attention or one module deeper; None if there is none."""
    for child in block.children():
        if "Attention" in type(child).__name__:
            for part in (child, *(inner for inner in child.children() if "Attention" in type(inner).__name__)):
                for name in OUTPUT_PROJECTIONS:
                    if getattr(part, name, None) is not None:
                        return getattr(part, name)
    return None


def given(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """What a pass of a model is called with: (batch, tokens) ids, or (batch, tokens, width) embeddings; None if neither."""
    ids = kwargs.get("input_ids", args[0] if args else None)
    found = ids if ids is not None else kwargs.get("inputs_embeds")
    return found if isinstance(found, Tensor) and found.dim() >= 2 else None


def keeps_cache(hf: Any) -> bool:
    """Whether a network keeps what it has read in `past_key_values`, which says how many tokens that is.

    Some recurrent networks keep a state of their own instead, from which nobody can tell where a pass begins.
    """
    return "past_key_values" in inspect.signature(type(decoder(hf)).forward).parameters


def hook(place: Place, change: Callable[[Tensor], Tensor], shape: Callable[[], Sequence[int]]) -> Any:
    """Put a change on the activation at a place: a module's output, or for a head some columns of its input.

    Args:
        place: where, as `find` gives it.
        change: maps (batch, tokens, width) to the same shape.
        shape: what gives (batch, tokens) of the running pass when it is asked.

    Returns:
        torch's handle, whose `remove()` takes the hook off.

    Raises:
        SteerlibError: in a pass, an activation has another shape than the contract of hooks says.
    """

    def changed(h: Any) -> Tensor:
        batch, tokens = shape()
        found = tuple(h.shape) if isinstance(h, Tensor) else ()
        width = (
            found[-1] if found and place.start is not None else place.width
        )  # the input of a projection holds all heads
        if found == (batch * tokens, width):
            h = h.unflatten(0, (batch, tokens))
        elif len(found) != 3 or found[0] != batch or found[1] > tokens or found[2] != width:
            raise SteerlibError(
                f"{place.name} cannot be read or steered: its activation has shape {found or type(h).__name__}, not (batch, tokens, "
                f"width), which is {(batch, tokens, width)} in this pass."
            )
        if place.start is None:
            h = change(h)
        else:
            begin, end = place.start, place.start + place.width
            h = torch.cat([h[..., :begin], change(h[..., begin:end]), h[..., end:]], -1)
        return cast(Tensor, h.reshape(found))

    if place.start is None:

        def after(module: nn.Module, args: Any, output: Any) -> Any:
            if module is not place.module:  # a copy of the network, which copied the hook
                return None
            if isinstance(output, tuple):  # a block may return a tuple whose first member is the activation
                return (changed(output[0]), *output[1:])
            return changed(output)

        return place.module.register_forward_hook(after)

    def before(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if module is not place.module:
            return None
        return (changed(args[0]), *args[1:])

    return place.module.register_forward_pre_hook(before)


def image_token(hf: Any) -> int | None:
    """The id of the token that stands for a piece of a picture, or None for a model that reads only text."""
    for config in (hf.config, getattr(hf.config, "vision_config", None)):  # Phi-4-multimodal has it in the second
        for key in ("image_token_id", "image_token_index"):
            value = getattr(config, key, None)
            if isinstance(value, int):
                return value
    return None


@contextmanager
def uncompiled(hf: Any) -> Iterator[None]:
    """Within the `with`, compiled code runs as plain Python where the network, or a part of it, was compiled.

    A compiled network does not look at hooks that were registered after it had been compiled.
    """
    parts = hf.modules() if isinstance(hf, nn.Module) else ()
    if not any(_is_compiled(part) for part in parts):
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


def _is_compiled(module: nn.Module) -> bool:
    forward = vars(module).get("forward")
    return (
        getattr(module, "_compiled_call_impl", None) is not None
        or hasattr(module, "_orig_mod")
        or hasattr(forward, "_torchdynamo_orig_callable")
    )

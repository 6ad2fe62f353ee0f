"""What the weights of a network can hold: where a shift of a norm, of a head or of a block's output finds a place.

Found by a short run of the network itself, not by names of families. A norm's output enters linear maps W; a shift t of it is a
shift W t of theirs, if they have biases, or would have under another setting of the configuration:

    norm   y + t  ->  biases + W t,  or the norm's own bias (LayerNorm)
    head   y + t  ->  bias of the output projection + W t
    block  h + t  ->  bias + t / g of the map that ends the block, where g is the factor at which it is added (1, as a rule)

Factors of a norm's output go into the norm's weight w, whether it multiplies by w or by 1 + w.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from steerlib.errors import SteerlibError
from steerlib.models import sites
from steerlib.models.layout import alone
from steerlib.models.sites import Site

Part = Literal["scale", "shift"]

ALIKE = 1e-4  # of two activations that should be the same, relative to the larger: rounding stays far below


@dataclass(frozen=True)
class Readers:
    """What reads the output of a norm.

    Attributes:
        maps: the names of linear maps, in the network.
        others: the names of other modules with weights, which have no place for a shift.
    """

    maps: tuple[str, ...]
    others: tuple[str, ...] = ()


def matrix(module: Any) -> Tensor:
    """(out, in) the matrix of a linear map, whichever way round it is stored; a view of the weight."""
    weight: Tensor = module.weight
    return weight.T if isinstance(module, Conv1D) else weight


def is_map(module: Any) -> bool:
    """Whether a module is a linear map, h W^T + b, with a matrix of plain numbers."""
    return isinstance(module, (nn.Linear, Conv1D)) and module.weight.is_floating_point()


def probes(hf: Any) -> Tensor:
    """(2, 12) token ids on which networks are compared: the same for every call, and never a picture's."""
    special = {value for key, value in vars(hf.config).items() if key.endswith(("_token_id", "_token_index"))}
    special |= {value for key, value in vars(hf.config.get_text_config()).items() if key.endswith("_token_id")}
    size = int(hf.get_input_embeddings().weight.shape[0])
    plain = torch.tensor([i for i in range(min(size, 50_000)) if i not in special])
    drawn = torch.randint(len(plain), (2, 12), generator=torch.Generator().manual_seed(0))
    return plain[drawn].to(hf.device)


def logits(hf: Any, ids: Tensor | None = None) -> Tensor:
    """(batch, tokens, vocabulary) of a plain run of the network on token ids, `probes` if none are given; float32 at least."""
    with torch.no_grad():
        found: Tensor = hf(input_ids=probes(hf) if ids is None else ids, use_cache=False).logits
    return found.to(torch.promote_types(found.dtype, torch.float32))


def difference(a: Tensor, b: Tensor) -> float:
    """The largest difference between two tensors, relative to the largest entry of the second."""
    return float((a - b).abs().max() / b.abs().max().clamp(min=1e-30))


def readers(hf: Any) -> dict[Site, Readers]:
    """What reads each norm's output, seen in one run of the network: modules with weights that are handed the same memory."""
    norms = {id(sites.find(hf, site).module): site for site in sites.sites(hf, "norm")}
    written: dict[int, Site] = {}
    kept: list[Tensor] = []  # so that no memory is used twice
    found: dict[Site, list[tuple[str, Any]]] = {site: [] for site in norms.values()}

    def wrote(site: Site, module: Any, args: Any, output: Any) -> None:
        kept.append(output)
        written[output.untyped_storage().data_ptr()] = site

    def read(name: str, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        for value in (*args, *kwargs.values()):
            if isinstance(value, Tensor) and value.is_floating_point():
                site = written.get(value.untyped_storage().data_ptr())
                if site is not None and sites.find(hf, site).module is not module:
                    found[site].append((name, module))

    with ExitStack() as stack:
        stack.enter_context(alone(hf))
        for name, module in hf.named_modules():
            if id(module) in norms:
                stack.callback(module.register_forward_hook(partial(wrote, norms[id(module)])).remove)
            if next(module.parameters(recurse=False), None) is not None:
                stack.callback(module.register_forward_pre_hook(partial(read, name), with_kwargs=True).remove)
        logits(hf)
    return {
        site: Readers(
            tuple(dict.fromkeys(name for name, module in all_ if is_map(module))),
            tuple(dict.fromkeys(name for name, module in all_ if not is_map(module))),
        )
        for site, all_ in found.items()
    }


def offset(norm: Any) -> float:
    """What a norm adds to its weight before it multiplies: 0, or 1 for those that multiply by 1 + w.

    Raises:
        SteerlibError: the norm has no weight, or does something else with it.
    """
    if getattr(norm, "weight", None) is None:
        raise SteerlibError(f"{type(norm).__name__} has no weight, so it holds no factors.")
    tried = copy.deepcopy(norm).float().cpu()
    x = torch.linspace(-2, 3, len(tried.weight)).unsqueeze(0)
    outputs = []
    with torch.no_grad():
        if getattr(tried, "bias", None) is not None:
            tried.bias.zero_()
        for weight in (0.0, 1.0):
            tried.weight.fill_(weight)
            outputs.append(tried(x))
    slope = outputs[1] - outputs[0]
    found = round(float((outputs[0] * slope).sum() / (slope * slope).sum()), 6)
    if float((outputs[0] - found * slope).abs().max()) > ALIKE:
        raise SteerlibError(f"{type(norm).__name__} does not multiply by its weight, so it holds no other factors.")
    return found


def switches(hf: Any) -> dict[str, frozenset[str]]:
    """The settings of the text decoder's configuration that would give its maps biases, and the names of those biases."""
    plain = set(_empty(type(hf), hf.config).state_dict())
    found = {}
    for flag, value in vars(hf.config.get_text_config()).items():
        if "bias" in flag and value is False:
            names = set(_empty(type(hf), with_settings(hf.config, [flag])).state_dict())
            if plain < names and all(name.endswith(".bias") for name in names - plain):
                found[flag] = frozenset(names - plain)
    return found


def with_settings(config: Any, flags: Any) -> Any:
    """A copy of a configuration with these settings of its text decoder switched on."""
    changed = copy.deepcopy(config)
    for flag in flags:
        setattr(changed.get_text_config(), flag, True)
    return changed


def rebuilt(hf: Any, kind: Any, config: Any, state: dict[str, Tensor]) -> Any:
    """A network of a stock class from its configuration and weights, which it shares; what is not a weight comes from `hf`.

    Raises:
        SteerlibError: the class does not take these weights.
    """
    made = _empty(kind, config)
    try:
        made.load_state_dict(state, strict=True, assign=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise SteerlibError(f"the weights do not fit a {kind.__name__} ({reason}).") from error
    made.tie_weights()
    theirs = dict(hf.named_buffers())
    for name, buffer in list(made.named_buffers()):
        if buffer.is_meta:
            parent, _, last = name.rpartition(".")
            if name not in theirs or theirs[name].shape != buffer.shape:
                raise SteerlibError(f"a {kind.__name__} needs {name}, which {type(hf).__name__} does not have.")
            made.get_submodule(parent).register_buffer(last, theirs[name].clone(), persistent=False)
    made.generation_config = copy.deepcopy(hf.generation_config)
    return made.eval().requires_grad_(False)


def writer(hf: Any, layer: int) -> tuple[str, float] | None:
    """What ends a block: a module (map or norm) whose bias is added to the block's output, and at which factor.

    Tried out: a vector is added to the output of each module that could hold it, and the block's own output is looked at.

    Args:
        hf: the network.
        layer: the number of the block.

    Returns:
        The module's name and the factor; None if no module's output is added as it is, or the block runs with pictures only.
    """
    block = sites.blocks(hf)[layer]
    width = sites.width(hf)
    prefix = next(name for name, module in hf.named_modules() if module is block)
    called: list[Any] = []
    with alone(hf), torch.no_grad():
        handle = block.register_forward_pre_hook(lambda m, a, k: called.append((a, k)), with_kwargs=True)
        try:
            logits(hf)
        finally:
            handle.remove()
        if not called:
            return None
        args, kwargs = called[0]

        def run() -> Tensor:
            out = block(*args, **kwargs)
            first: Tensor = out[0] if isinstance(out, tuple) else out
            return first.float()

        plain = run()
        push = torch.randn(width, generator=torch.Generator().manual_seed(0)).to(plain.device) * plain.std()
        for name, module in reversed(list(block.named_modules())):
            out = matrix(module).shape[0] if is_map(module) else getattr(getattr(module, "bias", None), "shape", [0])[0]
            if out != width or not isinstance(getattr(module, "weight", None), nn.Parameter):
                continue
            handle = module.register_forward_hook(lambda m, a, output: output + push.to(output.dtype))
            try:
                moved = run() - plain
            finally:
                handle.remove()
            factor = float((moved @ push).mean() / (push @ push))
            if factor and difference(moved, (factor * push).expand_as(moved)) < ALIKE * 10:
                return f"{prefix}.{name}", round(factor, 6)
    return None


def has_bias(hf: Any, name: str) -> bool:
    """Whether the module of that name has a bias now."""
    return getattr(hf.get_submodule(name), "bias", None) is not None


def holds_shift(hf: Any) -> list[Site]:
    """The norms whose shift the class of this network can hold, tried out on it."""
    could = frozenset[str]().union(*switches(hf).values())
    reads = readers(hf)
    fit = []
    for site, found in reads.items():
        own = getattr(sites.find(hf, site).module, "bias", None) is not None
        maps = found.maps and not found.others
        if own or (maps and all(has_bias(hf, name) or f"{name}.bias" in could for name in found.maps)):
            fit.append(site)
    if _same_shifted(hf, fit, reads):
        return fit
    return [site for site in fit if _same_shifted(hf, [site], reads)]


def _same_shifted(hf: Any, fit: list[Site], reads: dict[Site, Readers]) -> bool:
    """Whether shifting these norms' outputs is the same as shifting what reads them."""
    if not fit:
        return True
    shifts = {
        site: 0.1 * torch.randn(sites.width(hf), generator=torch.Generator().manual_seed(i)).to(hf.device, hf.dtype)
        for i, site in enumerate(fit)
    }
    norms, maps = [], []
    for site, shift in shifts.items():
        norm = sites.find(hf, site).module
        norms.append((norm, shift))
        if getattr(norm, "bias", None) is not None:
            maps.append((norm, shift))
        else:
            maps += [(m, matrix(m) @ shift) for m in map(hf.get_submodule, reads[site].maps)]
    with alone(hf):
        with _shifted(norms):
            wanted = logits(hf)
        with _shifted(maps):
            return difference(logits(hf), wanted) < (ALIKE if hf.dtype == torch.float32 else 0.05)


@contextmanager
def _shifted(pairs: list[tuple[Any, Tensor]]) -> Iterator[None]:
    """Within the `with`, vectors are added to the outputs of modules."""

    def after(shift: Tensor) -> Callable[..., Tensor]:
        return lambda module, args, output: output + shift

    handles = [module.register_forward_hook(after(shift)) for module, shift in pairs]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _empty(kind: Any, config: Any) -> Any:
    """A network of that class without memory for its weights."""
    with torch.device("meta"):
        return kind(config)

"""`perturbed` replaces what a network computes at one place of its input side, so that it can be differentiated there, or moved.

Four places, in the order in which a picture reaches the answer: its pixels, the visual tokens that the projector hands to the
text decoder, all embeddings handed to it, and the residual stream after a block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from steerlib.errors import SteerlibError
from steerlib.models import sites
from steerlib.models.model import Model
from steerlib.models.sites import Site, given, hook, image_token

StepSite = Literal["pixels", "visual", "embeddings", "residual"]
Touch = Callable[[str, Tensor], Tensor]


@contextmanager
def perturbed(model: Model, site: StepSite, columns: Tensor, where: list[Site], touch: Touch) -> Iterator[None]:
    """Within the `with`, what `touch(name, value)` returns replaces the value at the site, in every forward pass.

    Args:
        model: runs one prompt at a time.
        site: what is replaced. The value is the pictures in units of 0 to 1 for "pixels", else (1, columns, width).
        columns: (columns,) which tokens of the prompt are touched.
        where: the residual sites that are touched, each under its name, if site is "residual".
        touch: keeps the shape; it may take a gradient from the value, or move it.
    """
    held = [1, 0]  # batch and tokens of the running pass
    looking = [False]  # whether the decoder is about to look its tokens up by itself, as that of a text model does
    inside = sites.decoder(model.hf)
    table = inside.get_input_embeddings()

    def part(key: str, h: Tensor) -> Tensor:  # h: (1, tokens, width), of which some columns are touched
        where = columns.to(h.device)
        missing = held[1] - h.shape[1]
        if missing == 0:
            return h.index_copy(1, where, touch(key, h[:, where]).to(h.dtype))
        whole = nn.functional.pad(
            h, (0, 0, missing, 0)
        )  # a block that is handed the last tokens only: the others change nothing
        return whole.index_copy(1, where, touch(key, whole[:, where]).to(h.dtype))[:, missing:]

    def embedded(h: Tensor) -> Tensor:
        token = image_token(model.hf)
        known = token is not None and token < table.num_embeddings
        if site == "visual" and known and torch.equal(h[0, columns[0]], table(columns.new_tensor(token))):
            raise SteerlibError(
                f"'{model.name}' hands no visual tokens to its text decoder: take the step at the pixels, site='pixels'."
            )
        return part(site, h)

    def entered(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        tokens = given(args, kwargs)
        held[:] = tokens.shape[:2] if tokens is not None else [1, 0]
        looking[0] = site in ("visual", "embeddings") and kwargs.get("inputs_embeds") is None
        if site == "residual" or looking[0]:
            return None
        return args, {**kwargs, "inputs_embeds": embedded(kwargs["inputs_embeds"])}

    def looked_up(module: Any, args: Any, output: Tensor) -> Tensor | None:
        if not looking[0]:
            return None
        looking[0] = False
        return embedded(output)

    def looked(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        given = kwargs["pixel_values"]
        mean, deviation = normalisation(model, given)
        shown = wide(given) * deviation + mean
        return args, {**kwargs, "pixel_values": ((touch(site, shown) - mean) / deviation).to(given.dtype)}

    with ExitStack() as stack:
        if site == "residual":
            for at in where:
                stack.callback(hook(sites.find(model.hf, at), partial(part, str(at)), lambda: held).remove)
        if site == "pixels":
            stack.callback(model.hf.base_model.register_forward_pre_hook(looked, with_kwargs=True).remove)
        else:
            stack.callback(inside.register_forward_pre_hook(entered, with_kwargs=True).remove)
            stack.callback(table.register_forward_hook(looked_up).remove)
        yield


def normalisation(model: Model, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation, each (3, 1, 1), with which the processor made `pixels` of a picture in 0 to 1."""
    how = model.processor.image_processor
    white = 255 * how.rescale_factor if how.do_rescale else 255.0  # before the normalisation
    moments = (how.image_mean, how.image_std) if how.do_normalize else ([0.0] * 3, [1.0] * 3)
    mean, deviation = (torch.tensor(x).to(wide(pixels)).reshape(-1, 1, 1) / white for x in moments)
    there = wide(pixels) * deviation + mean if pixels.dim() > 3 and pixels.shape[-3] == len(mean) else None
    if there is None or there.min() < -0.02 or there.max() > 1.02:
        raise SteerlibError(
            f"the processor of '{model.name}' does not give pictures that can be turned back into pixels from 0 to 1 "
            f"(it gives {tuple(pixels.shape)}): take the step at the visual tokens, site='visual'."
        )
    return mean, deviation


@contextmanager
def frozen(hf: Any) -> Iterator[None]:
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


def wide(tensor: Tensor) -> Tensor:
    """In float32 at least."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))

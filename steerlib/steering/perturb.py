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
from steerlib.steering.canvas import Canvas, pixels_key

StepSite = Literal["pixels", "visual", "embeddings", "residual"]
Touch = Callable[[str, Tensor], Tensor]


@contextmanager
def perturbed(
    model: Model, site: StepSite, columns: Tensor, where: list[Site], touch: Touch, canvas: Canvas | None = None
) -> Iterator[None]:
    """Within the `with`, what `touch(name, value)` returns replaces the value at the site, in every forward pass.

    Args:
        model: runs one prompt at a time.
        site: what is replaced. The value is (values,) what the pictures show, from 0 to 1, for "pixels", else (1, columns, width).
        columns: (columns,) which tokens of the prompt are touched.
        where: the residual sites that are touched, each under its name, if site is "residual".
        touch: keeps the shape; it may take a gradient from the value, or move it.
        canvas: that of the prompt, if site is "pixels".
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
        key = pixels_key(kwargs)
        assert canvas is not None and key is not None
        numbers = wide(kwargs[key])
        return args, {**kwargs, key: canvas.numbers(touch(site, canvas.values(numbers)), numbers).to(kwargs[key].dtype)}

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

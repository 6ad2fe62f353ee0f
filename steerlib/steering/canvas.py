"""What a picture's pixels become in the numbers that a model is handed, found out by showing its processor pictures made for that.

    element = black + (white - black) * u      u: what the picture shows there, 0 (black) to 1 (white), after any resizing

Processors normalise, cut pictures into tiles or patches, turn the order of axes, repeat a still picture as two frames, and fill up
with padding. No family is named here. Of pictures of the same size as the prompt's, an all-black and an all-white one give `black`
and `white`; an element that is the same in both is padding, and stays. Elements that are equal in every picture of noise are copies
of one value u. What does not come out like this, such as patches whose number depends on what a picture shows, is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from steerlib.errors import SteerlibError
from steerlib.models.model import Model
from steerlib.models.prompts import Prompt, pictures_of, repainted

Paint = Callable[[int, tuple[int, int]], Image.Image]  # the number of a picture and its size -> a picture

NOISES = 8  # pictures of noise: that two elements which are no copies agree in all of them is unlikely among millions
CLOSE = 0.02  # how far, of the way from black to white, the rounding of pictures to 256 steps may carry


@dataclass(frozen=True)
class Canvas:
    """Where the values of a prompt's pictures are among the numbers that its model is handed.

    Attributes:
        black: what the processor makes of black pictures of the same sizes; of the shape of the numbers.
        span: how far white is from black, of the same shape; 0 for padding.
        place: (elements,) which elements of the flattened numbers show something.
        value: (elements,) which value each of them shows.
        first: (values,) one element that shows the value.
    """

    black: Tensor
    span: Tensor
    place: Tensor
    value: Tensor
    first: Tensor

    def values(self, numbers: Tensor) -> Tensor:
        """(values,) what the pictures show, each value once, from 0 to 1; numbers: the model's, in float32 or wider."""
        black, span, first = (x.to(numbers.device) for x in (self.black.flatten(), self.span.flatten(), self.first))
        return (numbers.flatten()[first] - black[first]) / span[first]

    def numbers(self, values: Tensor, before: Tensor) -> Tensor:
        """The model's numbers for these values, padding as `before`; the gradient of a value is summed over its copies."""
        black, span, place, value = (
            x.to(before.device) for x in (self.black.flatten(), self.span.flatten(), self.place, self.value)
        )
        shown = black[place] + span[place] * values[value]
        return before.flatten().index_copy(0, place, shown.to(before.dtype)).view(before.shape)


def pixels_key(seen: Mapping[str, Tensor]) -> str | None:
    """What the family calls the numbers of its pictures, such as "pixel_values"; None if there are none.

    >>> pixels_key({"image_sizes": torch.ones(1), "image_pixel_values": torch.ones(1)})
    'image_pixel_values'
    """
    return next((key for key in seen if key.endswith("pixel_values")), None)


def canvas(model: Model, prompt: Prompt) -> Canvas:
    """Where the values of a prompt's pictures are; it depends on their number and their sizes only.

    Args:
        model: whose processor is shown about a dozen pictures; its network is not run.
        prompt: has at least one picture.

    Returns:
        The Canvas.

    Raises:
        SteerlibError: the processor does not turn pictures into numbers value by value.
    """
    sizes = [picture.size for picture in pictures_of(prompt)]
    own = _numbers(model, prompt)

    def numbers(paint: Paint) -> Tensor:
        made = _numbers(model, repainted(prompt, [paint(n, size) for n, size in enumerate(sizes)]))
        if made.shape != own.shape:
            raise _refusal(
                model, f"numbers of shape {tuple(own.shape)} or {tuple(made.shape)} for pictures of one size"
            )
        return made

    black, white = numbers(partial(_plain, 0)), numbers(partial(_plain, 255))
    noise, negative = numbers(partial(_noise, 0)), numbers(partial(_noise, 0, negative=True))
    span = white - black
    free = span != 0
    off = torch.where(free, noise + negative - black - white, noise - black).abs()
    if not free.any() or (off > CLOSE * span.abs().max()).any():
        raise _refusal(model, f"{tuple(own.shape)} numbers that are not each a share of the way from black to white")
    place = free.flatten().nonzero()[:, 0]
    generator = torch.Generator().manual_seed(0)
    marks = torch.zeros_like(place)  # equal for two elements that are equal in every picture of noise
    for seed in range(NOISES):
        bits = numbers(partial(_noise, seed)).flatten()[place].view(torch.int32).long()
        marks += bits * (2 * torch.randint(2**62, (), generator=generator) + 1)
    found, value = torch.unique(marks, return_inverse=True)
    return Canvas(black, span, place, value, torch.empty_like(found).scatter_(0, value, place))


def _numbers(model: Model, prompt: Prompt) -> Tensor:
    """What the processor makes of a prompt's pictures, in float32 on the CPU."""
    seen = model.read(prompt)[1]
    key = pixels_key(seen)
    if key is None:
        raise SteerlibError("a step at the pixels needs a picture: a prompt has none, give it in `pictures`.")
    return seen[key].float().cpu()


def _plain(tone: int, number: int, size: tuple[int, int]) -> Image.Image:
    return Image.new("RGB", size, (tone, tone, tone))


def _noise(seed: int, number: int, size: tuple[int, int], *, negative: bool = False) -> Image.Image:
    """Every value at random, not so near to black and white that a resizing would go beyond them."""
    values = np.random.default_rng((seed, number)).integers(48, 208, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(255 - values if negative else values)


def _refusal(model: Model, makes: str) -> SteerlibError:
    return SteerlibError(
        f"the processor of '{model.name}' does not give pictures that can be turned back into pixels from 0 to 1 "
        f"(it gives {makes}): take the step at the visual tokens, site='visual'."
    )

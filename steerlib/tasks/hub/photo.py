"""A picture of one person at work, with what is known about it. The picture is decoded when it is asked for, and not kept.

Pictures of one scene are counterfactual: they show the same thing but for whom they show, so that two of them can be compared.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageOps

from steerlib.errors import SteerlibError

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Photo:
    """One picture of one person.

    Attributes:
        file: The picture as a file holds it: its bytes, or its path.
        occupation: The work that the person does.
        gender: "man", "woman" or another word for the group that the person belongs to.
        race: As the source calls it, such as "White"; "" where it is not known.
        scene: What the counterfactual pictures of one scene have in common; "" where a picture has no counterpart.
        source: Where the picture comes from, such as "Intel/SocialCounterfactuals@" and a commit.
        size: The longer side in pixels of pictures that are larger; None leaves them as they are.
        box: The part of the picture to show: left, top, right and bottom in pixels of the file; None is all of it.
        stereotype: The gender that a prejudice expects of the occupation; None takes that of `occupations`.
        percent_women: The percentage of women in the occupation, if there is a stereotype.
        family: See `Item`.

    >>> import io
    >>> file = io.BytesIO()
    >>> Image.new("RGB", (64, 32)).save(file, "PNG")
    >>> photo = Photo(file.getvalue(), "nurse", "man", size=16)
    >>> photo.picture.size, photo.occupation
    ((16, 8), 'nurse')
    """

    file: bytes | Path = field(repr=False)
    occupation: str
    gender: str
    race: str = ""
    scene: str = ""
    source: str = ""
    size: int | None = None
    box: Box | None = None
    stereotype: str | None = None
    percent_women: float | None = None
    family: str = ""

    @property
    def picture(self) -> Image.Image:
        """The picture, upright and in RGB, decoded anew.

        Raises:
            SteerlibError: If the file is not a whole picture.
        """
        told = f"'{self.file}'" if isinstance(self.file, Path) else f"a picture of '{self.source or self.occupation}'"
        return open_picture(self.file, told, size=self.size, box=self.box)


def open_picture(file: bytes | Path, told: str, *, size: int | None = None, box: Box | None = None) -> Image.Image:
    """A picture, upright as the camera noted it, and in RGB.

    Args:
        file: Its bytes, or its path.
        told: What an error calls it.
        size: The longer side in pixels, for pictures that are larger; None leaves them as they are.
        box: The part to keep, in pixels of the file as it is, before it is turned upright.

    Raises:
        SteerlibError: If it is not a whole picture.
    """
    try:
        with Image.open(BytesIO(file) if isinstance(file, bytes) else file) as opened:
            part = opened if box is None else opened.crop(box)
            picture = ImageOps.exif_transpose(part).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise SteerlibError(f"{told} is not a whole picture: save it again as PNG or JPEG.") from error
    if size is not None:
        picture.thumbnail((size, size))
    return picture

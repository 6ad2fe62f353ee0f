"""The Steerings that ship: each is what its recipe says, is small, and stands in the card with its hash."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
import torch
from helpers import tool

import steerlib as sl

SHIPPED = sorted(sl.data_path("steerings").glob("*.safetensors"))


def test_every_recipe_has_its_file_and_every_file_its_recipe() -> None:
    contrasts = set(tool("contrastive").NAMES.values())
    assert {path.stem for path in SHIPPED} == {recipe.name for recipe in tool("train_steerings").RECIPES} | contrasts


@pytest.mark.parametrize("recipe", tool("train_steerings").RECIPES, ids=lambda recipe: recipe.name)
def test_a_steering_that_ships_is_what_its_recipe_says(recipe: Any) -> None:
    path = sl.data_path("steerings") / f"{recipe.name}.safetensors"
    made = sl.load_steering(path)
    facts = made.provenance
    assert (facts["method"], facts["model"], facts["seed"]) == ("dso", recipe.model, recipe.seed)
    assert facts["reward"] == recipe.reward and facts["task"].startswith(recipe.task) and facts["strengths"] == [0, 1]
    former = tool("train_steerings").FORMER_NAMES if "passes" in facts else {}  # as the older files call them
    options = {former.get(name, name): value for name, value in recipe.options().items()}
    assert options.items() <= facts.items()
    if recipe.task == "pronoun":
        assert facts["prompts"] == len(recipe.items().ambiguous)
    each = 4 if recipe.model == "gemma3-270m" else 2  # Gemma has a norm before and one after each half of a block
    assert len(made.operations) == each * facts["layers"] + 1 and path.stat().st_size < 400_000
    assert facts.get("where") == ("mergeable" if recipe.mergeable else None)
    card = (path.parent / "README.md").read_text(encoding="utf-8")
    assert f"| `{path.name}` |" in card and hashlib.sha256(path.read_bytes()).hexdigest() in card


@pytest.fixture(scope="module")
def again() -> sl.Steering:
    """The ablation of the chapter on adding and ablating at two layers, made anew."""
    his, hers = tool("contrastive").prompts()
    assert len(his) == len(hers) == 64
    lm = sl.load("smollm2", device="cpu")
    return sl.contrastive(lm, his, hers, layers=[12, 25], center="midpoint", progress=False)


@pytest.mark.parametrize("kind", ["add", "ablate"])
def test_a_contrastive_steering_that_ships_is_the_direction_of_chapter_3(kind: str, again: sl.Steering) -> None:
    shipped = sl.load_steering(sl.data_path("steerings", f"{tool('contrastive').NAMES[kind]}.safetensors"))
    assert [str(site) for site in shipped.operations] == [f"residual.{layer}" for layer in range(30)]
    for site, operation in again.operations.items():
        assert isinstance(operation, sl.Ablate) and operation.center is not None
        there: Any = shipped[site]
        if kind == "ablate":
            torch.testing.assert_close(there.center, operation.center, rtol=1e-4, atol=1e-4)
            cosine = float(there.direction @ operation.direction)
        else:  # hers minus his, times a factor that may be negative
            sign = -1 if shipped.provenance["scaled"] > 0 else 1
            cosine = sign * float(there.vector @ operation.direction / there.vector.norm())
        assert cosine == pytest.approx(1, abs=1e-6)


def test_strength_1_of_the_shipped_addition_makes_the_average_of_validation_even() -> None:
    made = tool("contrastive")
    shipped = sl.load_steering(sl.data_path("steerings", f"{made.NAMES['add']}.safetensors"))
    facts = shipped.provenance
    assert facts["strengths"] == [0, 1] and facts["reached"] == pytest.approx(0.5, abs=2e-3)
    assert abs(facts["reached"] - 0.5) < abs(facts["unsteered"] - 0.5)
    assert made.lean(sl.load("smollm2", device="cpu"), shipped, 1.0) == pytest.approx(facts["reached"], abs=1e-3)


@pytest.mark.parametrize("kind", ["add", "ablate"])
def test_the_card_has_every_contrastive_steering_with_its_hash(kind: str) -> None:
    path = sl.data_path("steerings", f"{tool('contrastive').NAMES[kind]}.safetensors")
    card = (path.parent / "README.md").read_text(encoding="utf-8")
    assert f"| `{path.name}` |" in card and hashlib.sha256(path.read_bytes()).hexdigest() in card

"""The Steerings that ship: each is what its recipe says, is small, and stands in the card with its hash."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

import steerlib as sl

TOOL = Path(__file__).resolve().parent.parent / "tools" / "train_steerings.py"


def tool() -> Any:
    """tools/train_steerings.py as a module."""
    spec = importlib.util.spec_from_file_location("train_steerings", TOOL)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


SHIPPED = sorted(sl.data_path("steerings").glob("*.safetensors"))


def test_every_recipe_has_its_file_and_every_file_its_recipe() -> None:
    assert {path.stem for path in SHIPPED} == {recipe.name for recipe in tool().RECIPES}


@pytest.mark.parametrize("recipe", tool().RECIPES, ids=lambda recipe: recipe.name)
def test_a_steering_that_ships_is_what_its_recipe_says(recipe: Any) -> None:
    path = sl.data_path("steerings") / f"{recipe.name}.safetensors"
    made = sl.load_steering(path)
    facts = made.provenance
    assert (facts["method"], facts["model"], facts["seed"]) == ("dso", recipe.model, recipe.seed)
    assert facts["reward"] == recipe.reward and facts["task"].startswith(recipe.task) and facts["strengths"] == [0, 1]
    former = tool().FORMER_NAMES if "passes" in facts else {}  # as the older files call them
    options = {former.get(name, name): value for name, value in recipe.options().items()}
    assert options.items() <= facts.items()
    if recipe.task == "pronoun":
        assert facts["prompts"] == len(recipe.items().ambiguous)
    each = 4 if recipe.model == "gemma3-270m" else 2  # Gemma has a norm before and one after each half of a block
    assert len(made.operations) == each * facts["layers"] + 1 and path.stat().st_size < 400_000
    assert facts.get("where") == ("mergeable" if recipe.mergeable else None)
    card = (path.parent / "README.md").read_text(encoding="utf-8")
    assert f"| `{path.name}` |" in card and hashlib.sha256(path.read_bytes()).hexdigest() in card

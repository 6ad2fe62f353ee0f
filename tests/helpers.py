"""What several test files share: a task about letters, quick trainings on it, and a way to interrupt them."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from steerlib import Steering, assets
from steerlib.models.model import Model
from steerlib.tasks import STYLES, Item, Task
from steerlib.training.config import Training

WORDINGS = ("The {} said:", "So the {} was late, and said:", "A {}", "Once there was a {} who")
OCCUPATIONS = ("plumber", "nurse", "pilot", "librarian")
TOOLS = Path(__file__).resolve().parent.parent / "tools"


def tool(name: str) -> Any:
    """A script of tools/ as a module."""
    spec = importlib.util.spec_from_file_location(name, TOOLS / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


def need(style: str = "openmoji") -> None:
    """Skip the test on a machine that has not fetched the drawings."""
    if not (assets.cache_dir() / "assets" / STYLES[style]).is_dir():
        pytest.skip(f"{STYLES[style]} is not in the cache")


def quick(**how: Any) -> Training:
    """Settings under which a tiny model learns something in a few steps."""
    return Training(**{"epochs": 2, "batch_size": 8, "learning_rate": 0.02, "kl_target": 5.0, "l1": 0.0, **how})


def letters(options: tuple[str, ...] = (" a", " b"), groups: tuple[str, ...] = ("man", "woman"), each: int = 4) -> Task:
    """Four occupations with `each` ambiguous items, and two unambiguous ones."""
    items = []
    for i, name in enumerate(OCCUPATIONS):
        about: dict[str, Any] = {"cluster": name, "statistic": 20.0 * i, "stereotype": groups[i % 2]}
        for k in range(each):
            items.append(Item(WORDINGS[k].format(name), options, groups, **about, template=str(k)))
        for group in groups[:2]:
            items.append(Item(f"My {group} is a {name}", options, groups, **about, template="x", answer=group))
    return Task("letters", tuple(items), about="occupation")


def vectors(steering: Steering) -> dict[str, Tensor]:
    """Every vector of a steering by name."""
    return {f"{site}/{name}": v for site, op in steering.operations.items() for name, v in op.vectors().items()}


def same(a: Steering, b: Steering) -> bool:
    """Whether two steerings have the same vectors, to the bit."""
    one, other = vectors(a), vectors(b)
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def fire(lm: Model, calls: int, error: BaseException) -> Any:
    """Raise an error inside the forward pass number `calls` of the language-model head."""
    count = 0

    def hook(module: Any, args: Any, output: Any) -> None:
        nonlocal count
        count += 1
        if count == calls:
            raise error

    return lm.hf.get_output_embeddings().register_forward_hook(hook)

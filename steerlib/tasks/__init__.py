"""Tasks: what a model is asked, in items that an evaluation scores and a method learns from."""

from steerlib.tasks.coreference import SENTENCES, Sentence, coreference
from steerlib.tasks.describe import Portrait, describe
from steerlib.tasks.item import Item, Task, occupations
from steerlib.tasks.people import (
    GENDERS,
    OCCUPATIONS,
    PERSON_IS_MAN,
    STYLES,
    TONE_GROUPS,
    TONES,
    Scene,
    people,
    scene,
    side_by_side,
)
from steerlib.tasks.pronoun import TEMPLATES, TRAINING_TEMPLATES, Template, pronoun
from steerlib.tasks.who_is import PairItem, Person, who_is

__all__ = [
    "GENDERS",
    "OCCUPATIONS",
    "PERSON_IS_MAN",
    "SENTENCES",
    "STYLES",
    "TEMPLATES",
    "TONES",
    "TONE_GROUPS",
    "TRAINING_TEMPLATES",
    "Item",
    "PairItem",
    "Person",
    "Portrait",
    "Scene",
    "Sentence",
    "Task",
    "Template",
    "coreference",
    "describe",
    "occupations",
    "people",
    "pronoun",
    "scene",
    "side_by_side",
    "who_is",
]

"""Tasks: what a model is asked, in items that an evaluation scores and a method learns from."""

from steerlib.tasks.age import AGE_WORDINGS, AgeWording, activities, age
from steerlib.tasks.article import article
from steerlib.tasks.coreference import SENTENCES, Sentence, coreference
from steerlib.tasks.describe import Portrait, describe
from steerlib.tasks.folder import from_folder
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
from steerlib.tasks.sealed import choosing, sealed
from steerlib.tasks.table import from_csv, from_frame
from steerlib.tasks.who_is import PairItem, Person, who_is

__all__ = [
    "AGE_WORDINGS",
    "GENDERS",
    "OCCUPATIONS",
    "PERSON_IS_MAN",
    "SENTENCES",
    "STYLES",
    "TEMPLATES",
    "TONES",
    "TONE_GROUPS",
    "TRAINING_TEMPLATES",
    "AgeWording",
    "Item",
    "PairItem",
    "Person",
    "Portrait",
    "Scene",
    "Sentence",
    "Task",
    "Template",
    "activities",
    "age",
    "article",
    "choosing",
    "coreference",
    "describe",
    "from_csv",
    "from_folder",
    "from_frame",
    "occupations",
    "people",
    "pronoun",
    "scene",
    "sealed",
    "side_by_side",
    "who_is",
]

"""Tasks: what a model is asked, in items that an evaluation scores and a method learns from."""

from steerlib.tasks.age import AGE_WORDINGS, AgeWording, activities, age
from steerlib.tasks.article import article
from steerlib.tasks.benchmarks.bbq import bbq
from steerlib.tasks.benchmarks.crows_pairs import crows_pairs
from steerlib.tasks.benchmarks.multibbq import multibbq
from steerlib.tasks.benchmarks.source import BenchmarkItem
from steerlib.tasks.benchmarks.stereoset import stereoset
from steerlib.tasks.benchmarks.winobias import winobias
from steerlib.tasks.benchmarks.winogender import winogender
from steerlib.tasks.coreference import SENTENCES, Sentence, coreference
from steerlib.tasks.describe import Portrait, describe
from steerlib.tasks.folder import from_folder
from steerlib.tasks.hub.facet import facet
from steerlib.tasks.hub.own_pictures import photos_from
from steerlib.tasks.hub.pairs import pairs
from steerlib.tasks.hub.photo import Photo
from steerlib.tasks.hub.social_counterfactuals import social_counterfactuals
from steerlib.tasks.hub.synthbias import synthbias
from steerlib.tasks.hub.visogender import visogender
from steerlib.tasks.item import Item, Task, occupations
from steerlib.tasks.pair_item import PairItem, Person
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
from steerlib.tasks.who_is import who_is

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
    "BenchmarkItem",
    "Item",
    "PairItem",
    "Person",
    "Photo",
    "Portrait",
    "Scene",
    "Sentence",
    "Task",
    "Template",
    "activities",
    "age",
    "article",
    "bbq",
    "choosing",
    "coreference",
    "crows_pairs",
    "describe",
    "facet",
    "from_csv",
    "from_folder",
    "from_frame",
    "multibbq",
    "occupations",
    "pairs",
    "people",
    "photos_from",
    "pronoun",
    "scene",
    "sealed",
    "side_by_side",
    "social_counterfactuals",
    "stereoset",
    "synthbias",
    "visogender",
    "who_is",
    "winobias",
    "winogender",
]

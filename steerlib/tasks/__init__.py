"""Tasks: what a model is asked, in items that an evaluation scores and a method learns from."""

from steerlib.tasks.pronoun import TEMPLATES, Template, pronoun
from steerlib.tasks.task import Item, Task, occupations

__all__ = ["TEMPLATES", "Item", "Task", "Template", "occupations", "pronoun"]

"""What the words of a command line ask for: settings as KEY=VALUE, and tasks by their names.

    pronoun   pronoun:validation   who-is:test   jobs.csv   a/folder/of/pictures

A value is read as YAML: 3 is a number, [a, b] a list, {man: he, woman: she} a mapping, and everything else a text.
"""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from steerlib import tasks
from steerlib.errors import SteerlibError
from steerlib.tasks import Task

NAMED = ("pronoun", "coreference", "who-is", "age", "winobias", "winogender", "synthbias", "visogender")
TABLES = (".csv", ".tsv", ".txt")


def settings(pairs: Sequence[str], option: str) -> dict[str, Any]:
    """Settings given as KEY=VALUE.

    Args:
        pairs: what was given.
        option: after which option, for the error.

    Raises:
        SteerlibError: a pair has no "=", or a value cannot be read.

    >>> settings(["scenes=2", "by=tone", "options={man: he, woman: she}"], "--task-option")
    {'scenes': 2, 'by': 'tone', 'options': {'man': 'he', 'woman': 'she'}}
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key.strip():
            raise SteerlibError(f"{option} takes KEY=VALUE, not {pair!r}.")
        try:
            found[key.strip().replace("-", "_")] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise SteerlibError(f"the value of {option} {pair!r} cannot be read: quote it as in YAML.") from error
    return found


def refuse_unknown(given: Mapping[str, Any], known: Iterable[str], what: str, option: str) -> None:
    """Refuse a setting that is not among those known. what: what takes the settings, for the error."""
    names = sorted(known)
    for key in given:
        if key not in names:
            has = f"it has {', '.join(names)}" if names else "it has none"
            raise SteerlibError(f"{what} has no option '{key}' for {option}: {has}.")


def options_of(function: Callable[..., Any]) -> list[str]:
    """The names of what a function takes by keyword only."""
    return [p.name for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]


def task_of(name: str, given: Mapping[str, Any], option: str = "--task-option") -> Task:
    """A task by its name.

    Args:
        name: one of ours with its split after a colon, such as "pronoun:validation"; a CSV file, as `tasks.from_csv` reads it; or a
            folder of pictures, as `tasks.from_folder` reads it.
        given: keyword arguments of the function that makes the task.
        option: how they were given, for the error.

    Raises:
        SteerlibError: there is no such task, it has no such option, or the function refuses them.

    >>> task = task_of("pronoun:validation", {})
    >>> task == tasks.pronoun("validation")
    True
    """
    place = Path(name).expanduser()
    if place.suffix.lower() in TABLES:
        refuse_unknown(given, options_of(tasks.from_frame), f"the task '{name}'", option)
        return _made(tasks.from_csv, name, place, given)
    word, _, split = name.partition(":")
    if word.replace("_", "-") not in NAMED:
        if not place.is_dir():
            raise SteerlibError(
                f"there is no task '{name}': give {', '.join(NAMED)}, with a split as in pronoun:train, or a CSV file, or a folder of "
                "pictures."
            )
        refuse_unknown(given, options_of(tasks.from_folder), f"the task '{name}'", option)
        return _made(tasks.from_folder, name, place, given)
    function: Callable[..., Task] = getattr(tasks, word.replace("-", "_"))
    takes = inspect.signature(function).parameters
    refuse_unknown(given, set(takes) - {"split"}, f"the task '{word}'", option)
    if split and "split" not in takes:
        raise SteerlibError(f"the task '{word}' has no splits: leave ':{split}' out.")
    for key, parameter in takes.items():  # a copy of one's own, which cannot be shipped
        if parameter.default is parameter.empty and key not in given:
            raise SteerlibError(f"the task '{word}' needs to know where your copy is: add {option} {key}=PATH.")
    return _made(function, name, {**given, **({"split": split} if split else {})})


def _made(function: Callable[..., Task], name: str, *arguments: Any) -> Task:
    """The task, with an error in one sentence where a value is of the wrong kind. The last argument holds the keywords."""
    *positional, keywords = arguments
    try:
        return function(*positional, **keywords)
    except (TypeError, AttributeError) as error:
        raise SteerlibError(f"the options of the task '{name}' are not of the kind that it takes ({error}).") from error


def add_model_and_task(parser: argparse.ArgumentParser) -> None:
    """The words that say which model is asked, where and how it is loaded, and what it is asked."""
    parser.add_argument("model", metavar="MODEL", help="as steerlib.load takes it: a hub id, a folder, smollm2")
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1 (default: a GPU if there is one)")
    parser.add_argument(
        "--load-option", action="append", default=[], metavar="KEY=VALUE",
        help="an argument of steerlib.load, such as dtype=bfloat16 or revision=COMMIT; can be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--task", required=True, metavar="TASK", help="pronoun:train, who-is:test, a CSV file, a folder of pictures"
    )
    parser.add_argument(
        "--task-option", action="append", default=[], metavar="KEY=VALUE",
        help="an argument of the task; can be repeated",
    )  # fmt: skip

"""A task of your own from a spreadsheet: one row per question, or one row per thing to ask about.

    prompt,young,old,cluster,stereotype                  columns of a finished question: a column per group holds its option
    "Who is late? The",young one,old one,punctuality,young

    person,stereotype                                    or what templates and options are filled from:
    nurse,woman                                          templates=["The {person} said that"], options={"man": "he", "woman": "she"}

What a spreadsheet does to text is put right here: a byte order mark, blanks around cells, "90%" for 90; the blank before an
option is added. What cannot be guessed is refused with the number of the row, the header being row 1.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd

from steerlib.errors import SteerlibError
from steerlib.models.prompts import Prompt, chat
from steerlib.tasks.article import article
from steerlib.tasks.item import Item, Task

KNOWN = ("prompt", "cluster", "stereotype", "statistic", "template", "answer", "family")
Wording = str | tuple[str, str]
Wordings = Sequence[Wording] | Mapping[str, Wording]


def from_frame(
    frame: pd.DataFrame,
    *,
    templates: Wordings | None = None,
    options: Mapping[str, str] | None = None,
    groups: Sequence[str] | None = None,
    cluster: str = "cluster",
    stereotype: str | None = None,
    name: str = "mine",
    about: str | None = None,
    statistic: str = "statistic",
) -> Task:
    """A Task from a table.

    Args:
        frame: one row per question or per thing to ask about. Columns that mean something: prompt; cluster (what the question is
            about); stereotype (the group that a prejudice expects; an empty cell: none); statistic (a number about the
            cluster); template (the name of the wording); answer (the right group; an empty cell: the question is ambiguous);
            family (what clusters share that are not independent evidence, as in `Item`; an empty cell: none);
            a column for each group, with its option; and whatever the templates name in braces.
        templates: questions to fill from the columns, instead of a column prompt: texts to be continued such as "The {person}
            said that", or pairs of what the user says and how the answer begins. {an_person} is the same with its article.
            A mapping names them. With {first} and {second}, which stand for the options, every question comes in both orders.
        options: the option of each group, the same in every row, instead of a column for each group; may have braces, too.
        groups: the columns with options; None takes every column that nothing else uses.
        cluster: the column that says what a question is about.
        stereotype: the group that a prejudice expects in every row, instead of a column.
        name: of the task.
        about: what the clusters are, in one word that names a column of results; None takes the name of the column.
        statistic: what the number in the column statistic is, likewise.

    Returns:
        A Task; one item per row and template, or two where templates name {first} and {second}.

    Raises:
        SteerlibError: a column is missing or used by nothing, a cell is empty or holds what it must not; says where.

    Example:
        >>> people = pd.DataFrame({"person": ["nurse", "engineer"], "stereotype": ["woman", "man"]})
        >>> task = from_frame(people, templates=["I asked {an_person}, and"], options={"man": "he", "woman": "she"},
        ...                   cluster="person")
        >>> task[1].prompt, task[1].options, task[1].groups, task.about
        ('I asked an engineer, and', (' he', ' she'), ('man', 'woman'), 'person')
    """
    rows = _rows(frame)
    columns = list(rows[0])
    wordings = _wordings(templates)
    if options is not None and not isinstance(options, Mapping):
        raise SteerlibError("options are a text for each group, such as {'man': 'he', 'woman': 'she'}.")
    if (templates is None) == ("prompt" not in columns):
        raise SteerlibError("questions come from a column 'prompt' or from templates=[...]: give one of the two.")
    if cluster not in columns:
        raise SteerlibError(
            f"the table has no column '{cluster}' for what a question is about: there are {', '.join(columns)}."
        )
    texts = [part for wording in wordings.values() for part in wording if part] + list((options or {}).values())
    fields = {field for text in texts for field in _fields(text)} - {"first", "second", "an_first", "an_second"}
    named = {field if field in columns else field.removeprefix("an_") for field in fields}
    if missing := sorted(named - set(columns)):
        raise SteerlibError(f"a template names {{{missing[0]}}}, and the table has only {', '.join(columns)}.")
    spare = [column for column in columns if column not in {*KNOWN, cluster, *named}]
    choices = _choices(options, groups, spare, columns)
    if unused := [column for column in spare if column not in choices]:
        raise SteerlibError(f"nothing uses the column '{unused[0]}': drop it, or name it in a template or in groups.")
    if stereotype is not None and stereotype not in choices:
        raise SteerlibError(f"the stereotype '{stereotype}' is not one of the groups {', '.join(choices)}.")
    items: list[Item] = []
    for number, row in enumerate(rows, start=2):
        filled = {group: _option(text, row, number) for group, text in choices.items()}
        facts: dict[str, Any] = {
            "cluster": _cell(row, cluster, number),
            "statistic": number_of(row.get("statistic"), f"row {number}: the statistic"),
            "stereotype": stereotype if stereotype is not None else _group(row, "stereotype", choices, number),
            "answer": _group(row, "answer", choices, number),
            "family": "" if empty(row.get("family")) else str(row["family"]).strip(),
        }
        for label, (text, begun) in (wordings or {"": ("", None)}).items():
            template = label or str(row.get("template", "") or "")
            for order in _orders(list(filled), [text, begun or ""]):
                prompt = row["prompt"] if templates is None else _asked(text, begun, row, filled, order, number)
                said = prompt if templates is not None else _prompt(prompt, number)
                items.append(
                    Item(said, tuple(_after(said, filled[g]) for g in order), tuple(order), template=template, **facts)
                )
    return Task(name, tuple(items), about or cluster, statistic)


def from_csv(path: str | Path, **how: Any) -> Task:
    """A Task from a CSV file, as a spreadsheet saves it.

    Args:
        path: the file; its columns may be parted by commas, semicolons or tabs.
        **how: as in `from_frame`; the task is called like the file unless told otherwise.

    Returns:
        A Task.

    Raises:
        SteerlibError: the file cannot be read, or `from_frame` refuses what is in it.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "jobs.csv")
        >>> _ = path.write_text("person;stereotype\\nnurse;woman\\npilot;man\\n")
        >>> len(from_csv(path, templates=["The {person} said that"], options={"man": "he", "woman": "she"}, cluster="person"))
        2
    """
    return from_frame(read_table(path), **{"name": Path(path).stem, **how})


def read_table(path: str | Path) -> pd.DataFrame:
    """A CSV file as a frame of texts, whatever a spreadsheet did to it: byte order mark, semicolons, Windows' encoding.

    Raises:
        SteerlibError: there is no such file, or it is not a table of text.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise SteerlibError(f"there is no file '{path}'.")
    data = file.read_bytes()
    if file.suffix.lower() in (".xlsx", ".xls", ".ods") or data[:2] == b"PK" or b"\0" in data:
        raise SteerlibError(f"'{path}' is not a table of text: save it as CSV (UTF-8) in your spreadsheet.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("cp1252", errors="replace")
    head = text.lstrip().split("\n", 1)[0]
    try:
        return pd.read_csv(StringIO(text), sep=max(",;\t", key=head.count), dtype=str, keep_default_na=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise SteerlibError(f"'{path}' is not a table: {str(error).strip().rstrip('.').splitlines()[0]}.") from error


def number_of(cell: Any, what: str) -> float | None:
    """A number as a spreadsheet writes it: 90, "90", "90 %", "90,5"; None for an empty cell.

    Raises:
        SteerlibError: the cell holds something else.
    """
    if empty(cell):
        return None
    text = str(cell).strip().removesuffix("%").strip().replace(",", ".")
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not abs(value) < float("inf"):
        raise SteerlibError(f"{what} {str(cell)!r} is not a number.")
    return value


def empty(cell: Any) -> bool:
    """Whether a cell holds nothing: None, NaN, or blanks."""
    return cell is None or (isinstance(cell, float) and math.isnan(cell)) or cell is pd.NA or not str(cell).strip()


def _rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows by column, names and texts without byte order marks and blanks around them."""
    if not isinstance(frame, pd.DataFrame):
        raise SteerlibError(
            f"a table is a pandas DataFrame, not {type(frame).__name__}: read a file with steerlib.tasks.from_csv(path)."
        )
    names = [str(column).replace("\ufeff", "").strip() for column in frame.columns]
    names = [name.lower() if name.lower() in KNOWN else name for name in names]
    if twice := [name for name in names if names.count(name) > 1]:
        raise SteerlibError(f"the table has the column '{twice[0]}' twice.")
    if not len(frame):
        raise SteerlibError("the table has no rows.")
    return [
        {name: cell.strip() if isinstance(cell, str) else cell for name, cell in zip(names, row, strict=True)}
        for row in frame.itertuples(index=False, name=None)
    ]


def _wordings(templates: Wordings | None) -> dict[str, tuple[str, str | None]]:
    if templates is None:
        return {}
    if isinstance(templates, str):
        raise SteerlibError("templates are a list of texts, not one text: write [text] for a single one.")
    named = templates.items() if isinstance(templates, Mapping) else ((None, given) for given in templates)
    made: dict[str, tuple[str, str | None]] = {}
    for label, given in named:
        parts = given if isinstance(given, (tuple, list)) else (given, None)
        if len(parts) != 2 or not all(isinstance(part, str) and part.strip() for part in parts if part is not None):
            raise SteerlibError(
                f"a template is a text, or a pair of what the user says and how the answer begins, not {given!r}."
            )
        text, begun = parts
        made[str(label if label is not None else text)] = (str(text).strip(), begun)
    if not made:
        raise SteerlibError("there are no templates: give at least one text.")
    return made


def _choices(
    options: Mapping[str, str] | None, groups: Sequence[str] | None, spare: list[str], columns: list[str]
) -> dict[str, str]:
    """The option of each group, as a template: the one given, or "{column}"."""
    if isinstance(groups, str):
        raise SteerlibError(f"groups is a list of the columns with options, not {groups!r}.")
    names = list(options) if options is not None else list(spare if groups is None else groups)
    if options is None and (missing := [group for group in names if group not in columns]):
        raise SteerlibError(f"the table has no column '{missing[0]}' with the options of that group.")
    if len(names) < 2:
        raise SteerlibError(
            f"a question needs two options or more, and the groups are {', '.join(names) or 'none'}: give options={{...}}, or a "
            "column for each group."
        )
    return {str(group): str(options[group]) if options is not None else f"{{{group}}}" for group in names}


def _fields(text: str) -> list[str]:
    return re.findall(r"{([^{}]*)}", text)


def _fill(text: str, row: Mapping[str, Any], number: int) -> str:
    """The text with its braces filled from a row."""

    def value(match: re.Match[str]) -> str:
        field = match.group(1)
        if field in row:
            return _cell(row, field, number)
        return article(_cell(row, field.removeprefix("an_"), number))

    filled = re.sub(r"{([^{}]*)}", value, text)
    return filled[0].upper() + filled[1:] if text.startswith("{an_") else filled  # a sentence begins


def _cell(row: Mapping[str, Any], column: str, number: int) -> str:
    if empty(row[column]):
        raise SteerlibError(f"row {number} of the table has nothing in the column '{column}'.")
    return str(row[column])


def _group(row: Mapping[str, Any], column: str, groups: Iterable[str], number: int) -> str | None:
    if empty(row.get(column)):
        return None
    if row[column] not in groups:
        raise SteerlibError(
            f"row {number}: the {column} {str(row[column])!r} is not one of the groups {', '.join(groups)}."
        )
    return str(row[column])


def _option(text: str, row: Mapping[str, Any], number: int) -> str:
    return _fill(text, row, number).strip()


def _orders(groups: list[str], texts: list[str]) -> list[list[str]]:
    """The orders in which the options come: both where a wording names the first and the second."""
    used = {field.removeprefix("an_") for text in texts for field in _fields(text)} & {"first", "second"}
    if not used:
        return [groups]
    if used != {"first", "second"} or len(groups) != 2:
        raise SteerlibError(f"{{first}} and {{second}} stand for two options, and go together: {texts[0]!r}.")
    return [groups, groups[::-1]]


def _asked(
    text: str, begun: str | None, row: Mapping[str, Any], filled: Mapping[str, str], order: list[str], number: int
) -> Prompt:
    words = {**row, "first": filled[order[0]], "second": filled[order[1]]}
    said = _fill(text, words, number)
    return said if begun is None else chat(said, _fill(begun, words, number).rstrip())


def _prompt(prompt: Any, number: int) -> Prompt:
    """A prompt of the table: a text, or a chat."""
    if isinstance(prompt, (list, tuple)) and prompt and all(isinstance(message, Mapping) for message in prompt):
        return list(prompt)
    if empty(prompt) or not isinstance(prompt, str):
        raise SteerlibError(f"row {number} of the table has no text in the column 'prompt'.")
    return prompt


def _after(prompt: Prompt, option: str) -> str:
    """The option with the blank that parts it from what it continues; none where it begins an answer."""
    return f" {option}" if isinstance(prompt, str) or prompt[-1]["role"] in ("assistant", "plain") else option

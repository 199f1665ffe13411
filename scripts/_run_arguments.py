"""Arguments of a run: of one to make, of one to resume, of one whose arguments are taken."""

import argparse
import re
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from jsonargparse import ArgumentParser

from inference.data import Source
from inference.runs import Run
from inference.runs.documents import read_yaml
from inference.runs.segments import CHANGEABLE
from scripts._arguments import Parser, one_line_errors
from scripts._recorded_code import refuse_changed_code
from scripts._trust import read_config

TRUST = (
    "This run may import any module and call anything that its config.yaml names, as a module of "
    "your own; without it a run names parts of lowerbound, torch.optim and pyro.infer alone."
)
"""What --trust does."""

RESUME = (
    "Go on with this run from its last checkpoint, with the arguments that it has. Others go on "
    f"from there: {', '.join(sorted(CHANGEABLE))}."
)
"""What --resume does."""


DRY_RUN = "Load the data, check everything, print what would run, and leave nothing behind."
"""What --dry_run does."""

NEEDED = ("data", "seed", "epochs", "batch_size", "learning_rate", "objective")
"""Arguments without whose record a run would go on as another one."""

BESIDE = ("config", "resume", "list", "trust", "quiet", "dry_run")
"""Arguments of a command line that a run doesn't keep."""


class Asked(NamedTuple):
    """What a command line asks for.

    Args:
        arguments: of the run.
        resumed: whether the run exists and is resumed.
        quiet: whether only warnings and the last line are shown.
        dry: whether the run is only looked at.
    """

    arguments: Any
    resumed: bool
    quiet: bool
    dry: bool


def read_run_arguments(parser: Parser, argv: list[str] | None) -> Asked:
    """Read the arguments of a run to make, or those of a run to resume.

    Args:
        parser: with the run's arguments, data, data_root, pair and run among them.
        argv: the words of the command line; None takes the process's.

    Returns:
        The arguments, and what else is asked for.
    """
    add_config(parser, argv)
    parser.add_argument("--resume", type=Path, help=RESUME)
    add_quiet(parser)
    parser.add_argument("--dry_run", action="store_true", help=DRY_RUN)
    arguments = parser.parse_args(argv)
    quiet, dry = arguments.quiet, arguments.dry_run
    resume, trust, pair = arguments.resume, arguments.trust, arguments.pair
    if resume:
        given = given_words(parser, argv)
        if fixed := given.keys() - CHANGEABLE - {"data_root"}:
            name = min(fixed)
            parser.error(
                f"--resume {resume} can't take --{name}, which is part of what the run is. Train "
                f"another: --config {resume / 'config.yaml'} --{name} ... --run ANOTHER."
            )
        with one_line_errors(parser.prog):
            run = Run(resume)
            recorded = read_config(run, trust, pair)
            for name in NEEDED:
                if name not in recorded:
                    raise ValueError(f"{run.path / 'config.yaml'} has no {name}.")
            config = {**recorded, **given}
            prog, parser.prog = parser.prog, f"{parser.prog}: {run.path / 'config.yaml'}"
            arguments = parser.parse_object({**config, "run": str(resume)})
            parser.prog = prog
            refuse_changed_code(run, arguments.pair)
    elif trust and not arguments.config:
        parser.error(f"--trust {trust}: it goes with --resume, or with --config of that run.")
    elif not any(re.match("--run(=|$)", str(w)) for w in (sys.argv[1:] if argv is None else argv)):
        arguments.run = parser.get_default("run")  # what a file of --config says of it is another's
        name = Source(**vars(arguments.data)).name
        arguments.run /= f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    elif exists(parser.prog, arguments.run):
        parser.error(f"{arguments.run} exists: --resume {arguments.run}, or name another --run.")
    for name in BESIDE:
        arguments.pop(name, None)
    for name in ("pair", "data_root", "init"):  # the run may be resumed from another folder
        arguments[name] = arguments[name] and arguments[name].resolve()
    file = Source(**vars(arguments.data)).path
    if file is not None and file.exists():
        arguments.data.source = str(Path(arguments.data.source).resolve())
    return Asked(arguments, resume is not None, quiet, dry)


def add_quiet(parser: Parser) -> None:
    """Give a parser --quiet."""
    help_ = "Show nothing but warnings and the last line."
    parser.add_argument("--quiet", action="store_true", help=help_)


def given_words(parser: Parser, argv: list[str] | None) -> dict[str, Any]:
    """Return what a command line and its --config say, as plain data, without defaults."""
    words = list(parser.in_full(map(str, sys.argv[1:] if argv is None else argv)))
    found = ArgumentParser.parse_args(parser, words, defaults=False).as_dict()
    return {k: v for k, v in found.items() if k not in (*BESIDE, "pair")}


def add_config(parser: Parser, argv: list[str] | None) -> None:
    """Give a parser --config and --trust; check the files of --config that lie in a run.

    That comes before the parser reads them, which imports what they name.

    Args:
        parser: of a script.
        argv: the words of the command line; None takes the process's.
    """
    parser.add_argument("--config", action="config", help="YAML file of arguments.")
    parser.add_argument("--trust", type=Path, metavar="RUN", help=TRUST)
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--config", type=Path, action="append", nargs="?", default=[])
    for name in ("--trust", "--pair"):
        first.add_argument(name, type=Path, nargs="?")
    given, _ = first.parse_known_args(argv)
    with one_line_errors(parser.prog):
        for file in filter(None, given.config):
            marks = ("environment.json", "trace.csv", "checkpoint")
            # A link may lead out of a run, or into one.
            above = {*file.absolute().parents, *file.resolve().parents}
            marked = any((folder / mark).exists() for folder in above for mark in marks)
            if (inside := file / "config.yaml").is_file():
                raise ValueError(f"--config {file} is a run: did you mean --config {inside}?")
            read_yaml(file)
            if file.is_file() and (marked or file.is_symlink()):
                read_config(Run(file.absolute().parent), given.trust, given.pair, file.name)


def exists(prog: str, path: Path) -> bool:
    """Return whether a path exists; one that no file system would take is an error."""
    with one_line_errors(prog):
        return path.exists()
    return False

"""What every script does with its command line: one-line errors, types, devices."""

import argparse
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import torch
import yaml
from jsonargparse import ArgumentParser, Namespace

from inference.data import Source
from inference.runs import Run
from inference.runs.documents import renewed
from inference.runs.segments import CHANGEABLE
from inference.training import Interrupted
from scripts._trust import read_config, refuse_changed_code, short_names

if TYPE_CHECKING:  # made at run time: a type checker can't see what they are
    NonNegativeFloat = PositiveFloat = float
    NonNegativeInt = PositiveInt = int
else:
    from jsonargparse.typing import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

__all__ = [
    "Device",
    "NonNegativeFloat",
    "NonNegativeInt",
    "Parser",
    "PositiveFloat",
    "PositiveInt",
    "add_config",
    "one_line_errors",
    "read_run_arguments",
    "to_device",
]

Device = Literal["auto", "cpu", "cuda"]

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


class Parser(ArgumentParser):
    """A parser that answers a bad argument with one line and exit status 2.

    Args:
        prog: name of the script.
        description: what it does.
    """

    def __init__(self, prog: str = "", description: str | None = None, **kwargs: Any) -> None:
        super().__init__(prog=prog, description=description, **kwargs)

    def parse_string(self, content: str, *others: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """Parse the text of a --config, whatever version wrote it."""
        try:
            found = yaml.safe_load(content)
        except yaml.YAMLError:
            found = None
        if isinstance(found, dict):
            content = yaml.safe_dump(short_names(renewed(found)), sort_keys=False)
        return super().parse_string(content, *others, **kwargs)

    def parse_args(self, args: Any = None, *others: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """Parse twice, so that a chosen part has its own defaults.

        In one pass a class takes over the default class's values of arguments that both have: AdamW
        the weight decay 0 of Adam.
        """
        if not self.exit_on_error:  # of a part, which is parsed word by word: nothing to look up
            return super().parse_args(args, *others, **kwargs)
        args = list(_words(self, args))
        given = super().parse_args(args, defaults=False)
        for name, value in vars(given).items():
            if isinstance(value, Namespace) and "class_path" in value:
                self.set_defaults({name: value.as_dict()})
        return super().parse_args(args, *others, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the message on one line and exit; the parser of a part reports to this one."""
        if not self.exit_on_error:
            super().error(message, ex)
        _exit(self.prog, message, 2)


@contextmanager
def one_line_errors(prog: str, remedy: str = "", diverged: str = "") -> Iterator[None]:
    """Turn an error that a user can mend (a value, a file, a signal) into a line and exit status.

    Args:
        prog: name of the script.
        remedy: what to do, said after the line.
        diverged: the same where numbers are no longer finite.
    """
    try:
        yield
    except ValueError as error:  # resuming as before ends as before
        _exit(prog, _with_notes(error), 2)
    except FloatingPointError as error:
        _exit(prog, f"{_with_notes(error)} {diverged or remedy}", 2)
    except OSError as error:
        _exit(prog, f"{_with_notes(error)} {remedy}", 2)
    except Interrupted as stop:
        _exit(prog, f"stopped by {stop}, saved. {remedy}", 128 + stop.signum)


def to_device(name: Device) -> torch.device:
    """Return the device of that name; ``auto`` is CUDA where there is one."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("No CUDA device here: use --device cpu, or auto.")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def read_run_arguments(parser: Parser, argv: list[str] | None) -> tuple[Any, bool]:
    """Read the arguments of a run to make, or those of a run to resume.

    Args:
        parser: with the run's arguments, data, data_root, pair and run among them.
        argv: the words of the command line; None takes the process's.

    Returns:
        The arguments, and whether the run exists and is resumed.
    """
    add_config(parser, argv)
    parser.add_argument("--resume", type=Path, help=RESUME)
    arguments = parser.parse_args(argv)
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
            config = {**read_config(run, trust, pair), **given}
            prog, parser.prog = parser.prog, f"{parser.prog}: {run.path / 'config.yaml'}"
            arguments = parser.parse_object({**config, "run": str(resume)})
            parser.prog = prog
            refuse_changed_code(run, arguments.pair)
    elif arguments.run == parser.get_default("run"):
        name = Source(**vars(arguments.data)).name
        arguments.run /= f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    elif arguments.run.exists():
        parser.error(f"{arguments.run} exists: --resume {arguments.run}, or name another --run.")
    for name in ("config", "resume", "list", "trust"):
        arguments.pop(name, None)
    for name in ("pair", "data_root"):  # the run may be resumed from another folder
        arguments[name] = arguments[name] and arguments[name].resolve()
    file = Source(**vars(arguments.data)).path
    if file is not None and file.exists():
        arguments.data.source = str(Path(arguments.data.source).resolve())
    return arguments, resume is not None


def given_words(parser: Parser, argv: list[str] | None) -> dict[str, Any]:
    """Return what a command line and its --config say, as plain data, without defaults."""
    words = list(_words(parser, argv))
    found = ArgumentParser.parse_args(parser, words, defaults=False).as_dict()
    return {k: v for k, v in found.items() if k not in ("resume", "trust", "pair")}


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
            folder = file.resolve().parent
            marks = ("environment.json", "trace.csv", "checkpoint")
            if file.is_file() and any((folder / mark).exists() for mark in marks):
                read_config(Run(folder), given.trust, given.pair, file.name)


def _words(parser: Parser, argv: Iterable[str] | None) -> Iterator[str]:
    """Return the words of a command line, --data V as --data.source V where that is taken."""
    has_source = "data.source" in parser.get_defaults()
    for word in map(str, sys.argv[1:] if argv is None else argv):
        name, equals, value = word.partition("=")
        if not has_source:
            yield word
        elif word == "--data":
            yield "--data.source"
        elif name == "--data" and equals:
            yield f"--data.source={value}"
        else:
            yield word


def _with_notes(error: Exception) -> str:
    said = str(error).partition("Trace Shapes:")[0]  # Pyro's table says no more
    return " ".join([said, *getattr(error, "__notes__", ())])


def _exit(prog: str, message: str, status: int) -> NoReturn:
    print(f"{prog}: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(status)

"""What every script does with its command line: one-line errors, types, devices."""

import argparse
import inspect
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn, get_type_hints

import torch
from jsonargparse import ArgumentParser, Namespace

from inference import __version__
from inference.runs import Run
from inference.runs.documents import read_yaml
from inference.runs.segments import CHANGEABLE
from scripts._ending import end, one_line_errors
from scripts._explain import Given, abstract, explain, from_document, from_words, part_of
from scripts._numbers import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Seed
from scripts._trust import read_config, refuse_changed_pair

__all__ = [
    "Device",
    "NonNegativeFloat",
    "NonNegativeInt",
    "Parser",
    "PositiveFloat",
    "PositiveInt",
    "Seed",
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


DRY_RUN = "Load the data, check everything, print what would run, and leave nothing behind."
"""What --dry_run does."""

BESIDE = ("config", "resume", "list", "trust", "quiet", "dry_run")
"""Arguments of a command line that a run doesn't keep."""


class Parser(ArgumentParser):
    """A parser that answers a bad argument with one line and exit status 2.

    Args:
        prog: name of the command; empty for the parser of a part, which jsonargparse makes.
        description: what it does.
    """

    def __init__(self, prog: str = "", description: str | None = None, **kwargs: Any) -> None:
        super().__init__(prog=prog, description=description, allow_abbrev=False, **kwargs)
        self._takes: dict[str, Any] = {}
        self._given: list[Given] = []
        if prog:
            self.add_argument("--version", action=Version, help="Show the version, and exit.")

    def add_function_arguments(self, function: Callable[..., Any], **kwargs: Any) -> Any:  # type: ignore[override]
        """Add those of a function, and remember what they take."""
        hints, skip = get_type_hints(function), kwargs.get("skip", ())
        self._takes |= {k: v for k, v in hints.items() if k not in {*skip, "return"}}
        return super().add_function_arguments(function, **kwargs)

    def parse_args(self, args: Any = None, *others: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """Parse twice, so that a chosen part has its own defaults.

        In one pass a class takes over the default class's values of arguments that both have: AdamW
        the weight decay 0 of Adam.
        """
        if not self.exit_on_error:  # of a part, which is parsed word by word: nothing to look up
            return super().parse_args(args, *others, **kwargs)
        self._given = list(from_words(sys.argv[1:] if args is None else args))
        given = super().parse_args(args, defaults=False)
        for name, value in vars(given).items():
            if isinstance(value, Namespace) and "class_path" in value:
                self._refuse_abstract(name, value)
                self.set_defaults({name: value.as_dict()})
        return super().parse_args(args, *others, **kwargs)

    def parse_object(self, cfg_obj: Any, *others: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """Parse the arguments of a file, which `prog` names."""
        if self.exit_on_error and isinstance(cfg_obj, dict):
            self._given = [each._replace(shown=each.name) for each in from_document(cfg_obj, "")]
        found = super().parse_object(cfg_obj, *others, **kwargs)
        for name, value in vars(found).items() if self.exit_on_error else ():
            if isinstance(value, Namespace) and "class_path" in value:
                self._refuse_abstract(name, value)
        return found

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the message on one line and exit; the parser of a part reports to this one."""
        if not self.exit_on_error:
            super().error(message, ex)
        given = list(self._given)
        for each in self._given:
            if each.name == "config" and each.value and Path(each.value).is_file():
                given += from_document(read_yaml(Path(each.value)), each.value)
        flags = [word[2:] for word in self._option_string_actions if word.startswith("--")]
        others = [flag for flag in flags if "." not in flag and flag.isidentifier()]
        said = explain(given, self._takes, others, self._default_parts()) or _tidy(message)
        end(self.prog, said, 2)

    def _default_parts(self) -> dict[str, Any]:
        found = {}
        for name, annotation in self._takes.items():
            default = self.get_default(name) if part_of(annotation)[0] else None
            if isinstance(default, (Namespace, dict)) and "class_path" in default:
                package, _, last = str(default["class_path"]).rpartition(".")
                default = getattr(sys.modules.get(package), last, None)
            if inspect.isclass(default):
                found[name] = default
        return found

    def _refuse_abstract(self, name: str, value: Namespace) -> None:
        kinds, _ = part_of(self._takes.get(name))
        package, _, last = str(value["class_path"]).rpartition(".")
        if abstract(getattr(sys.modules.get(package), last, None), kinds):
            self.error(f"--{name} {last}: it is no part.")


class Version(argparse.Action):
    """Print the version, and exit."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "nargs": 0, "default": argparse.SUPPRESS})

    def __call__(self, *_: Any, **__: Any) -> None:
        """Print and exit."""
        print(f"lowerbound {__version__}")
        sys.exit(0)


def _tidy(message: str) -> str:
    """Return a message of the parser's without its own words."""
    if message.startswith(unknown := "unrecognized arguments: "):
        return f"nothing takes {message.removeprefix(unknown)}: arguments begin with --."
    message = message.partition("Subtypes:")[0].partition("Got value: Namespace")[0]
    message = re.sub(r'Parser key "([^"]*)":', r"\1:", message)
    return re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", message)


def to_device(name: Device) -> torch.device:
    """Return the device of that name; ``auto`` is CUDA where there is one."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("No CUDA device here: use --device cpu, or auto.")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


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
        given = _given(parser, argv)
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
            refuse_changed_pair(run, arguments.pair)
    elif trust and not arguments.config:
        parser.error(f"--trust {trust}: it goes with --resume, or with --config of that run.")
    elif arguments.run == parser.get_default("run"):
        arguments.run /= f"{arguments.data}-{time.strftime('%Y%m%d-%H%M%S')}"
    elif exists(parser.prog, arguments.run):
        parser.error(f"{arguments.run} exists: --resume {arguments.run}, or name another --run.")
    for name in BESIDE:
        arguments.pop(name, None)
    for name in ("pair", "data_root"):  # the run may be resumed from another folder
        arguments[name] = arguments[name] and arguments[name].resolve()
    return Asked(arguments, resume is not None, quiet, dry)


def add_quiet(parser: Parser) -> None:
    """Give a parser --quiet."""
    help_ = "Show nothing but warnings and the last line."
    parser.add_argument("--quiet", action="store_true", help=help_)


def _given(parser: Parser, argv: list[str] | None) -> dict[str, Any]:
    """Return the arguments of a command line that a run to resume would take, as plain data."""
    found = ArgumentParser.parse_args(parser, argv, defaults=False).as_dict()
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
            folder = file.resolve().parent
            marks = ("environment.json", "trace.csv", "checkpoint")
            if (inside := file / "config.yaml").is_file():
                raise ValueError(f"--config {file} is a run: did you mean --config {inside}?")
            read_yaml(file)
            if file.is_file() and any((folder / mark).exists() for mark in marks):
                read_config(Run(folder), given.trust, given.pair, file.name)


def exists(prog: str, path: Path) -> bool:
    """Return whether a path exists; one that no file system would take is an error."""
    with one_line_errors(prog):
        return path.exists()
    return False

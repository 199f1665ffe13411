"""What every script does with its command line: one-line errors, types, devices."""

import argparse
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NoReturn, get_type_hints

import torch
import yaml
from jsonargparse import ArgumentParser, Namespace

from inference import __version__
from inference.runs.documents import parse_yaml, read_yaml, renewed
from scripts._ending import end, one_line_errors
from scripts._explain import Given, abstract, explain, from_document, from_words, part_of
from scripts._numbers import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Seed
from scripts._trust import short_names

__all__ = [
    "Device",
    "NonNegativeFloat",
    "NonNegativeInt",
    "Parser",
    "PositiveFloat",
    "PositiveInt",
    "Seed",
    "one_line_errors",
    "to_device",
]

Device = Literal["auto", "cpu", "cuda"]


class Parser(ArgumentParser):
    """A parser that answers a bad argument with one line and exit status 2.

    Args:
        prog: name of the command; empty for the parser of a part, which jsonargparse makes.
        description: what it does.
        ends: whether an error ends the process; else it is a ValueError.
    """

    def __init__(
        self, prog: str = "", description: str | None = None, ends: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(prog=prog, description=description, allow_abbrev=False, **kwargs)
        self._ends = ends
        self._takes: dict[str, Any] = {}
        self._given: list[Given] = []
        if prog:
            self.add_argument("--version", action=Version, help="Show the version, and exit.")

    def add_function_arguments(self, function: Callable[..., Any], **kwargs: Any) -> Any:  # type: ignore[override]
        """Add those of a function, and remember what they take."""
        hints, skip = get_type_hints(function), kwargs.get("skip", ())
        self._takes |= {k: v for k, v in hints.items() if k not in {*skip, "return"}}
        return super().add_function_arguments(function, **kwargs)

    def parse_string(self, content: str, *others: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """Parse the text of a --config, whatever version wrote it."""
        try:
            found = parse_yaml(content)
        except ValueError:
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
        said = list(map(str, sys.argv[1:] if args is None else args))
        self._refuse_unreadable(said)
        look_here(said)
        self._given = list(from_words(said))
        args = list(self.in_full(said))
        given = super().parse_args(args, defaults=False)
        for name, value in vars(given).items():
            if isinstance(value, Namespace) and "class_path" in value:
                self._refuse_abstract(name, value)
                self.set_defaults({name: value.as_dict()})
        return super().parse_args(args, *others, **kwargs)

    def _refuse_unreadable(self, words: list[str]) -> None:
        """Refuse words that no YAML is, which the parser below would raise any error for."""
        for word in words:
            value = word.partition("=")[2] if word.startswith("--") else word
            try:
                parse_yaml(value)
            except ValueError as error:
                if isinstance(error.__cause__, yaml.YAMLError):  # it may be a text all the same
                    continue
                end(self.prog, f"{word[:60]!r} can't be read: {error}.", 2)

    def in_full(self, words: Iterable[str]) -> Iterator[str]:
        """Return the words of a command line, --data V as --data.source V where that is taken."""
        has_source = "data.source" in self.get_defaults()
        for word in words:
            name, equals, value = word.partition("=")
            if not has_source or name != "--data":
                yield word
            else:
                yield f"--data.source={value}" if equals else "--data.source"

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
        if not self._ends:
            raise ValueError(f"{self.prog}: {said}") from ex
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


def look_here(words: Iterable[str]) -> None:
    """Let modules be found in the folder where one is, if the command line names one, or a trust.

    What no word names is not looked for there: the folder may be somebody else's.
    """
    for word in words:
        found = re.findall(r"(?:^|[\s=:\[\"'])(([A-Za-z_]\w*)(?:\.\w+)+)", word)
        trusts = word.partition("=")[0] == "--trust"
        if trusts or any(_is_here(root) and not Path(path).exists() for path, root in found):
            sys.path.append(str(Path.cwd()))
            return


def _is_here(root: str) -> bool:
    there = Path(f"{root}.py").is_file() or Path(root, "__init__.py").is_file()
    return there and root not in sys.modules and find_spec(root) is None


def to_device(name: Device) -> torch.device:
    """Return the device of that name; ``auto`` is CUDA where there is one."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("No CUDA device here: use --device cpu, or auto.")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")

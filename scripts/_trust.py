"""What a run may bring to life: a run directory is data, never a program.

Its config.yaml names parts by import paths, and importing runs code. So each path is looked up
among what is imported already, before anything else reads the config.
"""

import re
import sys
from dataclasses import fields
from pathlib import Path
from types import FunctionType
from typing import Any

from pyro.infer import ELBO
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

import guides
import inference
import models
from inference.data import Source
from inference.runs import Run
from inference.runs.documents import parse_yaml, read_yaml, renewed
from inference.training import Record
from scripts._recorded_code import recorded_code

PACKAGES = tuple(package.__name__ for package in (models, guides, inference))
"""Whose parts a run may name."""

PART = re.compile(r"(?:lowerbound\.)?(models|guides|inference)\.(\w+)")
"""The path of an exported part: in a checkout, or in a wheel."""

WRITERS = frozenset(kind.__name__ for kind in (Record, *Record.__subclasses__()))
"""Observers that write to a folder that they name: a run's config may name none."""

FOREIGN: dict[str, tuple[str, type]] = {
    "optimizer": ("torch.optim", Optimizer),
    "scheduler": ("torch.optim.lr_scheduler", LRScheduler),
    "objective": ("pyro.infer", ELBO),
}
"""Arguments that may be of another package: which, and of which kind."""

NO_PARTS = ("data", "data_root", "run", "pair")
"""Arguments that are names and paths: a dot in them is no import path."""

PARTS = ("model", "prior", "decoder", "likelihood", "guide", "encoder", "amortization")
"""Arguments that make a pair."""

NOT_RECORDED = (
    "config",
    "resume",
    "list",
    "trust",
    "help",
    "print_config",
    "quiet",
    "dry_run",
    "version",
)
"""Arguments that act on reading: lowerbound train records none of them."""


def read_config(
    run: Run, trust: Path | None = None, pair: Path | None = None, name: str = "config.yaml"
) -> dict[str, Any]:
    """Return the arguments of a run, once it is known what instantiating them would import and run.

    Args:
        run: the run.
        trust: run whose modules this command line allows; None for none.
        pair: pair file that this command line names; None takes the one that the run recorded.
        name: which file of the run holds the arguments.

    Returns:
        The arguments as plain data, with the pair file to run as its ``pair``.

    Raises:
        ValueError: it names what a run may not, is no mapping, or its pair file may not run.
    """
    trusts(run.path, trust)
    path = run.path / name
    config = short_names(renewed(read_yaml(path)))
    _refuse_strange(path, config)
    for part in PARTS if not config.get("pair") else ():
        if part in config and config[part] is None:
            raise ValueError(f"{path}: {part} is null, and a pair needs one.")
    if not isinstance(config.get("data_root"), str | None):
        raise ValueError(f"{path}: data_root is {config['data_root']!r}, which is no folder.")
    if trust is None:
        _refuse_foreign(run, path, config)
    if Source(str(named := _data_source(path, config))).is_code:
        recorded_code(run, named, "data", trust is not None)
    file = pair or recorded_code(run, config.get("pair"), trusted=trust is not None)
    return {**config, "pair": None if file is None else str(file.resolve())}


def trusts(run: Path, trust: Path | None) -> bool:
    """Return whether a command line trusts a run.

    Raises:
        ValueError: it trusts another one.
    """
    if trust is not None and trust.resolve() != run.resolve():
        raise ValueError(f"--trust {trust} is another run than {run}: name the one to trust.")
    return trust is not None


def _refuse_strange(path: Path, config: dict[str, Any]) -> None:
    """Refuse ways to write arguments that a run does not have, and that a parser may follow.

    Raises:
        ValueError: a key has a dot in it, or the data are more than a name and how to read it.
    """
    for key in config:
        if not str(key).isidentifier():
            raise ValueError(f"{path} holds {key!r}: a run has each argument under its own name.")
    _refuse_odd(path, config)
    data = config.get("data")
    plain = {each.name for each in fields(Source)}
    for key, value in data.items() if isinstance(data, dict) else ():
        inside = value if isinstance(value, list) else [value]
        if key not in plain or any(isinstance(each, dict | list) for each in inside):
            raise ValueError(f"{path}: data holds {key!r}, which says nothing of data.")
    if _data_source(path, config) == "list":
        raise ValueError(f"{path} names no data: 'list' is what shows them.")


def _refuse_odd(path: Path, value: Any) -> None:
    """Refuse keys that are no words, texts that no path has, and numbers beyond 63 bits."""
    inside: Any = value.values() if isinstance(value, dict) else value
    if isinstance(value, dict) and (odd := [key for key in value if not isinstance(key, str)]):
        raise ValueError(f"{path} has {odd[0]!r} where the name of an argument is due.")
    if isinstance(value, str) and "\0" in value:
        raise ValueError(f"{path} holds a text with a null in it.")
    if isinstance(value, int) and abs(value) > 2**63:
        raise ValueError(f"{path} holds a huge number.")
    for each in inside if isinstance(value, dict | list) else ():
        _refuse_odd(path, each)


def _data_source(path: Path, config: dict[str, Any]) -> Any:
    data = config.get("data")
    if data is not None and not isinstance(data, dict):
        raise ValueError(f"{path}: data is neither a name nor a mapping.")
    return (data or {}).get("source", "digits")


def short_names(value: Any) -> Any:
    """Return arguments with the project's parts by the names of their classes alone.

    So a config is the same in a checkout and in a wheel, whose packages have other names; the
    parser looks a bare name up among the subclasses of its argument's type.
    """
    if isinstance(value, list):
        return [short_names(each) for each in value]
    if not isinstance(value, dict):
        return value
    return {
        key: _short_name(each) if key == "class_path" else short_names(each)
        for key, each in value.items()
    }


def _short_name(path: Any) -> Any:
    if found := PART.fullmatch(str(path)):
        package = {"models": models, "guides": guides, "inference": inference}[found[1]]
        if isinstance(getattr(package, found[2], None), type) and found[2] not in WRITERS:
            return found[2]
    return path


def _refuse_foreign(run: Run, file: Path, config: dict[str, Any]) -> None:
    for name, value in config.items():
        if name in NOT_RECORDED:
            raise ValueError(f"{file} holds {name!r}, which belongs on the command line alone.")
        if name in NO_PARTS:
            continue
        for place, path, of_a_class in _paths(value, str(name), file):
            if not _may_be_named(path, str(name).split(".")[0], of_a_class):
                raise ValueError(
                    f"{file} names {path!r} as {place}. A run may name parts of models, guides and "
                    "inference alone, optimisers and schedulers of torch.optim and ELBOs of "
                    f"pyro.infer. If {path!r} is a module of yours, or you trust all that the run "
                    f"names, import it by --trust {run.path}."
                )


def _paths(value: Any, place: str, file: Path) -> list[tuple[str, str, bool]]:
    """Return all that could be imported: its place, its path, whether only a class may be there.

    Every text counts, whatever its key: which argument takes a callable is known only to the class
    that would be imported.
    """
    if isinstance(value, (dict, list)):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        inner = [(f"{place}.{key}", item) for key, item in items]
        return [p for at, item in inner for p in _paths(item, at, file)]
    if not isinstance(value, str):
        return []
    try:
        hidden = parse_yaml(value)  # the parser would read it once more
    except ValueError:
        hidden = ()
    if isinstance(hidden, str) and hidden != value:  # without its quotes, blanks or comment
        return _paths(hidden, place, file)
    if not isinstance(hidden, (str, int, float, type(None))):
        raise ValueError(f"{file}: {place} is a text that hides more than a word, {value!r}.")
    if value in WRITERS and place.endswith(".class_path"):
        return [(place, value, True)]
    if "." not in value or not all(part.isidentifier() for part in value.split(".")):
        return []  # a bare name is looked up among the subclasses of the argument's type
    return [(place, value, place.endswith(".class_path") or "." not in place)]


def _may_be_named(path: str, argument: str, of_a_class: bool) -> bool:
    package, _, name = path.rpartition(".")
    module = sys.modules.get(package)  # nothing is imported to find out
    if module is None or name.startswith("_"):
        return False
    found = vars(module).get(name)
    home = str(getattr(found, "__module__", ""))
    if _within(package, PACKAGES):
        kinds = type if of_a_class else (type, FunctionType)
        return isinstance(found, kinds) and _within(home, PACKAGES) and name not in WRITERS
    if isinstance(found, type) and argument in FOREIGN:
        owner, kind = FOREIGN[argument]
        return issubclass(found, kind) and _within(package, (owner,)) and _within(home, (owner,))
    return False


def _within(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)

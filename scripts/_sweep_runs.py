"""The runs of a sweep: what each still needs, and whether it is the one that it should be."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from inference.runs import Run
from inference.runs.comparison import flat, labels
from inference.runs.documents import parse_yaml
from scripts._grid import Configuration
from scripts._trust import NO_PARTS, PACKAGES


class Contradiction(ValueError):  # noqa: N818  (of a run and a sweep; no other word says it)
    """A run lies where the sweep's own would be."""


def left(run: Path, words: Sequence[str], particles: int) -> tuple[tuple[str, ...], ...]:
    """Return the commands that a run still needs.

    Args:
        run: its folder, which may not be there.
        words: arguments of lowerbound train, its own last.
        particles: draws of its evaluation.

    Raises:
        Contradiction: the run has other arguments.
    """
    # The sweep's own words name what the runs may import: a run by itself may name nothing.
    trusted = ("--trust", str(run)) if names_code(words) else ()
    measured = ("evaluate", str(run), "--particles", str(particles), *trusted)
    if not run.exists():
        return (("train", *words, "--run", str(run)), measured)
    try:
        found = Run(run)
        if said := contradiction(found.config, words):
            raise Contradiction(f"{run} has {said}: it is another run than the sweep's.")
        if trusted and (strange := foreign(found.config) - foreign(list(words))):
            raise Contradiction(f"{run} names {min(strange)}, and the sweep's words don't.")
        if not found.finished:
            return (("train", "--resume", str(run), *trusted), measured)
        known = found.evaluation
    except Contradiction:
        raise
    except (OSError, ValueError):
        return (measured,)  # which says in a line what is wrong
    return () if known and known["particles"] == particles else (measured,)


def contradiction(config: Mapping[str, Any], words: Sequence[str]) -> str:
    """Return in which argument a run differs from a command line, or nothing.

    Each value that the command line gives is compared, also within a part, where the run has one.

    >>> contradiction({"latent_dim": 3, "prior": {"class_path": "Vamp"}}, ["--latent_dim", "2"])
    'latent_dim 3, and the sweep says 2'
    >>> contradiction({"learning_rate": 0.001}, ["--learning_rate=1e-3", "--data", "digits"])
    ''
    """
    known = flat(dict(config))
    asked: dict[str, str] = {}
    option = ""
    for word in words:
        if word.startswith("--"):
            option, equals, value = word[2:].partition("=")
            if not equals:
                continue
        else:
            value = word
        asked[option] = value
    for name, word in asked.items():
        read = _read(word) if word else word
        for key, value in flat({name: read}).items():
            if key in known and not _same(known[key], value):
                return f"{key} {known[key]}, and the sweep says {value}"
    return ""


def _same(recorded: str, word: str) -> bool:
    try:
        return float(recorded) == float(word)
    except ValueError:
        return word.rpartition(".")[2] == recorded.rpartition(".")[2]


def need_label(baseline: str | None, configurations: Sequence[Configuration]) -> None:
    """Check that there is a configuration of that label, where labels are known before training.

    Raises:
        ValueError: there is none.
    """
    if baseline is None or any(
        isinstance(value, dict | list) for each in configurations for value in each.values()
    ):
        return
    found = labels([flat(each) for each in configurations])
    if not any(baseline in label for label in found):
        raise ValueError(
            f"--baseline {baseline}: no configuration has it; there are {'; '.join(found)}."
        )


def names_code(words: Sequence[str]) -> bool:
    """Return whether a command line names a part of another package than a run may name.

    >>> names_code(["--prior", "mine.Prior", "--data", "mine.npz"])
    True
    >>> names_code(["--schedules", '{"objective.beta": {"class_path": "Linear"}}'])
    False
    """
    option = ""
    for word in words:
        if word.startswith("--"):
            option, _, value = word[2:].partition("=")
        else:
            value = word
        if option.split(".")[0] not in NO_PARTS and any(map(_is_foreign, _paths(value))):
            return True
    return False


def _paths(value: Any) -> Iterator[str]:
    """Go through the texts that name parts: a value itself, or a class_path in it."""
    if isinstance(value, str):
        read = _read(value)
        if isinstance(read, dict | list):
            yield from _paths(read)
        else:
            yield value
    elif isinstance(value, dict):
        if isinstance(named := value.get("class_path"), str):
            yield named
        for inner in value.values():
            if isinstance(inner, dict | list):
                yield from _paths(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _paths(inner)


def foreign(value: Any) -> set[str]:
    """Return every text in some values that could name a part of another package."""
    if isinstance(value, Mapping):
        inside = [each for key, each in value.items() if key not in NO_PARTS]
    elif isinstance(value, list):
        inside = value
    elif isinstance(value, str):
        read = _read(value.partition("=")[2] if value.startswith("--") else value)
        if isinstance(read, str):
            return {read} if _is_foreign(read) else set()
        inside = [read]
    else:
        inside = []
    return set[str]().union(*map(foreign, inside))


def _read(text: str) -> Any:
    try:
        return parse_yaml(text)
    except ValueError:
        return text


def _is_foreign(text: str) -> bool:
    root, *rest = text.split(".")
    own = {*PACKAGES, "lowerbound", "torch", "pyro"}
    return bool(rest) and all(part.isidentifier() for part in (root, *rest)) and root not in own

"""Finding runs: paths, folders of runs and globs."""

import os
from collections.abc import Iterable, Iterator
from glob import glob
from pathlib import Path

from .run import Run

MARKS = {"environment.json", "trace.csv", "checkpoint"}
"""What tells a run from another folder with a config.yaml."""


def find_runs(where: str | Path | Iterable[str | Path]) -> list[Run]:
    """Return the runs that paths name, in their order.

    Args:
        where: a run's directory, a folder (all runs in it, at any depth), a glob as ``"runs/*"``
            (those that match, and all runs in folders that do), or several of these. A run that a
            folder or a glob finds again is taken once.

    Raises:
        FileNotFoundError: nothing is there, or no run is in it; the message names the path.
    """
    paths: list[Path] = []
    for each in [where] if isinstance(where, str | Path) else where:
        path = Path(each)
        if (path / "config.yaml").is_file():
            paths.append(path)
            continue
        known = {path.resolve() for path in paths}
        # A name that is there may have the signs of a glob in it.
        matches = [path] if path.exists() else [*map(Path, sorted(glob(str(each))))]  # noqa: PTH207
        found = [run for match in matches for run in runs_in(match)]
        if not found:
            raise FileNotFoundError(_nothing(path, bool(matches)))
        paths += [run for run in dict.fromkeys(found) if run.resolve() not in known]
    return [Run(path) for path in paths]


def runs_in(folder: Path) -> Iterator[Path]:
    """Return the run directories below a folder, in the order of their names; links are left."""
    for path, folders, files in os.walk(folder):
        folders.sort()
        if "config.yaml" in files and MARKS & {*files, *folders}:
            folders.clear()
            yield Path(path)


def _nothing(path: Path, there: bool) -> str:
    return (
        f"{path} is not a run directory, and no run is in it: "
        f"{'it has no config.yaml' if there else 'nothing is there'}. Make one with lowerbound "
        "train."
    )

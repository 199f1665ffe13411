"""List the runs of a folder: their state, the arguments that differ, what they have reached.

Nothing is changed, and a run that can't be read has its reason in its line.
"""

import time
from pathlib import Path
from typing import Literal

from inference.files import is_being_written
from inference.runs import Run
from inference.runs.choosing import arguments_of, need_known
from inference.runs.comparison import labels
from inference.runs.found import runs_in
from scripts._arguments import Parser, one_line_errors
from scripts._filters import add_filter, wanted
from scripts.compare import FORMATS
from scripts.sweep import duration

COLUMNS = ("run", "state", "best valid ELBO", "log p(x) >=", "K", "trained", "age", "what differs")

KEYS = {"elbo": 2, "log_px": 3}
"""Columns to sort by, best first."""


def show(
    folder: Path = Path("runs"),
    filter: list[str] | None = None,  # noqa: A002  (the user's word)
    sort: Literal["run", "elbo", "log_px", "age"] = "run",
    format: Literal["table", "markdown", "latex"] = "table",  # noqa: A002  (the user's word)
) -> None:
    """Print a line for each run.

    Args:
        folder: where to look, at any depth.
        filter: take only runs with this argument, as prior=Vamp or latent_dim=8; all of several.
        sort: order of the lines; the best ELBO, the best log p(x) or the youngest first.
        format: of the table.
    """
    with one_line_errors("lowerbound runs"):
        if not folder.is_dir():
            raise ValueError(f"{folder} is no folder.")
        chosen = wanted(filter)
        found = {path: _read(path) for path in runs_in(folder)}
    known = {path: each for path, each in found.items() if isinstance(each, Run)}
    arguments = {path: arguments_of(run) for path, run in known.items()}
    with one_line_errors("lowerbound runs"):
        need_known(chosen, list(arguments.values()), "filter")
    differing = dict(
        zip(arguments, labels(list(arguments.values())) if arguments else (), strict=True)
    )
    rows = []
    for path, run in found.items():
        if isinstance(run, str):
            if not chosen:
                rows.append((0.0, [str(path), "unreadable", "-", "-", "-", "-", "-", run]))
        elif all(arguments[path].get(name) == value for name, value in chosen.items()):
            rows.append(line(path, run, differing[path] if len(known) > 1 else "-"))
    if sort == "age":
        rows.sort(key=lambda row: -row[0])
    elif sort in KEYS:
        place = KEYS[sort]
        rows.sort(key=lambda row: -float(row[1][place]) if row[1][place] != "-" else float("inf"))
    if not rows:
        print(f"No runs in {folder}{' with ' + ', '.join(filter) if filter else ''}.")
        return
    print(FORMATS[format](COLUMNS, [cells for _, cells in rows]))


def line(path: Path, run: Run, differs: str) -> tuple[float, list[str]]:
    """Return when a run last wrote to its trace, and its line."""
    rows, best, found = run.trace.rows, run.trace.best(), run.evaluation or {}
    changed = (path / "trace.csv").stat().st_mtime if rows else path.stat().st_mtime
    if is_being_written(path):
        state = "running"
    elif run.diverged is not None:
        state = f"diverged at step {run.diverged:,}"
    elif run.finished:
        state = "finished"
    else:
        state = f"stopped at {rows[-1].epoch if rows else 0:g} of {run.config['epochs']}"
    return changed, [
        str(path),
        state,
        f"{best.elbo:.2f}" if best else "-",
        f"{found['log_px']:.2f}" if found else "-",
        f"{found['particles']} ({found['split']})" if found else "-",
        duration(rows[-1].seconds) if rows else "-",
        age(time.time() - changed),
        differs,
    ]


def age(seconds: float) -> str:
    """Return how long ago something was."""
    return duration(max(0.0, seconds)) if seconds < 48 * 3600 else f"{seconds / 86400:.0f} days"


def _read(path: Path) -> Run | str:
    """Return a run whose files can be read, or why they can't."""
    try:
        run = Run(path)
        _ = run.config["epochs"], arguments_of(run), line(path, run, "")
    except (OSError, ValueError, KeyError, RecursionError) as error:
        return " ".join(str(error).split())
    return run


def main(argv: list[str] | None = None) -> None:
    """Read the command line."""
    parser = Parser("lowerbound runs", __doc__)
    text = "Where to look, at any depth; runs by default."
    parser.add_argument("folder", type=Path, nargs="?", default=Path("runs"), help=text)
    add_filter(parser)
    parser.add_function_arguments(show, skip={"folder", "filter"})
    show(**dict(parser.instantiate(parser.parse_args(argv))))


if __name__ == "__main__":
    main()

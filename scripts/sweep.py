"""Train, evaluate and compare every configuration of a grid, with several seeds each.

lowerbound sweep NAME --vary "prior: StandardNormal, Vamp" --seeds 5 TRAIN ARGUMENTS makes
sweeps/NAME: the definition in sweep.yaml, runs, logs and the comparison. lowerbound sweep FILE.yaml
takes it from a file: arguments of lowerbound train, and vary, seeds, particles, sample, baseline.
--resume goes on with what is missing or has failed; what is finished is left alone. A sweep is a
list of commands: run only files that you trust.
"""

import argparse
import contextlib
import io
import json
import shlex
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import yaml

from inference import __version__
from inference.files import atomic
from inference.runs import Run
from inference.runs.documents import read_yaml
from inference.runs.report import INSTALL, can_report
from scripts import compare, train
from scripts._ending import end, one_line_errors
from scripts._grid import (
    KEPT,
    MOST,
    Configuration,
    configurations,
    few,
    folders,
    values_of,
    words_of,
)
from scripts._jobs import Job, Local
from scripts._sweep_runs import left, need_label

PROG = "lowerbound sweep"

OWN = ("vary", "seeds", "particles", "sample", "baseline")
"""What a file says of the sweep; its other keys are arguments of lowerbound train."""


@dataclass(frozen=True)
class Sweep:
    """What a sweep does.

    Args:
        words: arguments of lowerbound train that all runs have.
        vary: values by name, of which all combinations are taken, or a list of configurations.
        seeds: how many seeds each configuration has, from 0 on.
        particles: draws for each datum of an evaluation.
        sample: how many configurations to draw at random; None takes all.
        baseline: label of the configuration to compare each other one with; None compares all.
    """

    words: tuple[str, ...]
    vary: Any
    seeds: int = 1
    particles: int = 1000
    sample: int | None = None
    baseline: str | None = None

    def __post_init__(self) -> None:
        for name in ("seeds", "particles", "sample"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                raise ValueError(f"{name}: expected a whole number above 0; got {value!r}.")
        if self.seeds > MOST:
            raise ValueError(f"seeds: {self.seeds:,} are more than {MOST:,}.")
        if not isinstance(self.baseline, str | None):
            raise ValueError(f"baseline: expected a label; got {self.baseline!r}.")
        if not isinstance(self.vary, dict | list):
            raise ValueError("vary: expected values by name, or a list of configurations.")
        for word in self.words:
            if (name := word.partition("=")[0].removeprefix("--")) in KEPT and word[:2] == "--":
                instead = f": give {KEPT[name]}" if KEPT[name] else ""
                raise ValueError(f"{word}: a sweep sets it itself{instead}.")

    @property
    def configurations(self) -> list[Configuration]:
        """What is compared."""
        return configurations(self.vary, self.sample)

    @classmethod
    def read(cls, path: Path) -> "Sweep":
        """Read a file.

        Raises:
            ValueError: it is no such file.
        """
        found = read_yaml(path)
        words = found.pop("words", [])
        if not isinstance(words, list):
            raise ValueError(f"{path}: words is no list of words of a command line.")
        words = [str(word) for word in words]
        own: dict[str, Any] = {key: found.pop(key) for key in OWN if key in found}
        try:
            asked = cls((*words, *words_of(found)), own.pop("vary", {}), **own)
            _ = asked.configurations
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        return asked


def sweep(folder: Path, asked: Sweep, jobs: int) -> bool:
    """Run what is missing, then compare what is there; return whether all of it is there."""
    found = asked.configurations
    runs = {
        folder / "runs" / f"{name}_seed-{seed}": (*words_of(each), "--seed", str(seed))
        for name, each in zip(folders(found), found, strict=True)
        for seed in range(asked.seeds)
    }
    commands = {run: left(run, (*asked.words, *own), asked.particles) for run, own in runs.items()}
    todo = [Job(r.name, c, folder / "logs" / f"{r.name}.txt") for r, c in commands.items() if c]
    done = len(runs) - len(todo)
    print(f"{len(runs)} runs in {folder}, {done} of them finished; {jobs} at a time.", flush=True)
    try:
        failed = dict(follow(Local(jobs)(todo), len(todo), jobs, folder))
    except KeyboardInterrupt:
        again = f"lowerbound sweep {folder.name} --resume"
        end(PROG, f"stopped, its runs saved. Go on with: {again}", 130)
    whole = [run for run in runs if run.name not in failed]
    if whole:
        against = ["--baseline", asked.baseline] if asked.baseline else []
        out = folder / "comparison"
        page = ["--html", str(out / "report.html")] if can_report() else []
        print(flush=True)
        compare.main([*map(str, whole), *against, "--out", str(out), *page])
        if not page:
            print(f"No report.html: {INSTALL}")
    if failed:
        print(f"\n{len(failed)} of {len(runs)} runs failed and are not compared:")
        for name, said in failed.items():
            print(f"  {name}: {said} ({folder / 'logs' / name}.txt)")
        print(f"Try those again with: lowerbound sweep {folder.name} --resume")
    return not failed


def follow(
    ended: Iterator[tuple[Job, str]], count: int, jobs: int, folder: Path
) -> Iterator[tuple[str, str]]:
    """Print a line for each job that ends; yield those that failed, with what they said."""
    start = time.monotonic()
    for number, (job, failure) in enumerate(ended, 1):
        rest = (time.monotonic() - start) / number * (count - number)
        on = min(jobs, count - number)
        then = f"; {on} running, about {duration(rest)} left" if on else ""
        print(f"[{number}/{count}] {job.name}: {failure or told(folder, job)}{then}", flush=True)
        if failure:
            yield job.name, failure


def told(folder: Path, job: Job) -> str:
    """Say what a finished run has reached."""
    found = Run(folder / "runs" / job.name)
    values = found.evaluation or {}
    return f"ELBO {values['elbo']:.2f}, log p(x) >= {values['log_px']:.2f} {found.unit}"


def duration(seconds: float) -> str:
    """Return seconds as a person says them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def refuse_wrong(asked: Sweep) -> None:
    """End where the command line of some run is wrong, before there is any."""
    for each in few(asked.configurations):
        said = io.StringIO()
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
                train.main([*asked.words, *words_of(each), "--dry_run", "--quiet"])
        except SystemExit as stop:
            if stop.code == 130:
                raise KeyboardInterrupt from None
            if stop.code:
                line = (said.getvalue().strip().splitlines() or [""])[-1]
                end(PROG, f"nothing was started. {line.removeprefix('lowerbound train: ')}", 2)


class OneLine(argparse.ArgumentParser):
    """A parser that answers a bad argument with one line."""

    def error(self, message: str) -> NoReturn:
        """End with the line and status 2."""
        end(self.prog, f"{message}. See {self.prog} --help.", 2)


def main(argv: list[str] | None = None) -> None:
    """Read the command line: what is not the sweep's goes to lowerbound train."""
    parser = OneLine(
        PROG,
        description=__doc__,
        allow_abbrev=False,
        epilog="All other arguments are those of lowerbound train.",
    )
    add = parser.add_argument
    add("name", metavar="NAME", help="of the sweep, which is sweeps/NAME; or FILE.yaml")
    add("--vary", action="append", default=[], metavar='"KEY: VALUE, VALUE"',
        help="an argument of lowerbound train and its values; several make a grid")  # fmt: skip
    add("--seeds", type=int, metavar="N", help="seeds of each configuration (default: 1)")
    add("--particles", type=int, metavar="K", help="draws of an evaluation (default: 1000)")
    add("--sample", type=int, metavar="N", help="take N configurations at random, not all")
    add("--jobs", type=int, default=1, metavar="N",
        help="runs side by side, each with its share of threads and GPUs (default: 1)")  # fmt: skip
    add("--baseline", help="label of the configuration to compare each other one with")
    add("--resume", action="store_true", help="go on with a sweep that is there")
    add("--dry_run", action="store_true", help="show the commands, and make nothing")
    add("--version", action="version", version=f"{PROG} {__version__}")
    given, words = parser.parse_known_args(argv)
    if given.jobs < 1:
        end(PROG, f"--jobs {given.jobs}: expected a whole number above 0.", 2)
    with one_line_errors(PROG):
        folder, asked = read(given, words)
        if given.dry_run:
            for name, each in zip(folders(asked.configurations), asked.configurations, strict=True):
                print(f"{name}: lowerbound train {shlex.join([*asked.words, *words_of(each)])}")
            print(f"{len(asked.configurations)} configurations, {asked.seeds} seeds each.")
            return
        if not given.resume:
            need_label(asked.baseline, asked.configurations)
            refuse_wrong(asked)
            folder.mkdir(parents=True)
            with atomic(folder / "sweep.yaml") as partial:
                plain = json.loads(json.dumps(asdict(asked)))
                partial.write_text(yaml.safe_dump(plain, sort_keys=False))
    before = signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGINT))
    try:
        with one_line_errors(PROG):
            whole = sweep(folder, asked, given.jobs)
    finally:
        signal.signal(signal.SIGTERM, before)
    sys.exit(not whole)


def read(given: argparse.Namespace, words: Sequence[str]) -> tuple[Path, Sweep]:
    """Return the folder of a sweep and what it does.

    Raises:
        ValueError: the command line contradicts itself or what is there.
    """
    file = Path(given.name) if given.name.endswith((".yaml", ".yml")) else None
    name = file.stem if file else given.name
    folder = Path("sweeps", name)
    own = {key: getattr(given, key) for key in OWN[1:] if getattr(given, key) is not None}
    if given.resume:
        against = own.pop("baseline", None)
        if words or given.vary or own:
            raise ValueError("--resume takes what the sweep is from its sweep.yaml alone.")
        if not (folder / "sweep.yaml").is_file():
            raise ValueError(f"{folder} holds no sweep.yaml: there is nothing to resume.")
        for name in ("runs", "logs", "comparison"):
            if (folder / name).is_symlink():
                raise ValueError(f"{folder / name} is a link: put the folder itself there.")
        asked = Sweep.read(folder / "sweep.yaml")
        return folder, replace(asked, baseline=against) if against else asked
    if file and (words or given.vary or own):
        raise ValueError(f"{file} says what the sweep is: change it there.")
    if not file and (not name or Path(name).name != name or name.startswith(".")):
        raise ValueError(f"{name!r} is no name of a folder in sweeps/.")
    if folder.exists():
        raise ValueError(f"{folder} is there: go on with --resume, or take another name.")
    if file:
        return folder, Sweep.read(file)
    vary = [values_of(text) for text in given.vary]
    if len(dict(vary)) < len(vary):
        raise ValueError("--vary names an argument twice: give all its values at once.")
    return folder, Sweep(tuple(words), dict(vary), **own)


if __name__ == "__main__":
    main()

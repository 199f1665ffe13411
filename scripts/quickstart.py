"""The main job in a minute: train two variants with two seeds each, evaluate and compare them.

A report of the comparison, one page for a browser, is made where plotly is installed.

It uses the digits that come with scikit-learn, so nothing is downloaded. Each line that starts
with $ is a command of its own. Started again after a stop, it resumes where it was.
"""

import inspect
import shlex
import time
from collections.abc import Callable
from pathlib import Path

from inference.runs.report import INSTALL, can_report
from scripts import compare, evaluate, train
from scripts._arguments import Parser, PositiveInt

PARTS = "--encoder.hidden [200] --decoder.hidden [200]"


def call(script: Callable[[list[str]], None], line: str) -> None:
    """Show a command and run it in this process."""
    print(f"\n$ python scripts/{Path(inspect.getfile(script)).name} {line}", flush=True)
    script(shlex.split(line))


def quickstart(
    epochs: PositiveInt = 150,
    particles: PositiveInt = 1000,
    folder: Path = Path("runs", "quickstart"),
) -> None:
    """Train, evaluate and draw the four runs, then compare them.

    Args:
        epochs: passes over the training data of each run.
        particles: draws for each datum of an evaluation.
        folder: where the runs go.
    """
    start = time.monotonic()
    runs: list[Path] = []
    for latent_dim in (2, 16):
        for seed in (0, 1):
            run = folder / f"latent_dim-{latent_dim}-seed-{seed}"
            fresh = (
                f"--data digits {PARTS} --latent_dim {latent_dim} --epochs {epochs} "
                f"--batch_size 64 --seed {seed} --run {run}"
            )
            call(train.main, f"--resume {run}" if run.exists() else fresh)
            call(evaluate.main, f"{run} --particles {particles}")
            runs.append(run)
    out = folder / "comparison"
    page = f" --html {out / 'report.html'}" if can_report() else ""
    call(compare.main, f"{' '.join(map(str, runs))} --out {out}{page}")
    print(f"\nOpen {out / 'report.html'} in a browser." if page else f"\nNo report.html: {INSTALL}")
    print(f"\nAll of it took {time.monotonic() - start:.0f} s.")


def main(argv: list[str] | None = None) -> None:
    """Read the command line."""
    parser = Parser("quickstart.py", __doc__)
    parser.add_function_arguments(quickstart)
    quickstart(**dict(parser.instantiate(parser.parse_args(argv))))


if __name__ == "__main__":
    main()

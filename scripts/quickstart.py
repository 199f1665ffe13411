"""The main job in a minute: train two variants with two seeds each, evaluate them, compare them.

It uses the digits that come with scikit-learn, so nothing is downloaded. Each line that starts
with $ is a command of its own. Stopped and started again, it goes on where it was.
"""

import shlex
import time
from collections.abc import Callable
from pathlib import Path

import compare
import evaluate
import sample
import train

FOLDER = Path("runs", "quickstart")
COMMON = "--data digits --epochs 150 --batch_size 64 --encoder.hidden [200] --decoder.hidden [200]"


def call(script: Callable[[list[str]], None], line: str) -> None:
    """Show a command and run it in this process."""
    print(f"\n$ python scripts/{script.__module__}.py {line}", flush=True)
    script(shlex.split(line))


def main() -> None:
    """Train, evaluate and draw the four runs, then compare them."""
    start = time.monotonic()
    runs: list[Path] = []
    for latent_dim in (2, 16):
        for seed in (0, 1):
            run = FOLDER / f"latent_dim-{latent_dim}-seed-{seed}"
            fresh = f"{COMMON} --latent_dim {latent_dim} --seed {seed} --run {run}"
            call(train.main, f"--resume {run}" if run.exists() else fresh)
            call(evaluate.main, f"{run} --particles 1000")
            runs.append(run)
    call(sample.main, str(runs[-1]))
    call(compare.main, f"{' '.join(map(str, runs))} --out {FOLDER / 'comparison'}")
    print(f"\nAll of it took {time.monotonic() - start:.0f} s.")


if __name__ == "__main__":
    main()

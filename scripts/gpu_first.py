"""The first half hour on a GPU: what only a GPU shows, the most important first, a line each.

If an item fails, its line says so and the next one runs. On CUDA each has its own process, because
a failing capture can leave random numbers broken; checks run side by side, timings alone. Without
CUDA everything runs here, to see that it works.
"""

import logging
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from inference.data import load
from scripts import _gpu_checks, _gpu_timings
from scripts._arguments import Device, Parser, PositiveFloat, one_line_errors, to_device
from scripts._bench_timing import machine
from scripts._gpu_checks import Here

Item = Callable[[Here], Iterator[str]]

CHECKS: dict[str, Item] = {
    "tests": _gpu_checks.tests,
    "pairs": _gpu_checks.pairs,
    "failing capture": _gpu_checks.failing_capture,
    "resumed": _gpu_checks.resumed,
    "settings": _gpu_checks.settings,
}
"""What must be right."""

TIMINGS: dict[str, Item] = {
    "epochs": _gpu_timings.epochs,
    "kernels": _gpu_timings.kernels,
    "evaluation": _gpu_timings.evaluation,
    "compiler": _gpu_timings.compiler,
    "two gpus": _gpu_checks.two_gpus,
}
"""What is timed, or takes the machine for itself."""

ITEMS = {**CHECKS, **TIMINGS}


def gpu_first(
    items: Sequence[str],
    data: str = "mnist",
    data_root: Path | None = None,
    device: Device = "auto",
    minutes: PositiveFloat = 30.0,
    quick: bool = False,
    apart: bool | None = None,
) -> None:
    """Run the items and print what each says.

    Args:
        items: which.
        data: name of a data set whose pixels are binarised again at each access.
        data_root: folder of the data files; else LOWERBOUND_DATA, else the user's cache folder.
        device: where to compute; auto takes CUDA when there is one.
        minutes: time after which no item starts and those that run are ended.
        quick: do as little as shows that an item works.
        apart: give each item a process of its own; None does on CUDA.
    """
    end = time.monotonic() + 60 * minutes
    with one_line_errors("gpu_first.py"):
        where = to_device(device)
        records = load(data, data_root)
    logging.getLogger("inference").setLevel(logging.ERROR)
    if apart or (apart is None and where.type == "cuda"):
        facts = (f"{name} {value}" for name, value in machine(where).items() if value is not None)
        say("versions", ", ".join(facts))
        words = ["--data", data, "--device", where.type, *(["--quick"] if quick else [])]
        words += ["--data_root", str(data_root)] if data_root else []
        run_apart(items, words, end)
        return
    here = Here(where, records.to(where), quick)
    for name in items:
        if time.monotonic() > end:
            say(name, "left out: no time is left")
            continue
        start = time.monotonic()
        try:
            for line in ITEMS[name](here):
                say(name, line)
        except Exception as error:  # the next item is worth running all the same
            frame = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{Path(frame.filename).name}, line {frame.lineno}"
            say(name, f"FAILS: {type(error).__name__}: {error} ({place})")
        say(name, f"took {time.monotonic() - start:.0f} s")


def run_apart(items: Sequence[str], words: list[str], end: float) -> None:
    """Run each item in a process: the checks side by side, then the others one by one."""

    def run(name: str) -> None:
        left = end - time.monotonic()
        if left < 5:
            say(name, "left out: no time is left")
            return
        command = [sys.executable, __file__, "--items", name, "--apart", "false", *words]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            try:
                output, errors = process.communicate(timeout=left)
            except subprocess.TimeoutExpired:
                process.kill()
                output, errors = process.communicate()
                errors += "\nit is ended, for no time is left"
        print(output, end="", flush=True)
        if process.returncode:
            last = (errors.strip().splitlines() or [""])[-1]
            say(name, f"ENDED with {process.returncode}: {last}")

    with ThreadPoolExecutor(3) as side_by_side:
        list(side_by_side.map(run, [name for name in items if name in CHECKS]))
    for name in items:
        if name in TIMINGS:
            run(name)


def say(item: str, line: str) -> None:
    """Print one line of an item."""
    print(f"{item}: {' '.join(line.split())}", flush=True)


def main(argv: list[str] | None = None) -> None:
    """Read the command line."""
    parser = Parser("gpu_first.py", __doc__)
    parser.add_function_arguments(gpu_first, skip={"items", "quick"})
    text = "What to run; in this order by default."
    parser.add_argument("--items", nargs="+", choices=tuple(ITEMS), default=list(ITEMS), help=text)
    text = "Do as little as shows that an item works."
    parser.add_argument("--quick", action="store_true", help=text)
    torch.set_num_threads(min(4, torch.get_num_threads()))
    gpu_first(**dict(parser.instantiate(parser.parse_args(argv))))


if __name__ == "__main__":
    main()

"""Measures of an array that stays on disk: the rate of steps and the memory of the process."""

import math
import multiprocessing
import os
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from inference import SVI
from inference.data import Binarised, Source, open_data
from inference.training.feed import Permuted
from inference.training.progress import Progress
from scripts._bench_timing import ratio
from scripts._pair import compose

SHAPE = (1, 28, 28)

BATCH_SIZE = 128

WARM = 500
"""Steps before those that are timed: the step is captured among them."""


def disk(device: torch.device, rounds: int, quick: bool) -> dict[str, Any]:
    """Measure training on 4 GB of bytes that stay on disk against the same in memory.

    Each turn is a process of its own, from the opening of the file to the last step, so that its
    peak of resident memory is its own.

    Args:
        device: where steps are taken.
        rounds: turns of both.
        quick: take 8 MB and few steps.
    """
    count, steps = (10_000, 40) if quick else (5_100_000, 3_000)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "x.npy")
        array = np.lib.format.open_memmap(file, "w+", np.uint8, (count, *SHAPE))
        random = np.random.default_rng(0)
        for start in range(0, count, 50_000):
            some = array[start : start + 50_000]
            some[:] = random.integers(0, 256, some.shape, np.uint8)
        del array
        turns = [
            [_in_a_process(str(file), on_disk, steps, str(device)) for on_disk in (True, False)]
            for _ in range(min(3, rounds))
        ]
        size = file.stat().st_size / 1e9
    (there, memory), (here, whole) = (zip(*turn, strict=True) for turn in zip(*turns, strict=True))
    return {
        "array (GB)": size,
        "in memory (steps/s)": statistics.median(1 / t for t in here),
        "on disk (steps/s)": statistics.median(1 / t for t in there),
        "rate on disk / in memory": ratio(list(here), list(there)),
        "peak memory, in memory (GB)": max(whole),
        "peak memory, on disk (GB)": max(memory),
    }


def _in_a_process(*arguments: Any) -> tuple[float, float]:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(trained, torch.get_num_threads(), *arguments).result()


def trained(threads: int, file: str, on_disk: bool, steps: int, device: str) -> tuple[float, float]:
    """Return the seconds of a step, and the peak of this process's resident memory in GB."""
    torch.set_num_threads(threads)
    data = open_data(Source(file, on_disk=on_disk), Binarised(255)).to(device)
    _ = data.content_hash
    svi = SVI(*compose(data.event_shape, torch.device(device)))
    progress, warm, began = Progress(torch.empty(0), torch.zeros(3)), min(WARM, steps // 2), 0.0
    batches = Permuted(data.train, BATCH_SIZE).epoch(progress)
    for taken, (inputs, source) in enumerate(islice(batches, steps)):
        if taken == warm:
            began = time.perf_counter()
        svi.step(inputs, source=source)
    return (time.perf_counter() - began) / (steps - warm), peak_memory(os.getpid())


def peak_memory(process: int) -> float:
    """Return a process's peak of resident memory in GB, nan if the system does not tell.

    Once the process has ended, the system's number includes the memory of its parent.
    """
    status = Path(f"/proc/{process}/status")
    try:
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
    except OSError:
        return math.nan
    return float(lines["VmHWM"].split()[0]) / 1024**2 if "VmHWM" in lines else math.nan

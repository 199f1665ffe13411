"""How fast it is on a GPU, and where its time and memory go."""

import statistics
import time
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pyro
import torch

from inference import SVI
from inference.data import Split
from inference.evaluation import evaluate
from inference.evaluation.pareto import k_hat
from inference.training import fit
from scripts._bench_whole import captures
from scripts._gpu_checks import Here, elbo_of
from scripts._pair import compose

BATCH_SIZE = 128

EXPECTED = {"graph": "0.25 to 0.35", "inductor": "0.13 to 0.22"}
"""Milliseconds of a step of the MLP on an H100 or H200; above 0.8 the graph was not used."""


def epochs(here: Here) -> Iterator[str]:
    """Train three epochs by each way to take steps; say milliseconds a step and the ELBO."""
    ways = ("graph",) if here.quick else ("graph", "inductor", "off")
    for how in ways:
        svi = _svi(here, how)
        start = time.monotonic()
        number = 1 if here.quick else 3
        fit(svi, here.data, epochs=number, batch_size=BATCH_SIZE, show_progress=False)
        whole = time.monotonic() - start
        step = _milliseconds(svi, here)
        expected = EXPECTED.get(how)
        told = f" (expected {expected})" if expected and here.device.type == "cuda" else ""
        yield (
            f"{how}: {step:.3f} ms a step{told}; {number} epochs with all around them in "
            f"{whole:.1f} s, then ELBO {elbo_of(svi, here):.1f}"
        )


def compiler(here: Here) -> Iterator[str]:
    """Measure the first steps, the compiler's cache cold and warm, and when compiling has paid."""
    if here.quick:
        yield "left out: --quick"
        return
    first = captures(here.data.train, ("graph", "inductor"))
    for name, seconds in first.items():
        yield f"{name}: {seconds:.1f}"
    slow, fast = (_milliseconds(_svi(here, how), here) for how in ("graph", "inductor"))
    captured, compiled = (
        first[f"first two steps, {how}, empty cache (s)"] for how in ("graph", "inductor")
    )
    saved = (slow - fast) / 1e3
    pays = f"{(compiled - captured) / saved:,.0f} steps" if saved > 0 else "no number of steps"
    yield f"graph {slow:.3f} ms, inductor {fast:.3f} ms a step: compiling pays after {pays}"


def kernels(here: Here, steps: int = 50) -> Iterator[str]:
    """Count the kernels of a captured step, and measure the gaps between two replays."""
    if here.device.type != "cuda":
        yield "needs CUDA"
        return
    from torch.profiler import ProfilerActivity, profile

    for how in ("graph", "inductor"):
        svi = _svi(here, how)
        _milliseconds(svi, here, 20)
        with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as seen:
            _milliseconds(svi, here, steps)
        spans = sorted(
            (e.time_range.start, e.time_range.end)
            for e in seen.events() or ()
            if str(e.device_type).endswith("CUDA")
        )
        if not spans:
            yield f"{how}: the profiler saw no kernel"
            continue
        gaps = sorted((b[0] - a[1] for a, b in pairwise(spans)), reverse=True)
        between = gaps[: steps - 1]
        busy = sum(end - start for start, end in spans) / (spans[-1][1] - spans[0][0])
        yield (
            f"{how}: {len(spans) / steps:.0f} kernels and copies a step (expected about 106 as a "
            f"graph), gaps between replays {between[len(between) // 2]:.0f} us (expected below "
            f"20), the device is busy {busy:.0%}"
        )


def evaluation(here: Here) -> Iterator[str]:
    """Evaluate with many particles: seconds, the share of k-hat, the device's peak memory."""
    count, particles = (16, 200) if here.quick else (1000, 5000)
    svi = _svi(here, "off")
    svi.prepare(here.data.train.batch(slice(64)))
    test = here.data.test
    some = Split(test.stored[:count], test.view)
    evaluate(svi.model, svi.guide, Split(test.stored[:2], test.view), particles=30)
    cuda = here.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    start = time.monotonic()
    found = evaluate(svi.model, svi.guide, some, particles=particles, show_progress=False)
    whole = time.monotonic() - start
    log_w = torch.randn(particles, count, dtype=torch.float64, device=here.device)
    k_hat(log_w[:, :2])
    _wait(here)
    start = time.monotonic()
    k_hat(log_w)
    _wait(here)
    tail = time.monotonic() - start
    peak = f"{torch.cuda.max_memory_allocated() / 2**30:.2f} GiB" if cuda else "needs CUDA"
    yield (
        f"{count:,} data, K = {particles:,}: {whole:.2f} s, {count * particles / whole:,.0f} "
        f"datum-particles a second; k-hat {tail:.3f} s, {tail / whole:.0%}; peak memory {peak}; "
        f"log p(x) {found.log_px.mean().item():.1f}"
    )


def _svi(here: Here, how: Any) -> SVI:
    pyro.set_rng_seed(0)
    return SVI(*compose(here.data.event_shape, here.device), compile=how)


def _milliseconds(svi: SVI, here: Here, steps: int = 0) -> float:
    """Return what a step takes, warm: the median of five turns."""
    steps = steps or (20 if here.quick else 500)
    rows = torch.randint(len(here.data.train), (steps, BATCH_SIZE), device=here.device)
    settled = 1100 if svi.compile != "off" and here.device.type == "cuda" else 10
    for place in range(settled):  # the first captured steps are checked often
        svi.step(rows[place % steps], source=here.data.train.batch)
    turns = []
    for turn in rows.chunk(5):  # a collection of garbage, or a check, falls into one of them
        _wait(here)
        start = time.perf_counter()
        for row in turn:
            svi.step(row, source=here.data.train.batch)
        _wait(here)
        turns.append(1e3 * (time.perf_counter() - start) / len(turn))
    return statistics.median(turns)


def _wait(here: Here) -> None:
    if here.device.type == "cuda":
        torch.cuda.synchronize()

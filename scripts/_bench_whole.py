"""Measures besides steps: epochs, commands, evaluations, compilation, and how cost grows."""

import math
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import guides
import models
from inference import SVI
from inference.data import Binary, Dataset, Split
from inference.evaluation import evaluate
from inference.training import fit
from inference.training.captures import PATIENCE
from scripts._bench_disk import disk, peak_memory
from scripts._bench_pairs import CASES, Case, Setting, networks
from scripts._bench_peers import CONTENDERS
from scripts._bench_steps import AGREEMENT
from scripts._bench_timing import CHUNK, device_peak, in_turns, ratio, seconds, spread, steps_in
from scripts._bench_torch import Loss
from scripts._pair import compose

BATCH_SIZE = 128

WHOLE = ("epoch", "evaluation", "capture", "memory", "disk", "curves")
"""What can be measured besides the steps of `CASES`."""

COMPILED = ("graph", "inductor", "torch.compile")
"""Contenders whose first steps are measured."""


def around(
    cases: Sequence[str],
    data: Dataset,
    root: Path | None,
    rounds: int,
    size: tuple[int, int],
    quick: bool,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Measure what is around the steps, as far as it is among the cases.

    Args:
        cases: names of what to measure.
        data: on the device.
        root: folder of the data files.
        rounds: turns of each contender.
        size: data and particles of an evaluation.
        quick: turns as short as can be.
    """
    train, device = data.train, data.train.device
    words = ["--data", data.name, "--device", device.type]
    words += [] if root is None else ["--data_root", str(root)]
    calls: dict[str, Callable[[], dict[str, Any]]] = {
        "epoch": lambda: epochs(data, rounds),
        "evaluation": lambda: evaluations(train, *size, rounds),
        "capture": lambda: captures(train, COMPILED),
        "memory": lambda: commands(words, rounds),
        "disk": lambda: disk(device, rounds, quick),
        "curves": lambda: curves(train, rounds, quick),
    }
    return ((name, calls[name]()) for name in calls if name in cases)


def epochs(data: Dataset, rounds: int) -> dict[str, Any]:
    """Measure an epoch of `fit` against one of Pyro's loop over a DataLoader."""
    device = data.train.device
    turns = [(pyro_epoch(data, device), fit_epoch(data, device)) for _ in range(rounds)]
    plain, fitted = map(list, zip(*turns, strict=True))
    return {
        "epoch, plain Pyro loop (s)": statistics.median(plain),
        "epoch, fit, its step captured (s)": statistics.median(fitted),
        "plain Pyro loop / fit": ratio(plain, fitted),
    }


def pyro_epoch(data: Dataset, device: torch.device) -> float:
    """Return the seconds of an epoch of SVI and Trace_ELBO over a DataLoader of the tensor.

    The images lie on the CPU, pinned, as they do for a loader that indexes them one by one.
    """
    model, guide = compose(data.event_shape, device)
    svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), pyro.infer.Trace_ELBO())  # type: ignore[attr-defined]
    levels = data.train.stored.max().item()
    images = TensorDataset((data.train.stored / levels).cpu())
    pinned = device.type == "cuda"
    loader = DataLoader(images, BATCH_SIZE, shuffle=True, drop_last=True, pin_memory=pinned)

    def step(images: Tensor) -> None:
        svi.step(torch.bernoulli(images.to(device, non_blocking=True)))

    step(next(iter(loader))[0])

    def epoch() -> None:
        for (images,) in loader:
            step(images)

    return seconds(epoch, device)


def fit_epoch(data: Dataset, device: torch.device) -> float:
    """Return the seconds of an epoch of fit: data, binarisation, logging; validation apart.

    Steps come before it, so many that the epoch's are captured; `captures` has what that costs.
    """
    svi = SVI(*compose(data.event_shape, device))
    for _ in range(PATIENCE + CHUNK):
        places = torch.randint(len(data.train), (BATCH_SIZE,), device=device)
        svi.step(places, source=data.train.batch)
    steps = len(data.train) // BATCH_SIZE
    trace = fit(
        svi, data, epochs=1, batch_size=BATCH_SIZE, log_every=steps // 3, show_progress=False
    )
    last = trace.split("train")[-1]  # of three rows, so that logging counts
    return last.seconds / last.epoch


def commands(words: list[str], rounds: int) -> dict[str, Any]:
    """Measure train.py with these arguments: start-up and memory."""
    started, memory = zip(*(command(words) for _ in range(min(3, rounds))), strict=True)
    return {
        "command to first step (s)": statistics.median(started),
        "peak memory of train.py (GB)": max(memory),
    }


def command(words: list[str]) -> tuple[float, float]:
    """Return seconds from the command to the first step, and the run's peak memory in GB."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder, "run")
        words = [*words, "--epochs", "1", "--log_every", "1", "--run", str(run)]
        script = Path(__file__).with_name("train.py")
        start = time.perf_counter()
        process = subprocess.Popen([sys.executable, script, *words], stdout=subprocess.DEVNULL)
        first, peak = math.nan, 0.0
        while process.poll() is None:
            if math.isnan(first) and (run / "trace.csv").exists():
                first = time.perf_counter() - start
            peak = max(peak, peak_memory(process.pid))
            time.sleep(0.01)
    if process.returncode:
        raise RuntimeError("train.py failed; see above.")
    return first, peak


def evaluations(split: Split, images: int, particles: int, rounds: int) -> dict[str, Any]:
    """Measure `evaluate` with its diagnostics against a loop over the images, written by hand.

    Args:
        split: the data.
        images: how many of them.
        particles: number K of draws for each.
        rounds: turns of both.
    """
    setting = Setting(CASES["mlp128"], split).trained(200)
    model, guide = setting.pair()
    few = Split(split.x(slice(images)), Binary())  # the same bits for both
    loss = Loss(setting, networks((model, guide)))
    evaluate(model, guide, few, particles=25, show_progress=False)  # imports, on first use
    bounds: dict[str, float] = {}

    def at_once(compile: Any) -> None:  # noqa: A002  (evaluate's own word)
        found = evaluate(
            model, guide, few, particles=particles, compile=compile, show_progress=False
        )
        bounds[compile] = found.log_px.mean().item()

    def by_image() -> None:
        bounds["by image"] = image_by_image(loss, few, particles)

    one, some = Split(few.x(slice(1)), Binary()), max(1, particles // 10)

    def by_draw() -> None:
        image_by_image(loss, one, some, at_a_time=1)

    modes: tuple[Any, ...] = ("off", "auto")
    calls = {mode: partial(at_once, mode) for mode in modes}
    calls = {**calls, "by image": by_image, "by draw": by_draw}
    figures: dict[str, Any] = {"data": len(few), "particles": particles}
    if split.device.type == "cuda":
        figures["peak memory of the device, off (GB)"] = device_peak(partial(at_once, "off"))
    taken = in_turns(calls, rounds, split.device)
    slow = [time / some for time in taken.pop("by draw")]
    figures["image by image, draw by draw (datum-particles/s)"] = 1 / statistics.median(slow)
    fast = [time / len(few) / particles for time in taken["auto"]]
    figures["image by image, draw by draw / evaluate, compile auto"] = ratio(slow, fast)
    for name, times in taken.items():
        named = "image by image" if name == "by image" else f"evaluate, compile {name}"
        figures[f"{named} (datum-particles/s)"] = len(few) * particles / statistics.median(times)
        figures[f"{named}: log p(x) >= (nats)"] = bounds[name]
        if name != "by image":
            same = abs(bounds[name] / bounds["by image"] - 1) <= AGREEMENT
            together = ratio(taken["by image"], times) if same else "bounds differ"
            figures[f"image by image / {named}"] = together
    return figures


@torch.no_grad()
def image_by_image(loss: Loss, split: Split, particles: int, at_a_time: int = 1000) -> float:
    """Return the mean K-sample bound, nats per datum, one image and some draws at a time."""
    total = 0.0
    for place in range(len(split)):
        x = split.x(slice(place, place + 1))
        counts = [min(at_a_time, particles - k) for k in range(0, particles, at_a_time)]
        log_w = torch.cat([loss.log_weights(x, count) for count in counts])
        total += (log_w.logsumexp(0) - torch.tensor(float(particles)).log()).item()
    return total / len(split)


def captures(split: Split, names: tuple[str, ...]) -> dict[str, Any]:
    """Measure how long a fresh process takes for its first steps, two of them, compiling included.

    Each is measured twice with one cache folder of the compiler, which is empty the first time.
    """
    figures: dict[str, Any] = {}
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            for cache in ("empty cache", "warm cache"):
                figures[f"first two steps, {name}, {cache} (s)"] = _in_fresh_process(
                    folder, name, split
                )
    return figures


def first_steps(name: str, split: Split, device: torch.device) -> float:
    """Return the seconds of a contender's first two steps, the second of which is captured."""
    setting = Setting(CASES["mlp128"], split.to(device))
    turn = CONTENDERS[name](setting)
    places = setting.places(2)
    return seconds(lambda: turn(places), device)


def _in_fresh_process(folder: str, name: str, split: Split) -> float:
    before = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
    try:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            return process.submit(first_steps, name, split.to("cpu"), split.device).result()
    finally:
        os.environ.pop("TORCHINDUCTOR_CACHE_DIR")
        if before is not None:
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = before


def curves(split: Split, rounds: int, quick: bool) -> dict[str, Any]:
    """Measure our captured step over batch sizes, particles and hidden layers, in ms."""
    figures: dict[str, Any] = {}
    for name, case in curve_cases(quick).items():
        setting = Setting(case, split)
        turn = CONTENDERS["graph"](setting)
        turn(setting.places(CHUNK))
        step = seconds(lambda t=turn, s=setting: t(s.places(CHUNK)), split.device) / CHUNK
        places = setting.places(steps_in(0.0 if quick else 0.5, step))
        taken = in_turns({name: lambda t=turn, p=places: t(p)}, rounds, split.device)[name]
        figures[f"step, {name} (ms)"] = [1e3 * t / len(places) for t in spread(taken)]
    return figures


def curve_cases(quick: bool) -> dict[str, Case]:
    """Return the points of the curves; of each curve the first two where it must be quick."""

    def deep(layers: int) -> Case:
        hidden = (400,) * layers
        makers = {"encoder": guides.MLP, "decoder": models.MLP}
        parts = tuple((role, partial(maker, hidden=hidden)) for role, maker in makers.items())
        return Case(BATCH_SIZE, parts=parts)

    ends = slice(2 if quick else None)
    doubled = [2**power for power in range(12)]
    return {
        **{f"batch {size}": Case(size) for size in doubled[4:][ends]},
        **{f"batch 16, particles {k}": Case(16, particles=k) for k in doubled[:7][ends]},
        **{f"batch {BATCH_SIZE}, hidden layers {n}": deep(n) for n in (1, 2, 3, 4)[ends]},
    }

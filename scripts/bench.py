"""Measure speed, memory and start-up side by side with Pyro's own training loop.

MNIST where it is found, re-binarised; MLP 784-400-50; batch 128; Adam. Both loops take the same
steps of the same size on the same machine in turns, and the medians over the turns are compared.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyro
import torch
from _arguments import Device, Parser, PositiveInt, one_line_errors, to_device
from _pair import compose
from torch.utils.data import DataLoader, TensorDataset

from inference import SVI
from inference.compare import table
from inference.data import Dataset
from inference.datasets import load
from inference.files import atomic
from inference.fit import fit

BATCH_SIZE = 128


def pyro_epoch(data: Dataset, device: torch.device) -> float:
    """Return the seconds of an epoch of SVI and Trace_ELBO over a DataLoader of the tensor."""
    pyro.clear_param_store()
    model, guide = compose(data.event_shape, device)
    svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), pyro.infer.Trace_ELBO())  # type: ignore[attr-defined]
    levels = data.train.stored.max().item()
    images = TensorDataset(data.train.stored / levels)
    loader = DataLoader(images, BATCH_SIZE, shuffle=True, drop_last=True)
    svi.step(torch.bernoulli(next(iter(loader))[0]))
    start = time.perf_counter()
    for (images,) in loader:
        svi.step(torch.bernoulli(images))
    return time.perf_counter() - start


def fit_epoch(data: Dataset, device: torch.device) -> float:
    """Return the seconds of an epoch of fit: data, binarisation, logging; validation apart."""
    svi = SVI(*compose(data.event_shape, device))
    svi.step(data.train.batch(slice(BATCH_SIZE)))
    steps = len(data.train) // BATCH_SIZE
    trace = fit(
        svi, data, epochs=1, batch_size=BATCH_SIZE, log_every=steps // 3, show_progress=False
    )
    last = trace.split("train")[-1]  # of three rows, so that logging counts
    return last.seconds / last.epoch


def command(words: list[str]) -> tuple[float, float]:
    """Return seconds from the command to the first step, and the run's peak memory in GB."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder, "run")
        words = [*words, "--epochs", "1", "--log_every", "1", "--run", str(run)]
        script = Path(__file__).with_name("train.py")
        start = time.perf_counter()
        process = subprocess.Popen([sys.executable, script, *words], stdout=subprocess.DEVNULL)
        while not (run / "trace.csv").exists() and process.poll() is None:
            time.sleep(0.01)
        first = time.perf_counter() - start
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError("train.py failed; see above.")
    return first, usage.ru_maxrss / 1024**2


def bench(
    data: str = "mnist",
    data_root: Path | None = None,
    rounds: PositiveInt = 7,
    device: Device = "auto",
    out: Path | None = None,
) -> None:
    """Measure and print.

    Args:
        data: name of a data set whose pixels are grey levels.
        data_root: folder of the data files; else LOWERBOUND_DATA, else the user's cache folder.
        rounds: turns of which the medians are taken.
        device: where to compute; auto takes CUDA when there is one.
        out: JSON file for the figures.
    """
    with one_line_errors("bench.py"):
        where = to_device(device)
        records = load(data, data_root).to(where)
    turns = [(pyro_epoch(records, where), fit_epoch(records, where)) for _ in range(rounds)]
    plain, fitted = (statistics.median(column) for column in zip(*turns, strict=True))
    root = [] if data_root is None else ["--data_root", str(data_root)]
    words = ["--data", data, "--device", where.type, *root]
    started, memory = zip(*(command(words) for _ in range(min(3, rounds))), strict=True)
    figures = {
        "machine": machine(where),
        "torch": torch.__version__,
        "pyro": pyro.__version__,
        "epoch, plain Pyro loop (s)": plain,
        "epoch, fit (s)": fitted,
        "plain Pyro loop / fit": plain / fitted,
        "lowest and highest turn": [f(p / q for p, q in turns) for f in (min, max)],
        "command to first step (s)": statistics.median(started),
        "peak memory of train.py (GB)": max(memory),
    }
    print(table(["what", "measured"], [[name, shown(value)] for name, value in figures.items()]))
    if out is not None:
        with atomic(out) as partial:
            partial.write_text(json.dumps(figures, indent=2) + "\n")


def machine(device: torch.device) -> str:
    """Return what the figures were measured on."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


def shown(value: object) -> str:
    """Return a figure as text."""
    if isinstance(value, list):
        return ", ".join(map(shown, value))
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def main(argv: list[str] | None = None) -> None:
    """Read the command line."""
    parser = Parser("bench.py", __doc__)
    parser.add_function_arguments(bench)
    bench(**dict(parser.instantiate(parser.parse_args(argv))))


if __name__ == "__main__":
    main()

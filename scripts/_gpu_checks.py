"""What must be right on a GPU: captures, draws after a failing one, resuming, other settings."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from inference import SVI, Elbo
from inference.data import Dataset
from inference.programs import as_tuple
from inference.runs import Run
from inference.training import Interrupted, Trace, fit
from scripts._pair import compose

ROOT = Path(__file__).parents[1]

STEPS = 12
"""Steps that are compared."""


@dataclass(frozen=True)
class Here:
    """Where the items run and on what.

    Args:
        device: where to compute.
        data: images that are binarised at each access, on the device.
        quick: do as little as shows that an item works.
    """

    device: torch.device
    data: Dataset
    quick: bool = False


def tests(here: Here, *words: str) -> Iterator[str]:
    """Run the tests that need a GPU, all of them, and say which fail."""
    if here.device.type != "cuda":
        yield "needs CUDA"
        return
    # Four at a time: each holds a context on the device.
    options = ["-q", "-rf", "--tb=line", "-p", "no:cacheprovider", "-m", "cuda", "-n", "4"]
    where = words or ("tests/test_cuda.py", "tests/test_distributed.py")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *where],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "250"},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = done.stdout.strip().splitlines() or [done.stderr.strip()[-300:]]
    yield lines[-1]
    yield from (line for line in lines if line.startswith("FAILED"))


def two_gpus(here: Here) -> Iterator[str]:
    """Run the tests of several processes: the trace of one, a lost process, the checkpoint."""
    if torch.cuda.device_count() < 2:
        yield "needs two GPUs" if here.device.type == "cuda" else "needs CUDA, two GPUs"
        return
    yield from tests(here, "tests/test_distributed.py")


def pairs(here: Here) -> Iterator[str]:
    """Take the same steps of every capturable pair of the tests eagerly and as a graph."""
    sys.path.append(str(ROOT))
    from tests.test_capture import CAPTURABLE

    names = [name for name in CAPTURABLE if CAPTURABLE[name]().captures]
    names = names[:: 20 if here.quick else 1]
    equal = 0
    for name in names:
        try:
            traces = [_trace(CAPTURABLE[name], how, here.device) for how in ("off", "graph")]
            worst = float(((traces[1] - traces[0]) / (1 + traces[0].abs())).abs().max())
        except Exception as error:  # each kind of failure is a finding
            yield f"{name}: {_said(error)}"
            continue
        equal += worst < 1e-3
        if not worst < 1e-3:
            yield f"{name}: differs by {worst:.1g} of 1 + the value"
    yield f"{equal} of {len(names)} take the same {STEPS} steps"


def _trace(make: Callable[[], Any], how: Any, device: torch.device) -> Tensor:
    from tests.devices import modules

    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    pair = make()
    for program in (pair.model, pair.guide):
        for module in modules(program):
            module.to(device)
    x = tuple(tensor.to(device) for tensor in as_tuple(pair.x))
    x = x if isinstance(pair.x, tuple) else x[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        svi = SVI(pair.model, pair.guide, compile=how)
        pyro.set_rng_seed(1)
        return torch.stack([torch.stack(svi.step(x)) for _ in range(STEPS)])


class Copies(PyroModule):
    """A model that makes a constant on the CPU, and copies it to the device."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(4, 12)

    def logits(self, z: Tensor) -> Tensor:
        """Return the logits of x."""
        return self.net(z @ torch.eye(4, device="cpu").to(z.device))

    def forward(self, x: Tensor) -> None:
        """Run the program."""
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(4), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.logits(z)).to_event(1), obs=x)


class Masks(Copies):
    """A model that assigns by a boolean mask, whose number of rows is a value."""

    def logits(self, z: Tensor) -> Tensor:
        """Return the logits of x."""
        logits = self.net(z)
        logits = logits.clone()
        logits[logits > 3] = logits[logits > 3] / 2
        return logits


class Guide(PyroModule):
    """A linear guide for both."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> None:
        """Run the program."""
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.net(x), 0.5).to_event(1))


def failing_capture(here: Here) -> Iterator[str]:
    """Try captures that fail on a GPU, then draw: random numbers must still come."""
    for model in (Copies, Masks):
        for how in ("auto", "graph"):
            pyro.set_rng_seed(0)
            svi = SVI(model().to(here.device), Guide().to(here.device), compile=how)  # type: ignore[arg-type]
            x = torch.zeros(16, 12, device=here.device)
            steps = 8 if how == "graph" else 208  # `auto` captures after 200
            try:
                for _ in range(min(steps, 20) if here.quick else steps):
                    svi.step(x)
                end = svi.captured or "eager"
            except Exception as error:
                end = _said(error)
            try:
                spread = torch.randn(1000, device=here.device).std().item()
                then = "draws go on" if 0.8 < spread < 1.2 else f"draws have sd {spread:.2f}"
            except Exception as error:
                then = f"DRAWS FAIL: {_said(error)}"
            yield f"{model.__name__.lower()}, {how}: {end}; {then}"


def settings(here: Here) -> Iterator[str]:
    """Take graph steps with other optimisers and precisions: what is captured, what comes out."""
    optimizers = {
        "SGD": partial(torch.optim.SGD, lr=1e-4),
        "AdamW, fused": partial(torch.optim.AdamW, lr=1e-3, fused=True),
    }
    cases: list[tuple[str, dict[str, Any]]] = [
        *((name, {"optimizer": make}) for name, make in optimizers.items()),
        *((name, {"precision": name}) for name in ("tf32", "bf16")),
    ]
    for name, options in cases:
        bounds = {}
        for how in ("off", "graph"):
            pyro.set_rng_seed(0)
            svi = SVI(*compose(here.data.event_shape, here.device), compile=how, **options)  # type: ignore[arg-type]
            bounds[how] = [float(_step(svi, here).bound) for _ in range(STEPS)][-1]
        yield f"{name}: off {bounds['off']:.3f}, graph {bounds['graph']:.3f} after {STEPS} steps"


def resumed(here: Here) -> Iterator[str]:
    """Stop a run by SIGTERM, go on with it, and compare with a run that was left alone."""
    epochs = 2 if here.quick else 6
    with tempfile.TemporaryDirectory() as folder:
        alone = _fit(here, Path(folder, "alone"), epochs)
        threading.Thread(target=_stop_after, args=(Path(folder, "stopped", "trace.csv"),)).start()
        stopped = 0
        try:
            _fit(here, Path(folder, "stopped"), epochs=100_000)
        except Interrupted as stop:
            stopped = stop.step
        run = Run(Path(folder, "stopped"))
        longest = max(epochs, stopped // _steps(here) + 2)
        again = _fit(here, run.path, longest)
    shared = [(a, b) for a, b in zip(alone.rows, again.rows, strict=False)]
    worst = max(abs(a.elbo - b.elbo) for a, b in shared)
    yield (
        f"stopped after step {stopped:,}, went on to {again.rows[-1].step:,}; {len(shared)} rows "
        f"differ from those of a run left alone by at most {worst:.2g} nats"
    )


def _stop_after(trace: Path) -> None:
    """Send this process SIGTERM once a run has a row or two, and steps are being taken."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if trace.exists() and len(trace.read_text().splitlines()) > 2:
            break
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGTERM)


def _fit(here: Here, path: Path, epochs: int) -> Trace:
    pyro.set_rng_seed(0)
    svi = SVI(*compose(here.data.event_shape, here.device), compile="graph")
    new = not path.exists()
    run = Run.create(path, "seed: 0\n", {"data": {}, "parameters": 0}) if new else Run(path)
    return fit(svi, here.data, epochs=epochs, batch_size=64, run=run, show_progress=False)


def _steps(here: Here) -> int:
    return len(here.data.train) // 64


def _step(svi: SVI, here: Here) -> Any:
    places = torch.arange(64, device=here.device)
    return svi.step(places, source=here.data.train.batch)


def elbo_of(svi: SVI, here: Here) -> float:
    """Return the ELBO of the first validation data."""
    return float(svi.evaluate(here.data.valid.batch(slice(500)), Elbo()).bound)


def _said(error: BaseException) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {(text.splitlines() or [''])[0][:160]}"

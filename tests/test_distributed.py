"""Several processes: the same trace as one, the same draws, a clear end when one is lost."""

import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.nn.functional import dropout

from inference import distributed
from inference.evaluation import evaluate
from inference.runs import Run
from inference.training import Trace

from .conftest import not_drawing
from .test_scripts import call

SCRIPTS = Path(__file__).parents[1] / "scripts"
trained = importlib.import_module("scripts._pair").trained
ROWS, PROCESSES = 6, 2

needs_two_gpus = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than 2 GPUs")


def launch(*words: object) -> subprocess.Popen[str]:
    """Start a script in several processes."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    script, *rest = map(str, words)
    return subprocess.Popen(
        [*torchrun, f"--nproc_per_node={PROCESSES}", "--", str(SCRIPTS / script), *rest],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def run(*words: object) -> str:
    process = launch(*words)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    return output


def test_two_processes_take_the_steps_of_one(tmp_path: Path) -> None:
    """A quarter of the run is captured; then the evaluation is shared too; then one goes on."""
    words = ("--batch_size", 64, "--log_every", 5, "--compile", "graph", "--epochs", 4)
    with not_drawing():
        call("train", *words, "--run", tmp_path / "one")
    run("train.py", *words, "--run", tmp_path / "two")
    one, two = (Trace(tmp_path / name / "trace.csv").rows for name in ("one", "two"))
    assert [row[:2] for row in one] == [row[:2] for row in two]
    for a, b in zip(one, two, strict=True):
        assert b.elbo == pytest.approx(a.elbo, rel=1e-5)
        assert b.kl == pytest.approx(a.kl, rel=1e-4)
    shared = run("evaluate.py", tmp_path / "two", "--particles", 100)
    (row,) = [line.split() for line in shared.splitlines() if line.startswith("test ")]
    data, model, guide = trained(Run(tmp_path / "two"), torch.device("cpu"), None)
    alone = evaluate(model, guide, data.test, particles=100, show_progress=False).summary()
    assert float(row[4]) == pytest.approx(alone["elbo"], abs=1e-3)
    assert float(row[7]) == pytest.approx(alone["log_px"], abs=1e-3)


def settings_of_groups(device: str, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Return how the groups of processes are made for a device; None is really started."""
    made: list[dict[str, Any]] = []
    for name, value in (("WORLD_SIZE", "2"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    group = torch.distributed
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    monkeypatch.setattr(
        group, "init_process_group", lambda backend, **how: made.append({"backend": backend, **how})
    )
    monkeypatch.setattr(group, "new_group", lambda **how: made.append(how) or "patient")
    monkeypatch.setattr(group, "barrier", lambda where: made.append({"barrier": where}))
    monkeypatch.setattr(group, "destroy_process_group", lambda: None)
    with distributed.processes(torch.device(device)) as mine:
        made.append({"device": mine})
    return made


@pytest.mark.parametrize(("device", "backend"), [("cpu", "gloo"), ("cuda", "nccl")])
def test_waits_in_steps_are_short_and_others_long(
    device: str, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, patient, inside, end = settings_of_groups(device, monkeypatch)
    assert steps["backend"] == backend
    assert steps["timeout"] <= timedelta(minutes=15)
    assert patient["backend"] == "gloo"  # NCCL's watchdog would end the process
    assert patient["timeout"] >= timedelta(hours=12)
    assert end == {"barrier": "patient"}
    expected = torch.device("cuda", 1) if device == "cuda" else torch.device("cpu")
    assert inside["device"] == expected
    assert steps.get("device_id") == (expected if device == "cuda" else None)
    assert distributed._patient == []


@pytest.mark.parametrize(
    "device", ["cpu", pytest.param("cuda", marks=[pytest.mark.cuda, needs_two_gpus])]
)
def test_lost_process_ends_the_job_and_the_checkpoint_stays(tmp_path: Path, device: str) -> None:
    path = tmp_path / "run"
    process = launch(
        "train.py", "--batch_size", 64, "--epochs", 100_000, "--checkpoint_every", 0,
        "--compile", "off", "--device", device, "--run", path,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not (path / "checkpoint" / "previous.pt").exists():  # the first is from before a step
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.1)
    words = ["pgrep", "-P", str(process.pid)]
    children = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()
    os.kill(int(children[-1]), signal.SIGKILL)
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "has lost another one" in output or "SIGKILL" in output or "NCCL" in output
    state = torch.load(path / "checkpoint" / "latest.pt", weights_only=True)
    assert state["progress"]["step"] > 0


@pytest.mark.slow
def test_uneven_shares_are_refused(tmp_path: Path) -> None:
    process = launch("train.py", "--batch_size", 65, "--run", tmp_path / "run")
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "--batch_size 65 is no multiple of 2 processes" in output
    assert not (tmp_path / "run").exists()


@pytest.fixture
def as_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """Act as one of the processes."""

    def act(rank: int) -> None:
        monkeypatch.setattr(distributed, "world", lambda: PROCESSES)
        monkeypatch.setattr(distributed, "rank", lambda: rank)

    return act  # type: ignore[return-value]


DRAWS: dict[str, Callable[[Tensor], Tensor]] = {
    "normal": lambda p: dist.Normal(p, 1.0).to_event(1).rsample(),
    "uniform": lambda p: torch.empty_like(p).uniform_(0, 3).lt_(p),
    "bits": lambda p: dist.Bernoulli(p).sample(),
    "rand": lambda p: torch.rand(p.shape) * p,
    "randn": lambda p: torch.randn(len(p), 3),
    "dropout": lambda p: dropout(p, 0.5),
    "particles": lambda p: dist.Normal(p, 1.0).to_event(1).rsample((4,)),
    "relaxed bits": lambda p: dist.RelaxedBernoulliStraightThrough(torch.tensor(0.5), p).rsample(),
    "global": lambda p: torch.randn(3, 1, 2),
}


@pytest.mark.parametrize("name", DRAWS)
def test_processes_keep_their_rows_of_one_draw(
    name: str, as_process: Callable[[int], None]
) -> None:
    p = torch.rand(ROWS * PROCESSES, 5)
    torch.manual_seed(1)
    whole = DRAWS[name](p)
    parts, states = [], []
    for rank in range(PROCESSES):
        as_process(rank)
        torch.manual_seed(1)
        with distributed.drawing_for_all(ROWS):
            mine = distributed.share(p)
            assert isinstance(mine, Tensor)
            parts.append(DRAWS[name](mine))
        states.append(torch.get_rng_state())
    dim = 1 if name == "particles" else 0
    expected = [whole, whole] if name == "global" else whole.chunk(PROCESSES, dim)
    for part, mine in zip(parts, expected, strict=True):
        torch.testing.assert_close(part, mine)
    assert torch.equal(*states)

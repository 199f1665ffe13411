"""Checkpoints that are whole files, with a state inside that no training has."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from .test_scripts import TINY, call

pytestmark = pytest.mark.usefixtures("undrawn")

Saved = dict[str, Any]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a scheduler, one epoch long."""
    run = tmp_path_factory.mktemp("states") / "run"
    call("train", *TINY, "--epochs", 1, "--scheduler", "StepLR", "--scheduler.step_size", 2,
         "--run", run)  # fmt: skip
    return run


def moments(name: str, value: object) -> Callable[[Saved], None]:
    return lambda saved: saved["svi"]["optimizer"]["state"][0].update({name: value})


def group(name: str, value: object) -> Callable[[Saved], None]:
    return lambda saved: saved["svi"]["optimizer"]["param_groups"][0].update({name: value})


def within(place: str, name: str, value: object) -> Callable[[Saved], None]:
    def change(saved: Saved) -> None:
        for key in place.split("."):
            saved = saved[key]
        saved[name] = value

    return change


CHANGES: dict[str, Callable[[Saved], Any]] = {
    # A wrong shape that reaches torch's fused Adam ends the process.
    "a short moment": moments("exp_avg", torch.zeros(1)),
    "a moment of text": moments("exp_avg_sq", "x"),
    "steps of text": moments("step", "x"),
    "two steps": moments("step", torch.ones(2)),
    "no step": lambda saved: saved["svi"]["optimizer"]["state"][1].pop("step"),
    "no moments at all": lambda saved: [
        each.pop("exp_avg") for each in saved["svi"]["optimizer"]["state"].values()
    ],
    "moments of no parameter": within("svi.optimizer.state", "x", {}),
    "a moment for a dict": within("svi.optimizer.state", 0, 3),  # type: ignore[arg-type]
    "no parameters": lambda saved: saved["svi"]["optimizer"]["param_groups"][0].pop("params"),
    "a parameter less": lambda saved: saved["svi"]["optimizer"]["param_groups"][0]["params"].pop(),
    "a group of text": within("svi.optimizer", "param_groups", ["x"]),
    "no groups": within("svi.optimizer", "param_groups", []),
    "no state": within("svi.optimizer", "state", 1),
    "a rate of text": group("lr", "x"),
    "no rate": lambda saved: saved["svi"]["optimizer"]["param_groups"][0].pop("lr"),
    "betas of text": group("betas", ["x", "y"]),
    "a rate of a huge number": group("lr", 10**400),
    "a complex rate": group("lr", torch.tensor(1j)),
    "a rate that is nan": group("lr", float("nan")),
    "three betas": group("betas", [0.9, 0.9, 0.9]),
    "a moment without values": moments("exp_avg", torch.empty(16, 2, device="meta")),
    "steps without a value": moments("step", torch.empty((), device="meta")),
    "a scheduler of text": within("svi", "scheduler", "x"),
    "a schedule of text": within("svi.scheduler", "step_size", "x"),
    "weights of another pair": within("svi", "weights", {"a": torch.zeros(2)}),
    "an objective of text": within("svi", "objective", "x"),
    "an objective's number": within("svi", "objective", {"x": 1}),
    "steps beyond counting": within("progress", "step", 2**70),
    "an epoch below 0": within("progress", "epoch", -1),
    "an epoch of text": within("progress", "epoch", "x"),
    "seconds of text": within("progress", "seconds", "x"),
    "an unknown field": within("progress", "x", 1),
    "an order of reals": within("progress", "permutation", torch.rand(1397)),
    "an order with a datum twice": within(
        "progress", "permutation", torch.zeros(1397, dtype=torch.long)
    ),
    "an order of fewer": within("progress", "permutation", torch.arange(5)),
    "two sums": within("progress", "sums", torch.zeros(2)),
    "sums of text": within("progress", "sums", "x"),
    "an argument of 0": within("arguments", "learning_rate", 0),
    "an argument of text": within("arguments", "learning_rate", "x"),
    "a part of a number": within("arguments.prior", "class_path", 3),
    "an infinite weight": lambda saved: [
        each.fill_(float("inf"))
        for each in (*saved["svi"]["weights"].values(), *saved["progress"]["best_weights"].values())
    ],
    "random states of text": within("rng", "torch", "x"),
    "short random states": within("rng", "torch", torch.zeros(5, dtype=torch.uint8)),
    "NumPy's state of text": within("rng", "numpy", "x"),
    "Python's state of text": within("rng", "random", (3, "x", None)),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_state_that_no_training_has_is_one_line(
    name: str, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    for file in (run / "checkpoint").glob("previous.pt"):
        file.unlink()
    latest = run / "checkpoint" / "latest.pt"
    saved = torch.load(latest, weights_only=True)
    CHANGES[name](saved)
    torch.save(saved, latest)
    before = {path: path.read_bytes() for path in (run / "config.yaml", run / "trace.csv", latest)}
    with pytest.raises(SystemExit) as stop:
        call("train", "--resume", run, "--epochs", 2, "--quiet")
    said = capsys.readouterr().err
    assert stop.value.code == 2, said
    assert said.count("\n") == 1, said
    assert len(said) < 400, said
    assert {path: path.read_bytes() for path in before} == before
    assert yaml.safe_load((run / "config.yaml").read_text())["epochs"] == 1

"""A run that goes on from its last checkpoint with other arguments, and what it may not change."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from inference.runs import Run

from .test_scripts import TINY, call

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("segments") / "run"
    call("train", *TINY, "--run", path)
    return path


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "run"))


def rates(run: Path) -> list[float]:
    saved = Run(run).load()
    assert saved is not None
    return [group["lr"] for group in saved["svi"]["optimizer"]["param_groups"]]


def test_more_epochs_at_another_rate(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = Run(run).trace.rows
    call("train", "--resume", run, "--epochs", 4, "--learning_rate", 2e-4, "--patience", 3)
    said = capsys.readouterr().err
    assert "Note: learning_rate is 0.0002 from here on, 0.002 before." in said
    after = Run(run)
    assert after.trace.rows[: len(before)] == before
    assert [row.epoch for row in after.trace.split("valid")] == [1.0, 2.0, 3.0, 4.0]
    assert [row.extra.get("segment") for row in after.trace.split("valid")] == [None, None, 1, 1]
    assert rates(run) == [2e-4]
    assert {k: after.config[k] for k in ("epochs", "learning_rate", "patience")} == {
        "epochs": 4,
        "learning_rate": 2e-4,
        "patience": 3,
    }
    (segment,) = after.environment["segments"]
    assert segment["step"] == before[-1].step
    assert segment["changed"]["epochs"] == [2, 4]
    whole = (run / "trace.csv").read_bytes()
    call("train", "--resume", run)
    assert len(Run(run).environment["segments"]) == 1
    assert (run / "trace.csv").read_bytes() == whole
    call("evaluate", run, "--particles", 2)


@pytest.mark.parametrize("scheduler", [[], ["--scheduler", "StepLR", "--scheduler.step_size", 9]])
def test_segment_takes_the_steps_of_a_schedule(scheduler: list[Any], tmp_path: Path) -> None:
    """A tenth of the rate from epoch 2 on, once by a scheduler of torch's, once by a segment."""
    words = [*TINY, "--epochs", 4, "--scheduler", "MultiStepLR", "--scheduler.milestones", "[2]"]
    call("train", *words, "--run", tmp_path / "whole")
    call("train", *TINY, *scheduler, "--run", tmp_path / "parts")
    call("train", "--resume", tmp_path / "parts", "--epochs", 4, "--learning_rate", 2e-4)
    ends = [Run(tmp_path / name).load()["svi"]["weights"] for name in ("whole", "parts")]  # type: ignore[index]
    for name, value in ends[0].items():
        torch.testing.assert_close(value, ends[1][name], rtol=1e-5, atol=1e-6)


FIXED = [
    ["--latent_dim", "4"], ["--prior", "Vamp"], ["--decoder.hidden", "[8]"], ["--data", "mnist"],
    ["--batch_size", "64"], ["--seed", "3"], ["--objective", "Iwae"], ["--optimizer", "SGD"],
    ["--likelihood", "ContinuousBernoulli"], ["--estimator", "ScoreFunction"],
    ["--run", "elsewhere"],
]  # fmt: skip


@pytest.mark.parametrize("words", FIXED, ids=lambda words: words[0])
@pytest.mark.parametrize("joined", [False, True])
def test_what_a_run_is_can_not_change(
    words: list[str], joined: bool, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {p.name: p.read_bytes() for p in run.iterdir() if p.is_file()}
    with pytest.raises(SystemExit) as stop:
        call(
            "train",
            *([f"--resume={run}", "=".join(words)] if joined else ["--resume", run, *words]),
        )
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert f"can't take {words[0].split('.')[0]}" in said
    assert "--run ANOTHER" in said
    assert said.count("\n") == 1
    assert {p.name: p.read_bytes() for p in run.iterdir() if p.is_file()} == before


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("learning_rate", 1e-4, "learning_rate is 0.0001 from here on, 0.002 before"),
        ("epochs", 3, "epochs is 3 from here on, 2 before"),
        ("latent_dim", 5, "can't go on with another latent_dim (it was 3, now 5)"),
        ("batch_size", 64, "can't go on with another batch_size (it was 128, now 64)"),
        ("seed", 9, "can't go on with another seed (it was 0, now 9)"),
    ],
)
def test_an_edited_config_is_followed_or_refused(
    name: str, value: Any, words: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump({**config, name: value}))
    try:
        call("train", "--resume", run)
    except SystemExit as stop:
        assert stop.code == 2  # noqa: PT017
        assert "can't" in words
    assert words in capsys.readouterr().err
    if name == "learning_rate":
        assert rates(run) == [value]


def test_a_run_that_diverged_is_rescued_by_its_own_advice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run"
    words = ["--optimizer", "torch.optim.SGD", "--learning_rate", "1e9", "--log_every", 1]
    with pytest.raises(SystemExit) as stop:
        call("train", *TINY, *words, "--run", path)
    assert stop.value.code == 2
    _, said = capsys.readouterr().err.splitlines()  # the first says what runs
    assert f"lowerbound train --resume {path} --learning_rate 1e+08" in said
    call("train", "--resume", path, "--learning_rate", "1e-3", "--epochs", 2)
    assert [row.epoch for row in Run(path).trace.split("valid")] == [1.0, 2.0]
    facts = json.loads((path / "environment.json").read_text())
    assert facts["segments"][0]["changed"]["learning_rate"] == [1e9, 1e-3]


def test_a_death_while_a_segment_begins_loses_nothing(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was written then, the next start begins the segment, once."""

    class Death(BaseException):
        pass

    def die(*_: Any) -> None:
        raise Death

    with monkeypatch.context() as patch:
        patch.setattr(Run, "save", die)
        with pytest.raises(Death):
            call("train", "--resume", run, "--epochs", 3, "--learning_rate", 1e-4)
    call("train", "--resume", run)
    after = Run(run)
    assert len(after.environment["segments"]) == 1
    assert rates(run) == [1e-4]
    assert [row.extra.get("segment") for row in after.trace.split("valid")] == [None, None, 1]

"""Runs that diverged: what they leave, who says so, and that it goes as they go on."""

from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
import yaml
from torch import Tensor

from inference import SVI, Dataset, Observer, Split, fit
from inference.runs import Run, compare
from inference.runs.tables import run_numbers
from inference.runs.verdicts import verdicts
from inference.training import Row
from scripts import runs

from .test_differences import FACTS, evaluated


class Breaks(Observer):
    """Makes a parameter nan after some steps."""

    def step(self, step: int, svi: SVI) -> None:
        if step == 5:
            next(iter(svi.parameters.values())).data.fill_(float("nan"))


class Raises(Observer):
    """Has a floating point error of its own."""

    def row(self, row: Row, svi: SVI) -> None:
        raise FloatingPointError("mine")


def sitting(run: Run, *watch: Observer) -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        slope = pyro.param("slope", torch.tensor([1.0, 0.5]))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(slope * x, 0.5).to_event(1))

    pyro.clear_param_store()
    split = Split(torch.randn(20, 2))
    options = {"epochs": 4, "batch_size": 10, "show_progress": False, "watch": watch}
    fit(SVI(model, guide), Dataset("d", split, split, split), run=run, **options)


def made(path: Path) -> Run:
    return Run.create(path, yaml.safe_dump({"seed": 0, "epochs": 4}), FACTS)


def test_a_mark_stays_until_the_run_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = made(tmp_path / "a")
    torch.manual_seed(0)
    with pytest.raises(FloatingPointError, match="is nan"):
        sitting(run, Breaks())
    assert (run.diverged, Run(run.path).diverged) == (6, 6)
    assert Run(run.path).environment == {**FACTS, "diverged": 6}
    runs.main([str(tmp_path)])
    assert "diverged at step 6" in capsys.readouterr().out
    assert run_numbers(run)["diverged"]
    torch.manual_seed(0)
    sitting(Run(run.path))
    assert Run(run.path).diverged is None
    assert Run(run.path).environment == FACTS
    assert Run(run.path).finished


def test_an_error_of_an_observer_is_no_divergence(tmp_path: Path) -> None:
    run = made(tmp_path / "a")
    with pytest.raises(FloatingPointError, match="mine"):
        sitting(run, Raises())
    assert run.diverged is None


def test_a_comparison_marks_it(tmp_path: Path) -> None:
    groups = [evaluated(tmp_path / str(z), 0, -90.0, latent_dim=z, stop=z // 2) for z in (2, 6)]
    facts = tmp_path / "2" / "environment.json"
    facts.write_text(facts.read_text().replace('"parameters"', '"diverged": 1234, "parameters"'))
    one, other = compare([Run(run.path) for run in groups])
    assert one.cells()[1] == "1 (1 diverged)"
    assert other.cells()[1] == "1"
    (found,) = verdicts([one, other])
    assert f"{tmp_path / '2'} diverged at step 1,234" in found.verdict
    assert "stopped" not in found.verdict

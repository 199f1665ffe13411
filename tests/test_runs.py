"""Runs: training that can be stopped anywhere, checkpoints, traces, comparisons."""

import json
import math
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import yaml
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau, StepLR

from inference import SVI, Linear
from inference.data import Dataset, Split, load
from inference.evaluation import Validator
from inference.runs import Run, environment, restore
from inference.runs.comparison import COLUMNS, compare
from inference.runs.comparison_figures import draw
from inference.runs.tables import table
from inference.training import Interrupted, Row, Trace, fit

from .pairs import EVENT, PAIRS, Pair, bits

FACTS = {"data": {"name": "d", "hash": "h", "unit": "nats"}, "parameters": 7}


def data(size: int = 60) -> Dataset:
    pyro.set_rng_seed(11)
    return Dataset("bits", Split(bits(size)), Split(bits(20)), Split(bits(20)))


def make(name: str = "bernoulli", **options: Any) -> tuple[Pair, SVI]:
    pyro.clear_param_store()
    pyro.set_rng_seed(1)
    pair = PAIRS[name]()
    return pair, SVI(pair.model, pair.guide, **options)


def new_run(path: Path, seed: int = 0, **config: Any) -> Run:
    return Run.create(path, yaml.safe_dump({"seed": seed, **config}), FACTS)


def without_seconds(trace: Trace) -> list[tuple[Any, ...]]:
    return [(row.step, row.epoch, *row[3:]) for row in trace.rows]


class Stop(BaseException):
    """Stands for a death that nothing in the program can catch."""


@pytest.mark.parametrize("name", ["bernoulli", "functions", "methods", "pyro params"])
def test_resume_is_exact(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Die at every fifth step, twice in the same place; the end is the same to the bit."""
    records = data()
    if name != "bernoulli":
        train, valid = (Split(s.stored.flatten(1)) for s in (records.train, records.valid))
        records = Dataset("bits", train, valid, valid)
    options: dict[str, Any] = {
        "epochs": 4, "batch_size": 7, "kl_weight": Linear(2), "log_every": 3,
        "checkpoint_every": 0.0, "show_progress": False,
    }  # fmt: skip
    scheduler = lambda o: StepLR(o, 2)  # noqa: E731
    _, svi = make(name, scheduler=scheduler)
    pyro.set_rng_seed(2)
    whole = fit(svi, records, run=new_run(tmp_path / "whole"), **options)

    run = new_run(tmp_path / "broken")
    step, deaths = SVI.step, 0

    def fragile(self: SVI, *args: Any, **kwargs: Any) -> Any:
        nonlocal taken
        taken += 1
        if taken > 5 + deaths % 3:
            raise Stop
        return step(self, *args, **kwargs)

    monkeypatch.setattr(SVI, "step", fragile)
    while True:
        taken = 0
        _, again = make(name, scheduler=scheduler)
        pyro.set_rng_seed(2)
        try:
            trace = fit(again, records, run=Run(run.path), **options)
            break
        except Stop:
            deaths += 1
    assert deaths > 4
    assert without_seconds(trace) == without_seconds(whole)
    assert without_seconds(Trace(run.path / "trace.csv")) == without_seconds(whole)
    for key, value in svi.weights().items():
        assert torch.equal(value, again.weights()[key]), key


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_signal_saves_and_stops(signum: int, tmp_path: Path) -> None:
    before = signal.getsignal(signum)
    _, svi = make()
    run = new_run(tmp_path / "run")
    step = svi.step
    count = 0

    def once(*args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += 1
        if count == 4:
            os.kill(os.getpid(), signum)
        return step(*args, **kwargs)

    svi.step = once  # type: ignore[method-assign]
    with pytest.raises(Interrupted, match=f"{signal.Signals(signum).name} after step 4") as stop:
        fit(svi, data(), epochs=5, batch_size=10, run=run, show_progress=False)
    assert stop.value.signum == signum
    saved = run.load()
    assert saved is not None
    assert saved["progress"]["step"] == 4
    assert signal.getsignal(signum) is before


def test_best_weights_are_those_of_the_highest_validation_elbo(tmp_path: Path) -> None:
    pair, svi = make(optimizer=lambda p: torch.optim.SGD(p, lr=0.3))
    run = new_run(tmp_path / "run")
    records = data()
    trace = fit(svi, records, epochs=12, batch_size=10, run=run, show_progress=False)
    best = trace.best()
    assert best is not None
    assert best.elbo == max(row.elbo for row in trace.split("valid"))
    other = SVI(pair.model, pair.guide)
    restore(run, other.model, other.guide, records.train.batch(slice(5)))
    assert Validator(other.model, other.guide, records.valid)().elbo == best.elbo
    restore(run, other.model, other.guide, records.train.batch(slice(5)), best=False)
    assert (
        Validator(other.model, other.guide, records.valid)().elbo == trace.split("valid")[-1].elbo
    )


def test_early_stopping_counts_validations_after_the_warm_up() -> None:
    _, svi = make(optimizer=lambda p: torch.optim.SGD(p, lr=1e-9))
    options: dict[str, Any] = {"epochs": 30, "batch_size": 20, "show_progress": False}
    assert len(fit(svi, data(), patience=3, **options).split("valid")) <= 6
    _, svi = make(optimizer=lambda p: torch.optim.SGD(p, lr=1e-9))
    warm = fit(svi, data(), patience=3, kl_weight=Linear(8), **options)
    assert 10 <= len(warm.split("valid")) <= 14


def test_trace_of_fit() -> None:
    _, svi = make()
    trace = fit(svi, data(100), epochs=3, batch_size=10, log_every=4, show_progress=False)
    assert [row.step for row in trace.split("train")] == [4, 8, 12, 16, 20, 24, 28]
    assert [(r.step, r.epoch) for r in trace.split("valid")] == [(10, 1.0), (20, 2.0), (30, 3.0)]
    for row in trace.rows:
        assert row.elbo == pytest.approx(row.reconstruction - row.kl, abs=1e-4)
        assert row.seconds >= 0


def test_validation_frequency_does_not_change_training() -> None:
    """Validation has its own noise: the training rows are those of bare steps."""
    records = data(40)
    _, svi = make()
    trace = fit(svi, records, epochs=2, batch_size=10, log_every=1, show_progress=False)
    _, bare = make()
    bare.prepare(records.train.batch(slice(10)))
    elbos = [
        bare.step(records.train.batch(places)).bound.item()
        for _ in range(2)
        for places in torch.randperm(40).split(10)
    ]
    assert [row.elbo for row in trace.split("train")] == pytest.approx(elbos, abs=1e-6)


@pytest.mark.parametrize("batch_size", [0, 61])
def test_batch_size_is_checked(batch_size: int) -> None:
    _, svi = make()
    with pytest.raises(ValueError, match=f"from 1 to 60, .* of bits; got {batch_size}"):
        fit(svi, data(), epochs=1, batch_size=batch_size)


def test_divergence_is_named() -> None:
    _, svi = make(optimizer=lambda p: torch.optim.SGD(p, lr=1e20))
    with pytest.raises(FloatingPointError, match=r"The ELBO is (nan|-inf) on \w+ at step \d+"):
        fit(svi, data(), epochs=3, batch_size=10, show_progress=False)


def test_gradient_is_clipped() -> None:
    pair, svi = make(optimizer=lambda p: torch.optim.SGD(p, lr=1.0), clip_norm=1e-3)
    svi.prepare(pair.x)
    before = svi.weights()
    svi.step(pair.x)
    moved = sum((v - before[k]).square().sum() for k, v in svi.weights().items())
    assert math.sqrt(moved) == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize(
    ("scheduler", "rate"),
    [
        (lambda o: StepLR(o, 1, gamma=0.5), 0.001 / 8),
        (lambda o: LambdaLR(o, lambda epoch: 1 / (1 + epoch)), 0.001 / 4),
        (lambda o: ReduceLROnPlateau(o, patience=0, threshold=1e9), 1e-6),
    ],
)
def test_schedulers_advance_once_an_epoch(scheduler: Any, rate: float, tmp_path: Path) -> None:
    _, svi = make(scheduler=scheduler)
    run = new_run(tmp_path / "run")
    fit(svi, data(), epochs=3, batch_size=20, run=run, show_progress=False)
    if not isinstance(svi.scheduler, ReduceLROnPlateau):
        assert svi.optimizer.param_groups[0]["lr"] == pytest.approx(rate)
    else:
        assert svi.optimizer.param_groups[0]["lr"] < 0.001
    _, again = make(scheduler=scheduler)
    fit(again, data(), epochs=3, batch_size=20, run=Run(run.path), show_progress=False)
    assert again.optimizer.param_groups[0]["lr"] == svi.optimizer.param_groups[0]["lr"]


def test_damaged_checkpoint_is_named_and_the_previous_one_used(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    for number in (1, 2):
        run.save({"number": torch.tensor(number)})
    latest, previous = (run.path / "checkpoint" / n for n in ("latest.pt", "previous.pt"))
    whole = latest.read_bytes()
    latest.write_bytes(whole[: len(whole) // 2])
    with pytest.warns(UserWarning, match=r"latest.pt can't be read .*Using .*previous.pt instead"):
        saved = run.load()
    assert saved is not None
    assert saved["number"] == 1
    torch.save({"someone": "else's"}, latest)
    with pytest.warns(UserWarning, match=r"latest.pt can't be read \(it is no checkpoint of"):
        run.load()
    previous.unlink()
    with pytest.raises(ValueError, match=r"No checkpoint is left; train again with --config"):
        run.load()


def test_checkpoint_cannot_run_code(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")

    class Evil:
        def __reduce__(self) -> Any:
            return (os.mkdir, (str(tmp_path / "harm"),))

    torch.save(
        {"format": "lowerbound checkpoint 1", "x": Evil()}, run.path / "checkpoint/latest.pt"
    )
    with pytest.raises(ValueError, match="can't be read"):
        run.load()
    assert not (tmp_path / "harm").exists()


def test_checkpoint_holds_plain_data_only(tmp_path: Path) -> None:
    class Rate(float):
        """A number by another name, as a command line's types are."""

    run = new_run(tmp_path / "run")
    run.save({"lr": Rate(0.5), "betas": (Rate(0.9), 1), "numpy": np.float64(2.0), "none": None})
    assert run.load() == {
        "format": "lowerbound checkpoint 1",
        "lr": 0.5,
        "betas": (0.9, 1),
        "numpy": 2.0,
        "none": None,
    }
    with pytest.raises(TypeError, match="got function"):
        run.save({"f": lambda: None})


def test_death_between_the_renames_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_run(tmp_path / "run")
    run.save({"number": torch.tensor(1)})
    original, calls = Path.replace, 0
    for allowed in range(3):
        calls = 0

        def fragile(self: Path, target: Path, allowed: int = allowed) -> Path:
            nonlocal calls
            if calls == allowed:
                raise Stop
            calls += 1
            return original(self, target)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", fragile)
            with pytest.raises(Stop):
                run.save({"number": torch.tensor(2)})
        saved = run.load()
        assert saved is not None
        assert saved["number"].item() == (1 if allowed == 0 else 2)
        run.save({"number": torch.tensor(1)})


def test_weights_of_another_pair_are_refused() -> None:
    pair, svi = make()
    svi.prepare(pair.x)
    other_pair, other = make("functions")
    other.prepare(other_pair.x)
    with pytest.raises(ValueError, match="belong to another pair: .*guide.encoder"):
        svi.load_weights(other.weights())


def test_run_directory_is_not_overwritten(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    with pytest.raises(FileExistsError, match="--resume"):
        new_run(run.path)
    with pytest.raises(FileNotFoundError, match="no config.yaml"):
        Run(tmp_path)


def test_full_disk_loses_no_earlier_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files may grow to 40 kB and no further: rows stay, the checkpoint is the last whole one."""
    resource = pytest.importorskip("resource")
    _, svi = make()
    run = new_run(tmp_path / "run")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    options: dict[str, Any] = {"epochs": 200, "batch_size": 1, "log_every": 1}
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, limit[1]))
        with pytest.raises(OSError, match="large"):
            fit(svi, data(20), run=run, checkpoint_every=0.0, show_progress=False, **options)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    rows = Trace(run.path / "trace.csv").rows
    assert [row.step for row in rows if row.split == "train"][:100] == list(range(1, 101))
    saved = run.load()
    assert saved is not None
    assert 0 < saved["progress"]["rows"] <= len(rows)


def finished(path: Path, seed: int, elbo: float, **config: Any) -> Run:
    run = new_run(path, seed, **config)
    for step in (1, 2, 3):
        value = elbo - 3 + step
        run.trace.append(Row(step, float(step), float(step), "valid", value, value + 1, 1.0))
    run.write_evaluation({"log_px": elbo + 1, "particles": 100, "split": "test"})
    return Run(path)


def test_compare_groups_seeds(tmp_path: Path) -> None:
    runs = [
        finished(
            tmp_path / f"{seed}-{z}",
            seed,
            -90 - z + seed,
            latent_dim=z,
            prior={"class_path": "m.N"},
        )
        for z in (2, 5)
        for seed in (0, 1)
    ]
    groups = compare(runs)
    assert [g.label for g in groups] == ["latent_dim=2", "latent_dim=5"]
    cells = dict(zip(COLUMNS, groups[0].cells(), strict=True))
    assert cells["seeds"] == "2"
    assert cells["best valid ELBO"] == "-91.50 +- 0.71"
    assert cells["test log p(x) >="] == "-90.50 +- 0.71"
    assert cells["K"] == "100 (test)"
    paths = draw(groups, [], tmp_path / "out", "epoch")
    assert [path.name for path in paths] == ["traces.png"]
    assert paths[0].read_bytes()[1:4] == b"PNG"
    for run in runs:
        assert run.evaluation is not None
        run.write_evaluation({**run.evaluation, "rate": 20.0, "distortion": 70.0})
    paths = draw(groups, [], tmp_path / "out")
    assert [path.name for path in paths] == ["traces.png", "rate-distortion.png"]
    with pytest.raises(ValueError, match="step, epoch, seconds; got 'hours'"):
        draw(groups, [], tmp_path / "out", "hours")
    assert "latent_dim=5" in table(COLUMNS, [g.cells() for g in groups])


def test_compare_names_what_parts_add(tmp_path: Path) -> None:
    parts = [
        {"class_path": "m.Normal"},
        {"class_path": "m.Mixture", "init_args": {"components": 3}},
        {"class_path": "m.Mixture", "init_args": {"components": 5}},
    ]
    runs = [finished(tmp_path / str(i), 0, -90, prior=p) for i, p in enumerate(parts)]
    labels = [group.label for group in compare(runs)]
    assert labels == [
        "prior=Normal",
        "prior=Mixture, prior.components=3",
        "prior=Mixture, prior.components=5",
    ]


def test_compare_takes_a_run_without_schedules_for_an_older_one(tmp_path: Path) -> None:
    older = finished(tmp_path / "0", 0, -90)
    newer = finished(tmp_path / "1", 1, -90, schedules=None, watch=["a.Logger"])
    beta = {"objective.beta": {"class_path": "inference.Linear", "init_args": {"end": 4.0}}}
    other = finished(tmp_path / "2", 2, -90, schedules=beta)
    groups = compare([older, newer, other])
    assert [len(group.runs) for group in groups] == [2, 1]
    assert "objective.beta=Linear" in groups[1].label


@pytest.mark.parametrize(("what", "value"), [("hash", "other"), ("unit", "bits")])
def test_compare_refuses_other_data(what: str, value: str, tmp_path: Path) -> None:
    first = finished(tmp_path / "first", 0, -90)
    second = finished(tmp_path / "second", 0, -90)
    facts = json.loads((second.path / "environment.json").read_text())
    facts["data"][what] = value
    (second.path / "environment.json").write_text(json.dumps(facts))
    with pytest.raises(ValueError, match=rf"first and .*second can't be compared.*{what}") as error:
        compare([first, Run(second.path)])
    assert value in str(error.value)


def test_compare_does_not_mix_evaluations(tmp_path: Path) -> None:
    runs = [finished(tmp_path / str(seed), seed, -90) for seed in (0, 1)]
    runs[1].write_evaluation({"log_px": -80, "particles": 5000, "split": "test"})
    cells = dict(zip(COLUMNS, compare(runs)[0].cells(), strict=True))
    assert cells["test log p(x) >="] == "-"
    assert cells["K"] == "100 (test), 5000 (test)"


def test_environment_names_what_numbers_depend_on() -> None:
    facts = environment(load("digits"), torch.device("cpu"), 123)
    assert facts["versions"].keys() == {"python", "torch", "pyro-ppl", "numpy"}
    assert facts["data"]["hash"] == load("digits").content_hash
    assert facts["parameters"] == 123
    json.dumps(facts)


def test_validation_counts_active_units_and_collapsed_dimensions() -> None:
    """Three of five coordinates say something of x; the two others are the prior itself."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(5), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        slope = pyro.param("slope", torch.tensor([1.0, 0.5, 2.0, 0.0, 0.0]))
        scale = torch.tensor([0.5, 0.5, 0.5, 1.0, 1.0])
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(slope * x, scale).to_event(1))

    pyro.clear_param_store()
    x = torch.randn(2500, 5)
    svi = SVI(model, guide)
    svi.prepare(x)
    found = Validator(svi.model, svi.guide, Split(x))()
    assert (found.active_units, found.collapsed) == (3, 0.4)
    torch.testing.assert_close(found.elbo, found.reconstruction - found.kl)
    assert found == Validator(svi.model, svi.guide, Split(x))()


@pytest.mark.parametrize("slope", [0.0, 1.0])
def test_collapse_is_told_at_the_end_of_training(
    slope: float, caplog: pytest.LogCaptureFixture
) -> None:
    """A decoder that ignores z, and a guide that is the prior; then one that reads x."""
    shift = torch.tensor(0.0, requires_grad=True)

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample(
                "x",
                dist.Bernoulli(logits=pyro.param("shift", shift)).expand(EVENT).to_event(3),
                obs=x,
            )

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            loc = slope * x.flatten(1)[:, :2] + 0 * pyro.param("shift", shift)
            pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))

    fit(SVI(model, guide), data(), epochs=1, batch_size=20)
    told = [r.message for r in caplog.records if "collapsed to the prior" in r.message]
    assert len(told) == (slope == 0)
    assert all("Warm up the KL (KLWeight), take FreeBits, or weaken" in words for words in told)

"""Schedules: their values, and the numbers that they move."""

import inspect
import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from torch import optim
from torch.optim.lr_scheduler import StepLR

import guides
import inference
import models
from inference import (
    SVI,
    Compile,
    Constant,
    Cosine,
    Cyclic,
    Elbo,
    Exponential,
    Linear,
    Objective,
    Schedule,
    ScoreFunction,
    StraightThrough,
    fit,
)
from inference.capture import Inductor
from inference.data import Dataset, Split
from inference.runs import Run
from inference.training import Scheduled, Trace

from .objectives import NUMBERS
from .pairs import PAIRS, Pair, bits, vae


@pytest.mark.parametrize(
    ("schedule", "times", "values"),
    [
        (Constant(0.3), (0, 7), (0.3, 0.3)),
        (Linear(epochs=10, start=0.2), (0, 5, 10, 1000), (0.2, 0.6, 1, 1)),
        (Linear(epochs=4, start=3, end=-1), (0, 1, 3, 4, 5), (3, 2, 0, -1, -1)),
        (Cyclic(period=10, cycles=2), (0, 2.5, 5, 9.9, 10, 12.5, 20), (0, 0.5, 1, 1, 0, 0.5, 1)),
        (Cyclic(10, 2, 1.0, start=2, end=1), (0, 5, 10, 15, 20), (2, 1.5, 2, 1.5, 1)),
        # (1 + cos(pi / 3)) / 2 = 3/4 of the way is left after a third of it.
        (Cosine(epochs=6), (0, 2, 3, 6, 9), (1, 0.75, 0.5, 0, 0)),
        (Exponential(epochs=2, start=1, end=0.01), (0, 1, 2, 3), (1, 0.1, 0.01, 0.01)),
        (Exponential(epochs=2, start=1, end=4), (0, 1, 2), (1, 2, 4)),
    ],
)
def test_values(schedule: Schedule, times: tuple[float, ...], values: tuple[float, ...]) -> None:
    assert [schedule(t) for t in times] == pytest.approx(list(values))


numbers = st.floats(0.01, 10)


@given(st.floats(0, 1e6), numbers, numbers, st.floats(0.1, 100))
def test_schedules_stay_between_start_and_end(
    epoch: float, start: float, end: float, length: float
) -> None:
    low, high = sorted((start, end))
    exact = (Linear(length, start, end), Cyclic(length, 3, 0.5, start, end))
    assert all(low <= each(epoch) <= high for each in exact)
    for each in (Cosine(length, start, end), Exponential(length, start, end)):
        assert low * (1 - 1e-12) <= each(epoch) <= high * (1 + 1e-12)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Linear(0), "more than 0 epochs; got 0"),
        (lambda: Cosine(-1), "more than 0 epochs; got -1"),
        (lambda: Exponential(math.nan), "more than 0 epochs; got nan"),
        (lambda: Exponential(3, 1.0, 0.0), "above 0; got 1.0 and 0.0. Take Linear or Cosine"),
        (lambda: Cyclic(rise=0), "rise=0"),
    ],
)
def test_schedules_refuse(make: Callable[[], Schedule], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


def data(size: int = 30) -> Dataset:
    pyro.set_rng_seed(11)
    return Dataset("bits", Split(bits(size)), Split(bits(10)), Split(bits(10)))


inductor = pytest.param(
    "inductor",
    marks=[
        pytest.mark.slow,
        pytest.mark.skipif(
            Inductor().missing(torch.device("cpu")) is not None, reason="no C++ compiler"
        ),
    ],
)


class Spread(guides.Family):
    """A normal whose scale is a buffer."""

    scale: torch.Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__(latent_dim)
        self.register_buffer("scale", torch.tensor(0.5))
        self.plain = 0.5

    @property
    def parameter_dim(self) -> int:
        return self.latent_dim

    def forward(self, parameters: torch.Tensor) -> Any:
        return dist.Normal(parameters, self.scale).to_event(1)


def spread() -> Pair:
    return vae(models.Bernoulli, bits(), posterior=Spread)


EXPORTED = [getattr(inference, name) for name in inference.__all__]


def test_every_number_is_in_the_table() -> None:
    parts = [part for part in EXPORTED if isinstance(part, type) and is_dataclass(part)]
    kinds = (Objective, inference.Estimator, inference.Discrepancy)
    found = {
        f"{part.__name__}.{field.name}"
        for part in parts
        if issubclass(part, kinds) and not inspect.isabstract(part)
        for field in fields(part)
        if field.type in (float, "float")
    }
    assert found == NUMBERS.keys()


def path(number: str) -> str:
    return (
        "objective.estimator.temperature"
        if number.endswith(".temperature")
        else f"objective.{number.split('.')[1]}"
    )


def with_float(objective: Any, number: str, value: float) -> Any:
    if number.endswith(".temperature"):
        estimator = type(objective.estimator)(value)
        object.__setattr__(estimator, "state", objective.estimator.state)
        return replace(objective, estimator=estimator)
    return replace(objective, **{number.split(".")[1]: value})


def trained(
    pair: str, objective: Objective, how: Compile, each: Callable[[SVI, int], None]
) -> tuple[torch.Tensor, SVI]:
    """Take eight steps, and call something before each."""
    pyro.set_rng_seed(5)
    made = PAIRS[pair]()
    svi = SVI(made.model, made.guide, partial(optim.Adam, lr=0.01), objective, compile=how)
    svi.prepare(made.x)
    pyro.set_rng_seed(6)
    said = []
    for step in range(8):
        each(svi, step)
        said.append(torch.stack(svi.step(made.x)))
    return torch.stack(said), svi


def same(a: tuple[torch.Tensor, SVI], b: tuple[torch.Tensor, SVI]) -> None:
    torch.testing.assert_close(b[0], a[0], rtol=1e-4, atol=1e-4)
    for name, value in a[1].weights().items():
        torch.testing.assert_close(b[1].weights()[name], value, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("how", ["off", "graph"])
@pytest.mark.parametrize("number", NUMBERS)
def test_a_scheduled_number_is_that_number(number: str, how: Compile) -> None:
    """The truth: a fresh objective with a float in each step, taken eagerly."""
    objective, pair, schedule = NUMBERS[number]
    objective, first = deepcopy(objective), deepcopy(objective)  # they may remember something
    floats = trained(
        pair, first, "off",
        lambda svi, step: svi.use(with_float(first, number, schedule(step / 3))),
    )  # fmt: skip
    made: list[Scheduled] = []

    def schedule_it(svi: SVI, step: int) -> None:
        if not made:
            numbers = Scheduled(svi, {path(number): schedule}, epochs=3)
            with pytest.raises(RuntimeError, match="inside of `with Scheduled"):
                numbers.set(0)
            made.append(numbers.__enter__())
        made[0].set(step / 3)

    scheduled = trained(pair, objective, how, schedule_it)
    same(floats, scheduled)
    assert made[0].values == {path(number): schedule(7 / 3)}
    assert scheduled[1].captured == (None if how == "off" else "graph")
    assert len(scheduled[1]._captured.known) == (how != "off")


def fitted(
    how: Compile = "off", pair: Callable[[], Pair] = PAIRS["bernoulli"], **options: Any
) -> tuple[Trace, SVI]:
    """Fit four epochs of six steps."""
    records = data()
    pyro.clear_param_store()
    pyro.set_rng_seed(1)
    made = pair()
    optimizer = options.pop("optimizer", partial(optim.Adam, lr=0.01))
    objective = options.pop("objective", None)
    svi = SVI(made.model, made.guide, optimizer, objective, compile=how)
    options = {"epochs": 4, "batch_size": 5, "log_every": 2, "show_progress": False} | options
    return fit(svi, records, **options), svi


ALL: dict[str, Schedule] = {
    "kl_weight": Linear(2, 0.1),
    "learning_rate": Cosine(4, 0.02, 0.001),
    "objective.beta": Cyclic(2, 2, 0.5, 4.0, 1.0),
    "guide.family.scale": Exponential(3, 0.5, 0.1),
}


@pytest.mark.parametrize("how", ["graph", inductor])
def test_every_kind_is_captured_in_a_fit(how: Compile) -> None:
    """A learning rate, a KL weight, a number of the objective and one of the family, at once."""
    runs = []
    for each in ("off", how):
        trace, svi = fitted(each, spread, schedules=ALL)
        runs.append((torch.tensor([row.elbo for row in trace.rows]), svi))
    same(*runs)
    assert len(runs[1][1]._captured.known) == 2  # with a KL weight and without


def test_columns_are_the_numbers_that_move(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", yaml.safe_dump({}), {})
    trace, svi = fitted(pair=spread, run=run, schedules={**ALL, "objective.beta": Constant(2.0)})
    moving = ["kl_weight", "learning_rate", "guide.family.scale"]
    header = (run.path / "trace.csv").read_text().splitlines()[0]
    assert header.split(",")[-3:] == moving
    assert Trace(run.path / "trace.csv").rows == trace.rows
    for row in trace.rows:  # the row's number is that of its last step, which is the one before it
        epoch = (row.step - 1) / 6
        assert row.extra == {name: ALL[name](epoch) for name in moving}
        assert row.elbo == pytest.approx(row.reconstruction - row.kl, abs=1e-4)
    assert svi.optimizer.param_groups[0]["lr"] == trace.rows[-1].extra["learning_rate"]
    scale = svi.weights()["guide.family.scale"].item()
    assert scale == pytest.approx(trace.rows[-1].extra["guide.family.scale"])


def test_a_learning_rate_is_that_of_the_step() -> None:
    """SGD moves by the rate times the gradient: no move at 0, the same as at a constant rate."""
    constant = partial(optim.SGD, lr=0.1)
    _, still = fitted(optimizer=constant, schedules={"learning_rate": Constant(0.0)})
    _, moved = fitted(optimizer=constant)
    rate = {"learning_rate": Constant(0.1)}
    _, other = fitted(optimizer=partial(optim.SGD, lr=9.0), schedules=rate)
    data()
    pyro.set_rng_seed(1)
    made = PAIRS["bernoulli"]()
    untrained = SVI(made.model, made.guide)
    untrained.prepare(made.x)
    for name, value in untrained.weights().items():
        assert torch.equal(still.weights()[name], value)
        assert torch.equal(other.weights()[name], moved.weights()[name])
    for name, value in untrained.parameters.items():
        assert not torch.equal(moved.parameters[name], value)


def test_resume_is_exact_with_schedules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Die every fifth step or so; rows, their numbers and weights are those of the whole run."""
    whole, svi = fitted(pair=spread, schedules=ALL)
    run = Run.create(tmp_path / "run", yaml.safe_dump({}), {})
    step, deaths = SVI.step, 0

    class Stop(BaseException):
        pass

    def fragile(self: SVI, *args: Any, **kwargs: Any) -> Any:
        nonlocal taken
        taken += 1
        if taken > 5 + deaths % 3:
            raise Stop
        return step(self, *args, **kwargs)

    monkeypatch.setattr(SVI, "step", fragile)
    while True:
        taken = 0
        try:
            trace, again = fitted(
                pair=spread, schedules=ALL, run=Run(run.path), checkpoint_every=0.0
            )
            break
        except Stop:
            deaths += 1
    assert deaths > 2
    assert [row._replace(seconds=0) for row in trace.rows] == [
        row._replace(seconds=0) for row in whole.rows
    ]
    for name, value in svi.weights().items():
        assert torch.equal(value, again.weights()[name]), name


def test_the_objective_is_given_back_and_may_be_scheduled_again() -> None:
    """The second fit captures anew: in the first one's graph is the first one's number."""
    records, ends = data(), []
    for how in ("off", "graph"):
        pyro.set_rng_seed(1)
        made = PAIRS["bernoulli"]()
        objective = Elbo(beta=0.5)
        svi = SVI(made.model, made.guide, objective=objective, compile=how)
        for end in (4.0, 0.0):
            beta = {"objective.beta": Linear(1, 1.0, end)}
            trace = fit(svi, records, epochs=2, batch_size=5, schedules=beta, show_progress=False)
            assert svi.objective is objective
        ends.append((torch.tensor([row.elbo for row in trace.rows]), svi))
    same(*ends)
    assert objective.beta == 0.5


class Falling(Schedule):
    """A schedule of one's own."""

    def __call__(self, epoch: float) -> float:
        return 1.0 - epoch


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"objective.bta": Linear()}, r"the name 'objective.bta'.* objective.beta"),
    ({"objective.particles": Linear()}, "the name 'objective.particles'"),
    ({"objective.estimator": Linear()}, "the name 'objective.estimator'"),
    ({"objective.estimator.baseline.x": Linear()}, "the name 'objective.estimator.baseline.x'"),
    ({"kl": Linear()}, r"the name 'kl'. There are: kl_weight, learning_rate, objective.beta"),
    (
        {"guide.family.plain": Linear()},
        r"'guide.family.plain'.* guide.family.scale.*register_buffer",
    ),
    ({"model.decoder.net.0.bias": Linear()}, "the name 'model.decoder.net.0.bias'"),
    ({"objective.beta": Linear(2, -1.0)}, "of objective.beta, after 0 epochs: .* of at least 0"),
    ({"objective.beta": Falling()}, r"beta, after 1.004 epochs: .* at least 0; got -0.004"),
    ({"kl_weight": Falling()}, "kl_weight, after 1.004 epochs: Expected a kl_weight of at least 0"),
    ({"kl_weight": Constant(-0.1)}, "kl_weight, after 0 epochs: .* at least 0; got -0.1"),
    ({"learning_rate": Linear(2, 0.1, -0.1)}, "learning_rate of at least 0"),
    ({"objective.beta": Constant(math.nan)}, "a finite number; got nan"),
    ({"guide.family.scale": Constant(math.inf)}, "a finite number; got inf"),
]


@pytest.mark.parametrize(("schedules", "words"), REFUSED)
def test_no_number_or_no_value_of_it(schedules: dict[str, Schedule], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        fitted(pair=spread, schedules=schedules)


def test_a_refusal_leaves_the_svi_as_it_was() -> None:
    made, objective = PAIRS["bernoulli"](), Elbo()
    svi = SVI(made.model, made.guide, objective=objective)
    beta: dict[str, Schedule] = {"objective.beta": Linear(), "kl": Linear()}
    with pytest.raises(ValueError, match="the name 'kl'"):
        fit(svi, data(), epochs=1, batch_size=5, schedules=beta)
    assert svi.objective is objective


def test_a_temperature_of_zero_is_refused_before_the_first_step() -> None:
    made = PAIRS["discrete"]()
    svi = SVI(made.model, made.guide, objective=Elbo(2, StraightThrough()))
    svi.prepare(made.x)
    with pytest.raises(ValueError, match="after 2 epochs: Expected a temperature above 0; got 0.0"):
        Scheduled(svi, {"objective.estimator.temperature": Linear(2, 1.0, 0.0)}, epochs=4)


@pytest.mark.parametrize("schedule", [Constant(-0.1), Linear(start=-0.5), Cyclic(start=-1e-9)])
def test_a_negative_kl_weight_is_refused(schedule: Schedule) -> None:
    with pytest.raises(ValueError, match="Expected a kl_weight of at least 0; got -"):
        fitted(kl_weight=schedule)


def test_one_number_has_one_schedule() -> None:
    with pytest.raises(ValueError, match="kl_weight has two schedules"):
        fitted(kl_weight=Linear(), schedules={"kl_weight": Constant()})
    made = PAIRS["bernoulli"]()
    rate = {"learning_rate": Linear()}
    svi = SVI(made.model, made.guide, scheduler=lambda o: StepLR(o, 1))
    with pytest.raises(ValueError, match="StepLR schedules it too"):
        fit(svi, data(), epochs=1, batch_size=5, schedules=rate)
    svi = SVI(made.model, made.guide, lambda p: optim.SGD([{"params": [v], "lr": 0.1} for v in p]))
    with pytest.raises(ValueError, match="groups of parameters"):
        fit(svi, data(), epochs=1, batch_size=5, schedules=rate)


def test_what_an_estimator_remembers_stays_with_the_scheduled_objective() -> None:
    objective = Elbo(1, ScoreFunction())
    _, svi = fitted(objective=objective, schedules={"objective.beta": Linear(2)})
    assert svi.objective.state is objective.state
    assert objective.state is not None
    assert any(value.abs().sum() > 0 for value in objective.state.buffers())

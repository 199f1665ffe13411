"""A captured step equals the eager one, or is given up aloud: ways in which a program may change.

The pair learns one number m of x ~ N(m + what changes, 1), so that the best m is known.
"""

import itertools
import logging
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn, optim
from torch.optim.lr_scheduler import OneCycleLR

from inference import SVI, Compile, Elbo
from inference.capture import CapturedPass
from inference.capture.comparing import first_difference
from inference.data import AsIs, Dataset, Split
from inference.training import fit

AUTO: tuple[Compile, ...] = ("auto", "graph")
X = torch.tensor([[0.5], [-0.5], [1.0], [0.0]])
sgd = partial(optim.SGD, lr=0.1)
adam = partial(optim.Adam, lr=0.1, fused=True)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("inference.training.captures.PATIENCE", 3)
    yield
    pyro.clear_param_store()


class Shifted(PyroModule):
    """x ~ N(m + shift, 1), where m is what there is to learn: at the end it is mean(x) - shift."""

    def __init__(self) -> None:
        super().__init__()
        self.m = nn.Parameter(torch.zeros(()))

    def shift(self) -> Any:
        return 0.0

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
            loc = self.m + self.shift() + 0.0 * z
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)


class Guide(PyroModule):
    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))


def svi_of(model: Any, how: Compile, make: Any = sgd, **options: Any) -> SVI:
    pyro.set_rng_seed(0)
    return SVI(model, Guide(), make, compile=how, **options)


def learned(kind: Callable[[], Shifted], how: Compile, steps: int = 60, make: Any = sgd) -> Tensor:
    """Return m after each step."""
    model = kind()
    svi = svi_of(model, how, make)
    found = []
    for _ in range(steps):
        svi.step(X)
        found.append(model.m.detach().clone())
    svi.verify()
    return torch.stack(found)


# What draws or moves by other means than torch.


class PythonCoin(Shifted):
    def shift(self) -> Any:
        return 4.0 * (random.random() < 0.5)


class NumpyCoin(Shifted):
    def shift(self) -> Any:
        return 4.0 * (np.random.rand() < 0.5)


class OwnNumpyCoin(Shifted):
    def __init__(self) -> None:
        super().__init__()
        self.rng = np.random.default_rng(0)

    def shift(self) -> Any:
        return 4.0 * (self.rng.random() < 0.5)


class OwnPythonCoin(Shifted):
    def __init__(self) -> None:
        super().__init__()
        self.rng = random.Random(0)

    def shift(self) -> Any:
        return 4.0 * (self.rng.random() < 0.5)


class OwnTorchCoin(Shifted):
    def __init__(self) -> None:
        super().__init__()
        self.rng = torch.Generator()

    def shift(self) -> Any:
        return 4.0 * torch.randint(0, 2, (), generator=self.rng)


class Counter(Shifted):
    """A branch of every seventh step."""

    calls = 0

    def shift(self) -> Any:
        self.calls += 1
        return 4.0 if self.calls % 7 == 0 else 0.0


class CounterInAList(Shifted):
    def __init__(self) -> None:
        super().__init__()
        self.calls = [0]

    def shift(self) -> Any:
        self.calls[0] += 1
        return 4.0 if self.calls[0] % 7 == 0 else 0.0


CALLS = 0


class CounterInAGlobal(Shifted):
    def shift(self) -> Any:
        global CALLS
        CALLS += 1
        return 4.0 if CALLS % 7 == 0 else 0.0


class AssignedBuffer(Shifted):
    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))

    def shift(self) -> Any:
        self.mean = 0.9 * self.mean + 0.1
        return self.mean


class AssignedTensor(Shifted):
    """The same as a plain attribute."""

    mean = torch.zeros(())

    def shift(self) -> Any:
        self.mean = 0.9 * self.mean + 0.1
        return self.mean


REFUSED: dict[type[Shifted], str] = {
    PythonCoin: "it draws from Python's random",
    NumpyCoin: "it draws from NumPy's np.random",
    OwnNumpyCoin: r"model.rng.* changes in the step",
    OwnPythonCoin: r"model.rng.* changes in the step",
    OwnTorchCoin: r"it draws from a torch.Generator of its own",
    Counter: "model.calls changes in the step",
    CounterInAList: "model.calls.* changes in the step",
    CounterInAGlobal: "CALLS.* changes in the step",
    AssignedBuffer: "buffer 'model.mean' is assigned anew .*copy_",
    AssignedTensor: "model.mean changes in the step",
}
EXACT = {PythonCoin, NumpyCoin, Counter, AssignedBuffer, AssignedTensor}
"""Those whose trial capture leaves no trace: what follows is eager to the last bit."""


@pytest.mark.parametrize("kind", REFUSED)
def test_what_a_graph_would_freeze_is_refused(
    kind: type[Shifted], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ValueError, match=f"The step can't be captured: .*{REFUSED[kind]}"):
        learned(kind, "graph", 4)
    eager, auto = (learned(kind, how) for how in ("off", "auto"))
    assert [r.message for r in caplog.records if r.levelno >= logging.WARNING] == [
        r.message for r in caplog.records if "taking eager steps" in r.message
    ]
    assert caplog.text.count("taking eager steps") == 1
    if kind in EXACT:
        assert torch.equal(eager, auto)
    assert auto[-1] != auto[-2]


def test_a_coin_of_python_is_learned() -> None:
    """x - m is 4 or 0, each half of the time, and mean(x) is 1/4: m goes to 1/4 - 2."""
    m = learned(PythonCoin, "auto", 2_000, partial(optim.SGD, lr=0.002))
    assert m[-500:].mean().item() == pytest.approx(-1.75, abs=0.1)


def test_a_view_that_draws_by_numpy_is_refused() -> None:
    def source(places: Tensor) -> Tensor:
        return X[places] + float(np.random.rand())

    svi = svi_of(Shifted(), "graph")
    svi.step(torch.arange(4), source=source)
    with pytest.raises(ValueError, match=r"NumPy's np.random"):
        svi.step(torch.arange(4), source=source)


def test_an_assigned_buffer_is_saved_as_it_is() -> None:
    """1 - .9^n after n steps, and what `prepare` runs before the first counts as one."""
    model = AssignedBuffer()
    svi = svi_of(model, "auto")
    for _ in range(10):
        svi.step(X)
    assert svi.state_dict()["weights"]["model.mean"].item() == pytest.approx(1 - 0.9**11)


# What a user changes while it trains.

BETA = 0.0


class ByAttribute(Shifted):
    beta = 0.0

    def shift(self) -> Any:
        return self.beta

    def change(self) -> None:
        self.beta = 3.0


class ByGlobal(Shifted):
    def shift(self) -> Any:
        return BETA

    def change(self) -> None:
        global BETA
        BETA = 3.0


class ByTensor(Shifted):
    def __init__(self) -> None:
        super().__init__()
        self.beta = torch.zeros(())

    def shift(self) -> Any:
        return self.beta

    def change(self) -> None:
        self.beta = torch.tensor(3.0)


class ByDictionary(Shifted):
    def __init__(self) -> None:
        super().__init__()
        self.settings = {"beta": 0.0}

    def shift(self) -> Any:
        return self.settings["beta"]

    def change(self) -> None:
        self.settings["beta"] = 3.0


class ByMethod(Shifted):
    def change(self) -> None:
        self.shift = lambda: 3.0


class ByParameter(Shifted):
    """The parameter that is learned stays; another, a constant, is replaced."""

    def __init__(self) -> None:
        super().__init__()
        self.beta = nn.Parameter(torch.zeros(()), requires_grad=False)

    def shift(self) -> Any:
        return self.beta.detach()

    def change(self) -> None:
        self.beta = nn.Parameter(torch.tensor(3.0), requires_grad=False)


@pytest.mark.parametrize("how", AUTO)
@pytest.mark.parametrize(
    "kind", [ByAttribute, ByGlobal, ByTensor, ByDictionary, ByMethod, ByParameter]
)
def test_what_a_user_changes_is_followed(
    kind: Any, how: Compile, caplog: pytest.LogCaptureFixture
) -> None:
    """Captured anew; m goes on to mean(x) - 3, by exactly the eager steps."""
    global BETA
    found = []
    for each in ("off", how):
        BETA = 0.0
        model = kind()
        svi = svi_of(model, each)
        for step in range(80):
            if step == 29:
                model.change()
            svi.step(X)
        found.append(model.m.item())
        assert svi.captured == (None if each == "off" else "graph")
    assert found[1] == pytest.approx(found[0], rel=1e-5) == pytest.approx(-2.75, abs=0.02)
    assert "taking eager steps" not in caplog.text


@dataclass
class Tempered:
    """An objective of one's own, whose weight a user lowers; so is what makes the batch."""

    beta: float = 1.0
    shift: float = 0.0
    state: None = None

    def __call__(self, model: Any, guide: Any, x: Any) -> Any:
        estimate = Elbo()(model, guide, x)
        return estimate._replace(loss=self.beta * estimate.loss)

    def batch(self, places: Tensor) -> Tensor:
        return X[places] - self.shift


@pytest.mark.parametrize("how", AUTO)
@pytest.mark.parametrize(("name", "value"), [("beta", 0.0), ("shift", 3.0)])
def test_what_changes_beside_the_programs_is_followed(
    name: str, value: float, how: Compile
) -> None:
    found = []
    for each in ("off", how):
        model, changes = Shifted(), Tempered()
        svi = svi_of(model, each, objective=changes)
        for step in range(40):
            if step == 19:
                setattr(changes, name, value)
            svi.step(torch.arange(4), source=changes.batch)
        found.append(model.m.item())
    assert svi.captured == "graph"
    assert found[1] == pytest.approx(found[0], rel=1e-5)


@pytest.mark.parametrize("every", [1, 4])
def test_what_keeps_changing_is_stepped_eagerly(
    every: int, caplog: pytest.LogCaptureFixture
) -> None:
    found = []
    for how in ("off", "auto"):
        model = ByAttribute()
        svi = svi_of(model, how)  # type: ignore[arg-type]
        for step in range(60):
            model.beta = float(step // every)
            svi.step(X)
        found.append(model.m.item())
        assert svi.captured is None
    assert found[1] == pytest.approx(found[0], rel=1e-5)
    assert caplog.text.count("model.beta keeps changing") == 1


# What no comparison of attributes sees.


class Outside(Shifted):
    """What lies outside of Python, as a file does, or the clock."""

    @staticmethod
    def told() -> float:
        return 3.0 if pyro.settings.get("cholesky_relative_jitter") > 5 else 0.0

    def shift(self) -> Any:
        return self.told()


@pytest.fixture
def outside() -> Iterator[Callable[[], None]]:
    before = pyro.settings.get("cholesky_relative_jitter")
    yield lambda: pyro.settings.set(cholesky_relative_jitter=10.0)
    pyro.settings.set(cholesky_relative_jitter=before)


def test_steps_that_went_wrong_unseen_are_undone(
    outside: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    model = Outside()
    svi = svi_of(model, "auto", adam)
    for _ in range(30):
        svi.step(X)
    svi.verify()
    weights, steps = svi.weights(), svi.steps
    outside()
    for _ in range(5):
        svi.step(X)
    assert not svi.verify()
    assert svi.steps == steps
    assert svi.captured is None
    assert all(torch.equal(value, weights[name]) for name, value in svi.weights().items())
    assert "At step 35 the captured step differs" in caplog.text
    assert "Went back to step 30" in caplog.text
    assert "5 steps are undone; taking eager steps." in caplog.text
    for _ in range(200):
        svi.step(X)
    assert model.m.item() == pytest.approx(-2.75, abs=0.02)


@pytest.mark.parametrize("ask", [SVI.verify, SVI.state_dict])
def test_who_insists_is_told(outside: Callable[[], None], ask: Callable[[SVI], Any]) -> None:
    svi = svi_of(Outside(), "graph")
    for _ in range(20):
        svi.step(X)
    outside()
    for _ in range(3):
        svi.step(X)
    with pytest.raises(ValueError, match="At step 23 .*Went back to step .*undone. Train with"):
        ask(svi)


def test_checks_come_at_intervals_without_being_asked_for(
    monkeypatch: pytest.MonkeyPatch, outside: Callable[[], None]
) -> None:
    monkeypatch.setattr("inference.training.captures.INTERVAL", 16)
    monkeypatch.setattr("inference.training.captures.COST", 1.0)
    svi = svi_of(Outside(), "auto")
    for _ in range(100):
        svi.step(X)
    outside()
    for _ in range(17):
        svi.step(X)
    assert svi.captured is None


@pytest.mark.parametrize(("cost", "interval"), [(1.0, 16), (0.0, 64)])
def test_checks_that_take_long_come_less_often(
    monkeypatch: pytest.MonkeyPatch, cost: float, interval: int
) -> None:
    """Up to a longest interval, which no cost passes."""
    for name, value in (("INTERVAL", 16), ("LONGEST", 64), ("COST", cost)):
        monkeypatch.setattr(f"inference.training.captures.{name}", value)
    svi = svi_of(Outside(), "auto")
    for _ in range(400):
        svi.step(X)
    assert svi._captured._interval == interval


def test_what_changes_after_the_last_step_undoes_nothing() -> None:
    """The steps before were right."""
    model = ByAttribute()
    svi = svi_of(model, "auto")
    for _ in range(20):
        svi.step(X)
    model.change()
    assert svi.verify()
    assert svi.steps == 20


def records() -> Dataset:
    split = Split(torch.randn(40, 1, generator=torch.Generator().manual_seed(1)), AsIs())
    return Dataset("numbers", split, split, split)


@pytest.mark.parametrize("at", [17, 41, 58])
def test_fit_goes_back_and_is_the_eager_run(
    at: int, outside: Callable[[], None], caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Six epochs of ten steps; rows, permutations and draws are those of the eager run.

    Nothing is due between the step at which it changes and the end, and the eager run is the one
    that changed where the last check found nothing.
    """
    monkeypatch.setattr("inference.training.captures.INTERVAL", 8)
    runs: list[tuple[list[Any], Tensor]] = []
    verified = [0]
    for how in ("auto", "off"):
        pyro.settings.set(cholesky_relative_jitter=4.0)
        pyro.set_rng_seed(1)
        model, taken = Outside(), itertools.count(1)
        svi = SVI(model, Guide(), adam, compile=how)  # type: ignore[arg-type]
        step, check = svi.step, svi.verify

        def stepped(*args: Any, how: str = how, step: Any = step, **kwargs: Any) -> Any:
            now = next(taken)  # noqa: B023
            if now > at if how == "auto" else now > verified[-1]:
                outside()
            return step(*args, **kwargs)

        def checked(svi: SVI = svi, check: Any = check) -> bool:
            found = check()
            if svi.captured or not found:
                verified.append(svi.steps)
            return found

        monkeypatch.setattr(svi, "step", stepped)
        monkeypatch.setattr(svi, "verify", checked)
        trace = fit(svi, records(), epochs=6, batch_size=4, log_every=3)
        runs.append(([row._replace(seconds=0) for row in trace.rows], model.m.detach()))
    assert caplog.text.count("taking eager steps") == 1
    (auto, m), (eager, expected) = runs
    torch.testing.assert_close(m, expected, rtol=1e-4, atol=1e-5)
    assert [row[:2] for row in auto] == [row[:2] for row in eager]
    a, b = (torch.tensor([row.elbo for row in rows]) for rows in (auto, eager))
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


# Parameters, and the numbers of the optimiser.


class Two(Shifted):
    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Parameter(torch.ones(()))

    def shift(self) -> Any:
        return self.other


MAKERS = {
    "Adam": adam,
    "AdamW": partial(optim.AdamW, lr=0.1, weight_decay=0.1, fused=True),
    "SGD": partial(optim.SGD, lr=0.01, momentum=0.9, weight_decay=0.1),
}


@pytest.mark.parametrize("how", ["off", *AUTO])
@pytest.mark.parametrize("make", MAKERS)
def test_a_frozen_parameter_stays_and_learns_again(how: Compile, make: str) -> None:
    """Also from the start, when its moments are made later than the others'."""
    found = []
    for each, start in itertools.product(("off", how), (0, 12)):
        model = Two()
        svi = svi_of(model, each, MAKERS[make])
        svi.prepare(X)
        for step in range(40):
            model.other.requires_grad_(not start <= step < 24)
            before = model.other.item()
            svi.step(X)
            assert (model.other.item() == before) == (start <= step < 24), step
        found.append((model.m.item(), model.other.item()))
    assert found[2:] == [pytest.approx(each, rel=1e-4) for each in found[:2]]


@pytest.mark.parametrize("make", [adam, partial(optim.SGD, lr=0.1, momentum=0.9, fused=True)])
def test_momentum_that_moves_at_each_step(make: Any, caplog: pytest.LogCaptureFixture) -> None:
    """The gradient stays captured; the log says once that the update does not."""
    caplog.set_level(logging.INFO, "inference")
    found = []
    for how in ("off", "graph"):
        model = Shifted()
        svi = svi_of(model, how, make)  # type: ignore[arg-type]
        svi.prepare(X)
        schedule = OneCycleLR(svi.optimizer, max_lr=0.2, total_steps=60)
        for _ in range(50):
            svi.step(X)
            schedule.step()
        found.append(model.m.item())
    assert svi.captured == "graph"
    assert len(svi._captured.known) == 1
    assert svi._captured.known[0].eager_update
    assert found[1] == pytest.approx(found[0], rel=1e-4)
    assert caplog.text.count("The optimiser's update stays eager") == 1
    assert "eager steps" not in caplog.text


def test_numbers_that_change_now_and_then_stay_captured() -> None:
    found = []
    for how in ("off", "graph"):
        model = Two()
        svi = svi_of(model, how, MAKERS["AdamW"])  # type: ignore[arg-type]
        for step in range(30):
            if step == 10:
                svi.optimizer.param_groups[0]["weight_decay"] = 0.5
            if step == 20:
                svi.optimizer.param_groups[0].update(betas=(0.5, 0.9), lr=0.02)
            svi.step(X)
        found.append((model.m.item(), model.other.item()))
    assert not svi._captured.known[0].eager_update
    assert found[1] == pytest.approx(found[0], rel=1e-4)


def test_a_learning_rate_in_a_tensor_is_followed_in_place() -> None:
    found = []
    for how in ("off", "graph"):
        model = Shifted()
        svi = svi_of(model, how, partial(optim.Adam, lr=torch.tensor(0.1), fused=True))  # type: ignore[arg-type]
        for step in range(30):
            if step == 10:
                svi.optimizer.param_groups[0]["lr"].fill_(0.01)
            svi.step(X)
        found.append(model.m.item())
    assert found[1] == pytest.approx(found[0], rel=1e-4)


# Modules behind functions; NaN.


def test_batch_norm_behind_a_function_is_left_alone_by_captures_and_checks() -> None:
    """Each step counts one batch, captured or not; a check counts none."""
    counts = []
    for how in ("off", "graph"):
        pyro.set_rng_seed(0)
        net = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1))

        def model(x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(x.new_zeros(1), 1.0).to_event(1), obs=x)

        def guide(x: Tensor, net: nn.Module = net) -> None:
            pyro.module("net", net)
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(net(x), 1.0).to_event(1))

        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        svi = SVI(model, guide, sgd, compile=how)  # type: ignore[arg-type]
        for _ in range(10):
            svi.step(X)
        assert svi.verify()
        counts.append((int(net[1].num_batches_tracked), net[1].running_mean.item()))  # type: ignore[arg-type]
    assert counts[1] == (counts[0][0], pytest.approx(counts[0][1], rel=1e-4))


class BecomesNan(Shifted):
    def shift(self) -> Any:
        return 0.0 * (0.2 - self.m).log()  # m goes to 1/4


def test_nan_in_both_is_no_difference() -> None:
    model = BecomesNan()
    svi = svi_of(model, "graph")
    losses = [svi.step(X).loss.item() for _ in range(30)]
    assert losses[-1] != losses[-1]
    assert svi.captured == "graph"


# Passes: what an evaluation runs again and again.


def passes(kind: Any) -> tuple[Any, CapturedPass]:
    """A pass that returns what the model shifts by."""
    model = kind()
    return model, CapturedPass(lambda x: [x + model.shift()], "auto", 100, [model])


@pytest.mark.parametrize("kind", [ByAttribute, ByGlobal, ByTensor, ByDictionary, ByMethod])
def test_a_pass_follows_what_a_user_changes(kind: Any) -> None:
    global BETA
    BETA = 0.0
    model, call = passes(kind)
    for turn in range(9):
        if turn == 5:
            model.change()
        torch.testing.assert_close(call(X)[0], X + (3.0 if turn >= 5 else 0.0))


@pytest.mark.parametrize("kind", [PythonCoin, NumpyCoin, Counter, CounterInAList])
def test_a_pass_that_a_graph_would_freeze_is_eager(
    kind: Any, caplog: pytest.LogCaptureFixture
) -> None:
    _, call = passes(kind)
    found = {float(call(X)[0][0]) for _ in range(40)}
    assert found == {0.5, 4.5}
    assert "eagerly" in caplog.text


class PassesNan(Shifted):
    def shift(self) -> Any:
        return torch.zeros(()).log() * 0.0


def test_a_pass_of_nan_is_captured(caplog: pytest.LogCaptureFixture) -> None:
    _, call = passes(PassesNan)
    assert all(call(X)[0].isnan().all() for _ in range(4))
    assert "eagerly" not in caplog.text


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("expected", "found", "said"),
    [
        ([1.0, 2.0], [1.0, 2.0], None),
        ([1.0, 2.0], [1.0, 2.0001], None),
        ([1.0, 2.0], [1.0, 2.1], r"a \(by 0.1, of 2"),
        ([1.0, NAN], [1.0, NAN], None),
        ([1.0, INF], [1.0, INF], None),
        ([1.0, INF], [1.0, -INF], r"a \(the eager one has NaN or infinities"),
        ([1.0, NAN], [2.0, NAN], r"a \(by 1, of 1"),
        ([1.0, 2.0], [1.0, NAN], r"a \(the captured one has NaN or infinities where"),
        ([1.0, NAN], [1.0, 2.0], r"a \(the eager one has NaN or infinities where"),
        ([], [], None),
        ([0.0], [0.0], None),
    ],
)
@pytest.mark.parametrize("order", [2.0, INF])
def test_comparing(
    expected: list[float], found: list[float], said: str | None, order: float
) -> None:
    result = first_difference({"a": Tensor(expected)}, [Tensor(found)], 1e-3, order=order)
    assert result is None if said is None else re.match(said, str(result))

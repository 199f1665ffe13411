"""On a device, without one: on `meta` a tensor made on the CPU and a value read back both fail."""

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

import inference
from inference import (
    SVI,
    Chi,
    Elbo,
    Enumerate,
    FreeBits,
    InfoVae,
    Iwae,
    Objective,
    Pathwise,
    ScoreFunction,
    StraightThrough,
    WakeSleep,
    log_weights,
)
from inference.data import AsIs, Binarised, Split
from inference.default_device import on_device_of
from inference.evaluation import encode, interpolations, prior_samples, reconstructions
from inference.evaluation.reduced import reduced
from inference.evaluation.validation import _sums
from inference.objectives import FromPyro

from .devices import META, Waits, on_meta, refusing_copies
from .objectives import OBJECTIVES
from .pairs import PAIRS, Pair, bits, rows
from .test_capture import CAPTURABLE

NO_META = {
    "prior spline flow": "Pyro's spline picks the coordinates within its bounds: it reads values",
    "curved power spherical": "torch has no gradient of gamma draws for meta tensors",
}
"""Pairs without a step on `meta`, and why."""


def expected_to_run(name: str) -> AbstractContextManager[Any]:
    return pytest.raises(NotImplementedError) if name in NO_META else nullcontext()


def step(pair: Pair, objective: Any) -> None:
    """Take a step after the run that finds the parameters, where what is made once is made."""
    svi = SVI(pair.model, pair.guide, torch.optim.Adam, objective, compile="off", clip_norm=1.0)
    svi.prepare(pair.x)
    with refusing_copies():
        estimate = svi.step(pair.x, kl_weight=0.5)
    assert all(value.is_meta and value.shape == () for value in estimate)
    assert all(value.is_meta for value in svi.parameters.values())


@pytest.mark.parametrize("particles", [pytest.param(1, marks=pytest.mark.slow), 3])
@pytest.mark.parametrize("name", CAPTURABLE)
def test_pair(name: str, particles: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step, a pass of the validation, and what an evaluation makes of the weights."""
    pair = on_meta(CAPTURABLE[name], monkeypatch)
    with expected_to_run(name):
        step(pair, Elbo(particles))
    if name == "prior spline flow":
        return
    batch = pair.x if isinstance(pair.x, tuple) else (pair.x,)
    with torch.no_grad(), refusing_copies():
        sums = _sums(pair.model, pair.guide, *batch, names=[])
        weights = log_weights(pair.model, pair.guide, batch, particles)
        assert all(value.is_meta for value in sums)
        if pair.local:
            total = weights.total.double().mean(0, keepdim=True).expand(30, -1)
            measured = reduced(total, [1, 10, 30], 30)
            assert all(value.is_meta for value in measured.values())


TABLE: list[tuple[str, Any]] = [
    *OBJECTIVES,
    ("bernoulli", FreeBits(2, analytic_kl=True)),
    ("semi-supervised", Elbo(2, Enumerate())),
    ("conditional", InfoVae()),
    ("discrete", Iwae(2, ScoreFunction())),
    ("conditional", WakeSleep(3, phi="sleep")),
    ("sequence", Chi(2)),
    ("discrete", Elbo(2, StraightThrough())),
    ("bernoulli", Elbo(2, Pathwise())),
]


@pytest.mark.parametrize(("name", "objective"), TABLE, ids=lambda value: str(value)[:60])
def test_objective(name: str, objective: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    step(on_meta(CAPTURABLE[name], monkeypatch), copy.deepcopy(objective))


def test_every_objective_and_estimator_is_in_the_table() -> None:
    made = {type(objective) for _, objective in TABLE}
    made |= {type(getattr(objective, "estimator", None)) for _, objective in TABLE}
    parts = {
        part
        for part in vars(inference).values()
        if isinstance(part, type)
        and part.__module__.startswith("inference.objectives")
        and "__call__" in vars(part)
        and not getattr(part, "__abstractmethods__", None)
        and not issubclass(part, FromPyro)
    }
    parts = {p for p in parts if issubclass(p, Objective) or "bound" in _arguments(p)}
    assert {part.__name__ for part in parts - made} == set()


def _arguments(part: type) -> tuple[str, ...]:
    return part.__call__.__code__.co_varnames[: part.__call__.__code__.co_argcount]


def test_pyros_own_objectives_read_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """They look for a NaN in each step; on CUDA, where one can, each step waits for that."""
    pair = on_meta(PAIRS["bernoulli"], monkeypatch)
    with pytest.raises(RuntimeError, match="cannot be called on meta"):
        step(pair, pyro.infer.Trace_ELBO())  # type: ignore[attr-defined]


NOT_DRAWN = {
    **NO_META,
    "binomial": "torch has no such draws for meta tensors",
    "beta": "torch has no such draws for meta tensors",
    "multinomial": "torch has no such draws for meta tensors",
    "prior autoregressive flow": "Pyro's inverse walks over a permutation, whose values it reads",
}
"""Pairs whose models are not drawn from on `meta`, and why."""


@pytest.mark.parametrize("name", rows(n for n in PAIRS if n not in NOT_DRAWN))
def test_drawing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = on_meta(PAIRS[name], monkeypatch)
    sites = {
        **prior_samples(pair.model, pair.x),
        **reconstructions(pair.model, pair.guide, pair.x),
        **encode(pair.model, pair.guide, pair.x),
        **interpolations(pair.model, pair.guide, pair.x, 3),
    }
    assert sites
    assert all(value.is_meta for value in sites.values())


def test_batches_of_a_split() -> None:
    stored = torch.zeros(20, 3, device=META)
    places = torch.zeros(5, dtype=torch.long, device=META)
    with refusing_copies():
        for view in (AsIs(), Binarised(16)):
            batch = Split(stored, view).batch(places)
            assert isinstance(batch, Tensor)
            assert batch.is_meta


class Careless(PyroModule):
    """What most people write: nothing here says where it is."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(4, 12)

    def forward(self, x: Tensor) -> None:
        eye, shift = torch.eye(4), torch.tensor(0.5)
        places = torch.arange(4)
        with pyro.plate("data", len(x)):
            s = pyro.sample("s", dist.Gamma(2.0, torch.ones(4)).to_event(1))
            z = pyro.sample("z", dist.Normal(torch.zeros(4), 1.0).to_event(1))
            z = (z @ eye + shift)[..., places] * torch.linspace(0, 1, 4) * s
            logits = self.net(z) + torch.full((12,), -1.0)
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)


class CarelessGuide(PyroModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> None:
        loc = self.net(x)
        with pyro.plate("data", len(x)):
            s = dist.LogNormal(torch.zeros(len(x), 4), 0.3).to_event(1)
            pyro.sample("s", s)
            pyro.sample("z", dist.Normal(loc + torch.randn(4), torch.tensor(0.1)).to_event(1))


def careless() -> Pair:
    return Pair(Careless(), CarelessGuide(), bits().flatten(1))


@pytest.mark.parametrize(
    "objective", [Elbo(), Elbo(3), Iwae(2), WakeSleep(2, phi="sleep"), Elbo(2, ScoreFunction())]
)
def test_pair_that_names_no_device(objective: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    step(on_meta(careless, monkeypatch), objective)


def test_pair_that_names_no_device_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = on_meta(careless, monkeypatch)
    for images in (prior_samples(pair.model, pair.x), reconstructions(*pair[:3])):
        assert images["x"].is_meta


@pytest.mark.parametrize(
    ("make", "shape", "dtype"),
    [
        (lambda: torch.zeros(2), (2,), torch.float32),
        (lambda: torch.tensor(0.5), (), torch.float32),
        (lambda: torch.tensor(3), (), torch.int64),
        (lambda: torch.tensor(True), (), torch.bool),
        (lambda: torch.tensor(3, dtype=torch.float64), (), torch.float64),
        (lambda: torch.as_tensor(1.5), (), torch.float32),
        (lambda: torch.tensor(0.5, requires_grad=True), (), torch.float32),
        (lambda: torch.tensor([0.5, 1.0]), (2,), torch.float32),
        (lambda: torch.arange(3), (3,), torch.int64),
        (lambda: torch.randn(3, 2), (3, 2), torch.float32),
        (lambda: torch.eye(2), (2, 2), torch.float32),
    ],
)
def test_what_is_made_is_on_the_device(
    make: Callable[[], Tensor], shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    elsewhere = make()
    assert (elsewhere.shape, elsewhere.dtype) == (shape, dtype)
    with on_device_of((torch.zeros(1, device=META),)):
        made = make()
    assert made.is_meta
    assert (made.shape, made.dtype) == (elsewhere.shape, elsewhere.dtype)
    assert made.requires_grad == elsewhere.requires_grad


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.zeros(2, device="cpu"),
        lambda: torch.tensor(0.5, device="cpu"),
        lambda: torch.as_tensor(TENSOR),
        lambda: torch.randn(2, generator=torch.Generator()),
        lambda: torch.zeros_like(TENSOR),
        lambda: torch.add(TENSOR, 1, out=torch.empty(2, device="cpu")),
    ],
)
def test_what_names_its_place_stays_there(make: Callable[[], Tensor]) -> None:
    with on_device_of((torch.zeros(1, device=META),)):
        assert make().device.type == "cpu"


TENSOR = torch.ones(2)


def test_nothing_is_entered_where_nothing_need_be() -> None:
    enter = on_device_of
    assert isinstance(enter((torch.zeros(1),)), nullcontext)
    batch = (torch.zeros(1, device=META),)
    with enter(batch):
        assert isinstance(enter(batch), nullcontext)
    assert torch.zeros(1).device.type == "cpu"


def test_waits_are_seen() -> None:
    """The test's own eyes: each of these waits for a GPU."""
    x = torch.zeros(4, device=META)
    calls: list[Callable[[], object]] = [
        lambda: dist.Normal(x, 1.0),
        lambda: dist.Binomial(16, logits=x),
        lambda: torch.tensor(0.5, device=META),
        lambda: x.new_tensor([0.5]),
        lambda: torch.eye(3).to(META),
        lambda: x[torch.tensor([1, 2])],
        lambda: x.copy_(torch.ones(4)),
    ]
    for call in calls:
        with pytest.raises(Waits), refusing_copies():
            call()
    with refusing_copies():
        _ = x * torch.ones(())

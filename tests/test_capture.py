"""Captured steps: the same trace as eager ones, on every pair, objective and optimiser.

Whatever differs between two runs here is rounding: the captured graph draws the same numbers.
"""

import copy
import logging
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pyro.infer
import pytest
import torch
from pyro.distributions.transforms import affine_autoregressive
from pyro.nn import PyroModule
from pyro.optim.clipped_adam import ClippedAdam
from torch import Tensor, nn, optim
from torch.fx.experimental.proxy_tensor import make_fx
from torch.optim.lr_scheduler import StepLR

import guides
import models
from inference import (
    SVI,
    Compile,
    Elbo,
    Linear,
    StickingTheLanding,
)
from inference.capture import CapturedPass, Inductor
from inference.capture.choosing import PASSES
from inference.capture.choosing import STEPS as PAYS
from inference.capture.graph_passes import take_out_draws
from inference.data import AsIs, Binarised, Dataset, Split
from inference.evaluation import Validator
from inference.runs import Run
from inference.training import fit
from inference.training.captures import PATIENCE

from .objectives import OBJECTIVES
from .pairs import EVENT, LATENT, PAIRS, Pair, bits, rows, vae

STEPS = 8


class NormedEncoder(nn.Module):
    """Batch normalisation and dropout: buffers that a step changes, noise of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(12, 8, bias=False),
            nn.BatchNorm1d(8),
            nn.Dropout(0.3),
            nn.Linear(8, 2 * LATENT),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.flatten(1))


class FlowGuide(PyroModule):
    """Inverse autoregressive flow on an amortized base."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(12, 2 * LATENT)
        self.flow = affine_autoregressive(LATENT, [6])

    def forward(self, x: Tensor) -> Tensor:
        loc, log_scale = self.net(x.flatten(1)).chunk(2, -1)
        base = dist.Normal(loc, log_scale.exp()).to_event(1)
        with pyro.plate("data", len(x)):
            return pyro.sample("z", dist.TransformedDistribution(base, [self.flow]))


class RelaxedGuide(PyroModule):
    """Concrete relaxation of three bits, whose temperature is a buffer that somebody lowers."""

    temperature: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(12, 3)
        self.register_buffer("temperature", torch.tensor(1.0))

    def forward(self, x: Tensor) -> Tensor:
        q = dist.RelaxedBernoulliStraightThrough(self.temperature, logits=self.net(x.flatten(1)))
        with pyro.plate("data", len(x)):
            return pyro.sample("z", q.to_event(1))


def normed() -> Pair:
    pair = vae(models.Bernoulli, bits())
    family = guides.DiagonalNormal(LATENT)
    return pair._replace(guide=guides.Amortized(NormedEncoder(), family))


def optimal() -> Pair:
    """A likelihood whose scale is a buffer that follows the errors."""
    return vae(models.OptimalNormal, torch.rand(6, *EVENT))


def flow() -> Pair:
    return vae(models.Bernoulli, bits())._replace(guide=FlowGuide())


def relaxed() -> Pair:
    class Model(PyroModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(3, 12)

        def forward(self, x: Tensor) -> None:
            p = dist.RelaxedBernoulliStraightThrough(torch.tensor(1.0), probs=torch.full((3,), 0.5))
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", p.to_event(1))
                logits = self.net(z).reshape(*z.shape[:-1], *EVENT)
                pyro.sample("x", dist.Bernoulli(logits=logits).to_event(3), obs=x)

    return Pair(Model(), RelaxedGuide(), bits())


def implicit() -> Pair:
    """A posterior without a density: what it reports rises only in the long run."""
    family = partial(guides.Implicit, hidden=[8], context=3, draws=8)
    return vae(models.Bernoulli, bits(), posterior=family)


CAPTURABLE = {
    **PAIRS,
    "batch norm and dropout": normed,
    "flow": flow,
    "optimal scale": optimal,
    "relaxed bits": relaxed,
    "implicit": implicit,
}

Make = Callable[[Any], optim.Optimizer]
adam: Make = partial(optim.Adam, lr=0.01, fused=True)

OPTIMIZERS: dict[str, tuple[Make, bool]] = {
    "Adam": (adam, True),
    "AdamW": (partial(optim.AdamW, lr=0.01, fused=True), True),
    "AdamW, not fused": (partial(optim.AdamW, lr=0.01), False),
    "SGD": (partial(optim.SGD, lr=0.001), False),
    "SGD, momentum": (partial(optim.SGD, lr=0.001, momentum=0.9), False),
    "RMSprop": (partial(optim.RMSprop, lr=0.001), False),
    "ClippedAdam": (partial(ClippedAdam, lr=0.01), False),
}
"""And whether their update is captured too, or taken eagerly after the captured gradient."""


def train(
    make: Callable[[], Pair],
    how: Compile,
    objective: Any = None,
    optimizer: Make = adam,
    steps: int = STEPS,
    **options: Any,
) -> tuple[Tensor, SVI]:
    """Return what each step said, (steps, 4), and the SVI."""
    pyro.clear_param_store()
    pyro.set_rng_seed(3)
    pair = make()
    objective = copy.deepcopy(objective)  # it may remember
    svi = SVI(pair.model, pair.guide, optimizer, objective, compile=how, **options)
    return torch.stack([torch.stack(svi.step(pair.x)) for _ in range(steps)]), svi


def same(a: tuple[Tensor, SVI], b: tuple[Tensor, SVI]) -> None:
    torch.testing.assert_close(b[0], a[0], rtol=1e-4, atol=1e-4)
    weights, others = a[1].weights(), b[1].weights()
    for name, value in weights.items():
        torch.testing.assert_close(others[name], value, rtol=1e-3, atol=1e-4, msg=name)


@pytest.fixture(autouse=True)
def _as_found() -> Any:
    yield
    pyro.clear_param_store()


QUICK = ("bernoulli", "batch norm and dropout")
"""Pairs that are compiled in every run of the tests: two seconds each."""

needs_compiler = pytest.mark.skipif(
    Inductor().missing(torch.device("cpu")) is not None, reason="no C++ compiler"
)


@pytest.mark.parametrize("name", rows(CAPTURABLE))
def test_graph_takes_the_eager_steps(name: str) -> None:
    if not CAPTURABLE[name]().captures:
        with pytest.raises(ValueError, match="The step can't be captured"):
            train(CAPTURABLE[name], "graph")
        return
    eager, captured = (train(CAPTURABLE[name], how) for how in ("off", "graph"))
    assert captured[1].captured == "graph"
    same(eager, captured)


@pytest.mark.parametrize(("pair", "objective"), OBJECTIVES, ids=lambda o: str(o)[:48])
def test_graph_takes_every_objectives_steps(pair: str, objective: Any) -> None:
    make = CAPTURABLE[pair]
    same(*(train(make, how, objective) for how in ("off", "graph")))  # type: ignore[arg-type]


@needs_compiler
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in CAPTURABLE],
)
def test_compiled_graph_takes_the_eager_steps(name: str) -> None:
    if not CAPTURABLE[name]().captures:
        pytest.skip("it can't be captured, as the test of the graph sees")
    eager, captured = (train(CAPTURABLE[name], how) for how in ("off", "inductor"))
    assert captured[1].captured == "inductor"
    same(eager, captured)


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize(("pair", "objective"), OBJECTIVES, ids=lambda o: str(o)[:48])
def test_compiled_graph_takes_every_objectives_steps(pair: str, objective: Any) -> None:
    make = CAPTURABLE[pair]
    same(*(train(make, how, objective) for how in ("off", "inductor")))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer(name: str) -> None:
    make, whole = OPTIMIZERS[name]
    for clip in (None, 0.5):
        a, b = (
            train(PAIRS["bernoulli"], how, None, make, clip_norm=clip) for how in ("off", "graph")
        )
        same(a, b)
        assert all(step.eager_update != whole for step in b[1]._captured.known)


@pytest.mark.parametrize(
    ("pair", "objective"),
    [
        *(("bernoulli", elbo) for elbo in (
            pyro.infer.Trace_ELBO(), pyro.infer.RenyiELBO(),
            pyro.infer.TraceEnum_ELBO(max_plate_nesting=1),
        )),
        ("flow", Elbo(1, StickingTheLanding())),  # its inverse walks over a permutation
    ],
    ids=lambda o: type(o).__name__,
)  # fmt: skip
def test_what_reads_values_falls_back(
    pair: str, objective: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inference.training.captures.PATIENCE", 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _, svi = train(CAPTURABLE[pair], "auto", objective)
        assert svi.captured is None
        assert "Capture failed (it reads a value back" in caplog.text
        with pytest.raises(ValueError, match="reads a value back from a tensor"):
            train(CAPTURABLE[pair], "graph", objective)


class Wrong(PyroModule):
    """A linear model of 12 numbers, to be made wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(LATENT, 12)

    def logits(self, z: Tensor, x: Tensor) -> Tensor:
        return self.net(z)

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(LATENT), 1.0).to_event(1))
            x = x.flatten(1)
            pyro.sample("bits", dist.Bernoulli(logits=self.logits(z, x)).to_event(1), obs=x)


class Counts(Wrong):
    calls = 0

    def logits(self, z: Tensor, x: Tensor) -> Tensor:
        self.calls += 1
        return self.net(z) / self.calls


class Branches(Wrong):
    def logits(self, z: Tensor, x: Tensor) -> Tensor:
        return self.net(z) if x.sum() > 0 else -self.net(z)


class LooksAtAnArray(Wrong):
    def logits(self, z: Tensor, x: Tensor) -> Tensor:
        return self.net(z) * float(x.numpy().mean())


class TakesFromAnIterator(Wrong):
    def logits(self, z: Tensor, x: Tensor) -> Tensor:
        if not hasattr(self, "levels"):
            self.levels = iter(range(1, 1_000_000))  # no snapshot can look into it
        return self.net(z) * next(self.levels)


class HasShapesOfValues(Wrong):
    def logits(self, z: Tensor, x: Tensor) -> Tensor:
        return self.net(z) + x[x > 0.5].mean()


WRONG = {
    Branches: r"reads a value back .*test_capture.py, line \d+: .* if x.sum\(\) > 0",
    HasShapesOfValues: r"a shape depends on values .*test_capture.py, line \d+: .*x > 0.5",
    Counts: "model.calls changes in the step, and a graph would hold it",
    LooksAtAnArray: r"by Tensor.numpy .*test_capture.py, line \d+: .*x.numpy",
    TakesFromAnIterator: "differs from the eager one in the loss .*, first at site 'bits'",
}


def wrong(kind: type[Wrong], how: Compile) -> tuple[Any, Callable[[], Tensor]]:
    pyro.set_rng_seed(0)
    model = kind()
    guide = guides.Amortized(guides.MLP(EVENT, 2 * LATENT, [4]), guides.DiagonalNormal(LATENT))
    svi = SVI(model, guide, compile=how)
    return model, lambda: svi.step(bits()).bound


@pytest.mark.parametrize("model", WRONG)
def test_wrong_capture_is_refused_in_words(
    model: type[Wrong], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, step = wrong(model, "graph")
    step()
    with pytest.raises(ValueError, match=f"The step can't be captured: .*{WRONG[model]}"):
        [step() for _ in range(3)]
    monkeypatch.setattr("inference.training.captures.PATIENCE", 2)
    (_, eager), (_, auto) = wrong(model, "off"), wrong(model, "auto")
    pyro.set_rng_seed(5)
    expected = [eager() for _ in range(2)]
    pyro.set_rng_seed(5)
    assert [auto() for _ in range(2)] == expected
    for _ in range(2):
        auto()
    assert "; taking eager steps." in caplog.text


def test_settings_that_change_are_captured_anew() -> None:
    """Batch sizes, clipping, Adam's betas, evaluation mode; the learning rate is an input."""
    traces = []
    for how in ("off", "graph"):
        pyro.set_rng_seed(1)
        pair = normed()
        svi = SVI(pair.model, pair.guide, adam, compile=how)
        said = []
        for step in range(20):
            if step == 4:
                svi.optimizer.param_groups[0]["lr"] = 0.05
            if step == 8:
                svi.optimizer.param_groups[0]["betas"] = (0.5, 0.9)
            if step == 12:
                pair.guide.eval()
            said.append(torch.stack(svi.step(bits(5 if step == 16 else 6))))
        traces.append((torch.stack(said), svi))
    same(*traces)
    assert len(traces[1][1]._captured.known) == 3  # the rate and the betas made none


def records(size: int = 60) -> Dataset:
    split = Split(torch.randint(0, 17, (size, *EVENT)), Binarised(16))
    return Dataset("levels", split, split, split)


@pytest.mark.parametrize("how", ["graph", pytest.param("inductor", marks=needs_compiler)])
def test_fit_is_the_same_run_with_warm_up_and_scheduler(how: Compile, tmp_path: Path) -> None:
    """Gathering and binarising are in the graph too; each kind of weight has its own."""
    runs = []
    for each in ("off", how):
        pyro.set_rng_seed(2)
        data, pair = records(), vae(models.Bernoulli, bits())
        halve = partial(StepLR, step_size=1, gamma=0.5)
        svi = SVI(pair.model, pair.guide, adam, scheduler=halve, compile=each)
        trace = fit(svi, data, epochs=4, batch_size=20, kl_weight=Linear(2), log_every=1)
        runs.append((torch.tensor([row.elbo for row in trace.rows]), svi))
    same(*runs)
    assert len(runs[1][1]._captured.known) == 2


def test_draws_that_need_no_value_are_taken_out_in_their_order() -> None:
    """Up to the first that does need one; all of them stay the numbers that the function draws."""

    def noisy(x: Tensor) -> list[Tensor]:
        bits = torch.randint(0, 5, (4,))
        dropped = torch.nn.functional.dropout(x.T, 0.3)
        z = torch.empty(3).normal_()
        counts = torch.poisson(x.exp())
        return [bits, dropped, z.mul_(2), counts, torch.rand(3)]

    x = torch.randn(2, 3)
    graph = make_fx(noisy)(x)
    draw = take_out_draws(graph)
    torch.manual_seed(1)
    expected = noisy(x)
    torch.manual_seed(1)
    draws = draw()
    assert [tuple(value.shape) for value in draws] == [(4,), (3, 2), (3,)]
    torch.testing.assert_close(graph(*draws, x), expected, rtol=0, atol=0)


def test_auto_waits_until_it_pays(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    pair = PAIRS["bernoulli"]()
    svi = SVI(pair.model, pair.guide)
    svi.planned = 1_000
    for _ in range(200):
        svi.step(pair.x)
    assert svi.captured is None
    svi.step(pair.x)
    assert svi.captured == "graph"
    assert "captured (graph): 1,000 calls would not pay for a compiler" in caplog.text


@pytest.fixture
def no_space(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("no space left on device")

    monkeypatch.setattr(torch, "compile", broken)


@needs_compiler
@pytest.mark.usefixtures("no_space")
def test_auto_replays_the_graph_where_the_compiler_fails(caplog: pytest.LogCaptureFixture) -> None:
    pair = PAIRS["bernoulli"]()
    svi = SVI(pair.model, pair.guide)
    svi.planned = PAYS["cpu"].compiler
    with caplog.at_level(logging.INFO, "inference"):
        for _ in range(PATIENCE + 2):
            svi.step(pair.x)
    assert svi.captured == "graph"
    assert "(graph): inductor can't (" in caplog.text
    assert "no space left on device" in caplog.text


@needs_compiler
@pytest.mark.usefixtures("no_space")
def test_evaluation_replays_the_graph_where_the_compiler_fails() -> None:
    runs = 0

    def double(x: Tensor) -> list[Tensor]:
        nonlocal runs
        runs += 1
        return [2 * x]

    call = CapturedPass(double, "auto", PASSES["cpu"].compiler)
    for x in torch.randn(9, 3):
        torch.testing.assert_close(call(x), [2 * x])
    assert runs < 9
    with pytest.raises(ValueError, match="no space left on device.*Take compile 'off'"):
        CapturedPass(double, "inductor", 1)(torch.randn(3))


def test_many_shapes_are_stepped_eagerly(caplog: pytest.LogCaptureFixture) -> None:
    pair = PAIRS["bernoulli"]()
    svi = SVI(pair.model, pair.guide)
    svi.steps = 1
    for size in range(2, 14):
        svi._captured.compile = "auto" if size == 2 else svi._captured.compile
        svi.steps = 1000
        svi.step(bits(size))
    assert "more than 8 shapes or settings" in caplog.text


def test_bf16_rounds_products_alone() -> None:
    """The bound moves by the rounding of the products, a relative 2^-8, and is not float32's."""
    exact, rounded = (train(PAIRS["bernoulli"], "graph", precision=p) for p in ("32", "bf16"))
    torch.testing.assert_close(rounded[0], exact[0], rtol=0.02, atol=0.02)
    assert not torch.equal(rounded[0], exact[0])
    same(train(PAIRS["bernoulli"], "off", precision="bf16"), rounded)
    assert {v.dtype for v in rounded[1].weights().values()} == {torch.float32}


@pytest.mark.parametrize(
    "how", ["graph", pytest.param("inductor", marks=[needs_compiler, pytest.mark.slow])]
)
def test_stopped_run_resumes_to_the_same_bits(how: Compile, tmp_path: Path) -> None:
    def trained(*stops: int) -> dict[str, Tensor]:
        run = Run.create(tmp_path / f"{len(stops)} sittings", "", {})
        weights: dict[str, Tensor] = {}
        for epochs in stops:
            pyro.set_rng_seed(2)
            data, pair = records(), normed()
            svi = SVI(pair.model, pair.guide, adam, compile=how)
            fit(svi, data, epochs=epochs, batch_size=20, run=run)
            assert svi.captured == how
            weights = svi.weights()
        return weights

    whole, broken = trained(4), trained(2, 3, 4)
    assert all(torch.equal(value, broken[name]) for name, value in whole.items())


@pytest.mark.parametrize("name", ["bernoulli", "prior vamp", "guide planar", "discrete"])
def test_captured_validation_is_the_eager_one(name: str) -> None:
    """Also where the KL of single dimensions is not known, and there is nothing to sum."""
    pair = PAIRS[name]()
    split = Split(pair.x.repeat(4, *[1] * (pair.x.dim() - 1)), AsIs())
    found = []
    for how, times in (("off", 1), ("auto", 1000)):
        svi = SVI(pair.model, pair.guide, compile=how)  # type: ignore[arg-type]
        svi.prepare(pair.x)
        validate = Validator(
            pair.model, pair.guide, split, batch_size=12, times=times, compile=svi.compile
        )
        found.append((validate(), validate()))
        assert (validate._sums._replay is not None) == (how == "auto")
    torch.testing.assert_close(found[0][0].elbo, found[1][0].elbo, rtol=1e-5, atol=1e-5)
    assert found[0][0][3:] == found[1][0][3:]
    assert found[1][0] == found[1][1]

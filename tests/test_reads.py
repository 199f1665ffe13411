"""What programs read beside their arguments: which modules, and what of it has changed."""

import functools
import itertools
import random
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import config_enumerate
from pyro.nn import PyroModule, PyroParam, PyroSample
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from inference import SVI
from inference.references import Reachable, Reads, modules

from .pairs import PAIRS, rows

Program = Callable[..., Any]

net = nn.Linear(2, 2)
held = [nn.Linear(2, 2), {"deep": nn.Linear(2, 2)}]
beta = 0.5
levels = {"beta": 0.5}
settings = SimpleNamespace(beta=0.5)


class Model(PyroModule):
    """A program that is a module."""

    rate = 1.0

    def __init__(self) -> None:
        super().__init__()
        self.decoder = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout(0.5))
        self.width = PyroParam(torch.ones(2), constraint=dist.constraints.positive)
        self.beta, self.name, self.flag = 0.5, "a", True
        self.layers, self.table = [1, 2], {"a": 1.0}
        self.mean, self.array = torch.zeros(2), np.zeros(3)
        self.part, self.slotted = Part(), Slotted()
        self.names = {"a"}
        self.draws, self.coin, self.old = np.random.default_rng(0), random.Random(0), random_state()
        self.calls = itertools.count()
        self.activation = torch.tanh
        self.register_buffer("total", torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(x) * self.helper()

    def helper(self) -> float:
        return beta * scaled(self.rate)


@dataclass
class Part:
    """An object of a user's own."""

    beta: float = 0.5
    schedule: list[float] = field(default_factory=lambda: [0.1, 0.2])

    def weight(self) -> float:
        return levels["beta"]


class Slotted:
    """One without a dictionary of attributes."""

    __slots__ = ("beta",)

    def __init__(self) -> None:
        self.beta = 0.5


def random_state() -> np.random.RandomState:
    return np.random.RandomState(0)


def scaled(rate: float, by: float = 2.0, *, shift: float = 0.0) -> float:
    return rate * by + shift + settings.beta


def method(module: Model) -> Program:
    return module.forward


def closure() -> Program:
    decoder = nn.Linear(2, 2)

    def model(x: Tensor) -> Tensor:
        return decoder(x)

    return model


def inner() -> Program:
    def model(x: Tensor) -> Any:
        return [net(row) for row in x]

    return model


def default(x: Tensor, decoder: nn.Module = nn.Linear(2, 2)) -> Tensor:  # noqa: B008
    return decoder(x)


def calls(x: Tensor) -> Tensor:
    return default(x)


def reads_list(x: Tensor) -> Any:
    return held


@functools.wraps(calls)
def wrapped(*args: Any) -> Any:
    return args


@torch.no_grad()
def without_gradients(x: Tensor) -> Tensor:
    return net(x)


@functools.lru_cache
def cached(x: int) -> Any:
    return net


MODULES: dict[str, tuple[Callable[[], Program], list[str]]] = {
    "module": (Model, [""]),
    "plain module": (lambda: nn.Linear(2, 2), [""]),
    "method": (lambda: method(Model()), [""]),
    "partial": (lambda: partial(Model(), flag=1), [""]),
    "partial of a partial": (lambda: partial(partial(Model()), flag=1), [""]),
    "argument of a partial": (lambda: partial(print, nn.Linear(2, 2)), [""]),
    "keyword of a partial": (
        lambda: partial(default, decoder=nn.Linear(2, 2)),
        ["decoder", "decoder-2"],
    ),
    "arguments of a partial": (
        lambda: partial(wrapped, nn.Linear(2, 2), nn.ReLU()),
        ["0", "1", "default.decoder"],
    ),
    "lambda": (lambda: (lambda module: lambda x: module(x))(Model()), ["module"]),
    "closure": (closure, ["decoder"]),
    "global": (lambda: inner(), ["net"]),
    "default": (lambda: default, ["decoder"]),
    "called": (lambda: calls, ["default.decoder"]),
    "list and dict": (lambda: reads_list, ["held.0", "held.1.deep"]),
    "wrapped": (lambda: wrapped, ["default.decoder"]),
    "torch's decorator": (lambda: without_gradients, ["net"]),
    "cached": (lambda: cached, ["net"]),
    "poutine.scale": (lambda: poutine.scale(Model(), 0.5), [""]),
    "poutine.block": (lambda: poutine.block(Model(), hide=["z"]), [""]),
    "poutine.mask of a method": (lambda: poutine.mask(method(Model()), mask=True), [""]),
    "poutine.trace": (lambda: poutine.trace(Model()), [""]),
    "poutine.condition of a closure": (lambda: poutine.condition(closure(), data={}), ["decoder"]),
    "config_enumerate": (lambda: config_enumerate(Model()), [""]),
    "handler of a handler": (lambda: poutine.scale(config_enumerate(Model()), 0.5), [""]),
    "none": (lambda: scaled, []),
}


@pytest.mark.parametrize("case", MODULES)
def test_modules(case: str) -> None:
    make, places = MODULES[case]
    found = [*modules(make())]
    assert found == places


def test_modules_in_a_list_of_a_module() -> None:
    module = nn.Module()
    module.layers = [nn.Linear(2, 2), nn.Linear(2, 2)]  # type: ignore[assignment]
    assert [*modules(module)] == ["", "layers.0", "layers.1"]


Change = Callable[[Any], object]


def set_global(name: str, value: Any) -> Change:
    return lambda _: globals().__setitem__(name, value)


MODULE_CHANGES: dict[str, tuple[Change, str]] = {
    "number": (lambda m: setattr(m, "beta", 0.7), "model.beta"),
    "string": (lambda m: setattr(m, "name", "b"), "model.name"),
    "bool": (lambda m: setattr(m, "flag", False), "model.flag"),
    "function": (lambda m: setattr(m, "activation", torch.relu), "model.activation"),
    "item of a list": (lambda m: m.layers.__setitem__(0, 5), "model.layers[0]"),
    "longer list": (lambda m: m.layers.append(5), "model.layers"),
    "another list": (lambda m: setattr(m, "layers", [1, 3]), "model.layers"),
    "item of a dict": (lambda m: m.table.update(a=2.0), "model.table['a']"),
    "new key": (lambda m: m.table.update(b=2.0), "model.table"),
    "set": (lambda m: m.names.symmetric_difference_update("ab"), "model.names"),
    "tensor": (lambda m: setattr(m, "mean", torch.zeros(2)), "model.mean"),
    "array": (lambda m: m.array.__setitem__(0, 1.0), "model.array"),
    "attribute of an object": (lambda m: setattr(m.part, "beta", 0.7), "model.part.beta"),
    "list of an object": (lambda m: m.part.schedule.reverse(), "model.part.schedule[0]"),
    "slot": (lambda m: setattr(m.slotted, "beta", 0.7), "model.slotted.beta"),
    "new attribute": (lambda m: setattr(m, "seen", 1), "model.seen"),
    "deleted attribute": (lambda m: delattr(m, "beta"), "model.beta"),
    "generator": (lambda m: m.draws.random(), "model.draws"),
    "coin": (lambda m: m.coin.random(), "model.coin"),
    "old generator": (lambda m: m.old.rand(), "model.old"),
    "counter": (lambda m: next(m.calls), "model.calls"),
    "parameter": (
        lambda m: setattr(m.decoder[0], "weight", nn.Parameter(torch.zeros(2, 2))),
        "model.decoder.0.weight",
    ),
    "data of a parameter": (
        lambda m: setattr(m.decoder[0].weight, "data", torch.zeros(2, 2)),
        "model.decoder.0.weight",
    ),
    "frozen": (lambda m: m.decoder[0].requires_grad_(False), "model.decoder.0.weight"),
    "buffer": (lambda m: setattr(m, "total", torch.ones(2)), "model.total"),
    "torch's buffer": (
        lambda m: setattr(m.decoder[1], "running_mean", torch.ones(2)),
        "model.decoder.1.running_mean",
    ),
    "module": (lambda m: setattr(m, "decoder", nn.Linear(2, 2)), "model.decoder"),
    "layer": (lambda m: m.decoder.append(nn.ReLU()), "model.decoder"),
    "mode": (lambda m: m.decoder[2].eval(), "model.decoder.2.training"),
    "torch's number": (lambda m: setattr(m.decoder[2], "p", 0.1), "model.decoder.2.p"),
    "random attribute": (
        lambda m: setattr(m, "noise", PyroSample(dist.Normal(0.0, 1.0))),
        "model",
    ),
    "hook": (
        lambda m: m.decoder.register_forward_hook(lambda *_: None),
        "model.decoder._forward_hooks",
    ),
    "class attribute": (lambda m: setattr(Model, "rate", 2.0), "Model.rate"),
    "method": (lambda m: setattr(m, "helper", lambda: 1.0), "model.helper"),
    "method of the class": (lambda m: setattr(Model, "helper", lambda self: 1.0), "Model.helper"),
    "global of a method": (set_global("beta", 0.7), "global 'beta' of model.helper"),
    "item of a global": (lambda _: levels.update(beta=0.7), "model.part.weight.levels['beta']"),
    "object of a function": (
        lambda _: setattr(settings, "beta", 0.7),
        "model.helper.scaled.settings.beta",
    ),
    "function that a method calls": (set_global("scaled", abs), "global 'scaled' of model.helper"),
    "default": (
        lambda _: setattr(scaled, "__defaults__", (3.0,)),
        "defaults of model.helper.scaled",
    ),
    "keyword's default": (
        lambda _: (scaled.__kwdefaults__ or {}).update(shift=1.0),
        "default 'shift' of model.helper.scaled",
    ),
    "code": (
        lambda _: setattr(scaled, "__code__", (lambda r, b, shift=0.0: r).__code__),
        "code of model.helper.scaled",
    ),
}


@pytest.fixture
def _restored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put back what a case changes beyond its own module."""
    monkeypatch.setattr(Model, "rate", Model.rate)
    monkeypatch.setattr(Model, "helper", Model.helper)
    monkeypatch.setitem(levels, "beta", 0.5)
    monkeypatch.setattr(settings, "beta", 0.5)
    for name in ("beta", "scaled"):
        monkeypatch.setitem(globals(), name, globals()[name])
    for name in ("__defaults__", "__code__"):
        monkeypatch.setattr(scaled, name, getattr(scaled, name))
    monkeypatch.setattr(scaled, "__kwdefaults__", {"shift": 0.0})


@pytest.mark.usefixtures("_restored")
@pytest.mark.parametrize("case", MODULE_CHANGES)
def test_change_of_a_module_is_named(case: str) -> None:
    change, place = MODULE_CHANGES[case]
    module = Model()
    reads = Reads(module)
    module(torch.zeros(3, 2))
    assert reads.changed() is None
    change(module)
    assert reads.changed() == place


def closures() -> tuple[Program, Change]:
    scale, steps = 0.5, [1.0]

    def model(x: Tensor) -> Tensor:
        return x * scale * steps[0]

    def change(name: str) -> None:
        nonlocal scale
        if name == "scale":
            scale = 0.7
        else:
            steps[0] = 2.0

    return model, change


def test_change_of_a_closure_is_named() -> None:
    for name, place in (("scale", "closure 'scale' of model"), ("steps", "model.steps[0]")):
        model, change = closures()
        reads = Reads(model)
        assert reads.changed() is None
        change(name)
        assert reads.changed() == place


def test_change_of_the_guide_and_of_a_handler_is_named() -> None:
    model, guide, scale = Model(), Model(), poutine.scale(scale=0.5)
    reads = Reads(scale(model), guide)
    guide.beta = 0.7
    assert reads.changed() == "guide.beta"
    guide.beta = 0.5
    assert reads.changed() is None
    scale.scale = 0.7
    assert reads.changed() == "model.scale"


SAME: dict[str, Change] = {
    "equal number": lambda m: setattr(m, "beta", float("0.5")),
    "equal list": lambda m: setattr(m, "layers", [1, 2]),
    "equal dict": lambda m: setattr(m, "table", {"a": float("1")}),
    "equal array": lambda m: setattr(m, "array", np.zeros(3)),
    "in place": lambda m: m.mean.add_(1),
    "batch norm": lambda m: m.decoder(torch.randn(5, 2)),
    "no gradient": lambda m: m.decoder.zero_grad(),
    "copied weights": lambda m: m.load_state_dict(Model().state_dict()),
}


@pytest.mark.parametrize("case", SAME)
def test_what_is_equal_is_no_change(case: str) -> None:
    module = Model()
    reads = Reads(module)
    SAME[case](module)
    assert reads.changed() is None


def test_equal_list_is_watched_from_then_on() -> None:
    module = Model()
    reads = Reads(module)
    module.layers = [1, 2]
    assert reads.changed() is None
    module.layers[1] = 5
    assert reads.changed() == "model.layers[1]"


class Lazy(nn.Module):
    """What torch, Python and the user's own caches make late."""

    def __init__(self) -> None:
        super().__init__()
        self.normed = weight_norm(nn.Linear(2, 2))
        self.flow = dist.transforms.affine_autoregressive(2, [4])
        self.rnn = nn.GRU(2, 2)

    @functools.cached_property
    def constant(self) -> float:
        return 1.0

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.rnn(self.normed(x) * self.constant * doubled(2))[0]
        base = dist.Normal(torch.zeros(2), 1.0).to_event(1)
        z = dist.TransformedDistribution(base, [self.flow]).rsample((len(x),))
        return hidden + z + self.flow.inv(z)


@functools.lru_cache
def doubled(x: int) -> int:
    return 2 * x


def test_what_is_kept_for_later_is_no_change() -> None:
    module = Lazy()
    reads = Reads(module)
    for _ in range(3):
        module(torch.randn(4, 2))
        assert reads.changed() is None


@pytest.mark.parametrize("name", rows(PAIRS))
def test_sound_pair_changes_nothing(name: str) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The pair cannot carry")
        pair = PAIRS[name]()
        svi = SVI(pair.model, pair.guide, compile="off")
        svi.step(pair.x)
        reads = Reads(pair.model, pair.guide)
        for _ in range(10):
            svi.step(pair.x)
            assert reads.changed() is None


class Remote:
    """A proxy, as of a logger or another process: it makes any attribute, anew at each look."""

    def __getattr__(self, name: str) -> Any:
        return Remote()

    def __call__(self, *words: Any) -> None:
        pass


class Broken:
    """A proxy without a connection."""

    def __getattr__(self, name: str) -> Any:
        raise ConnectionError(name)

    def __call__(self, *words: Any) -> None:
        pass


@pytest.mark.parametrize("proxy", [Remote(), Broken()], ids=["endless", "broken"])
def test_walk_past_a_proxy_ends(proxy: Any) -> None:
    layer = nn.Linear(2, 2)

    def model(x: Tensor) -> Tensor:
        proxy("seen", x)
        return layer(x)

    assert layer in modules(model).values()
    assert Reads(model).changed() is None


def test_walk_leaves_what_pytest_writes_into_an_assert() -> None:
    """A rewritten assert names ``@pytest_ar``, a module from which all of pytest is reached."""

    def model(x: Tensor) -> Tensor:
        assert x.dim() == 2
        return net(x)

    assert any(name.startswith("@") for name in model.__code__.co_names)
    assert [*modules(model)] == ["net"]
    assert not [place for *_, place in Reachable([("", model)]).items if "@" in place]


def test_places_are_the_same_in_another_walk() -> None:
    for make, _ in MODULES.values():
        assert [*modules(make())] == [*modules(make())]
    pyro.clear_param_store()

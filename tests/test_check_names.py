"""Names that clash in Pyro's parameter store, and sound sharing, which is no fault."""

import re
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints
from pyro.nn import PyroModule, PyroParam
from torch import Tensor, nn

from inference.check import check

X = torch.bernoulli(torch.full((8, 3), 0.5), generator=torch.Generator().manual_seed(1))
Programs = tuple[Callable[..., Any], Callable[..., Any]]


def functions(
    in_model: Callable[[], Any] = lambda: 0.0,
    in_guide: Callable[[], Any] = lambda: 0.0,
    decoder: str = "decoder",
    encoder: str = "encoder",
) -> Programs:
    """A sound pair, whose halves add what their parameters make to a location."""
    down, up = nn.Linear(2, 3), nn.Linear(3, 4)

    def model(x: Tensor) -> None:
        pyro.module(decoder, down)
        shift = in_model()
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2) + shift, 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=down(z)).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module(encoder, up)
        shift = in_guide()
        loc, log_scale = up(x).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc + shift, log_scale.exp()).to_event(1))

    return model, guide


def shift(*shape: int, name: str = "shift") -> Callable[[], Tensor]:
    return lambda: pyro.param(name, torch.full(shape, 0.5)).mean()


def lazy(*shape: int) -> Callable[[], Tensor]:
    return lambda: pyro.param("shift", lambda: torch.full(shape, 0.5)).mean()


class Half(PyroModule):
    """One half with a PyroParam."""

    def __init__(self, guide: bool, name: str = "width", size: int = 2) -> None:
        super().__init__()
        self.guide, self.name = guide, name
        self.net = nn.Linear(3, 2) if guide else nn.Linear(2, 3)
        setattr(self, name, PyroParam(torch.ones(size), constraint=constraints.positive))

    def forward(self, x: Tensor) -> None:
        width = getattr(self, self.name).mean()
        with pyro.plate("data", len(x)):
            loc = self.net(x) if self.guide else x.new_zeros(2)
            z = pyro.sample("z", dist.Normal(loc, width).to_event(1))
            if not self.guide:
                pyro.sample("x", dist.Bernoulli(logits=self.net(z)).to_event(1), obs=x)


def stale(make: Callable[[], Programs], first: Callable[[], Programs]) -> Programs:
    for program in first():
        program(X)
    return make()


FAULTS: dict[str, tuple[Callable[[], Programs], str]] = {
    "shapes": (
        lambda: functions(shift(2), shift(3)),
        r"shape \(3,\) in the guide \(test_check_names\.py, line \d+\), and the model \(.*\) starts it in shape \(2,\).*name of its own",
    ),
    "shapes that broadcast": (lambda: functions(shift(2), shift()), "Parameter 'shift' has shape"),
    "lazy starts": (lambda: functions(lazy(2), lazy(3)), r"Parameter 'shift' has shape \(3,\)"),
    "twice in one half": (
        lambda: functions(in_guide=lambda: shift(2)() + shift(4)()),
        r"in the guide .*, and the guide .* starts it in shape \(4,\)",
    ),
    "of a pair before": (
        lambda: stale(lambda: functions(shift(2)), lambda: functions(shift(5))),
        r"Parameter 'shift' has shape \(5,\), as another pair made it.*clear_param_store\(\)",
    ),
    "two modules": (
        lambda: functions(encoder="decoder"),
        "pyro.module has two modules named 'decoder', in the guide .* and in the model",
    ),
    "a module of a pair before": (
        lambda: stale(functions, functions),
        r"pyro.module\('encoder', ...\) in the guide .*another module's.*clear_param_store",
    ),
    "a site's name": (
        lambda: functions(in_guide=shift(name="z")),
        "'z' is the name of a parameter and of a sample site of the guide",
    ),
    "a data site's name": (
        lambda: functions(in_model=shift(name="x")),
        "'x' is the name of a parameter and of a sample site of the model",
    ),
    "PyroParams of two shapes": (
        lambda: (Half(guide=False, size=3), Half(guide=True)),
        r"PyroParam 'width' is an attribute of Half \(model\) and of Half \(guide\)",
    ),
    "PyroParams of one shape": (
        lambda: (Half(guide=False), Half(guide=True)),
        "whichever comes second loses its own tensor. Give one of them another name",
    ),
}

NOTES: dict[str, Callable[[], Programs]] = {
    "two starts": lambda: functions(shift(2), lambda: pyro.param("shift", torch.zeros(2)).mean()),
    "two constraints": lambda: functions(
        shift(2),
        lambda: pyro.param("shift", torch.full((2,), 0.5), constraint=constraints.positive).mean(),
    ),
}

SOUND: dict[str, Callable[[], Programs]] = {
    "nothing": functions,
    "one parameter, stated alike": lambda: functions(shift(2), shift(2)),
    "stated once and then named": lambda: functions(lambda: pyro.param("shift"), shift()),
    "names of their own": lambda: functions(shift(2, name="a"), shift(3, name="b")),
    "PyroParams with names of their own": lambda: (Half(False), Half(True, "spread")),
    "the same pair before": lambda: stale(lambda: SAME, lambda: SAME),
}
SAME = functions(shift(2), shift(2))


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.filterwarnings("ignore")
def test_clash_is_named(name: str) -> None:
    make, words = FAULTS[name]
    found = check(*make(), X)
    assert {each.kind for each in found} == {"fault"}
    assert any(re.search(words, each, re.DOTALL) for each in found), found


@pytest.mark.parametrize("name", NOTES)
def test_one_tensor_with_two_starts_is_noted(name: str) -> None:
    (note,) = check(*NOTES[name](), X)
    assert note.kind == "note"
    assert re.search(r"'shift' is one tensor for the guide \(.*\) and the model \(.*start it", note)


@pytest.mark.parametrize("name", SOUND)
def test_sharing_is_sound(name: str) -> None:
    assert check(*SOUND[name](), X) == []

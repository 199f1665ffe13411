"""What is counted as log p(x), and what the numbers are called: factors, sites beside x."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch import Tensor, nn

from inference import SVI, Elbo, evaluate
from inference.check import check, unit_of
from inference.data import AsIs, Binary, Split

from .test_check import BITS, Sound

BASE = "nats of P(x), x in {0, 1}"


class With(Sound):
    """A pair whose model says something more about one datum, or about all."""

    def __init__(self, inside: Callable[..., Any] = lambda *_: None, outside: Any = None) -> None:
        super().__init__()
        self.head = nn.Linear(2, 1)
        self.inside, self.outside = inside, outside or (lambda *_: None)

    def model(self, x: Tensor) -> None:
        self.outside(x)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior())
            pyro.sample("x", self.likelihood(z), obs=x)
            self.inside(x, z, self.head(z).squeeze(-1))


def tie(x: Tensor, z: Tensor, loc: Tensor) -> None:
    pyro.factor("tie", -10 * (loc - x.mean(-1)) ** 2)


def ink(x: Tensor, z: Tensor, loc: Tensor) -> None:
    pyro.sample("ink", dist.Normal(loc, 0.1), obs=x.mean(-1))


def label(x: Tensor, z: Tensor, loc: Tensor) -> None:
    pyro.sample("y", dist.Bernoulli(logits=loc), obs=(x.sum(-1) > 1).float())


def both(x: Tensor, z: Tensor, loc: Tensor) -> None:
    tie(x, z, loc)
    ink(x, z, loc)
    label(x, z, loc)


def quiet(x: Tensor, z: Tensor, loc: Tensor) -> None:
    pyro.deterministic("p", loc.sigmoid())


def weights(x: Tensor) -> None:
    pyro.deterministic("weights", torch.zeros(5, 7))


UNITS = [
    ("a pair of x", With(), BASE),
    ("a factor", With(tie), f"{BASE}; unnormalised, for factor 'tie'"),
    ("a target", With(ink), f"{BASE}, with a density of ink"),
    ("a label", With(label), f"{BASE}, with P(y)"),
    (
        "all",
        With(both),
        f"{BASE}, with a density of ink, with P(y); unnormalised, for factor 'tie'",
    ),
    ("deterministic", With(quiet, weights), BASE),
]


@pytest.mark.parametrize(("pair", "unit"), [u[1:] for u in UNITS], ids=[u[0] for u in UNITS])
def test_unit_names_what_is_counted(pair: With, unit: str) -> None:
    assert unit_of(pair.model, pair.guide, BITS, Binary()) == unit


def test_x_in_pieces_or_in_another_form_is_x() -> None:
    class Pieces(Sound):
        def model(self, x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                logits = self.decoder(pyro.sample("z", self.prior()))
                for i in range(3):
                    pyro.sample(f"x_{i}", dist.Bernoulli(logits=logits[..., i]), obs=x[:, i])

    class Coded(Sound):
        def model(self, x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                logits = self.decoder(pyro.sample("z", self.prior()))
                pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=1 - x)

    for pair in (Pieces(), Coded()):
        assert unit_of(pair.model, pair.guide, BITS, Binary()) == BASE


@pytest.mark.parametrize("pair", [With(tie), With(both)], ids=["one", "among others"])
def test_factor_is_noted_and_trains_as_in_pyro(pair: With) -> None:
    (note,) = check(pair.model, pair.guide, BITS, Binary())
    assert note.kind == "note"
    assert note.startswith("Factor 'tie' is no density of x: training goes on as in Pyro")
    pyro.set_rng_seed(0)
    mine = Elbo()(pair.model, pair.guide, BITS).loss
    pyro.set_rng_seed(0)
    theirs = Trace_ELBO().differentiable_loss(pair.model, pair.guide, BITS) / len(BITS)
    torch.testing.assert_close(mine, theirs)


def test_factor_outside_the_plate_is_shared_by_the_data() -> None:
    """A term of all data, -3 nats, is -3 / N of one."""
    pair = With(
        lambda x, z, loc: pyro.factor("used", 0 * loc),
        lambda x: pyro.factor("all", torch.tensor(-3.0)),
    )
    assert [note.kind for note in check(pair.model, pair.guide, BITS)] == ["note"]
    plain = With(lambda x, z, loc: pyro.factor("used", 0 * loc))
    plain.load_state_dict(pair.state_dict())
    bounds = []
    for each in (pair, plain):
        pyro.set_rng_seed(0)
        bounds.append(SVI(each.model, each.guide, data_size=300).step(BITS).bound)
    torch.testing.assert_close(bounds[0], bounds[1] - 3 / 300)


def test_constant_factor_shifts_the_bound_by_itself() -> None:
    """A factor of 2 nats a datum: log of the unnormalised p(x, factors) is 2 larger, exactly."""
    pair = With(lambda x, z, loc: pyro.factor("two", 2 + 0 * loc))
    other = With(lambda x, z, loc: pyro.factor("none", 0 * loc))
    other.load_state_dict(pair.state_dict())
    found = [evaluate(p.model, p.guide, Split(BITS, AsIs()), particles=5) for p in (pair, other)]
    torch.testing.assert_close(found[0].log_px, found[1].log_px + 2)

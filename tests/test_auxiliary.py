"""Sites of a guide that are no plain draws: auxiliary ones, points, what all data share."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoDelta, AutoDiagonalNormal, AutoNormal, AutoStructured
from torch import Tensor, nn

from inference import (
    BetaTc,
    Chi,
    DoublyReparametrised,
    Elbo,
    FreeBits,
    InfoVae,
    Iwae,
    MatchedMoments,
    ScoreFunction,
    Tvo,
    Vimco,
    WakeSleep,
)
from inference.data_plate import DataSize

B, Z, D = 16, 2, 5


def auxiliary() -> tuple[Any, Any]:
    """Return a pair whose guide draws u, of which z = tanh u is a function."""
    decoder, encoder = nn.Linear(Z, D), nn.Linear(D, 2 * Z)

    def model(x: Tensor) -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(Z), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("encoder", encoder)
        loc, log_scale = encoder(x).chunk(2, -1)
        with pyro.plate("data", len(x)):
            base = dist.Normal(loc, log_scale.exp()).to_event(1)
            z = pyro.sample("u", base, infer={"is_auxiliary": True}).tanh()
            slope = (1 - z.square()).log().sum(-1)
            density: Any = -slope
            pyro.sample("z", dist.Delta(z, log_density=density, event_dim=1))

    return model, guide


def test_closed_form_leaves_what_has_none_to_the_draw() -> None:
    """z = tanh u is a flow: its log q is that of u less the slope, in either estimate of the KL."""
    model, guide = auxiliary()
    x = torch.randn(B, D)
    values: list[Tensor] = []
    for analytic in (False, True):
        pyro.set_rng_seed(4)
        values.append(Elbo(analytic_kl=analytic)(model, guide, x).loss)
    torch.testing.assert_close(*values)
    for objective in (FreeBits(), BetaTc(size=B), InfoVae()):
        with pytest.raises(ValueError, match=r"Site 'u' is in the guide alone \(is_auxiliary\)"):
            objective(model, guide, x)


@pytest.mark.parametrize("auto", [AutoNormal, AutoDiagonalNormal, AutoDelta, AutoStructured])
def test_closed_form_with_a_guide_that_pyro_makes(auto: Callable[[Any], Any]) -> None:
    """Of a Delta or an auxiliary site the draw is taken: both estimates are one there."""

    def model(x: Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(mu, scale), obs=x)

    guide, x = auto(model), torch.randn(B)
    guide(x)
    values: list[Tensor] = []
    for analytic in (False, True):
        pyro.set_rng_seed(5)
        with DataSize(B):
            values.append(Elbo(analytic_kl=analytic)(model, guide, x).loss)
    torch.testing.assert_close(*values)


LOCAL = (Iwae(3, Vimco()), Chi(), Tvo(), WakeSleep(), WakeSleep(phi="sleep"), BetaTc(size=B),
         InfoVae(), InfoVae(discrepancy=MatchedMoments()))  # fmt: skip
"""Objectives that need each datum's own terms."""


def at_a_point(shared: bool) -> tuple[Any, Any]:
    """Return a pair whose guide has a Delta at what parameters say: of each datum, or of all."""
    decoder, encoder = nn.Linear(Z, D), nn.Linear(D, Z)

    def model(x: Tensor) -> None:
        pyro.module("decoder", decoder)
        prior = dist.Normal(x.new_zeros(Z), 1.0).to_event(1)
        z = pyro.sample("z", prior) if shared else None
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", prior) if z is None else z
            pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("encoder", encoder)
        if shared:
            pyro.sample("z", dist.Delta(pyro.param("point", torch.zeros(Z)), event_dim=1))
        with pyro.plate("data", len(x)):
            value = encoder(x)
            if not shared:
                pyro.sample("z", dist.Delta(value, event_dim=1).mask(True))

    return model, guide


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(
    "objective",
    [*(Elbo(2, ScoreFunction(each)) for each in ("none", "running mean", "input dependent")),
     Iwae(2, Vimco()), Chi(), Tvo(), WakeSleep(), WakeSleep(phi="sleep")],
    ids=lambda each: type(each).__name__,
)  # fmt: skip
def test_a_point_has_no_score_and_is_refused_where_one_is_needed(
    objective: Any, shared: bool
) -> None:
    model, guide = at_a_point(shared)
    x = torch.randn(B, D)
    with DataSize(B):
        assert Elbo()(model, guide, x).loss.requires_grad
        with pytest.raises(ValueError, match="Site 'z' is a Delta at what parameters say"):
            objective(model, guide, x)


@pytest.mark.parametrize("objective", LOCAL, ids=lambda each: type(each).__name__)
def test_objectives_of_single_data_refuse_what_all_share(objective: Any) -> None:
    def model(x: Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(mu.expand(Z), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.sample("mu", dist.Normal(pyro.param("m", torch.zeros(())), 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 1.0).to_event(1))

    with DataSize(B), pytest.raises(ValueError, match="Site 'mu' lies outside the data plate"):
        objective(model, guide, torch.randn(B, Z))


def test_doubly_reparametrised_takes_plates_left_of_the_data() -> None:
    """z_p ~ N(0, 1), x_p ~ N(z_p, 1), p = 1, 2, 3: at the posterior each draw's gradient is 0."""
    slope = torch.tensor(0.5, requires_grad=True)

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1), pyro.plate("places", 3, dim=-2):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x.T)

    def guide(x: Tensor) -> None:
        half = pyro.param("slope", slope)
        with pyro.plate("data", len(x), dim=-1), pyro.plate("places", 3, dim=-2):
            pyro.sample("z", dist.Normal(half * x.T, 0.5**0.5))

    x = torch.randn(B, 3)
    loss = Iwae(4, DoublyReparametrised())(model, guide, x).loss
    held = pyro.get_param_store()["slope"].unconstrained()
    (gradient,) = torch.autograd.grad(loss, [held])
    assert gradient.abs() < 1e-5

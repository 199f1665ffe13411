"""Sites that the guide alone has: the closed form of a KL, objectives that ask for single KLs."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoDelta, AutoDiagonalNormal, AutoNormal, AutoStructured
from torch import Tensor, nn

from inference import BetaTc, Elbo, FreeBits, InfoVae
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

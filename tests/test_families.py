"""Posterior families: densities, inverses and determinants against autodiff and quadrature."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

import guides
from inference import SVI, Elbo, log_weights

from .pairs import FAMILIES, LATENT
from .scenarios import LinearGaussian, correlated

ALL = {"diagonal normal": guides.DiagonalNormal, **FAMILIES}
FLOWS = {
    **{k: v for k, v in FAMILIES.items() if "normal" not in k and k != "mixture"},
    "radial shared": partial(guides.Radial, steps=2, amortised=False),
    "sylvester shared": partial(guides.Sylvester, steps=2, rank=1, amortised=False),
    "autoregressive shared": partial(guides.InverseAutoregressive, steps=3, hidden=[8], context=0),
    "neural spline shared": partial(guides.NeuralSpline, bins=5, hidden=[8], context=0),
}


pytestmark = pytest.mark.usefixtures("in_doubles")


def make(name: str, latent_dim: int = LATENT, size: int = 3, spread: float = 0.5) -> Any:
    """Return q for made-up encoder outputs, far enough from 0 for the maps to matter."""
    family = {**ALL, **FLOWS}[name](latent_dim)
    with torch.no_grad():
        for parameter in family.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return family(spread * torch.randn(size, family.parameter_dim))


@pytest.mark.parametrize("name", {**ALL, **FLOWS})
def test_density_integrates_to_one(name: str) -> None:
    """In steps of 0.05; a spline's density jumps at its knots, which costs 1e-3."""
    axis = torch.arange(-10, 10, 0.05)
    z = torch.cartesian_prod(axis, axis)
    q = make(name, size=2)
    assert q.batch_shape == (2,)
    assert q.event_shape == (LATENT,)
    with torch.no_grad():
        parts = z.unsqueeze(1).split(100_000)
        total = sum(q.log_prob(part).exp().sum(0) for part in parts) * 0.05**2
    torch.testing.assert_close(total, torch.ones(2), atol=3e-3, rtol=0)


@pytest.mark.parametrize("name", {**ALL, **FLOWS})
def test_draws_have_the_density_also_of_values_that_come_from_elsewhere(name: str) -> None:
    """A draw's density is that of the same numbers without their history; |z| < 4.5, 12 means."""
    q = make(name)
    expanded = q.expand((5, 3))
    with torch.no_grad():
        z = expanded.rsample()
        density = expanded.log_prob(z)
        torch.testing.assert_close(density, q.log_prob(z.clone()), rtol=1e-6, atol=1e-6)
        apart = torch.stack([q.log_prob(row) for row in z.clone()])
        torch.testing.assert_close(density, apart, rtol=1e-6, atol=1e-6)
        drawn = q.sample(torch.Size([20_000])).cos()
        other = 4 * torch.randn(20_000, 3, LATENT)
        normal = torch.distributions.Normal(0.0, 4.0).log_prob(other).sum(-1)
        weighted = (q.log_prob(other) - normal).exp().unsqueeze(-1) * other.cos()
    difference = drawn.mean(0) - weighted.mean(0)
    assert (difference / ((drawn.var(0) + weighted.var(0)) / 20_000).sqrt()).abs().max() < 4.5


@pytest.mark.parametrize("name", FLOWS)
@pytest.mark.parametrize("latent_dim", [2, 5])
def test_maps_invert_and_their_determinants_are_those_of_autodiff(
    name: str, latent_dim: int
) -> None:
    q = make(name, latent_dim, size=1)
    z = 1.5 * torch.randn(1, latent_dim)
    for part in q.transforms:
        y = part(z)
        jacobian: Any = torch.autograd.functional.jacobian(part, z)
        expected = torch.linalg.slogdet(jacobian[0, :, 0]).logabsdet
        with torch.no_grad():
            torch.testing.assert_close(part._inverse(y), z, rtol=1e-6, atol=1e-6)
            found = part.log_abs_det_jacobian(z, y).expand(1)
            torch.testing.assert_close(found, expected.expand(1), rtol=1e-6, atol=1e-6)
            torch.testing.assert_close(part.log_abs_det_jacobian(z.clone(), y).expand(1), found)
        z = y.detach()


@pytest.mark.parametrize("name", FLOWS)
def test_inverse_has_the_gradient_of_the_inverse(name: str) -> None:
    """With respect to the value and to what the encoder says: what Vamp's density learns from."""
    family = FLOWS[name](LATENT)
    numbers = (0.7 * torch.randn(family.parameter_dim)).requires_grad_()
    z = torch.randn(LATENT, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda p, v: family(p.unsqueeze(0)).log_prob(v.unsqueeze(0)), (numbers, z), atol=1e-6
    )


@pytest.mark.parametrize("name", FLOWS)
def test_inverse_is_right_in_single_precision(name: str) -> None:
    torch.set_default_dtype(torch.float32)
    q = make(name, 5, size=400)
    with torch.no_grad():
        z = q.rsample()
        kept, found = q.log_prob(z), q.log_prob(z.clone())
    assert (kept - found).abs().quantile(0.99) < 0.02


class Centred(torch.nn.Module):
    """An encoder that knows the posterior's mean, and learns its shape: the same for every x."""

    def __init__(self, truth: LinearGaussian, family: guides.Family) -> None:
        super().__init__()
        self.truth = truth
        rest = family.parameter_dim - truth.weight.shape[1]
        self.shape = torch.nn.Parameter(0.1 * torch.randn(rest))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.truth.posterior(x).mean, self.shape.expand(len(x), -1)], -1)


def gap(truth: LinearGaussian, family: guides.Family, steps: int = 600) -> float:
    """Return log p(x) - ELBO, nats, after training; to 0.001 (a standard error) below 0.1."""
    x = truth.sample(2)
    model = truth.model().requires_grad_(requires_grad=False)
    guide = guides.Amortized(Centred(truth, family), family)
    svi = SVI(
        model,
        guide,
        lambda p: torch.optim.Adam(p, lr=0.06),
        objective=Elbo(32),
        scheduler=lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, steps),
    )
    svi.prepare(x)
    assert svi.scheduler
    for _ in range(steps):
        svi.step(x)
        svi.scheduler.step()
    with torch.no_grad():
        bound = log_weights(model, guide, x, 20_000).total.mean()
    return (truth.log_prob(x).mean() - bound).item()


def test_full_covariance_closes_the_gap_of_the_diagonal_one() -> None:
    """Which is 1/2 (sum log M_ii - log |M|) at best."""
    truth = correlated()
    assert gap(truth, guides.DiagonalNormal(4)) == pytest.approx(truth.diagonal_gap, abs=0.03)
    assert abs(gap(truth, guides.FullNormal(4))) < 0.01


@pytest.mark.slow
def test_flows_close_more_of_the_gap_than_planes_do() -> None:
    """Three maps each. The margin is twice the standard error of the difference, at least."""
    truth = correlated()
    shared = partial(guides.InverseAutoregressive, hidden=[16], context=0)
    planar = gap(truth, guides.Planar(4, steps=3))
    assert planar < 0.2 * truth.diagonal_gap
    for family in (
        guides.FullNormal,
        shared,
        partial(guides.Sylvester, steps=3),
        partial(guides.RankOneExponential, steps=3),
    ):
        assert gap(truth, family(4)) < planar - 0.003, family

"""Latent spaces that are not flat: densities against quadrature and autodiff, draws, refusals."""

import math
from collections.abc import Iterator
from typing import Any

import pyro
import pytest
import scipy.special
import torch
from torch import Tensor

import guides
import models
from inference.check import check

from .pairs import bits, vae

SPHERICAL = {
    "power spherical": guides.PowerSpherical,
}


@pytest.fixture(autouse=True)
def _in_doubles() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    pyro.set_rng_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


def spherical(name: str, latent_dim: int, spread: float = 3.0) -> Any:
    """Return q of two data, for made-up encoder outputs."""
    return SPHERICAL[name](latent_dim)(spread * torch.randn(2, latent_dim + 1))


def grid(latent_dim: int) -> tuple[Tensor, Tensor]:
    """Return points of a circle or of a sphere in space, and the area of each.

    The circle in equal angles; the sphere in equal angles about an axis and Gauss's heights on it.
    A density is smooth but for the pole opposite to its peak.
    """
    size = {2: 100_000, 3: 400}[latent_dim]
    turn = torch.arange(size) * (2 * math.pi / size)
    circle = torch.stack([turn.cos(), turn.sin()], -1)
    if latent_dim == 2:
        return circle, torch.full((size,), 2 * math.pi / size)
    heights, weights = map(torch.tensor, scipy.special.roots_legendre(100))
    radii = (1 - heights**2).sqrt().reshape(-1, 1, 1)
    axis = heights.reshape(-1, 1, 1).expand(-1, size, 1)
    points = torch.cat([radii * circle, axis], -1).flatten(0, 1)
    return points, (weights.unsqueeze(1) * (2 * math.pi / size)).expand(-1, size).flatten()


@pytest.mark.parametrize("latent_dim", [2, 3])
def test_uniform_sphere(latent_dim: int) -> None:
    p = models.UniformSphere(latent_dim)()
    assert (p.batch_shape, p.event_shape) == ((), (latent_dim,))
    z, area = grid(latent_dim)
    density = p.log_prob(z).exp()
    assert (density * area).sum().item() == pytest.approx(1, abs=1e-10)
    assert p.entropy().item() == pytest.approx(-p.log_prob(z[0]).item())
    # 20,000 draws: 4 standard errors of a coordinate, whose square has the mean 1 / Z
    drawn = p.expand((3,)).sample((20_000,))
    assert drawn.shape == (20_000, 3, latent_dim)
    torch.testing.assert_close(drawn.norm(dim=-1), torch.ones(20_000, 3))
    assert drawn.mean(0).abs().max() < 4 * (1 / latent_dim / 20_000) ** 0.5
    torch.testing.assert_close(p.variance, (z**2 * area[:, None] * density[:, None]).sum(0))


@pytest.mark.parametrize("latent_dim", [2, 3])
@pytest.mark.parametrize("name", SPHERICAL)
def test_spherical_density_mean_variance_and_entropy(name: str, latent_dim: int) -> None:
    q = spherical(name, latent_dim)
    assert (q.batch_shape, q.event_shape) == ((2,), (latent_dim,))
    z, area = grid(latent_dim)
    log_density = q.log_prob(z.unsqueeze(1))
    mass = log_density.exp() * area.unsqueeze(1)
    torch.testing.assert_close(mass.sum(0), torch.ones(2), rtol=0, atol=1e-6)
    mean = torch.einsum("nb,nz->bz", mass, z)
    torch.testing.assert_close(q.mean, mean, rtol=0, atol=1e-6)
    second = torch.einsum("nb,nz->bz", mass, z**2)
    torch.testing.assert_close(q.variance, second - mean**2, rtol=0, atol=1e-6)
    entropy = -(mass * log_density).sum(0)
    torch.testing.assert_close(q.entropy(), entropy, rtol=0, atol=1e-6)


@pytest.mark.parametrize("latent_dim", [2, 3, 8])
@pytest.mark.parametrize("name", SPHERICAL)
def test_spherical_draws_have_the_density(name: str, latent_dim: int) -> None:
    """Their first two moments and E log q, |z| < 4.5 of 40,000 draws: 34 means, 2e-4 by chance."""
    q = spherical(name, latent_dim)
    z = q.expand((5, 2)).sample((8_000,)).flatten(0, 1)
    torch.testing.assert_close(z.norm(dim=-1), torch.ones(40_000, 2))
    for found, expected in (
        (z, q.mean),
        (z**2, q.variance + q.mean**2),
        (q.log_prob(z), -q.entropy()),
    ):
        error = (found.var(0) / len(found)).sqrt()
        assert ((found.mean(0) - expected) / error).abs().max() < 4.5


@pytest.mark.parametrize("latent_dim", [2, 3, 8])
@pytest.mark.parametrize("name", SPHERICAL)
def test_spherical_draws_carry_the_gradient(name: str, latent_dim: int) -> None:
    """Of E[a'z + b'z^2 - log q] to all parameters: |z| < 4.5 of 20,000 draws, 15 numbers."""
    family = SPHERICAL[name](latent_dim)
    numbers = torch.randn(latent_dim + 1)
    a, b = torch.randn(2, latent_dim)

    def exact(parameters: Tensor) -> Tensor:
        q = family(parameters)
        return a @ q.mean + b @ (q.variance + q.mean**2) + q.entropy()

    expected: Any = torch.autograd.functional.jacobian(exact, numbers)
    each = numbers.expand(20_000, -1).clone().requires_grad_()
    q = family(each)
    z = q.rsample()
    (found,) = torch.autograd.grad((z @ a + z**2 @ b - q.log_prob(z)).sum(), each)
    error = (found.var(0) / len(found)).sqrt()
    assert ((found.mean(0) - expected) / error).abs().max() < 4.5


@pytest.mark.parametrize("latent_dim", [2, 8])
@pytest.mark.parametrize("name", SPHERICAL)
def test_spherical_in_single_precision(name: str, latent_dim: int) -> None:
    """From no concentration to a thousandfold: draws, densities and gradients are finite."""
    torch.set_default_dtype(torch.float32)
    numbers = torch.randn(5_000, latent_dim + 1)
    numbers[:, -1] = torch.linspace(-200, 1000, 5_000)
    numbers.requires_grad_()
    q = SPHERICAL[name](latent_dim)(numbers)
    z = q.rsample()
    density = q.log_prob(z)
    assert q.support.check(z).all()
    assert density.isfinite().all()
    assert density.max() < 1000
    (gradient,) = torch.autograd.grad((density + z.sum(-1)).sum(), numbers)
    assert gradient.isfinite().all()


MISMATCHED = [
    (models.UniformSphere, guides.DiagonalNormal, "UniformSphere in the model is a density over 1"),
    (models.StandardNormal, guides.PowerSpherical, "PowerSpherical in the guide over 1: one"),
]


@pytest.mark.parametrize(("prior", "family", "sentence"), MISMATCHED)
def test_spaces_that_do_not_match_are_refused(prior: Any, family: Any, sentence: str) -> None:
    pair = vae(models.Bernoulli, bits(), prior, family)
    (fault,) = check(pair.model, pair.guide, pair.x)
    assert sentence in fault


def test_wrong_arguments_are_refused_with_the_remedy() -> None:
    for part in (models.UniformSphere, *SPHERICAL.values()):
        with pytest.raises(ValueError, match="latent_dim=1.*take 2 for a circle"):
            part(1)

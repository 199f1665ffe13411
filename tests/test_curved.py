"""Latent spaces that are not flat: densities against quadrature and autodiff, draws, refusals."""

import math
from functools import partial
from typing import Any

import pytest
import scipy.special
import torch
from torch import Tensor
from torch.nn.functional import normalize

import guides
import models
from inference.check import check
from inference.evaluation.stereographic import Stereographic

from .pairs import bits, vae

SPHERICAL = {
    "power spherical": guides.PowerSpherical,
}


pytestmark = pytest.mark.usefixtures("in_doubles")


def spherical(name: str, latent_dim: int, spread: float = 3.0) -> Any:
    """Return q of two data, for made-up encoder outputs."""
    return SPHERICAL[name](latent_dim)(spread * torch.randn(2, latent_dim + 1))


def grid(latent_dim: int) -> tuple[Tensor, Tensor]:
    """Return points of a circle or of a sphere in space, and the area of each.

    The circle in equal angles; the sphere in equal angles about an axis and Gauss's heights on it.
    A density is smooth but for the pole opposite to its peak.
    """
    size = {2: 100_000, 3: 400}[latent_dim]
    turn = torch.arange(size, dtype=torch.float64) * (2 * math.pi / size)
    circle = torch.stack([turn.cos(), turn.sin()], -1)
    if latent_dim == 2:
        return circle, torch.full_like(turn, 2 * math.pi / size)
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


def polar(curvature: float) -> tuple[Tensor, Tensor]:
    """Return points of the hyperbolic plane's ball to a distance of 14, and the area of each.

    Distances in Gauss's nodes, in equal angles; a density in coordinates times the area of
    coordinates, (2 / (1 - c r^2))^-2 of the plane's own.
    """
    root = curvature**0.5
    nodes, weights = map(torch.tensor, scipy.special.roots_legendre(400))
    distance = 7 * (nodes + 1)
    r = torch.tanh(root * distance / 2) / root
    turn = torch.arange(400) * (2 * math.pi / 400)
    circle = torch.stack([turn.cos(), turn.sin()], -1)
    slope = (1 - curvature * r**2) / 2
    area = 7 * weights * slope * r * (2 * math.pi / 400)
    return (r.reshape(-1, 1, 1) * circle).flatten(0, 1), area.repeat_interleave(400)


@pytest.mark.parametrize("curvature", [1.0, 0.5])
def test_wrapped_normals_integrate_to_one(curvature: float) -> None:
    """In the ball's coordinates: the measure is Lebesgue's."""
    z, area = polar(curvature)
    p = models.WrappedNormal(2, 1.3, curvature)()
    q = guides.WrappedNormal(2, curvature)(torch.tensor([[0.7, -0.9, -0.3, -1.0]]))
    assert (p.batch_shape, p.event_shape) == ((), (2,))
    assert (q.batch_shape, q.event_shape) == ((1,), (2,))
    for density in (p.log_prob(z), q.log_prob(z.unsqueeze(1)).squeeze(1)):
        assert (density.exp() * area).sum().item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("latent_dim", [1, 2, 5])
def test_wrapped_normals_have_the_determinant_of_autodiff(latent_dim: int) -> None:
    """And at a mean of 0 the two packages' densities, written apart, are one."""
    for curvature in (1.0, 0.3):
        numbers = torch.randn(1, 2 * latent_dim)
        q: Any = guides.WrappedNormal(latent_dim, curvature)(numbers)
        p: Any = models.WrappedNormal(latent_dim, 1.0, curvature)()
        for fn in (q, p):
            v = torch.randn(*fn.batch_shape, latent_dim)

            def push(v: Tensor, transforms: Any = fn.transforms) -> Tensor:
                for each in transforms:
                    v = each(v)
                return v.reshape(-1)

            jacobian: Any = torch.autograd.functional.jacobian(push, v)
            expected = (
                fn.base_dist.log_prob(v)
                - torch.linalg.slogdet(jacobian.reshape(latent_dim, latent_dim)).logabsdet
            )
            z = push(v).reshape(v.shape)
            torch.testing.assert_close(fn.log_prob(z), expected, rtol=0, atol=1e-6)
        centred = guides.WrappedNormal(latent_dim, curvature)(torch.zeros(7, 2 * latent_dim))
        z = p.sample((7,))
        torch.testing.assert_close(centred.log_prob(z), p.log_prob(z))


def test_wrapped_normal_is_a_normal_of_distances_about_its_mean() -> None:
    """|z| < 4.5 of 40,000 draws for the mean squared distance, whose sum of squares is Z sigma^2.

    d(a, b) = arcosh(1 + 2 c |a - b|^2 / ((1 - c |a|^2)(1 - c |b|^2))) / sqrt(c).
    """
    c, numbers = 0.7, torch.tensor([0.6, -1.1, 0.2, -0.4, -0.4, -0.4])
    z = guides.WrappedNormal(3, c)(numbers.expand(40_000, -1)).rsample()
    far = numbers[:3].norm()
    mean = torch.tanh(c**0.5 * far / 2) / c**0.5 * numbers[:3] / far
    gaps = (1 - c * mean @ mean) * (1 - c * z.square().sum(-1))
    squares = torch.acosh(1 + 2 * c * (z - mean).square().sum(-1) / gaps).square() / c
    variance = 3 * math.exp(-0.8)
    assert abs(squares.mean() - variance) < 4.5 * squares.std() / 200


@pytest.mark.parametrize("latent_dim", [2, 10])
def test_wrapped_normal_in_single_precision(latent_dim: int) -> None:
    """From the centre itself to beyond the edge: all is finite; within a distance of 6 it is right.

    What z is rounded by moves the distance by e^6 2^-24, and log p by so much times 6 and more.
    """
    torch.set_default_dtype(torch.float32)
    direction = normalize(torch.randn(400, latent_dim), dim=-1)
    reach = torch.cat([torch.zeros(1), torch.logspace(-12, 2, 399)]).unsqueeze(-1)
    numbers = torch.cat([direction * reach, torch.full((400, latent_dim), -1.0)], -1)
    numbers.requires_grad_()
    q: Any = guides.WrappedNormal(latent_dim)(numbers)
    p = models.WrappedNormal(latent_dim)()
    z = q.rsample()
    assert p.support.check(z).all()
    assert q.support.check(z).all()
    value = q.log_prob(z) - p.log_prob(z)
    (gradient,) = torch.autograd.grad(value.sum(), numbers)
    assert value.isfinite().all()
    assert gradient.isfinite().all()
    centre = torch.zeros(1, latent_dim, requires_grad=True)
    for fn in (p, guides.WrappedNormal(latent_dim)(torch.zeros(1, 2 * latent_dim))):
        (slope,) = torch.autograd.grad(fn.log_prob(centre).sum(), centre)
        assert slope.abs().max() == 0
    near = (reach.squeeze(-1) < 4) & (q.base_dist.base_dist.scale.sum(-1) > 0)
    torch.set_default_dtype(torch.float64)
    exact: Any = models.WrappedNormal(latent_dim)()
    difference = exact.log_prob(z.double()) - p.log_prob(z)
    assert difference[near].abs().max() < 0.02


@pytest.mark.parametrize("latent_dim", [2, 3, 6])
def test_stereographic_map_inverts_and_stretches_areas_as_autodiff_says(latent_dim: int) -> None:
    to_sphere = Stereographic()
    u = torch.randn(latent_dim - 1)
    z: Any = to_sphere(u)
    torch.testing.assert_close(z.norm(), torch.tensor(1.0))
    torch.testing.assert_close(to_sphere.inv(z), u)
    jacobian: Any = torch.autograd.functional.jacobian(to_sphere, u)
    expected = torch.linalg.slogdet(jacobian.T @ jacobian).logabsdet / 2
    torch.testing.assert_close(to_sphere.log_abs_det_jacobian(u, z), expected)


class Cautious(guides.WrappedNormal):
    """It stays near the centre, at first."""

    def forward(self, parameters: Tensor) -> Any:
        return super().forward(0.1 * parameters - torch.tensor([0.0, 0.0, 3.0, 3.0]))


MISMATCHED = [
    (models.WrappedNormal, guides.DiagonalNormal, "lie outside the support of TransformedDistr"),
    (
        models.WrappedNormal,
        partial(Cautious, curvature=0.01),
        "the guide's support, Ball(radius=10), is not within the model's, Ball(radius=1)",
    ),
    (models.UniformSphere, guides.DiagonalNormal, "UniformSphere in the model is a density over 1"),
    (models.StandardNormal, guides.PowerSpherical, "PowerSpherical in the guide over 1: one"),
    (models.MixtureOfNormals, guides.PowerSpherical, "MixtureSameFamily in the model is a density"),
    (models.UniformSphere, guides.MixtureOfNormals, "UniformSphere in the model is a density over"),
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
    for part in (models.WrappedNormal, guides.WrappedNormal):
        with pytest.raises(ValueError, match="curvature.* above 0; got .*-1.*For flat space take"):
            part(2, curvature=-1.0)

"""A posterior family on the unit sphere, all of it in closed form."""

import math
from typing import Any

import torch
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.distributions import Gamma
from torch.nn.functional import normalize, softplus

from .families import Family


class PowerSpherical(Family):
    r"""A peak on the unit sphere: :math:`q(z) \propto (1 + \mu' z)^\kappa`, where :math:`|z| = 1`.

    It is for a prior on the sphere, as `models.UniformSphere`: the density is with respect to the
    surface's measure. Its shape is close to that of the von Mises-Fisher distribution, and density,
    entropy and draws with pathwise gradients have closed forms. Coordinates as small as
    those of unit vectors tell a new decoder little: warm up the KL, or q stays uniform.

    Source: De Cao and Aziz 2020, arXiv 2006.04437.

    Args:
        latent_dim: number Z of coordinates, at least 2; the sphere has Z - 1 dimensions.
    """

    def __init__(self, latent_dim: int) -> None:
        super().__init__(latent_dim)
        need_sphere(latent_dim)

    @property
    def parameter_dim(self) -> int:
        """A direction of any length, and the concentration before its softplus, in units of Z."""
        return self.latent_dim + 1

    def forward(self, parameters: Tensor) -> TorchDistribution:
        """Return q for parameters = (direction, concentration)."""
        return _PowerSpherical(*to_sphere(parameters))


def need_sphere(latent_dim: int) -> None:
    """Check that the sphere has a surface."""
    if latent_dim < 2:
        raise ValueError(
            f"Expected at least 2 coordinates; got latent_dim={latent_dim}. A sphere of one "
            "coordinate is two points: take 2 for a circle."
        )


def to_sphere(parameters: Tensor) -> tuple[Tensor, Tensor]:
    """Return a unit vector (B, Z) and a number above 0 (B,) for an encoder's output (B, Z + 1).

    The concentration is in units of Z: among many coordinates 1 is nearly uniform.
    """
    loc, number = parameters[..., :-1], parameters[..., -1]
    return normalize(loc, dim=-1), loc.shape[-1] * softplus(number)


def around(loc: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Return unit vectors (..., Z) at an angle to unit vectors loc (..., Z), all round alike."""
    noise = torch.randn_like(loc)
    across = normalize(noise - (noise * loc).sum(-1, keepdim=True) * loc, dim=-1)
    return normalize(cosine.unsqueeze(-1) * loc + sine.unsqueeze(-1) * across, dim=-1)


def _gamma(alpha: Tensor) -> Tensor:
    return Gamma(alpha, torch.ones_like(alpha), validate_args=False).rsample()


class _PowerSpherical(TorchDistribution):
    r"""The power spherical distribution of unit vectors, a density on the sphere's surface.

    .. math:: \log q(z) = \kappa \log(1 + \mu' z) - (\alpha + \beta) \log 2 - \beta \log \pi
              - \log \frac{\Gamma(\alpha)}{\Gamma(\alpha + \beta)},
              \qquad \beta = \tfrac{Z - 1}2, \; \alpha = \beta + \kappa

    Args:
        loc: unit vectors mu (..., Z).
        concentration: kappa (...), 0 for the uniform distribution.
    """

    arg_constraints: Any = {  # type: ignore[misc]  # noqa: RUF012  (torch's own form)
        "loc": constraints.sphere,
        "concentration": constraints.nonnegative,
    }
    support: Any = constraints.sphere  # type: ignore[misc]
    has_rsample = True

    def __init__(
        self, loc: Tensor, concentration: Tensor, validate_args: bool | None = None
    ) -> None:
        shape = torch.broadcast_shapes(loc.shape[:-1], concentration.shape)
        self.loc, self.concentration = loc.expand(*shape, -1), concentration.expand(shape)
        super().__init__(shape, loc.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "_PowerSpherical":
        """Return the distribution with another batch shape."""
        shape = torch.Size(batch_shape)
        loc, concentration = self.loc.expand(*shape, -1), self.concentration.expand(shape)
        check = self.__dict__.get("_validate_args")
        return _PowerSpherical(loc, concentration, check)

    @property
    def beta(self) -> float:
        """Half of the surface's number of dimensions."""
        return (self.event_shape[0] - 1) / 2

    @property
    def mean(self) -> Tensor:
        """The expectation in space, (..., Z), within the sphere."""
        k = self.concentration
        return (k / (k + 2 * self.beta)).unsqueeze(-1) * self.loc

    @property
    def variance(self) -> Tensor:
        """The variance of each coordinate, (..., Z)."""
        k, n = self.concentration.unsqueeze(-1), 2 * self.beta
        along = 4 * (k + n / 2) * (n / 2) / ((k + n).square() * (k + n + 1))
        across = (1 - along - (k / (k + n)).square()) / n
        return across + (along - across) * self.loc.square()

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draw the angle to loc, which is a beta variate's, and a direction across."""
        shape = self._extended_shape(torch.Size(sample_shape))
        k = self.concentration.expand(shape[:-1])
        # Two gammas: 1 - beta loses all of its digits at a small angle.
        near = _gamma(k + self.beta)
        far = _gamma(torch.full_like(k, self.beta))
        total = near + far
        sine = 2 * (near / total).sqrt() * (far / total).sqrt()
        return around(self.loc.expand(shape), (near - far) / total, sine)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log q (...) of unit vectors (..., Z)."""
        if self._validate_args:
            self._validate_sample(value)
        # 1 + mu'z, which has no digits left at the far pole.
        height = (self.loc + value).square().sum(-1) / 2
        tiny = torch.finfo(height.dtype).tiny
        return self.concentration * height.clamp(min=tiny).log() - self._log_normaliser

    def entropy(self) -> Tensor:
        """Return the entropy (...), nats."""
        k = self.concentration
        alpha, beta = k + self.beta, self.beta
        return self._log_normaliser - k * (
            math.log(2) + torch.digamma(alpha) - torch.digamma(alpha + beta)
        )

    @property
    def _log_normaliser(self) -> Tensor:
        alpha, beta = self.concentration + self.beta, self.beta
        gammas = torch.lgamma(alpha) - torch.lgamma(alpha + beta)
        return (alpha + beta) * math.log(2) + beta * math.log(math.pi) + gammas

"""Models whose log p(x) is known, with the derivation of each number."""

from dataclasses import dataclass
from functools import cached_property

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

import guides
import models


@dataclass(frozen=True)
class LinearGaussian:
    r"""x = W z + mu + eps, z ~ N(0, I_q), eps ~ N(0, s2 I_d): probabilistic PCA.

    With C = W W' + s2 I and M = W' W + s2 I (Tipping and Bishop 1999):
    log p(x) = log N(x; mu, C); the posterior is N(M^-1 W'(x - mu), s2 M^-1).
    """

    weight: Tensor  # (d, q)
    mean: Tensor  # (d,)
    variance: float

    @cached_property
    def precision(self) -> Tensor:
        """M (q, q)."""
        eye = torch.eye(self.weight.shape[1], dtype=self.weight.dtype)
        return self.weight.T @ self.weight + self.variance * eye

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) (N,), from the d-dimensional covariance."""
        eye = torch.eye(len(self.mean), dtype=self.mean.dtype)
        covariance = self.weight @ self.weight.T + self.variance * eye
        return dist.MultivariateNormal(self.mean, covariance).log_prob(x)

    def posterior(self, x: Tensor) -> dist.MultivariateNormal:
        """The exact p(z | x)."""
        loc = torch.linalg.solve(self.precision, (x - self.mean) @ self.weight, left=False)
        return dist.MultivariateNormal(loc, self.variance * torch.linalg.inv(self.precision))

    @cached_property
    def diagonal_gap(self) -> float:
        """log p(x) - ELBO at the best diagonal q, the same for every x.

        The best diagonal q has the posterior's mean and the variances s2 / M_ii; its KL to the
        posterior is 1/2 (sum_i log M_ii - log |M|).
        """
        M = self.precision  # noqa: N806
        return 0.5 * (M.diagonal().log().sum() - torch.logdet(M)).item()

    def sample(self, size: int) -> Tensor:
        """Draw x (N, d)."""
        d, q = self.weight.shape
        z = torch.randn(size, q, dtype=self.weight.dtype)
        noise = torch.randn(size, d, dtype=self.weight.dtype)
        return self.mean + z @ self.weight.T + self.variance**0.5 * noise

    def model(self) -> models.VAE:
        """The same model as a VAE with a linear decoder."""
        d, q = self.weight.shape
        decoder = nn.Linear(q, d)
        with torch.no_grad():
            decoder.weight.copy_(self.weight)
            decoder.bias.copy_(self.mean)
        likelihood = models.Normal((d,), self.variance**0.5, learn_scale=False)
        return models.VAE(models.StandardNormal(q), decoder, likelihood).to(self.weight.dtype)

    def diagonal_guide(self) -> guides.Amortized:
        """A guide with linear means, which the best diagonal q is a member of."""
        d, q = self.weight.shape
        encoder = nn.Linear(d, 2 * q)
        return guides.Amortized(encoder, guides.DiagonalNormal(q)).to(self.weight.dtype)


class ExactPosterior(PyroModule):
    """The guide that is the posterior of a linear-Gaussian model."""

    def __init__(self, truth: LinearGaussian) -> None:
        super().__init__()
        self.truth = truth

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.truth.posterior(x))


def linear_gaussian(dtype: torch.dtype = torch.float64) -> LinearGaussian:
    """Five observed and two latent dimensions, correlated in the posterior."""
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(5, 2, generator=generator, dtype=dtype)
    weight[:, 1] += 0.8 * weight[:, 0]
    return LinearGaussian(weight, torch.randn(5, generator=generator, dtype=dtype), 0.3)


def correlated(dtype: torch.dtype = torch.float64) -> LinearGaussian:
    """Four latent dimensions, whose posterior has correlations of up to 0.78 in all directions."""
    generator = torch.Generator().manual_seed(5)
    rotations = [
        torch.linalg.qr(torch.randn(4, 4, generator=generator, dtype=dtype)).Q for _ in range(2)
    ]
    stretch = torch.tensor([3.0, 2.0, 0.8, 0.4], dtype=dtype)
    mix = torch.randn(6, 4, generator=generator, dtype=dtype)
    weight = mix @ (rotations[0] * stretch) @ rotations[1]
    return LinearGaussian(weight, torch.randn(6, generator=generator, dtype=dtype), 0.5)

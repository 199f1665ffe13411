"""Posterior families that bend a diagonal normal by invertible maps."""

from abc import abstractmethod
from collections.abc import Callable

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn
from torch.distributions import constraints
from torch.distributions.transforms import Transform

from .families import Family


class Bijection(Transform):
    """An invertible map of vectors, made of two functions.

    A draw remembers its values before and after the map, so its density costs nothing more; the
    density of any other value needs the inverse.

    Args:
        forward: from x (..., Z) to y (..., Z) and log |det dy/dx| (...).
        backward: from y to x.
    """

    bijective = True
    domain = constraints.real_vector  # type: ignore[assignment]
    codomain = constraints.real_vector  # type: ignore[assignment]

    def __init__(
        self,
        forward: Callable[[Tensor], tuple[Tensor, Tensor]],
        backward: Callable[[Tensor], Tensor],
    ) -> None:
        super().__init__(cache_size=1)
        self._forward, self._backward = forward, backward
        self._known: tuple[Tensor, Tensor, Tensor] | None = None  # x, y, log determinant

    def _call(self, x: Tensor) -> Tensor:
        y, log_det = self._forward(x)
        self._known = x, y, log_det
        return y

    def _inverse(self, y: Tensor) -> Tensor:
        return self._backward(y)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Return log |det dy/dx|, shape (...)."""
        if self._known is not None and x is self._known[0] and y is self._known[1]:
            return self._known[2]
        return self._forward(x)[1]


class Flow(Family):
    r"""z = mu + f_S(...f_1(e_0)), with e_0 from a diagonal normal of mean 0.

    .. math:: \log q(z) = \log \mathcal N(e_0; 0, \mathrm{diag}(\sigma^2))
              - \sum_s \log |\det f_s'(e_{s-1})|

    The maps act about the mean, so one shape serves posteriors in different places.

    Source: Rezende and Mohamed 2015, arXiv 1505.05770.

    Args:
        latent_dim: number Z of latent coordinates.
        steps: number S of maps.
        amortised: whether the encoder puts out the maps' parameters for each datum, or they
            are learned, the same for all data.
    """

    def __init__(self, latent_dim: int, steps: int = 4, amortised: bool = True) -> None:
        super().__init__(latent_dim)
        if steps < 1:
            raise ValueError(f"Expected at least 1 step; got {steps}. Or take DiagonalNormal.")
        self.steps = steps
        self.shared = None if amortised else nn.Parameter(0.1 * torch.randn(steps, self.step_dim))

    @property
    @abstractmethod
    def step_dim(self) -> int:
        """How many numbers one step takes."""

    @abstractmethod
    def step(self, index: int, parameters: Tensor, scale: Tensor) -> Bijection:
        """Return one map.

        Args:
            index: which, from 0.
            parameters: of this map, (B, step_dim); or (step_dim,) where all data share it.
            scale: standard deviations of the base (B, Z).
        """

    @property
    def parameter_dim(self) -> int:
        """Locations and log scales of the base, and the steps' numbers unless they are shared."""
        return 2 * self.latent_dim + (self.steps * self.step_dim if self.shared is None else 0)

    def forward(self, parameters: Tensor) -> TorchDistributionMixin:
        """Return the flow for parameters = (loc, log_scale, step after step)."""
        sizes = [self.latent_dim, self.latent_dim, self.parameter_dim - 2 * self.latent_dim]
        loc, log_scale, rest = parameters.split(sizes, -1)
        if self.shared is None:
            rest = rest.unflatten(-1, (self.steps, self.step_dim))
        else:
            rest = self.shared
        scale = log_scale.exp()
        path = [self.step(s, rest[..., s, :], scale) for s in range(self.steps)]
        shift = Bijection(lambda e: (e + loc, e.new_zeros(e.shape[:-1])), lambda z: z - loc)
        base = dist.Normal(torch.zeros_like(loc), scale).to_event(1)
        return dist.TransformedDistribution(base, [*path, shift])

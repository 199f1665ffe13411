"""The law of the largest of perturbed numbers, for any noise."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.nn import functional as F

REACH = 34.0
"""A noise without ends is summed at quantiles of sigma(u), u from -34 to 34."""


@dataclass(frozen=True)
class Noise:
    r"""A law of real numbers, by its log density and its quantile function.

    Args:
        log_density: of a value, elementwise.
        quantile: from a share in (0, 1) to the value that so many lie below, elementwise.
        cdf: its inverse; by default found by bisection, with the density for its gradient.
        lower: the least value; a density with an end needs it.
        upper: the largest one.
        nodes: how many quantiles of a noise without ends a sum is over; 273 will do for a smooth
            density.
    """

    log_density: Callable[[Tensor], Tensor]
    quantile: Callable[[Tensor], Tensor]
    cdf: Callable[[Tensor], Tensor] | None = None
    lower: float = -math.inf
    upper: float = math.inf
    nodes: int = 2177

    def below(self, value: Tensor) -> Tensor:
        """Return the share that lies below a value, differentiable."""
        inside = value.clamp(self.lower, self.upper)
        if self.cdf is not None:
            return self.cdf(inside)
        with torch.no_grad():
            low, high = torch.full_like(value, -40.0), torch.full_like(value, 40.0)
            for _ in range(60):
                middle = (low + high) / 2
                less = self.quantile(middle.sigmoid()) < inside
                low, high = torch.where(less, middle, low), torch.where(less, high, middle)
            found = ((low + high) / 2).sigmoid()
            found = found.where(inside > self.lower, 0.0).where(inside < self.upper, 1.0)
            slope = self.log_density(inside).exp()
        return found + slope * (inside - inside.detach())

    def draw(self, like: Tensor) -> Tensor:
        """Return noise of the shape, type and device of a tensor."""
        tiny = torch.finfo(like.dtype).eps
        return self.quantile(torch.rand_like(like).clamp(tiny, 1 - tiny))

    def log_chances(self, locations: Tensor) -> Tensor:
        r"""Return :math:`\log P(i = \arg\max_j \mu_j + \epsilon_j)` for locations (..., C).

        By quadrature of :math:`\int_0^1 \prod_{j \ne i} \Phi(\mu_i - \mu_j + \Phi^{-1}(t)) \, dt`
        in 64 bits: with noise that has an end, piece by piece between its kinks.

        Source: Su 2022, kexue.fm 9085.
        """
        wide = locations.double()
        gaps = wide.unsqueeze(-1) - wide.unsqueeze(-2)  # (..., i, j)
        if math.isinf(self.lower) and math.isinf(self.upper):
            u = torch.linspace(-REACH, REACH, self.nodes, dtype=wide.dtype, device=wide.device)
            shares = u.sigmoid()
            weights = shares * (-u).sigmoid() * (2 * REACH / (self.nodes - 1))
        else:
            shares, weights = self._pieces(gaps.detach())
        size = wide.shape[-1]
        # (..., i, node, j); of the largest itself the share is 1
        below = self.below(gaps.unsqueeze(-2) + self.quantile(shares).unsqueeze(-1))
        own = torch.eye(size, dtype=torch.bool, device=wide.device).unsqueeze(-2)
        product = below.masked_fill(own, 1.0).prod(-1)
        chances = (weights * product).sum(-1)
        least = torch.finfo(locations.dtype).tiny
        return chances.clamp(min=least).log().to(locations.dtype)

    def _pieces(self, gaps: Tensor) -> tuple[Tensor, Tensor]:
        """Return shares and weights (..., i, nodes) by Gauss and Legendre between the kinks."""
        size = gaps.shape[-1]
        ends = [gaps.new_zeros(*gaps.shape[:-1], 1), gaps.new_ones(*gaps.shape[:-1], 1)]
        kinks = [self.below(end - gaps) for end in (self.lower, self.upper) if math.isfinite(end)]
        cuts = torch.cat([*ends, *kinks], -1).sort(-1).values
        places, mass = np.polynomial.legendre.leggauss(max(32, 3 * size // 2 + 2))
        places = (1 + places) / 2
        # Denser at both ends, where a quantile function may start as a root does.
        points = torch.as_tensor(places**2 * (3 - 2 * places)).to(gaps)
        mass = torch.as_tensor(3 * places * (1 - places) * mass).to(gaps)
        width = (cuts[..., 1:] - cuts[..., :-1]).unsqueeze(-1)
        shares = (cuts[..., :-1].unsqueeze(-1) + width * points).flatten(-2)
        return shares, (width * mass).flatten(-2)


@dataclass(frozen=True)
class _GumbelNoise(Noise):
    """The noise whose law is the softmax, exactly."""

    def log_chances(self, locations: Tensor) -> Tensor:
        """Return log softmax."""
        return locations.log_softmax(-1)


GUMBEL: Noise = _GumbelNoise(
    lambda e: -e - (-e).exp(), lambda t: -(-t.log()).log(), lambda e: (-(-e).exp()).exp()
)
EXPONENTIAL = Noise(lambda e: -e, lambda t: -(-t).log1p(), lambda e: -torch.expm1(-e), lower=0.0)
UNIFORM = Noise(torch.zeros_like, lambda t: t, lambda e: e, lower=0.0, upper=1.0)
NORMAL = Noise(
    lambda e: -e.square() / 2 - math.log(2 * math.pi) / 2, torch.special.ndtri, torch.special.ndtr,
    nodes=273,
)  # fmt: skip
LOGISTIC = Noise(
    lambda e: F.logsigmoid(e) + F.logsigmoid(-e), torch.logit, torch.sigmoid, nodes=273
)  # fmt: skip


class PerturbMax(dist.OneHotCategorical):
    r"""The place of the largest of perturbed numbers: :math:`\arg\max_j (\mu_j + \epsilon_j)`.

    As a one-hot vector. With Gumbel noise its law is softmax(mu), exactly; with other noise it is a
    quadrature's, good to 1e-6 and differentiable. :math:`p_i \ge p_j` where
    :math:`\mu_i \ge \mu_j`; the reverse holds for noise without ends alone, as with bounded noise
    both may be 0. ``sample`` is the argmax; ``rsample`` the softmax of the same numbers at a
    temperature, which is no draw of this law.

    A prior's or a guide's: a subclass of `LearnedCategorical` or of `guides.Categorical` has it as
    ``law``; a classifier's head: as the distribution of the label.

    Source: Su 2022, kexue.fm 9085.

    >>> import torch
    >>> from models import EXPONENTIAL, PerturbMax
    >>> PerturbMax(torch.tensor([1.0, 0.0]), EXPONENTIAL).probs  # 1 - e^-1 / 2
    tensor([0.8161, 0.1839])

    Args:
        locations: mu (..., C).
        noise: the law of each epsilon.
        temperature: of ``rsample``, above 0.
        validate_args: whether to check arguments and values.
    """

    def __init__(
        self,
        locations: Tensor,
        noise: Noise = GUMBEL,
        temperature: float = 0.5,
        validate_args: bool | None = None,
    ) -> None:
        if not temperature > 0:
            raise ValueError(f"Expected a temperature above 0; got {temperature}.")
        if not locations.dim() or locations.shape[-1] < 2:
            raise ValueError(f"Expected at least 2 locations; got shape {tuple(locations.shape)}.")
        self.locations, self.noise, self.temperature = locations, noise, temperature
        super().__init__(logits=noise.log_chances(locations), validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "PerturbMax":
        """Return the distribution with another batch shape."""
        new: Any = self._get_checked_instance(PerturbMax, _instance)
        new.locations = self.locations.expand(*batch_shape, *self.event_shape)
        new.noise, new.temperature = self.noise, self.temperature
        super().expand(torch.Size(batch_shape), _instance=new)
        return new

    def _perturbed(self, sample_shape: Any) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        locations = self.locations.expand(shape)
        return locations + self.noise.draw(locations)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw indicators (*sample_shape, *batch_shape, C)."""
        with torch.no_grad():
            place = self._perturbed(sample_shape).argmax(-1, keepdim=True)
            shape = *place.shape[:-1], self.locations.shape[-1]
            return self.locations.new_zeros(shape).scatter_(-1, place, 1.0)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draw soft indicators (*sample_shape, *batch_shape, C), differentiable."""
        return (self._perturbed(sample_shape) / self.temperature).softmax(-1)

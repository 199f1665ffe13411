"""A posterior family on the hyperbolic ball."""

import math
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor
from torch.distributions import biject_to, constraints
from torch.nn.functional import softplus

from .families import Family
from .flows import Bijection


class WrappedNormal(Family):
    r"""A normal carried to a mean in the hyperbolic ball: :math:`z = \mu \oplus \exp_0(v)`.

    .. math:: v \sim \mathcal N(0, \mathrm{diag}(\sigma^2)), \qquad \mu = \exp_0(m), \qquad
              \exp_0(v) = \tanh(\sqrt c |v| / 2) \frac{v}{\sqrt c |v|}

    The sum is Möbius's, which moves the ball as a rigid body: z is v, transported from the centre
    to the mean and followed along its geodesic. It is for a prior on the same ball, as
    `models.WrappedNormal`, whose density is with respect to volume in coordinates as well.

    Source: Nagano et al. 2019, arXiv 1902.02992; Mathieu et al. 2019, arXiv 1901.06033.

    Args:
        latent_dim: number Z of latent coordinates.
        curvature: c > 0, the prior's; the ball has the radius :math:`1 / \sqrt c`.
    """

    def __init__(self, latent_dim: int, curvature: float = 1.0) -> None:
        super().__init__(latent_dim)
        if not curvature > 0:
            raise ValueError(
                f"Expected a curvature above 0; got {curvature}. For flat space take "
                "DiagonalNormal."
            )
        self.curvature = curvature

    @property
    def parameter_dim(self) -> int:
        """A tangent vector at the centre that leads to the mean, then log scales."""
        return 2 * self.latent_dim

    def forward(self, parameters: Tensor) -> TorchDistributionMixin:
        """Return q for parameters = (m, log_scale) along the last axis."""
        tangent, log_scale = parameters.chunk(2, dim=-1)
        normal = dist.Normal(torch.zeros_like(tangent), log_scale.exp()).to_event(1)
        wrap = _InBall(*_exponential(self.curvature), self.curvature)
        return dist.TransformedDistribution(normal, [wrap, _moved(tangent, self.curvature)])


class _Ball(constraints.Constraint):
    """The open ball of curvature -c around 0."""

    event_dim = 1  # type: ignore[assignment]

    def __init__(self, curvature: float) -> None:
        self.curvature = curvature
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        """Tell which vectors (..., Z) lie within."""
        return value.square().sum(-1) * self.curvature < 1

    def __repr__(self) -> str:
        return f"Ball(radius={self.curvature**-0.5:.4g})"


class _InBall(Bijection):
    """A map whose values lie in the ball."""

    def __init__(self, forward: Any, backward: Any, curvature: float) -> None:
        super().__init__(forward, backward)
        self.codomain: Any = _Ball(curvature)


@biject_to.register(_Ball)
def _to_ball(ball: _Ball) -> _InBall:
    return _InBall(*_exponential(ball.curvature), ball.curvature)


def _exponential(curvature: float) -> tuple[Any, Any]:
    """Return exp_0 with its log determinant, and its inverse."""

    def forward(v: Tensor) -> tuple[Tensor, Tensor]:
        squares = curvature * v.square().sum(-1)
        ratio = _tanh_ratio(squares)
        # Across the line from the centre, and along it.
        log_det = (v.shape[-1] - 1) * ratio.log() - 2 * _log_cosh(squares) - math.log(2)
        return _off_the_edge(ratio.unsqueeze(-1) * v, curvature), log_det

    def backward(z: Tensor) -> Tensor:
        return _atanh_ratio(curvature * z.square().sum(-1)).unsqueeze(-1) * z

    return forward, backward


def _moved(tangent: Tensor, curvature: float) -> _InBall:
    """Return the rigid motion of the ball that takes its centre to exp_0(tangent) (B, Z)."""
    mean, _ = _exponential(curvature)[0](tangent)
    log_gap = -2 * _log_cosh(curvature * tangent.square().sum(-1))  # of 1 - c |mean|^2
    gap = log_gap.exp().unsqueeze(-1)

    def add(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Return a + b, and 1 + 2 c a'b + c^2 |a|^2 |b|^2, in terms that do not cancel."""
        total = a + b
        squares = curvature * total.square().sum(-1, keepdim=True)
        rest = (1 - curvature * b.square().sum(-1, keepdim=True)).clamp(min=0)
        below = (squares + gap * rest).clamp(min=torch.finfo(a.dtype).tiny ** 0.5)
        return _off_the_edge((squares * a + gap * total) / below, curvature), below.squeeze(-1)

    def forward(y: Tensor) -> tuple[Tensor, Tensor]:
        total, below = add(mean, y)
        return total, y.shape[-1] * (log_gap - below.log())

    return _InBall(forward, lambda z: add(-mean, z)[0], curvature)


def _off_the_edge(z: Tensor, curvature: float) -> Tensor:
    """Draw z (..., Z) back to where rounding still tells it from the ball's edge."""
    r = (curvature * z.square().sum(-1, keepdim=True)).clamp(min=0.25).sqrt()
    return z * ((1 - 2 * torch.finfo(z.dtype).eps) / r).clamp(max=1)


def _tanh_ratio(squares: Tensor) -> Tensor:
    """Return tanh(r / 2) / r for r^2 (...), and its series near 0, where gradients would cancel."""
    small = squares < 1e-3
    r = torch.where(small, 1.0, squares).sqrt()
    return torch.where(small, 0.5 - squares / 24 + squares**2 / 240, torch.tanh(r / 2) / r)


def _atanh_ratio(squares: Tensor) -> Tensor:
    """Return 2 artanh(r) / r for r^2 (...), r cut off where rounding would reach the edge."""
    small = squares < 1e-3
    r = torch.where(small, 0.5, squares).sqrt()
    inside = r.clamp(max=1 - 2 * torch.finfo(r.dtype).eps)
    series = 2 + 2 / 3 * squares + 2 / 5 * squares**2 + 2 / 7 * squares**3
    return torch.where(small, series, 2 * torch.atanh(inside) / r)


def _log_cosh(squares: Tensor) -> Tensor:
    """Return log cosh(r / 2) for r^2 (...)."""
    r = squares.clamp(min=torch.finfo(squares.dtype).tiny ** 0.5).sqrt()
    return r / 2 + softplus(-r) - math.log(2)

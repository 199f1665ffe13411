"""The prior on the hyperbolic ball."""

import math
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor
from torch.distributions import biject_to, constraints
from torch.distributions.transforms import Transform

from .priors import Prior


class WrappedNormal(Prior):
    r"""A normal on the hyperbolic ball: :math:`z = \exp_0(v), \; v \sim \mathcal N(0, \sigma^2 I)`.

    .. math:: \exp_0(v) = \tanh(\sqrt c |v| / 2) \frac{v}{\sqrt c |v|}, \qquad
              \log p(z) = \log \mathcal N(v; 0, \sigma^2 I)
              - (Z - 1) \log \frac{\sinh(\sqrt c |v|)}{\sqrt c |v|}
              + Z \log \frac{2}{1 - c |z|^2}

    The Poincaré ball of curvature -c has room that grows exponentially with the distance |v| from
    its centre, as trees have: for data that branch. The density is with respect to volume in
    coordinates, Lebesgue's, as that of every other prior here, and not with respect to the ball's
    own; the last term turns one into the other. In single precision z differs from the ball's edge
    up to a distance of 15: keep :math:`\sigma \sqrt{cZ}` well below.

    Source: Nagano et al. 2019, arXiv 1902.02992; Mathieu et al. 2019, arXiv 1901.06033.

    Args:
        latent_dim: number Z of latent coordinates.
        scale: standard deviation :math:`\sigma` of distances along each axis.
        curvature: c > 0; the ball has the radius :math:`1 / \sqrt c`.
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, latent_dim: int, scale: float = 1.0, curvature: float = 1.0) -> None:
        super().__init__()
        if not scale > 0 or not curvature > 0:
            raise ValueError(
                f"Expected a scale and a curvature above 0; got scale={scale}, "
                f"curvature={curvature}. For flat space take StandardNormal."
            )
        self.curvature = curvature
        self.register_buffer("loc", torch.zeros(latent_dim), persistent=False)
        self.register_buffer("scale", torch.full((latent_dim,), scale), persistent=False)

    def forward(self) -> TorchDistributionMixin:
        """Return the wrapped normal, event_shape (Z,)."""
        normal = dist.Normal(self.loc, self.scale).to_event(1)
        return dist.TransformedDistribution(normal, [_ExponentialMap(self.curvature)])


class _Ball(constraints.Constraint):
    """The open ball of curvature -c around 0."""

    event_dim = 1  # type: ignore[assignment]

    def __init__(self, curvature: float) -> None:
        self.curvature = curvature
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        """Return which vectors (..., Z) lie within."""
        return value.square().sum(-1) * self.curvature < 1

    def __repr__(self) -> str:
        return f"Ball(radius={self.curvature**-0.5:.4g})"


class _ExponentialMap(Transform):
    """From the tangent space of the ball's centre to the ball, along straight lines."""

    bijective = True
    domain = constraints.real_vector  # type: ignore[assignment]

    def __init__(self, curvature: float) -> None:
        super().__init__(cache_size=1)
        self.root = math.sqrt(curvature)
        self.codomain: Any = _Ball(curvature)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ExponentialMap) and self.root == other.root

    __hash__ = Transform.__hash__

    def _call(self, x: Tensor) -> Tensor:
        y = _tanh_ratio(self._squares(x)).unsqueeze(-1) * x
        # Rounding may not reach the edge.
        r = self._squares(y).clamp(min=0.25).sqrt().unsqueeze(-1)
        return y * ((1 - 2 * torch.finfo(y.dtype).eps) / r).clamp(max=1)

    def _inverse(self, y: Tensor) -> Tensor:
        return _atanh_ratio(self._squares(y)).unsqueeze(-1) * y

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:  # noqa: ARG002
        """Return (Z - 1) log tanh(r / 2) / r - 2 log cosh(r / 2) - log 2, r = sqrt(c) |x|.

        The lines across x and the line along it, each stretched as far as it is.
        """
        squares = self._squares(x)
        across = (x.shape[-1] - 1) * _tanh_ratio(squares).log()
        return across - 2 * _log_cosh(squares) - math.log(2)

    def _squares(self, v: Tensor) -> Tensor:
        return self.root**2 * v.square().sum(-1)


@biject_to.register(_Ball)
def _to_ball(ball: _Ball) -> _ExponentialMap:
    return _ExponentialMap(ball.curvature)


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
    return r / 2 + torch.nn.functional.softplus(-r) - math.log(2)

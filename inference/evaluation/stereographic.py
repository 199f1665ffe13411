"""The sphere as flat space, for what moves along gradients."""

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.transforms import Transform


class Stereographic(Transform):
    r"""From flat space to the unit sphere, but for one pole: :math:`z = (2u, 1 - |u|^2) / (1 + |u|^2)`.

    It stretches all directions alike, by :math:`2 / (1 + |u|^2)`; the determinant is with respect
    to the surface's measure.
    """  # noqa: E501

    bijective = True
    domain = constraints.real_vector  # type: ignore[assignment]
    codomain = dist.constraints.sphere  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stereographic)

    __hash__ = Transform.__hash__

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        """Return (..., Z) for (..., Z - 1)."""
        return torch.Size([*shape[:-1], shape[-1] + 1])

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        """Return (..., Z - 1) for (..., Z)."""
        return torch.Size([*shape[:-1], shape[-1] - 1])

    def _call(self, x: Tensor) -> Tensor:
        squares = x.square().sum(-1, keepdim=True)
        return torch.cat([2 * x, 1 - squares], -1) / (1 + squares)

    def _inverse(self, y: Tensor) -> Tensor:
        return y[..., :-1] / (1 + y[..., -1:]).clamp(min=torch.finfo(y.dtype).eps)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:  # noqa: ARG002
        """Return the logarithm of the stretch of areas at x (..., Z - 1), shape (...)."""
        return x.shape[-1] * (2 / (1 + x.square().sum(-1))).log()

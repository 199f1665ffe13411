"""Flows of linear maps: normals with structured covariances."""

import torch
from torch import Tensor

from .flows import Bijection, Flow

LONGEST = 3.0
"""Of the vector x of a rank-one exponential: one step stretches by e^3 at most."""


class Householder(Flow):
    r"""Reflections: :math:`z = \mu + H_S \cdots H_1 e_0`, :math:`H = I - 2 v v^\top / |v|^2`.

    They turn the diagonal normal's axes and keep volumes: Z steps reach every covariance.

    Source: Tomczak and Welling 2016, arXiv 1611.09630.
    """

    @property
    def step_dim(self) -> int:
        """The normal vector v."""
        return self.latent_dim

    def step(self, index: int, parameters: Tensor, scale: Tensor) -> Bijection:  # noqa: ARG002
        """Return one reflection."""
        v = parameters + _axis(index, parameters, self.latent_dim)
        v = v / v.norm(dim=-1, keepdim=True).clamp_min(1e-12)

        def reflect(z: Tensor) -> Tensor:
            return z - 2 * (z * v).sum(-1, keepdim=True) * v

        return Bijection(lambda z: (reflect(z), z.new_zeros(z.shape[:-1])), reflect)


class RankOneExponential(Flow):
    r"""The matrix exponential of an outer product: :math:`e' = e^{x y^\top} e`.

    With :math:`s = x^\top y` it is :math:`I + \frac{e^s - 1}{s} x y^\top`, its inverse the same
    with :math:`-s`, and its determinant :math:`e^s`: whatever x and y are, it can be inverted. Here
    y is a direction and x is at most 3 long: a larger s makes no sense in a posterior.

    Source: Su, kexue.fm 6407 (exp of a rank-one matrix as a layer of a flow).
    """

    @property
    def step_dim(self) -> int:
        """The vectors x and y."""
        return 2 * self.latent_dim

    def step(self, index: int, parameters: Tensor, scale: Tensor) -> Bijection:  # noqa: ARG002
        """Return one map."""
        x, y = parameters.chunk(2, -1)
        y = y + _axis(index, y, self.latent_dim)  # at x = y = 0 neither has a gradient
        y = y / y.norm(dim=-1, keepdim=True).clamp_min(1e-12)
        x = x / (1 + x.square().sum(-1, keepdim=True) / LONGEST**2).sqrt()
        s = (x * y).sum(-1)

        def along(z: Tensor, factor: Tensor) -> Tensor:
            return z + (factor * (z * y).sum(-1)).unsqueeze(-1) * x

        def forward(z: Tensor) -> tuple[Tensor, Tensor]:
            return along(z, _expm1_ratio(s)), s.expand(z.shape[:-1])

        return Bijection(forward, lambda z: along(z, -_expm1_ratio(-s)))


def _axis(index: int, like: Tensor, size: int) -> Tensor:
    """Return one axis (Z,), so that different steps start along different ones."""
    axes = torch.arange(size, device=like.device)
    return (axes == index % size).to(like.dtype)


def _expm1_ratio(s: Tensor) -> Tensor:
    """Return (e^s - 1) / s, 1 at s = 0, with derivatives."""
    near = s.abs() < 1e-3
    away = torch.where(near, torch.ones_like(s), s)
    return torch.where(near, 1 + s / 2 * (1 + s / 3 * (1 + s / 4)), away.expm1() / away)

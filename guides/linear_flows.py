"""Flows of linear maps about the base's mean: normals with structured covariances."""

import torch
from torch import Tensor

from .flows import Bijection, Flow


class Householder(Flow):
    r"""Reflections: :math:`z = \mu + H_S \cdots H_1 (z_0 - \mu)`, :math:`H = I - 2 v v^\top / |v|^2`.

    They turn the diagonal normal's axes and keep volumes: Z steps reach every covariance.

    Source: Tomczak and Welling 2016, arXiv 1611.09630.
    """  # noqa: E501

    def __init__(self, latent_dim: int, steps: int = 4, amortised: bool = True) -> None:
        """Keep the sizes.

        Args:
            latent_dim: number Z of latent coordinates.
            steps: number of reflections.
            amortised: whether each datum has its own (the paper's), or all share them.
        """
        super().__init__(latent_dim, steps, amortised)

    @property
    def step_dim(self) -> int:
        """The normal vector v."""
        return self.latent_dim

    def step(self, index: int, parameters: Tensor, loc: Tensor, scale: Tensor) -> Bijection:  # noqa: ARG002
        """Return one reflection."""
        # Two reflections along the same axis are none: every second starts along another.
        v = parameters + parameters.new_zeros(self.latent_dim).index_fill(
            0, torch.tensor(index % self.latent_dim, device=parameters.device), 1.0
        )
        v = v / v.norm(dim=-1, keepdim=True).clamp_min(1e-12)

        def reflect(z: Tensor) -> Tensor:
            centred = z - loc
            return z - 2 * (centred * v).sum(-1, keepdim=True) * v

        return Bijection(lambda z: (reflect(z), z.new_zeros(z.shape[:-1])), reflect)


class RankOneExponential(Flow):
    r"""The matrix exponential of an outer product: :math:`z = \mu + e^{x y^\top} (z_0 - \mu)`.

    With :math:`s = x^\top y` it is :math:`I + \frac{e^s - 1}{s} x y^\top`, its inverse the same
    with :math:`-s`, and its determinant :math:`e^s`: whatever x and y are, it can be inverted.

    Source: Su, kexue.fm 6407 (exp of a rank-one matrix as a layer of a flow).
    """

    def __init__(self, latent_dim: int, steps: int = 2, amortised: bool = True) -> None:
        """Keep the sizes.

        Args:
            latent_dim: number Z of latent coordinates.
            steps: number of maps.
            amortised: whether each datum has its own x and y, or all share them.
        """
        super().__init__(latent_dim, steps, amortised)

    @property
    def step_dim(self) -> int:
        """The vectors x and y."""
        return 2 * self.latent_dim

    def step(self, index: int, parameters: Tensor, loc: Tensor, scale: Tensor) -> Bijection:  # noqa: ARG002
        """Return one map."""
        x, y = parameters.chunk(2, -1)
        s = (x * y).sum(-1)

        def along(z: Tensor, factor: Tensor) -> Tensor:
            return z + (factor * ((z - loc) * y).sum(-1)).unsqueeze(-1) * x

        def forward(z: Tensor) -> tuple[Tensor, Tensor]:
            return along(z, _expm1_ratio(s)), s.expand(z.shape[:-1])

        return Bijection(forward, lambda z: along(z, -_expm1_ratio(-s)))


def _expm1_ratio(s: Tensor) -> Tensor:
    """Return (e^s - 1) / s, 1 at s = 0, with derivatives."""
    near = s.abs() < 1e-3
    away = torch.where(near, torch.ones_like(s), s)
    return torch.where(near, 1 + s / 2 * (1 + s / 3 * (1 + s / 4)), away.expm1() / away)

"""Flows whose maps are networks over the coordinates: inverse autoregressive, and splines."""

from collections.abc import Sequence
from typing import Any

import torch
from pyro.nn import ConditionalAutoRegressiveNN, DenseNN
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from .flows import Bijection, Flow
from .splines import rational_quadratic


class InverseAutoregressive(Flow):
    r"""Gated sums of earlier coordinates: :math:`z'_i = \sigma(g_i) z_i + (1 - \sigma(g_i)) m_i`.

    m and g come from a masked network of :math:`z_{<i}` and the datum's context; the order of the
    coordinates is reversed from step to step. A draw and its density cost one pass, the
    density of another value Z passes.

    Source: Kingma et al. 2016, arXiv 1606.04934, equations 13 and 14.

    Args:
        latent_dim: number Z of latent coordinates, at least 2.
        steps: number of maps.
        hidden: widths of each network's hidden layers, Z at least.
        context: numbers that the encoder gives each network for each datum; 0 shares the maps.
    """

    def __init__(
        self, latent_dim: int, steps: int = 2, hidden: Sequence[int] = (128,), context: int = 16
    ) -> None:
        _need_two(latent_dim)
        self.context = context
        super().__init__(latent_dim, steps)
        order: Any = torch.arange(latent_dim)
        self.networks = nn.ModuleList(
            ConditionalAutoRegressiveNN(
                latent_dim,
                context,
                [max(width, latent_dim) for width in hidden],
                permutation=order if s % 2 == 0 else order.flip(0),
            )
            for s in range(steps)
        )

    @property
    def step_dim(self) -> int:
        """The context of one network."""
        return self.context

    def step(self, index: int, parameters: Tensor, scale: Tensor) -> Bijection:  # noqa: ARG002
        """Return one map."""
        network = self.networks[index]

        def gated(z: Tensor) -> tuple[Tensor, Tensor]:
            m, g = network(*_together(z, parameters))
            return m, g + 2  # so that it starts near the identity

        def forward(z: Tensor) -> tuple[Tensor, Tensor]:
            m, g = gated(z)
            gate = g.sigmoid()
            return gate * z + (1 - gate) * m, logsigmoid(g).sum(-1)

        def backward(after: Tensor) -> Tensor:
            z, order = torch.zeros_like(after), torch.arange(self.latent_dim, device=after.device)
            for known in range(self.latent_dim):  # each pass makes one more coordinate right
                m, g = gated(z)
                now = order == (known if index % 2 == 0 else self.latent_dim - 1 - known)
                z = torch.where(now, m + (after - m) / g.sigmoid(), z)
            return z

        return Bijection(forward, backward)


class NeuralSpline(Flow):
    r"""Coupling layers of monotonic rational-quadratic splines, which bend each coordinate freely.

    Half of the coordinates and the datum's context choose the knots of the other half, in turns.
    The splines act on :math:`z / \sigma` within ``bound``, and leave alone what is outside.
    Density and inverse cost one pass.

    Source: Durkan et al. 2019, arXiv 1906.04032.

    Args:
        latent_dim: number Z of latent coordinates, at least 2.
        steps: number of layers.
        bins: pieces of each spline.
        bound: the splines act on [-bound, bound], in standard deviations of the base.
        hidden: widths of each network's hidden layers.
        context: numbers that the encoder gives each network for each datum; 0 shares the maps.
    """

    def __init__(
        self,
        latent_dim: int,
        steps: int = 2,
        bins: int = 8,
        bound: float = 4.0,
        hidden: Sequence[int] = (64,),
        context: int = 16,
    ) -> None:
        _need_two(latent_dim)
        if bins < 2 or not bound > 0:
            raise ValueError(
                f"Expected at least 2 bins and a bound above 0; got bins={bins}, bound={bound}."
            )
        self.context, self.bins, self.bound = context, bins, bound
        super().__init__(latent_dim, steps)
        halves = [latent_dim // 2, latent_dim - latent_dim // 2]
        self.networks = nn.ModuleList(
            DenseNN(halves[s % 2] + context, list(hidden), [halves[1 - s % 2] * (3 * bins - 1)])
            for s in range(steps)
        )

    @property
    def step_dim(self) -> int:
        """The context of one network."""
        return self.context

    def step(self, index: int, parameters: Tensor, scale: Tensor) -> Bijection:
        """Return one layer."""
        network, first = self.networks[index], self.latent_dim // 2

        def bend(z: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
            e, context = _together(z / scale, parameters)
            halves = [e[..., :first], e[..., first:]]
            fixed, bent = halves[index % 2], halves[1 - index % 2]
            knots = network(torch.cat([fixed, context], -1))
            knots = knots.unflatten(-1, (bent.shape[-1], 3 * self.bins - 1))
            bent, log_slope = rational_quadratic(bent, knots, self.bound, inverse)
            parts = [fixed, bent] if index % 2 == 0 else [bent, fixed]
            return scale * torch.cat(parts, -1), log_slope.sum(-1)

        return Bijection(lambda z: bend(z, False), lambda z: bend(z, True)[0])


def _together(z: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
    """Expand vectors and the encoder's output for their data to the same leading dimensions."""
    shape = torch.broadcast_shapes(z.shape[:-1], context.shape[:-1])
    return z.expand(*shape, z.shape[-1]), context.expand(*shape, context.shape[-1])


def _need_two(latent_dim: int) -> None:
    if latent_dim < 2:
        raise ValueError(
            f"Expected at least 2 latent coordinates; got latent_dim={latent_dim}. For one "
            "coordinate take Planar, Radial or MixtureOfNormals."
        )

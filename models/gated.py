"""A decoder of dense layers with gates."""

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from .networks import Decoder, refuse_no_width


class GatedMLP(Decoder):
    r"""A perceptron of gated layers: :math:`h = (W z + b) \odot \sigma(V z + c)`; linear output.

    The gate takes the place of the ReLU and lets a gradient through the linear branch undiminished.
    It has twice the weights of an `MLP` of the same widths; two layers of 300 are the network of
    the VampPrior's paper and of many later ones, and serve to compare with their numbers.

    Sources: Dauphin et al. 2017, arXiv 1612.08083 (the gate); Tomczak and Welling 2018, arXiv
    1705.07120 (the network).

    Args:
        latent_dim: number Z of latent coordinates.
        parameter_shape: shape of the likelihood's parameters for one datum.
        hidden: widths of the hidden layers, at least one.
    """

    def __init__(
        self, latent_dim: int, parameter_shape: tuple[int, ...], hidden: Sequence[int] = (300, 300)
    ) -> None:
        super().__init__()
        refuse_no_width(hidden)
        self.parameter_shape = tuple(parameter_shape)
        widths = [latent_dim, *hidden]
        gated = [m for a, b in pairwise(widths) for m in (nn.Linear(a, 2 * b), nn.GLU())]
        for layer in gated[::2]:
            # torch's start is for sums; behind a gate, 1/2 at first, the signal fades with depth.
            nn.init.kaiming_normal_(layer.weight)  # type: ignore[arg-type]
        self.layers = nn.Sequential(*gated, nn.Linear(hidden[-1], math.prod(self.parameter_shape)))

    def forward(self, z: Tensor) -> Tensor:
        """Map z (..., Z) to parameters (..., *parameter_shape)."""
        return self.layers(z).reshape(*z.shape[:-1], *self.parameter_shape)

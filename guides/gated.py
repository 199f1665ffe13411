"""An encoder of dense layers with gates."""

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from .networks import Encoder, refuse_no_width, refuse_other_events


class GatedMLP(Encoder):
    r"""A perceptron of gated layers: :math:`h = (W x + b) \odot \sigma(V x + c)`.

    The gate takes the place of the ReLU and lets a gradient through the linear branch undiminished.
    It has twice the weights of an `MLP` of the same widths; two layers of 300 are the network of
    the VampPrior's paper and of many later ones, and serve to compare with their numbers.

    Sources: Dauphin et al. 2017, arXiv 1612.08083 (the gate); Tomczak and Welling 2018, arXiv
    1705.07120 (the network).

    Args:
        event_shape: shape of one datum.
        parameter_dim: how many numbers the posterior family wants for each datum.
        hidden: widths of the hidden layers, at least one.
    """

    def __init__(
        self, event_shape: tuple[int, ...], parameter_dim: int, hidden: Sequence[int] = (300, 300)
    ) -> None:
        super().__init__()
        refuse_no_width(hidden)
        self.event_shape = tuple(event_shape)
        widths = [math.prod(self.event_shape), *hidden]
        gated = [m for a, b in pairwise(widths) for m in (nn.Linear(a, 2 * b), nn.GLU())]
        for layer in gated[::2]:
            # torch's start is for sums; behind a gate, 1/2 at first, the signal fades with depth.
            nn.init.kaiming_normal_(layer.weight)  # type: ignore[arg-type]
        self.layers = nn.Sequential(*gated, nn.Linear(widths[-1], parameter_dim))

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, *event_shape) to parameters (B, P).

        Raises:
            ValueError: x has another event shape than the one the network was built for.
        """
        refuse_other_events(x, self.event_shape)
        return self.layers(x.flatten(1))

"""Encoders: networks from a datum to the posterior family's parameters."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

from pyro.nn import DenseNN
from torch import Tensor, nn


class Encoder(nn.Module, ABC):
    """A network from x (B, *event_shape) to parameters (B, P)."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Encode a batch of data."""


def refuse_no_width(hidden: Sequence[int]) -> None:
    """Check that a network has a hidden layer, and that none is empty."""
    if not hidden or min(hidden) < 1:
        raise ValueError(
            f"Expected the width of at least one hidden layer; got hidden={list(hidden)}. "
            "For a linear map pass torch.nn.Linear as the network."
        )


def refuse_other_events(x: Tensor, event_shape: tuple[int, ...]) -> None:
    """Check that x (B, *event_shape) has this event shape."""
    if x.shape[1:] != event_shape:
        expected = ", ".join(map(str, ("B", *event_shape)))
        raise ValueError(
            f"Expected x of shape ({expected}); got {tuple(x.shape)}. "
            "Reshape the batch, or build the encoder with this event_shape."
        )


class MLP(Encoder):
    """A multilayer perceptron on the flattened datum, with ReLU between dense layers.

    >>> import torch
    >>> from guides import MLP
    >>> MLP((1, 8, 8), 4, hidden=[16])(torch.zeros(5, 1, 8, 8)).shape
    torch.Size([5, 4])

    Args:
        event_shape: shape of one datum.
        parameter_dim: how many numbers the posterior family takes for each datum.
        hidden: widths of the hidden layers, at least one.
    """

    def __init__(
        self, event_shape: tuple[int, ...], parameter_dim: int, hidden: Sequence[int] = (400,)
    ) -> None:
        super().__init__()
        refuse_no_width(hidden)
        self.event_shape = tuple(event_shape)
        self.layers = DenseNN(math.prod(self.event_shape), list(hidden), [parameter_dim])

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, *event_shape) to parameters (B, P).

        Raises:
            ValueError: x has another event shape than the one the network was built for.
        """
        refuse_other_events(x, self.event_shape)
        return self.layers(x.flatten(1))

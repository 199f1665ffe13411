"""Decoders: networks from a latent vector to the likelihood's parameters."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

from pyro.nn import DenseNN
from torch import Tensor, nn


class Decoder(nn.Module, ABC):
    """A network from z (..., Z) to parameters (..., *parameter_shape)."""

    @abstractmethod
    def forward(self, z: Tensor) -> Tensor:
        """Decode latent vectors with any number of batch dimensions in front."""


def refuse_no_width(hidden: Sequence[int]) -> None:
    """Check that a network has a hidden layer, and that none is empty."""
    if not hidden or min(hidden) < 1:
        raise ValueError(
            f"Expected the width of at least one hidden layer; got hidden={list(hidden)}. "
            "For a linear map pass torch.nn.Linear as the network."
        )


class MLP(Decoder):
    """A multilayer perceptron with ReLU between dense layers; linear output.

    >>> import torch
    >>> from models import MLP
    >>> MLP(2, (1, 8, 8), hidden=[16])(torch.zeros(3, 5, 2)).shape  # any batch dimensions in front
    torch.Size([3, 5, 1, 8, 8])

    Args:
        latent_dim: number Z of latent coordinates.
        parameter_shape: shape of the likelihood's parameters for one datum.
        hidden: widths of the hidden layers, at least one.
    """

    def __init__(
        self, latent_dim: int, parameter_shape: tuple[int, ...], hidden: Sequence[int] = (400,)
    ) -> None:
        super().__init__()
        refuse_no_width(hidden)
        self.parameter_shape = tuple(parameter_shape)
        self.layers = DenseNN(latent_dim, list(hidden), [math.prod(self.parameter_shape)])

    def forward(self, z: Tensor) -> Tensor:
        """Map z (..., Z) to parameters (..., *parameter_shape)."""
        return self.layers(z).reshape(*z.shape[:-1], *self.parameter_shape)

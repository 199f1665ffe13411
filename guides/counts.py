"""An encoder for counts."""

from torch import Tensor

from .networks import MLP


class LogMLP(MLP):
    r"""A multilayer perceptron on :math:`\log(1 + x)` of the flattened datum, for counts.

    Counts span orders of magnitude, and the first layer of an `MLP` sees only the largest.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map counts x (B, *event_shape) to parameters (B, P)."""
        return super().forward(x.log1p())

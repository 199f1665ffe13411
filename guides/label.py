"""A discrete label that can be drawn in a captured step."""

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

IMPOSSIBLE = -1e4
"""Log odds of a label against the one that is known: its probability is 0, its logarithm finite."""


def indicator(label: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
    """Return labels (...) as indicators (..., C); zeros for -1."""
    return (label.unsqueeze(-1) == torch.arange(classes, device=label.device)).to(dtype)


class Label(dist.Categorical):
    r"""A categorical whose draws are captured: :math:`\arg\max_c (l_c + g_c)`, g standard Gumbel.

    It is `Categorical` without torch's own sampler, which reads a value back.

    Source: Maddison, Mnih and Teh 2017, arXiv 1611.00712.
    """

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw labels (*sample_shape, *batch_shape)."""
        shape = (*self._extended_shape(sample_shape), self.logits.shape[-1])
        noise = torch.empty(shape, dtype=self.logits.dtype, device=self.logits.device)
        return (self.logits - noise.exponential_().log()).argmax(-1)

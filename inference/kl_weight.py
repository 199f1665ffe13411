"""KL weights: a Pyro handler that weighs the latent sites, and what scales them already."""

from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from .sites import Site


class KLWeight(Messenger):
    r"""Weigh the latent sites' log densities: E log p(x|z) - weight * KL(q(z|x) || p(z)).

    Whatever runs inside sees the weight: this project's objectives in their loss, never in the
    bound that they report, and Pyro's own ELBOs in both.

    Args:
        weight: what to multiply log p(z) and log q(z | x) by; 1 is the ELBO.
    """

    def __init__(self, weight: float | Tensor) -> None:
        super().__init__()
        self.weight = weight

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["is_observed"] and not site_is_subsample(msg):
            # Two of them multiply; the inner one comes first and keeps the programs' own scale. Not
            # in "infer", which a replayed site takes over from the guide's.
            msg["kl_weight"] = self.weight * msg.get("kl_weight", 1.0)
            msg.setdefault("unweighted_scale", msg["scale"])
            msg["scale"] = msg["scale"] * self.weight


def common_scale(model: Site, guide: Site) -> float | Tensor:
    """Return the ``poutine.scale`` of a latent site in both halves, where it is one number.

    Raises:
        ValueError: the two differ, or each datum has its own.
    """
    scales = model.scale, guide.scale
    one = all(torch.as_tensor(scale).numel() == 1 for scale in scales)
    tensors = any(isinstance(scale, Tensor) for scale in scales)  # whose values are not read
    if not one or (not tensors and scales[0] != scales[1]):
        raise ValueError(
            f"Site {guide.name!r}: this objective takes the KL apart and needs one scale for it; "
            "the model's poutine.scale and the guide's differ, or have one for each datum. Give "
            "both the same number, or take Elbo."
        )
    return guide.scale

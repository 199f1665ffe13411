"""KL weights: a Pyro handler that weighs the latent sites."""

from typing import Any

from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor


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

"""Coupled draws: antithetic bits, whose difference is the gradient."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..log_weights import LogWeights
from ..programs import Batch, Program
from .discrete_sites import Logits, LoneSite, by_particle, weigh, without_score
from .estimators import Estimator, Reduction


@dataclass(frozen=True)
class DisArm(Estimator):
    r"""Two draws from one noise, u and 1 - u, and what is known of them integrated out.

    .. math:: \frac{f(b) - f(\tilde b)}2 \, (-1)^{\tilde b_j} \, 1[b_j \ne \tilde b_j]\,
              \sigma(|l_j|), \qquad b = 1[1 - u < \sigma(l)], \; \tilde b = 1[u < \sigma(l)]

    for each log odds l_j, with f = log w. Unbiased, for the ELBO of an even number of particles and
    one latent site of independent bits; particle k and particle k + K/2 belong together. ARM's
    variance less that of its noise, and no more costly.

    Source: Dong, Mnih and Tucker 2020, arXiv 2006.10680 (also Yin et al. 2020, "U2G").
    """

    def __call__(
        self, bound: Reduction, model: Program, guide: Program, x: Batch
    ) -> tuple[LogWeights, Tensor]:
        """Run the pair; return its log weights and the surrogate (B,)."""
        if bound.additive and bound.particles % 2:
            raise ValueError(
                f"DisArm draws in pairs: expected an even number of particles; got "
                f"{bound.particles}. Take Elbo with 2."
            )
        site = LoneSite("DisArm", _antithetic, bits_alone=True)
        weights = weigh(bound, model, guide, x, site)
        assert site.logits is not None  # `weigh` refuses it
        half = bound.particles // 2
        logits = by_particle(site.logits.value, bound.particles, weights.size)[:half]
        draws = by_particle(next(iter(weights.draws.values())), bound.particles, weights.size)
        one, other = draws[:half], draws[half:]
        reward = weights.weighted.detach()
        reward = (reward[:half] - reward[half:]).unsqueeze(-1) / 2
        # (-1)^other where they differ is one - other.
        slope = reward * (one - other) * logits.detach().abs().sigmoid()
        surrogate = bound.reduce(weights.weighted)
        if not weights.analytic_kl:
            surrogate = surrogate + without_score(weights)
        return weights, surrogate + _zero((slope * logits).sum(-1)).mean(0)


def _antithetic(logits: Logits) -> Tensor:
    """Return draws, those of the second half of the particles with the first's noise mirrored."""
    like = logits.value
    half = torch.empty_like(like[: len(like) // 2]).exponential_().log()
    noise = half - torch.empty_like(half).exponential_().log()  # logistic, symmetric
    return logits.hard((like + torch.cat([noise, -noise])).detach())


def _zero(value: Tensor) -> Tensor:
    """Return zeros with the gradient of a value."""
    return value - value.detach()

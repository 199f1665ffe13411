"""Coupled draws: antithetic bits and choices, whose difference is the gradient."""

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

    for each log odds l_j, with f = log w. A choice among C values breaks a stick: C - 1 bits, with
    log odds :math:`l_i - \log \sum_{j > i} e^{l_j}`; the first that is 1 is the choice, and those
    that neither draw reaches have no gradient. Unbiased, for the ELBO of an even number of
    particles and one latent site of independent bits or choices; particle k and particle k + K/2
    belong together. ARM's variance less that of its noise, and no more costly.

    Sources: Dong, Mnih and Tucker 2020, arXiv 2006.10680 (also Yin et al. 2020, "U2G"); Dong, Mnih
    and Tucker 2021, arXiv 2106.08056 (choices).
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
        made = _Antithetic()
        site = LoneSite("DisArm", made)
        weights = weigh(bound, model, guide, x, site)
        assert site.logits is not None  # `weigh` refuses it
        half, size = bound.particles // 2, weights.size
        log_odds = by_particle(made.log_odds(site.logits), half, size)
        one, other, seen = (by_particle(b, half, size) for b in (made.one, made.other, made.seen))
        reward = weights.weighted.detach()
        reward = (reward[:half] - reward[half:]).unsqueeze(-1) / 2
        # (-1)^other where they differ is one - other.
        slope = reward * (one - other) * seen * log_odds.detach().abs().sigmoid()
        surrogate = bound.reduce(weights.weighted)
        if not weights.analytic_kl:
            surrogate = surrogate + without_score(weights)
        return weights, surrogate + _zero((slope * log_odds).sum(-1)).mean(0)


class _Antithetic:
    """Draws, those of the second half of the particles with the first's noise mirrored.

    Attributes:
        one: bits of the first half, of each value but the last where they make choices.
        other: bits of the second half.
        seen: 1 where a draw depends on the bit.
    """

    one: Tensor
    other: Tensor
    seen: Tensor

    def __call__(self, logits: Logits) -> Tensor:
        log_odds = self.log_odds(logits).detach()
        noise = torch.empty_like(log_odds).exponential_().log()
        noise = noise - torch.empty_like(noise).exponential_().log()  # logistic, symmetric
        self.one, self.other = (
            (log_odds + each > 0).to(log_odds.dtype) for each in (noise, -noise)
        )
        if logits.bits:
            self.seen = torch.ones_like(log_odds)
            return torch.cat([self.one, self.other])
        left = [_left(bits) for bits in (self.one, self.other)]
        self.seen = torch.maximum(*left)[..., :-1]
        pairs = zip((self.one, self.other), left, strict=True)
        return torch.cat([_ended(bits) * reached for bits, reached in pairs])

    def log_odds(self, logits: Logits) -> Tensor:
        """Return the log odds of the bits, those of the first half of the particles."""
        half = logits.value[: len(logits.value) // 2]
        if logits.bits:
            return half
        rest = half.flip(-1).logcumsumexp(-1).flip(-1)
        return half[..., :-1] - rest[..., 1:]


def _left(bits: Tensor) -> Tensor:
    """Return 1 where all bits before are 0, (..., C) of (..., C - 1)."""
    return torch.cat([torch.ones_like(bits[..., :1]), (1 - bits).cumprod(-1)], -1)


def _ended(bits: Tensor) -> Tensor:
    """Return bits with a 1 after the last: who has come so far stays."""
    return torch.cat([bits, torch.ones_like(bits[..., :1])], -1)


def _zero(value: Tensor) -> Tensor:
    """Return zeros with the gradient of a value."""
    return value - value.detach()

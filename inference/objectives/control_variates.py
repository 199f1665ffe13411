"""Control variates: a relaxed draw's own gradient, taken from the score function's noise."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..log_weights import LogWeights
from ..programs import Batch, Program, as_tuple
from .discrete_sites import Logits, LoneSite, by_particle, first, weigh, without_score
from .estimators import Estimator, Reduction
from .free_form import FreeForm


class Share(nn.Module):
    """How much of a control variate h to take from g: a running E[g h] / E[h^2], 1 at first."""

    both: Tensor
    square: Tensor

    def __init__(self, decay: float = 0.99) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("both", torch.zeros(()))
        self.register_buffer("square", torch.zeros(()))

    def forward(self, g: Tensor, h: Tensor) -> Tensor:
        """Return the share of earlier batches; then take these in."""
        if self.both.device != g.device:  # of the first batch: each step would wait for it
            self.to(g.device)
        share = torch.where(self.square > 0, self.both / self.square.clamp(min=1e-30), 1.0).to(g)
        for mean, value in ((self.both, g * h), (self.square, h * h)):
            mean.mul_(self.decay).add_((1 - self.decay) * value.mean().to(mean))
        return share


@dataclass(frozen=True)
class Rebar(Estimator):
    r"""The score function less the score function of a relaxed draw, plus its pathwise gradient.

    With b the hard draw that belongs to noisy logits z = l + g, y = soft(z / temperature) and z~
    noisy logits given b, for each logit:

    .. math:: f(b) \nabla \log q(b) - \eta \Big[ f(\tilde y) \nabla \log q(b)
              - \nabla f(y) + \nabla f(\tilde y) \Big].

    z~ has the value of z, its noise being the one that gives it, and another slope: by the k-th
    log probability :math:`1 - e^{z_k - \max z}` times that of z, by log odds
    :math:`q(b) (1 - e^{-|z|})`. So the model runs on twice as many particles, not three times.
    Unbiased, for the ELBO and one latent site of independent bits or choices.

    Source: Tucker et al. 2017, arXiv 1703.07370.

    Args:
        temperature: of the relaxed draw, above 0.
    """

    temperature: float = 0.5
    state: Any = field(default_factory=Share, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check that the temperature is above 0."""
        _refuse_cold(self.temperature)

    def __call__(
        self, bound: Reduction, model: Program, guide: Program, x: Batch
    ) -> tuple[LogWeights, Tensor]:
        """Run the pair; return its log weights and the surrogate (B,)."""

        def less(found: _Found) -> Tensor:
            g, h = found.reward * found.score, found.variate(found.relaxed, found.slope).detach()
            return g - self.state(g, h) * h

        made = _HardAndSoft(self.temperature)
        return _estimated("Rebar", made, less, bound, model, guide, x)


@dataclass(frozen=True)
class Relax(Estimator):
    r"""Rebar with a free form r learned beside the relaxed draw, and its temperature learned too.

    With b, y, z and z~ as for `Rebar` and :math:`c(z) = \eta f(y) + r_\phi(z)`, for each logit:

    .. math:: [f(b) - c(\tilde z)] \nabla \log q(b) + \nabla c(z) - \nabla c(\tilde z).

    :math:`r_\phi` is a network of one hidden layer of the datum's noisy logits, made at the first
    batch. Its weights, the temperature and eta descend the squared gradient, which is its variance
    but for a constant, a step a batch and after their use: so it is unbiased. For the ELBO and one
    latent site of independent bits or choices. The temperature's slope takes the decoder's second
    derivatives.

    Source: Grathwohl et al. 2018, arXiv 1711.00123.

    Args:
        temperature: of the relaxed draw, above 0, that a learned factor of 1 at first multiplies.
        hidden: number of hidden units of r.
    """

    temperature: float = 0.5
    hidden: int = 32
    state: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check the numbers and make what it learns."""
        _refuse_cold(self.temperature)
        if self.hidden < 1:
            raise ValueError(f"Expected at least 1 hidden unit; got {self.hidden}.")
        object.__setattr__(self, "state", FreeForm(self.hidden, Share()))

    def __call__(
        self, bound: Reduction, model: Program, guide: Program, x: Batch
    ) -> tuple[LogWeights, Tensor]:
        """Run the pair; return its log weights and the surrogate (B,)."""
        warmth = self.state.log_factor(as_tuple(x)[0].device)

        def less(found: _Found) -> Tensor:
            g, h = found.reward * found.score, found.variate(found.relaxed, found.slope)
            return self.state(g, h, found.noisy, found.variate, warmth)

        made = _HardAndSoft(self.temperature * warmth.exp())
        return _estimated("Relax", made, less, bound, model, guide, x, twice=True)


class _Found(NamedTuple):
    """What two halves of the particles say of each logit.

    Args:
        reward: f(b), (K, B, 1).
        relaxed: f(y), (K, B, 1).
        slope: of f(y) by the noisy logits, (K, B, D).
        score: grad log q(b), (K, B, D).
        rest: of z's slope, less that of z~, (K, B, D).
        noisy: z, (K, B, D).
    """

    reward: Tensor
    relaxed: Tensor
    slope: Tensor
    score: Tensor
    rest: Tensor
    noisy: Tensor

    def variate(self, value: Tensor, slope: Tensor) -> Tensor:
        """Return the control variate (K, B, D) of a function of z, by value and slope there."""
        return value * self.score - slope * self.rest


class _HardAndSoft:
    """Hard draws for the first half of the particles, the soft ones of the same noise after."""

    noisy: Tensor

    def __init__(self, temperature: float | Tensor) -> None:
        self.temperature = temperature

    def __call__(self, logits: Logits) -> Tensor:
        half = Logits(self.of_first(logits.value), logits.bits)
        self.noisy = half.noisy().requires_grad_()
        self.hard = half.hard(self.noisy.detach())
        return torch.cat([self.hard, half.soft(self.noisy, self.temperature)])

    def of_first(self, value: Tensor) -> Tensor:
        return value[: len(value) // 2]

    def found(self, logits: Logits, reward: Tensor, relaxed: Tensor, slope: Tensor) -> _Found:
        """Return what is known by each logit.

        Args:
            logits: of the site.
            reward: f(b), (K, B).
            relaxed: f(y), (K, B).
            slope: of f(y) by the noisy logits, (K, B, ...).
        """
        half = Logits(self.of_first(logits.value.detach()), logits.bits)
        noisy = self.noisy.detach()
        score = self.hard - half.mean()
        if logits.bits:
            chance = torch.where(self.hard > 0, half.mean(), (-half.value).sigmoid())
            rest = 1 + chance * torch.expm1(-noisy.abs())
        else:
            rest = (noisy - noisy.amax(-1, keepdim=True)).exp()
        shape = *reward.shape, -1
        by_logit = (each.reshape(shape) for each in (slope, score, rest, noisy))
        return _Found(reward.unsqueeze(-1), relaxed.unsqueeze(-1), *by_logit)


def _estimated(
    name: str,
    made: _HardAndSoft,
    less: Callable[[_Found], Tensor],
    bound: Reduction,
    model: Program,
    guide: Program,
    x: Batch,
    twice: bool = False,
) -> tuple[LogWeights, Tensor]:
    """Run the pair on hard and soft draws; return its log weights and the surrogate (B,).

    Args:
        name: of the estimator, for what is refused.
        made: makes the draws.
        less: the gradient by each logit (K, B, D), less what it takes from its noise.
        bound: the ELBO.
        model: p(z) p(x | z).
        guide: q(z | x).
        x: the batch.
        twice: whether the relaxed reward and its slope are differentiated once more.
    """
    site = LoneSite(name, made)
    grads = torch.is_grad_enabled()
    with torch.enable_grad():
        both = weigh(bound, model, guide, x, site, times=2)
        weights = first(both, bound.particles)
        surrogate = bound.reduce(weights.weighted)
        if not grads:
            return weights, surrogate.detach()
        relaxed = both.weighted[bound.particles :]
        (slope,) = torch.autograd.grad(
            relaxed.sum(), [made.noisy], retain_graph=True, create_graph=twice
        )
        if not both.analytic_kl:
            surrogate = surrogate + without_score(weights)
        assert site.logits is not None  # `weigh` refuses it
        if not twice:
            relaxed = relaxed.detach()
        found = made.found(site.logits, weights.weighted.detach(), relaxed, slope)
        gradient = less(found).detach()
    logits = by_particle(made.of_first(site.logits.value), bound.particles, weights.size)
    term = (gradient * logits).sum(-1)
    return weights, surrogate + (term - term.detach()).mean(0)


def _refuse_cold(temperature: float | Tensor) -> None:
    if not isinstance(temperature, Tensor) and not temperature > 0:
        raise ValueError(f"Expected a temperature above 0; got {temperature}.")

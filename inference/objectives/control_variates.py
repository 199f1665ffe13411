"""Control variates: a relaxed draw's own gradient, taken from the score function's noise."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..log_weights import LogWeights
from ..programs import Batch, Program
from .discrete_sites import Logits, LoneSite, by_particle, first, weigh, without_score
from .estimators import Estimator, Reduction


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
        if not isinstance(self.temperature, Tensor) and not self.temperature > 0:
            raise ValueError(f"Expected a temperature above 0; got {self.temperature}.")

    def __call__(
        self, bound: Reduction, model: Program, guide: Program, x: Batch
    ) -> tuple[LogWeights, Tensor]:
        """Run the pair; return its log weights and the surrogate (B,)."""
        made = _HardAndSoft(self.temperature)
        site = LoneSite("Rebar", made)
        grads = torch.is_grad_enabled()
        with torch.enable_grad():
            both = weigh(bound, model, guide, x, site, times=2)
            weights = first(both, bound.particles)
            surrogate = bound.reduce(weights.weighted)
            if not grads:
                return weights, surrogate.detach()
            relaxed = both.weighted[bound.particles :]
            (slope,) = torch.autograd.grad(relaxed.sum(), [made.noisy], retain_graph=True)
        if not both.analytic_kl:
            surrogate = surrogate + without_score(weights)
        assert site.logits is not None  # `weigh` refuses it
        g, h = made.parts(site.logits, weights.weighted.detach(), relaxed.detach(), slope)
        gradient = (g - self.state(g, h) * h).detach()
        logits = by_particle(made.of_first(site.logits.value), bound.particles, weights.size)
        term = (gradient * logits).sum(-1)
        return weights, surrogate + (term - term.detach()).mean(0)


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

    def parts(
        self, logits: Logits, reward: Tensor, relaxed: Tensor, slope: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return g = f(b) grad log q and the control variate h, (K, B, D) by each logit.

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
            rest = 1 + chance * torch.expm1(-noisy.abs())  # of z's slope, less that of z~
        else:
            rest = (noisy - noisy.amax(-1, keepdim=True)).exp()
        shape = *reward.shape, -1
        score, path = score.reshape(shape), (slope * rest).reshape(shape)
        return reward.unsqueeze(-1) * score, relaxed.unsqueeze(-1) * score - path

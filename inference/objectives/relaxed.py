"""The relaxed pair: discrete sites made continuous, their gradient pathwise."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import constraints
from torch.nn import functional as F

from ..laws import factors
from ..log_weights import LogWeights, carries_particles
from ..programs import Batch, Program, as_tuple
from .discrete_sites import Logits, like, logits_of
from .estimators import Estimator, Reduction


@dataclass(frozen=True)
class GumbelSoftmax(Estimator):
    r"""The pathwise gradient of a relaxed pair, whose bits and choices lie within (0, 1); biased.

    .. math:: y = \mathrm{softmax}((l + g) / \tau), \qquad
              \mathcal L_\tau = \mathbb E \, \log \frac{p_\tau(y)\, p(x \mid y)}{q_\tau(y \mid x)}

    with concrete densities :math:`p_\tau, q_\tau` in the place of both masses, so that it bounds
    the relaxed model's log p(x). What is reported is the bound of the discrete model, from discrete
    draws of its own; the relaxed bound is a column of its own in the trace, ``relaxed``.

    The KL of two concrete laws with one temperature does not depend on it, and is above that of the
    discrete ones, so that the bias does not vanish with tau. With ``Elbo(analytic_kl=True)`` it is
    the discrete pair's in closed form, and then the bias does: on 3 choices among 4 it is 290% of
    the gradient's norm without at tau 0.5, and with 6% at 1, 1% at 0.1. A discrete draw with this
    gradient backwards is `StraightThrough`.

    Sources: Maddison, Mnih and Teh 2017, arXiv 1611.00712, equation 20; Jang, Gu and Poole 2017,
    arXiv 1611.01144 (the KL of the discrete pair).

    Args:
        temperature: tau, above 0; low: less bias, more variance.
    """

    temperature: float = 0.5
    relaxes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check that the temperature is above 0."""
        if not isinstance(self.temperature, Tensor) and not self.temperature > 0:
            raise ValueError(f"Expected a temperature above 0; got {self.temperature}.")

    def __call__(
        self, bound: Reduction, model: Program, guide: Program, x: Batch
    ) -> tuple[LogWeights, Tensor]:
        """Run the pair twice; return the discrete log weights and the relaxed surrogate (B,)."""
        carries_particles(model, guide, as_tuple(x))  # tried, if at all, on the discrete pair
        closed = bool(getattr(bound, "analytic_kl", False))
        with torch.set_grad_enabled(closed and torch.is_grad_enabled()):
            weights = bound.weights(model, guide, x)
        with _Relaxed(self.temperature) as sites:
            soft = bound.weights(model, guide, x)
        if not sites.names:
            raise ValueError(
                "GumbelSoftmax relaxes Bernoulli and OneHotCategorical sites; the guide has none. "
                "Leave the estimator out."
            )
        kl = (weights if closed else soft).weighted_kl
        return weights, bound.reduce(soft.weighted_reconstruction - kl)


class _Relaxed(Messenger):
    """Put a concrete distribution in the place of the guide's discrete ones, and of their priors.

    Attributes:
        names: of the guide's sites that are relaxed.
    """

    def __init__(self, temperature: float | Tensor) -> None:
        super().__init__()
        self.temperature = temperature
        self.names: set[str] = set()

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or site_is_subsample(msg) or msg["infer"].get("enumerate"):
            return
        replayed = msg["done"]
        if (replayed and msg["name"] not in self.names) or msg["fn"].has_rsample:
            return
        logits = logits_of(msg["fn"])
        if logits is None:
            kind, half = type(factors(msg["fn"])).__name__, "model" if replayed else "guide"
            raise ValueError(
                f"Site {msg['name']!r}: GumbelSoftmax relaxes Bernoulli and OneHotCategorical; got "
                f"{kind} in the {half}. Take ScoreFunction, Vimco for Iwae, or OneHotCategorical "
                "for Categorical."
            )
        msg["fn"] = like(msg["fn"], Concrete(logits, self.temperature))
        if not replayed:
            self.names.add(msg["name"])
            msg["value"], msg["done"] = msg["fn"].rsample(), True


class Concrete(TorchDistribution):
    r"""The law of relaxed bits or choices: y = soft((l + g) / tau).

    Draws are kept off 0 and 1 by the smallest numbers that there are, so that densities are finite.

    Source: Maddison, Mnih and Teh 2017, arXiv 1611.00712.

    Args:
        logits: of the discrete law.
        temperature: tau.
    """

    arg_constraints: ClassVar[Any] = {}  # type: ignore[misc]
    has_rsample = True

    def __init__(self, logits: Logits, temperature: float | Tensor) -> None:
        self.logits, self.temperature = logits, temperature
        shape = logits.value.shape
        batch, event = (shape, ()) if logits.bits else (shape[:-1], shape[-1:])
        super().__init__(batch, torch.Size(event), validate_args=False)

    @property
    def support(self) -> Any:  # type: ignore[override]
        """Numbers between 0 and 1, or vectors of them with the sum 1."""
        return constraints.unit_interval if self.logits.bits else constraints.simplex

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draw y (*sample_shape, *batch_shape, *event_shape)."""
        l = self.logits.value  # noqa: E741
        noise = self.logits.noisy() if not sample_shape else Logits(
            l.expand(*sample_shape, *l.shape), self.logits.bits
        ).noisy()  # fmt: skip
        soft = self.logits.soft(l + (noise - l.detach()), self.temperature)
        finite = torch.finfo(soft.dtype)
        return soft.clamp(finite.tiny, 1 - finite.eps)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density (..., *batch_shape)."""
        finite, tau = torch.finfo(value.dtype), self.temperature
        l, log_tau = self.logits.value, _log(tau)  # noqa: E741
        log_y = value.clamp(finite.tiny, 1 - finite.eps).log()
        if self.logits.bits:
            log_rest = (-value.clamp(finite.tiny, 1 - finite.eps)).log1p()
            away = l - tau * (log_y - log_rest)
            return log_tau + away - 2 * F.softplus(away) - log_y - log_rest
        size = value.shape[-1]
        away = l - tau * log_y
        whole = away.sum(-1) - size * away.logsumexp(-1) - log_y.sum(-1)
        return whole + (size - 1) * log_tau + math.lgamma(size)


def _log(number: float | Tensor) -> float | Tensor:
    return number.log() if isinstance(number, Tensor) else math.log(number)

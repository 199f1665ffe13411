"""The straight-through estimator: discrete draws forwards, relaxed ones backwards."""

from dataclasses import dataclass
from typing import Any

from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from ..laws import factors
from ..log_weights import LogWeights
from ..programs import Batch, Program
from .discrete_sites import linear, logits_of
from .estimators import Estimator, Reduction


@dataclass(frozen=True)
class StraightThrough(Estimator):
    r"""Discrete draws forwards, the gradient of a relaxed draw backwards; biased.

    Bernoulli and one-hot categorical sites draw by the Gumbel-max trick; the backward pass sees
    the same noise through a softmax at the temperature. Other sites are pathwise.

    Sources: Bengio, Leonard and Courville 2013, arXiv 1308.3432; Jang, Gu and Poole 2017, arXiv
    1611.01144; the article on reparametrisation, Su 2019 (kexue.fm 6705).

    Args:
        temperature: of the softmax, above 0; low: less bias, more variance.
    """

    temperature: float = 0.5

    def __post_init__(self) -> None:
        """Check that the temperature is above 0."""
        if not self.temperature > 0:
            raise ValueError(f"Expected a temperature above 0; got {self.temperature}.")

    def __call__(
        self, bound: Reduction, model: Program, guide: Program, x: Batch
    ) -> tuple[LogWeights, Tensor]:
        """Run the pair; return its log weights and the surrogate (B,)."""
        with _StraightThroughDraws(self.temperature):
            weights = bound.weights(model, guide, x)
        return weights, bound.reduce(weights.weighted)


class _StraightThroughDraws(Messenger):
    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or site_is_subsample(msg) or msg["fn"].has_rsample:
            return
        if msg["done"]:  # the model's, replayed: its density sends a gradient too
            msg["fn"] = linear(msg["fn"])
            return
        logits = logits_of(msg["fn"])
        if logits is None:
            raise ValueError(
                f"Site {msg['name']!r}: StraightThrough draws Bernoulli and OneHotCategorical; got "
                f"{type(factors(msg['fn'])).__name__}. Take ScoreFunction, or OneHotCategorical "
                "for Categorical."
            )
        noisy = logits.noisy()
        soft = logits.soft(logits.value + (noisy - logits.value.detach()), self.temperature)
        msg["fn"], msg["value"] = linear(msg["fn"]), logits.hard(noisy) + (soft - soft.detach())
        msg["done"] = True

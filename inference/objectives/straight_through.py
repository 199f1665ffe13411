"""The straight-through estimator: discrete draws forwards, relaxed ones backwards."""

from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from ..log_weights import LogWeights
from ..programs import Batch, Program
from ..sites import factors
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
        if msg["done"] or msg["is_observed"] or site_is_subsample(msg) or msg["fn"].has_rsample:
            return
        fn: Any = factors(msg["fn"])
        if isinstance(fn, dist.Bernoulli):
            uniform = torch.rand_like(fn.logits).clamp(1e-7, 1 - 1e-7)
            soft = ((fn.logits + uniform.log() - (-uniform).log1p()) / self.temperature).sigmoid()
            hard = (soft > 0.5).to(soft.dtype)
        elif isinstance(fn, dist.OneHotCategorical):
            noise = -torch.empty_like(fn.logits).exponential_().log()
            soft = ((fn.logits + noise) / self.temperature).softmax(-1)
            # torch's own one_hot reads values, which a capture can't.
            hard = torch.zeros_like(soft).scatter_(-1, soft.argmax(-1, keepdim=True), 1.0)
        else:
            raise ValueError(
                f"Site {msg['name']!r}: StraightThrough draws Bernoulli and OneHotCategorical; got "
                f"{type(fn).__name__}. Take ScoreFunction, or OneHotCategorical for Categorical."
            )
        msg["value"] = hard + (soft - soft.detach())
        msg["done"] = True

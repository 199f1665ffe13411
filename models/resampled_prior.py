"""The prior that accepts or rejects a normal's draws by a learned probability."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from pyro.nn import DenseNN
from torch import Tensor
from torch.distributions import constraints
from torch.nn.functional import logsigmoid
from torch.quasirandom import SobolEngine

from .priors import Prior


class ResampledNormal(Prior):
    r"""Draws of a standard normal, accepted with a learned probability; the T-th always.

    .. math:: p(z) = \pi(z) \left[ \frac{a(z)}{A} \big(1 - (1 - A)^{T-1}\big) + (1 - A)^{T-1}
              \right], \qquad a = \mathrm{sigmoid}(\mathrm{network}(z)), \quad A = \mathbb E_\pi a

    The network carves out of :math:`\pi = \mathcal N(0, I)` what the posteriors do not use. In
    training A is the mean of fresh draws at every step, so that its gradient is not that of a few
    lucky points. In evaluation it is the mean over one fixed set of N quasi-random points, which
    makes log p(z) a function. An error of log A shifts it, for every z alike where T A is large; by
    N independent draws it would have a deviation of :math:`\sqrt{(1 - A) / (A N)}` at most.

    Source: Bauer and Mnih 2019, arXiv 1810.11428.

    Args:
        latent_dim: number Z of latent coordinates.
        truncation: number T of draws, the last of which is always accepted; 1 is the normal.
        hidden: widths of the network's hidden layers.
        draws: how many draws A is the mean of, in training.
        points: number N of points that A is the mean over, in evaluation; a power of 2.
    """

    loc: Tensor
    points: Tensor

    def __init__(
        self,
        latent_dim: int,
        truncation: int = 100,
        hidden: Sequence[int] = (100, 100),
        draws: int = 1024,
        points: int = 32_768,
    ) -> None:
        super().__init__()
        if min(truncation, draws, points) < 1:
            raise ValueError(
                "Expected at least 1 draw of each kind; got "
                f"truncation={truncation}, draws={draws}, points={points}."
            )
        self.truncation, self.draws = truncation, draws
        self.network = DenseNN(latent_dim, list(hidden), [1])
        self.register_buffer("loc", torch.zeros(latent_dim), persistent=False)
        uniform = SobolEngine(latent_dim, scramble=True, seed=0).draw(points, dtype=torch.float64)
        least = 2.0**-32  # Sobol's points may lie on the edge
        fixed = torch.special.ndtri(uniform.clamp(least, 1 - least)).to(self.loc)
        self.register_buffer("points", fixed, persistent=False)

    def forward(self) -> TorchDistribution:
        """Return the resampled normal, event_shape (Z,)."""
        normal = dist.Normal(self.loc, torch.ones_like(self.loc)).to_event(1)
        z = normal.sample(torch.Size([self.draws])) if self.training else self.points
        return _Resampled(normal, self._logit, self.truncation, self._logit(z))

    def _logit(self, z: Tensor) -> Tensor:
        return self.network(z).squeeze(-1)


class _Resampled(TorchDistribution):
    """Accept or reject.

    Args:
        proposal: pi, batch_shape (...), event_shape (Z,).
        logit: from z (..., Z) to that of a(z) (...).
        truncation: T.
        logits: of draws from pi (S,), for the mean of a.
    """

    arg_constraints: Any = {}  # type: ignore[misc]  # noqa: RUF012  (every real number will do)
    support: Any = constraints.real_vector  # type: ignore[misc]

    def __init__(
        self,
        proposal: Any,
        logit: Callable[[Tensor], Tensor],
        truncation: int,
        logits: Tensor,
        validate_args: bool | None = None,
    ) -> None:
        self.proposal, self.logit = proposal, logit
        self.truncation, self.logits = truncation, logits
        super().__init__(proposal.batch_shape, proposal.event_shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "_Resampled":
        """Return the distribution with another batch shape."""
        proposal = self.proposal.expand(batch_shape)
        check = self.__dict__.get("_validate_args")
        return _Resampled(proposal, self.logit, self.truncation, self.logits, check)

    @property
    def log_acceptance(self) -> Tensor:
        """The logarithm of A, ()."""
        return logsigmoid(self.logits).logsumexp(0) - math.log(len(self.logits))

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p (...) of z (..., Z)."""
        if self._validate_args:
            self._validate_sample(value)
        log_a = logsigmoid(self.logit(value))
        if self.truncation == 1:
            return self.proposal.log_prob(value) + 0 * log_a
        log_rejection = logsigmoid(-self.logits).logsumexp(0) - math.log(len(self.logits))
        log_unseen = (self.truncation - 1) * log_rejection
        log_seen = torch.log(-torch.expm1(log_unseen)) - self.log_acceptance
        return self.proposal.log_prob(value) + torch.logaddexp(log_a + log_seen, log_unseen)

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw T candidates for each, and return the first that is accepted, or the last."""
        z = self.proposal.sample(torch.Size([self.truncation]) + torch.Size(sample_shape))
        accepted = torch.rand_like(z[..., 0]) < self.logit(z).sigmoid()
        # The earlier, the larger; the last always has 0.
        rank = torch.arange(self.truncation - 1, -1, -1, device=z.device)
        rank = rank.reshape(-1, *[1] * (accepted.dim() - 1)) * accepted
        first = torch.where(rank.amax(0) > 0, rank.argmax(0), self.truncation - 1)
        index = first[None, ..., None].expand(1, *z.shape[1:])
        return z.gather(0, index).squeeze(0)

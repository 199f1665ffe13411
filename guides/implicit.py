"""A posterior without a density: noise through a network, its log density learned as a ratio."""

from collections.abc import Sequence
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.nn import DenseNN
from torch import Tensor
from torch.distributions import constraints
from torch.func import functional_call
from torch.nn.functional import softplus

from .families import Family


class Implicit(Family):
    r"""Noise through a network: :math:`z = \mu + \sigma \, g(\epsilon, h)`; its density is learned.

    g can be anything, so that q has no density in closed form; the moments of a fixed sample of
    noise are taken off, so that g has mean 0 and variance 1 for each datum. The log density is
    **an estimate**: that of the diagonal normal :math:`r = \mathcal N(\mu,
    \mathrm{diag}(\sigma^2))`, plus a ratio network T, which learns to tell draws of q from draws
    of r by the logistic loss

    .. math:: \mathbb E_q \log(1 + e^{-T}) + \mathbb E_r \log(1 + e^{T}), \qquad
              T^* = \log q(z|x) - \log r(z|x).

    That loss is part of the log density of a draw, with the value 0: any objective that reads the
    draw's log density trains T too. Elsewhere T is held fixed. With an estimate in it a
    bound is no longer one: numbers of an implicit posterior compare models only roughly. T learns
    under the estimators whose gradient goes through log q (not `StickingTheLanding`).

    Source: Mescheder, Nowozin and Geiger 2017, arXiv 1701.04722 (adversarial variational Bayes,
    with adaptive contrast).

    Args:
        latent_dim: number Z of latent coordinates.
        hidden: widths of the hidden layers of both.
        noise: numbers of noise besides one for each coordinate.
        context: numbers h that the encoder gives both networks for each datum.
        draws: size of the fixed sample that g's moments are taken from.
    """

    sample: Tensor

    def __init__(
        self,
        latent_dim: int,
        hidden: Sequence[int] = (64, 64),
        noise: int = 4,
        context: int = 16,
        draws: int = 64,
    ) -> None:
        super().__init__(latent_dim)
        if noise < 0 or context < 0 or draws < 4 or draws % 2:
            raise ValueError(
                "Expected at least 0 numbers of noise and of context, and an even number of draws "
                f"from 4; got noise={noise}, context={context}, draws={draws}."
            )
        self.context, layers = context, list(hidden)
        self.shape = DenseNN(latent_dim + noise + context, layers, [latent_dim])
        self.shape.layers[-1].register_parameter("bias", None)  # the mean is taken off
        self.ratio = DenseNN(latent_dim + context, layers, [1])
        half = torch.randn(draws // 2, 1, latent_dim + noise)
        self.register_buffer("sample", torch.cat([half, -half]))

    @property
    def parameter_dim(self) -> int:
        """Locations, log scales and the context."""
        return 2 * self.latent_dim + self.context

    def forward(self, parameters: Tensor) -> TorchDistributionMixin:
        """Return q for parameters = (loc, log_scale, context)."""
        sizes = [self.latent_dim, self.latent_dim, self.context]
        loc, log_scale, context = parameters.split(sizes, -1)
        flat = context.reshape(-1, self.context)
        raw = self.bend(self.sample.expand(-1, len(flat), -1), flat)
        raw = raw.reshape(len(raw), *context.shape[:-1], self.latent_dim)
        scale = log_scale.exp() / (raw.var(0) + 1e-6).sqrt()
        return _Implicit(self, loc - scale * raw.mean(0), scale, loc, log_scale.exp(), context)

    def bend(self, noise: Tensor, context: Tensor) -> Tensor:
        """Return g before its moments are taken off, for noise and context of the same shape."""
        e = noise[..., : self.latent_dim]
        return e + self.shape(torch.cat([noise, context.expand(*noise.shape[:-1], -1)], -1))


class _Implicit(TorchDistribution):
    """See `Implicit`: shift and stretch take g to z, loc and scale are q's moments."""

    arg_constraints: ClassVar[dict[str, Any]] = {}  # pyright: ignore
    support = constraints.real_vector  # pyright: ignore
    has_rsample = True

    def __init__(self, family: Implicit, *tensors: Tensor) -> None:
        self._family, self._tensors = family, tensors
        self.shift, self.stretch, self.loc, self.scale, self.context = tensors
        self._drawn: Tensor | None = None
        super().__init__(self.loc.shape[:-1], self.loc.shape[-1:], validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "_Implicit":
        """Return the same for more data."""
        tensors = (t.expand(*batch_shape, t.shape[-1]) for t in self._tensors)
        return _Implicit(self._family, *tensors)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draw, and remember what was drawn."""
        shape = torch.Size(sample_shape) + self.batch_shape
        noise = torch.randn(*shape, self._family.sample.shape[-1], device=self.loc.device)
        z = self.shift + self.stretch * self._family.bend(noise.to(self.loc), self.context)
        self._drawn = z
        return z

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the estimate; for what was drawn last, with the gradient of the logistic loss."""
        e = (value - self.loc) / self.scale
        ratio: Any = self._family.ratio
        fixed = {name: p.detach() for name, p in ratio.named_parameters()}
        found = functional_call(ratio, fixed, (self._seen(e, self.context),)).squeeze(-1)
        density = dist.Normal(self.loc, self.scale).to_event(1).log_prob(value) + found
        if value is not self._drawn or not torch.is_grad_enabled():
            return density
        context = self.context.detach()
        here = ratio(self._seen(e.detach(), context)).squeeze(-1)
        elsewhere = ratio(self._seen(torch.randn_like(e), context)).squeeze(-1)
        loss = softplus(-here) + softplus(elsewhere)
        return density + loss - loss.detach()

    def _seen(self, e: Tensor, context: Tensor) -> Tensor:
        """Return what the ratio network sees of a value and its datum."""
        shape = torch.broadcast_shapes(e.shape[:-1], context.shape[:-1])
        return torch.cat([t.expand(*shape, t.shape[-1]) for t in (e, context)], -1)

"""A guide that starts from an encoder's output and refines it for each datum."""

from collections.abc import Callable
from typing import Any, cast

import pyro
import torch
from pyro import poutine
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn
from torch.distributions import Independent, MultivariateNormal, Normal, TransformedDistribution

from .amortized import Amortized
from .families import Family


class SemiAmortized(Amortized):
    r"""The encoder's answer, refined by a few steps of gradient ascent on each datum's own ELBO.

    .. math:: \lambda_0 = \mathrm{encoder}(x), \qquad
              \lambda_{t+1} = \lambda_t + \rho \, \nabla_\lambda \mathrm{ELBO}(\lambda_t; x)

    It closes part of the amortisation gap, at the price of a pass through the model and back for
    each step. Its ELBO is that of a few fixed draws, half of them the others' mirror images, so
    q(z|x) is a function of x. The step sizes :math:`\rho`, one a parameter, are learned.

    Source: Kim et al. 2018, arXiv 1802.02550.

    Args:
        encoder: network from x (B, *event_shape) to the family's parameters (B, P).
        family: from parameters to a distribution that is a normal pushed forward: `DiagonalNormal`,
            `FullNormal`, and the flows.
        steps: number T of steps.
        rate: step size at the start.
        draws: number of fixed draws, even.
        differentiate: whether the gradient of the outer objective goes through the steps (the
            paper's), or takes them as given, which is cheaper.
    """

    noise: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        family: Family,
        steps: int = 4,
        rate: float = 0.01,
        draws: int = 4,
        differentiate: bool = True,
    ) -> None:
        super().__init__(encoder, family)
        if steps < 1 or draws < 2 or draws % 2 or not rate > 0:
            raise ValueError(
                "Expected at least 1 step, a rate above 0 and an even number of draws; got "
                f"steps={steps}, rate={rate}, draws={draws}. Without steps take Amortized."
            )
        self.steps, self.differentiate = steps, differentiate
        self.log_rate = nn.Parameter(torch.full((family.parameter_dim,), rate).log())
        half = torch.randn(draws // 2, 1, family.latent_dim)
        self.register_buffer("noise", torch.cat([half, -half]))
        self._model: Callable[[Tensor], Any] | None = None

    def given(self, model: Callable[[Tensor], Any]) -> None:
        """Give the guide the model, whose parameters stay the model's."""
        self._model = model

    def refined(self, x: Tensor) -> TorchDistributionMixin:
        """Return q(z|x) after the steps, batch_shape (B,) and event_shape (Z,).

        Raises:
            RuntimeError: the model is not known.
            TypeError: the family is not a normal pushed forward.
        """
        through = self.differentiate and torch.is_grad_enabled()
        with torch.enable_grad():
            parameters = self.encoder(x)
            if not parameters.requires_grad:  # a frozen encoder, or an evaluation
                parameters = parameters.detach().requires_grad_()
            for _ in range(self.steps):
                elbo = self._elbo(parameters, x)
                (slope,) = torch.autograd.grad(elbo, parameters, create_graph=through)
                parameters = parameters + self.log_rate.exp() * slope
        return self.family(parameters)

    def forward(self, x: Tensor) -> Tensor:
        """Run the program on a batch x (B, *event_shape); return the latent vectors (..., B, Z)."""
        q = self.refined(x)
        with pyro.plate("data", len(x)):
            return pyro.sample("z", q)

    def _elbo(self, parameters: Tensor, x: Tensor) -> Tensor:
        """Return the ELBO of the fixed draws, summed over the batch."""
        if self._model is None:
            raise RuntimeError("A semi-amortised guide needs the model: call guide.given(model).")
        q = self.family(parameters)
        z = _push(q, self.noise.expand(-1, len(x), -1))
        conditioned = poutine.condition(self._model, data={"z": z})
        with poutine.block():
            log_joint = poutine.trace(conditioned).get_trace(x).log_prob_sum()
        return (log_joint - q.log_prob(z).sum()) / len(self.noise)


def _push(q: Any, noise: Tensor) -> Tensor:
    """Map standard normal noise (S, B, Z) to values of q."""
    if isinstance(q, TransformedDistribution):
        z = _push(q.base_dist, noise)
        for transform in q.transforms:
            z = cast(Tensor, transform(z))
        return z
    if isinstance(q, Independent):
        return _push(q.base_dist, noise)
    if isinstance(q, Normal):
        return q.loc + q.scale * noise
    if isinstance(q, MultivariateNormal):
        return q.loc + (q.scale_tril @ noise.unsqueeze(-1)).squeeze(-1)
    raise TypeError(
        f"A semi-amortised guide needs a family that is a normal pushed forward; got "
        f"{type(q).__name__}. Take DiagonalNormal, FullNormal or a flow."
    )

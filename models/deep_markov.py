"""Sequences: the generative half of a deep Markov model."""

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.nn import DenseNN, PyroModule
from torch import Tensor, nn
from torch.nn import functional as F

from .likelihoods import Likelihood
from .priors import Prior


class GatedTransition(nn.Module):
    r"""A normal step of which a gate says how much is not linear: p(z_t | z_{t-1}).

    .. math:: \mu = (1 - g) \odot (W z + b) + g \odot h, \qquad
              \sigma = \mathrm{softplus}(V \max(h, 0) + c),

    with :math:`g = \sigma(\mathrm{MLP}(z))` and :math:`h = \mathrm{MLP}(z)`. W starts as the
    identity, b as 0.

    Source: Krishnan, Shalit and Sontag 2017, arXiv 1609.09869.

    Args:
        latent_dim: number Z of latent coordinates.
        hidden: width of the hidden layer of gate and step.
    """

    def __init__(self, latent_dim: int, hidden: int = 200) -> None:
        super().__init__()
        self.gate = DenseNN(latent_dim, [hidden], [latent_dim])
        self.step = DenseNN(latent_dim, [hidden], [latent_dim])
        self.linear = nn.Linear(latent_dim, latent_dim)
        nn.init.eye_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.scale = nn.Linear(latent_dim, latent_dim)

    def forward(self, z: Tensor) -> TorchDistributionMixin:
        """Return p(z_t | z_{t-1}) for z (..., Z): batch_shape (...), event_shape (Z,)."""
        gate, step = self.gate(z).sigmoid(), self.step(z)
        loc = torch.lerp(self.linear(z), step, gate)
        return dist.Normal(loc, F.softplus(self.scale(step.relu()))).to_event(1)


class DeepMarkov(PyroModule):
    r"""A latent state that moves and is seen at each step: z_t ~ p(z_t | z_{t-1}), x_t from z_t.

    .. math:: \log p(x, z) = \log p(z_1) + \sum_{t=2}^T \log p(z_t \mid z_{t-1})
              + \sum_{t=1}^T \log p(x_t \mid z_t).

    A datum is (\*times, \*row): ``likelihood`` is that of one row, and the axes before it are one
    time axis of T steps. So an image (1, H, W) is a sequence of H rows. The batch is x, or
    (x, lengths) where sequences end early: what follows the end is padding, which
    lies in the support of the likelihood and enters no density.

    The latent sites are called ``z_1``, ..., ``z_T``, the observed site ``x``; all sit in the plate
    ``data``.

    Source: Krishnan, Shalit and Sontag 2017, arXiv 1609.09869.

    Args:
        prior: p(z_1), batch_shape (), event_shape (Z,).
        transition: p(z_t | z_{t-1}): a module from z (..., Z) to a distribution with batch_shape
            (...), event_shape (Z,), such as `GatedTransition`.
        emitter: network from z_t (..., Z) to the likelihood's parameters (..., *parameter_shape).
        likelihood: p(x_t | parameters), event_shape that of one row.
    """

    prior: Prior
    transition: nn.Module
    emitter: nn.Module
    likelihood: Likelihood

    def __init__(
        self, prior: Prior, transition: nn.Module, emitter: nn.Module, likelihood: Likelihood
    ) -> None:
        super().__init__()
        self.prior = prior
        self.transition = transition
        self.emitter = emitter
        self.likelihood = likelihood

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Run the program on x (B, *times, *row), lengths (B,); return the observed value."""
        times = self._times(x)
        steps = times.numel()
        t = torch.arange(steps, device=x.device)
        present = None if lengths is None else (t < lengths.unsqueeze(-1)).unbind(1)
        with pyro.plate("data", len(x)):
            states: list[Tensor] = []
            for t in range(steps):
                here = None if present is None else present[t]
                p = self.transition(states[-1]) if states else self.prior()
                states.append(pyro.sample(f"z_{t + 1}", masked(p, here)))
            parameters = self.emitter(torch.stack(states, -2))
            row = parameters.shape[parameters.dim() - len(self.likelihood.parameter_shape) :]
            front = parameters.shape[: parameters.dim() - len(row) - 1]
            p_x = self.likelihood(parameters.reshape(*front, *times, *row))
            whole = None if present is None else torch.stack(present, 1).reshape(-1, *times)
            return pyro.sample("x", masked(p_x, whole).to_event(len(times)), obs=x)

    def _times(self, x: Tensor) -> torch.Size:
        row = self.likelihood.event_shape
        times = x.shape[1 : x.dim() - len(row)]
        if not times or x.shape[x.dim() - len(row) :] != row:
            raise ValueError(
                f"Expected x of shape (B, *times, *row) with rows of shape {row}; got "
                f"{tuple(x.shape)}. Give the likelihood the event_shape of one step."
            )
        return times


def masked(p: TorchDistributionMixin, present: Tensor | None) -> TorchDistributionMixin:
    """Return p with log density 0 where nothing is present; a KL in closed form is 0 there too."""
    return p if present is None else p.mask(present)

"""Guides of sequences: a recurrent network reads them backwards, then the states are drawn."""

import copy
from collections.abc import Sequence

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.distributions.torch_transform import TransformModule
from pyro.nn import PyroModule
from torch import Tensor, nn

from .families import Family


class BackwardGRU(nn.Module):
    r"""What is still to come of a sequence: :math:`h_t = \mathrm{GRU}(x_t, h_{t+1})`.

    It starts at the end of each sequence, so h_t sees :math:`x_t, \dots, x_L` and no padding.

    Args:
        row_dim: number D of elements of one step x_t.
        hidden: number H of features.
    """

    def __init__(self, row_dim: int, hidden: int = 200) -> None:
        super().__init__()
        self.row_dim = row_dim
        self.rnn = nn.GRU(row_dim, hidden, batch_first=True)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Map x (B, *times, *row), lengths (B,) to features (B, T, H)."""
        x = x.reshape(len(x), -1, self.row_dim)
        if lengths is None:
            return self.rnn(x.flip(1))[0].flip(1)
        t, end = torch.arange(x.shape[1], device=x.device), lengths.unsqueeze(-1)
        mirror = torch.where(t < end, end - 1 - t, t).unsqueeze(-1)  # its own inverse
        h = self.rnn(torch.take_along_dim(x, mirror, 1))[0]
        return torch.take_along_dim(h, mirror, 1)


class Combiner(nn.Module):
    r"""The last state and what is still to come, in equal parts: (tanh(W z + b) + h) / 2.

    Source: Krishnan, Shalit and Sontag 2017, arXiv 1609.09869.

    Args:
        latent_dim: number Z of latent coordinates.
        hidden: number H of features of h.
        parameter_dim: number P of the family's parameters.
    """

    def __init__(self, latent_dim: int, hidden: int, parameter_dim: int) -> None:
        super().__init__()
        self.state = nn.Linear(latent_dim, hidden)
        self.out = nn.Linear(hidden, parameter_dim)

    def forward(self, z: Tensor, h: Tensor) -> Tensor:
        """Map z (..., Z) and h (B, H) to parameters (..., P)."""
        return self.out((self.state(z).tanh() + h) / 2)


class DeepMarkov(PyroModule):
    r"""Each state from the one before and from what is still to come: q(z_t | z_{t-1}, x_t...x_T).

    .. math:: q(z \mid x) = \prod_{t=1}^T q(z_t \mid z_{t-1}, h_t), \qquad h_t = h(x_t, \dots, x_T),

    which is how the exact posterior of a Markov model factorises; z_0 is learned. The batch is x,
    or (x, lengths). With a flow each q(z_t | ...) is the family's distribution pushed through it,
    the same flow at every step; only estimators that evaluate the guide a second time
    (StickingTheLanding, DoublyReparametrised) take its inverse; with it they are slow and can't be
    captured.

    The latent sites are called ``z_1``, ..., ``z_T`` and sit in the plate ``data``.

    Source: Krishnan, Shalit and Sontag 2017, arXiv 1609.09869; the flow: Kingma et al. 2016, arXiv
    1606.04934.

    Args:
        encoder: network from x (B, *times, *row) and lengths (B,) or None to features (B, T, H),
            such as `BackwardGRU`.
        combiner: network from z_{t-1} (..., Z) and h_t (B, H) to the family's parameters (..., P).
        family: from parameters (..., P) to a distribution with event_shape (Z,).
        flow: transforms of z_t such as ``affine_autoregressive(Z)``, first applied first; none for
            the family alone.
    """

    encoder: nn.Module
    combiner: nn.Module
    family: Family
    flow: nn.ModuleList

    def __init__(
        self,
        encoder: nn.Module,
        combiner: nn.Module,
        family: Family,
        flow: Sequence[TransformModule] = (),
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.combiner = combiner
        self.family = family
        self.flow = nn.ModuleList(flow)
        self.start = nn.Parameter(torch.zeros(family.latent_dim))

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Run the program on x (B, *times, *row), lengths (B,); return z_T (..., B, Z)."""
        features = self.encoder(x, lengths)
        steps = features.shape[1]
        t = torch.arange(steps, device=x.device)
        present = None if lengths is None else (t < lengths.unsqueeze(-1)).unbind(1)
        with pyro.plate("data", len(x)):
            z: Tensor = self.start
            for t in range(steps):
                here = None if present is None else present[t]
                q = self._pushed(self.family(self.combiner(z, features[:, t])))
                z = pyro.sample(f"z_{t + 1}", masked(q, here))
            return z

    def _pushed(self, q: TorchDistributionMixin) -> TorchDistributionMixin:
        if not len(self.flow):
            return q
        # A transform remembers its last draw, so that its density needs no inverse: one memory a
        # step, the parameters shared.
        return dist.TransformedDistribution(q, [copy.copy(step) for step in self.flow])


def masked(p: TorchDistributionMixin, present: Tensor | None) -> TorchDistributionMixin:
    """Return p with log density 0 where nothing is present; a KL in closed form is 0 there too."""
    return p if present is None else p.mask(present)

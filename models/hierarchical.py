"""Several stochastic layers: the generative half of a hierarchical or ladder autoencoder."""

from collections.abc import Sequence

import pyro
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from .likelihoods import Likelihood
from .priors import Prior


class Hierarchical(PyroModule):
    r"""Latent vectors in L layers, each drawn from the one above: z_L -> ... -> z_1 -> x.

    .. math:: \log p(x, z) = \log p(z_L) + \sum_{l < L} \log p(z_l \mid z_{l+1})
              + \log p(x \mid z_1),

    or with skip connections :math:`\log p(x \mid z_1, \dots, z_L)`: then the upper layers reach x
    without passing through the lower ones. The latent sites are called ``z_1``, ..., ``z_L``,
    ``z_1`` next to x; all sit in the plate ``data``.

    Sources: Rezende, Mohamed and Wierstra 2014, arXiv 1401.4082; Burda et al. 2016, arXiv
    1509.00519 (two layers).

    Args:
        prior: p(z_L), batch_shape (), event_shape (Z_L,).
        layers: p(z_l | z_{l+1}) from the top down, L - 1 of them: each a module from z_{l+1}
            (..., Z_{l+1}) to a distribution with batch_shape (...), event_shape (Z_l,), such as
            ``nn.Sequential(MLP(above, (2, here)), HeteroscedasticNormal((here,)))``.
        decoder: network from z_1 (..., Z_1), or with skip connections from z_1, ..., z_L side by
            side (..., Z_1 + ... + Z_L), to the likelihood's parameters (..., *parameter_shape).
        likelihood: p(x | parameters), event_shape that of one datum.
        skip: whether x sees the latent vectors of all layers.

    Raises:
        ValueError: there is no layer below the top one.
    """

    prior: Prior
    layers: nn.ModuleList
    decoder: nn.Module
    likelihood: Likelihood

    def __init__(
        self,
        prior: Prior,
        layers: Sequence[nn.Module],
        decoder: nn.Module,
        likelihood: Likelihood,
        skip: bool = False,
    ) -> None:
        super().__init__()
        if not layers:
            raise ValueError(
                "Expected at least one layer below the top one; got none. With one latent vector "
                "take VAE."
            )
        self.prior = prior
        self.layers = nn.ModuleList(layers)
        self.decoder = decoder
        self.likelihood = likelihood
        self.skip = skip

    def forward(self, x: Tensor) -> Tensor:
        """Run the program on a batch x (B, *event_shape); return the observed site's value."""
        depth = len(self.layers) + 1
        with pyro.plate("data", len(x)):
            z = [pyro.sample(f"z_{depth}", self.prior())]
            for above, layer in enumerate(self.layers, start=1):
                z.insert(0, pyro.sample(f"z_{depth - above}", layer(z[0])))
            parameters = self.decoder(torch.cat(z, -1) if self.skip else z[0])
            return pyro.sample("x", self.likelihood(parameters), obs=x)

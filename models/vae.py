"""The variational autoencoder's generative half."""

import pyro
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.nn import PyroModule
from torch import Tensor, nn

from .likelihoods import Likelihood
from .priors import Prior


class VAE(PyroModule):
    r"""A latent vector, decoded: z_n ~ p(z), x_n ~ p(x | z_n) for every datum n.

    The joint density of one datum is

    .. math:: \log p(x, z) = \log p(z) + \log p(x \mid \mathrm{decoder}(z)).

    The latent site is called ``z``, the observed site ``x``; both sit in the plate ``data``.

    Source: Kingma and Welling 2014, arXiv 1312.6114.

    >>> import torch
    >>> from models import MLP, VAE, Bernoulli, StandardNormal
    >>> model = VAE(StandardNormal(2), MLP(2, (1, 8, 8)), Bernoulli((1, 8, 8)))
    >>> model(torch.zeros(5, 1, 8, 8)).shape  # the observed x
    torch.Size([5, 1, 8, 8])

    Args:
        prior: p(z), batch_shape (), event_shape (Z,); or (Z, C), which the decoder sees as Z C
            numbers.
        decoder: network from z (..., Z) to the likelihood's parameters (..., *parameter_shape).
        likelihood: p(x | parameters), event_shape that of one datum.
    """

    prior: Prior
    decoder: nn.Module
    likelihood: Likelihood

    def __init__(self, prior: Prior, decoder: nn.Module, likelihood: Likelihood) -> None:
        super().__init__()
        self.prior = prior
        self.decoder = decoder
        self.likelihood = likelihood

    def forward(self, x: Tensor) -> Tensor:
        """Run the program on a batch x (B, *event_shape); return the observed site's value."""
        with pyro.plate("data", len(x)):
            prior = self.prior()
            z = pyro.sample("z", prior)
            return pyro.sample("x", self.decoded(prior, z), obs=x)

    def decoded(self, prior: TorchDistributionMixin, z: Tensor) -> TorchDistributionMixin:
        """Return p(x | z) for a draw z (..., *event_shape) of the prior."""
        return self.likelihood(self.decoder(z.flatten(-len(prior.event_shape))))

"""The variational autoencoder's generative half where entries of x are missing."""

from typing import Any

import pyro
import pyro.distributions as dist
from torch import Tensor, nn
from torch.distributions import Independent

from .likelihoods import Likelihood
from .likelihoods_real import OptimalNormal
from .priors import Prior
from .vae import VAE


class MaskedVAE(VAE):
    r"""A latent vector, decoded; entries of x that are missing have no density.

    .. math:: \log p(x_o, z) = \log p(z) + \sum_{d \in o} \log p(x_d \mid \mathrm{decoder}(z)),

    with o the observed entries of a datum, as those missing are integrated out of a product over
    entries. They are missing at random: the pattern says nothing that x_o does not. The batch is
    (x, mask), x with zeros where it is missing. Sites are those of `VAE`.

    Source: Mattei and Frellsen 2019, arXiv 1812.02633.

    Args:
        prior: p(z), batch_shape (), event_shape (Z,).
        decoder: network from z (..., Z) to the likelihood's parameters (..., *parameter_shape).
        likelihood: p(x | parameters), a product over entries.

    Raises:
        ValueError: the likelihood is no product over entries.
    """

    def __init__(self, prior: Prior, decoder: nn.Module, likelihood: Likelihood) -> None:
        super().__init__(prior, decoder, likelihood)
        # The scale that it follows is that of all entries.
        p_z = prior()
        if isinstance(likelihood, OptimalNormal) or not isinstance(
            self.decoded(p_z, p_z.sample()), Independent
        ):
            raise ValueError(
                f"{type(likelihood).__name__} can't leave out missing entries: it is no product "
                "over the entries of x. Take Normal, Bernoulli, or another that is one."
            )

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Run the program on x (B, *event_shape), mask the same; return the observed site's value.

        Args:
            x: the batch, zeros where it is missing.
            mask: True where x is observed; None if all is.
        """
        with pyro.plate("data", len(x)):
            prior = self.prior()
            entries: Any = self.decoded(prior, pyro.sample("z", prior))
            if mask is not None:
                entries = dist.Independent(
                    entries.base_dist.mask(mask), entries.reinterpreted_batch_ndims
                )
            return pyro.sample("x", entries, obs=x)

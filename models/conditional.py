"""Programs with a label: p(x | z, y), and the semi-supervised p(y) p(z | y) p(x | z, y)."""

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.nn import PyroModule
from torch import Tensor, nn

from .likelihoods import Likelihood
from .priors import Prior


class ClassMeans(nn.Module):
    r"""A prior with a mean for each class: :math:`z \sim \mathcal N(\mu_y, I)`.

    Args:
        classes: number C of classes.
        latent_dim: number Z of latent coordinates.
        spread: standard deviation that the means are drawn with at the start.
    """

    def __init__(self, classes: int, latent_dim: int, spread: float = 1.0) -> None:
        super().__init__()
        self.means = nn.Parameter(spread * torch.randn(classes, latent_dim))

    def forward(self, label: Tensor) -> TorchDistributionMixin:
        """Return p(z | y) for indicators y (..., C): batch_shape (...), event_shape (Z,)."""
        return dist.Normal(label @ self.means, 1.0).to_event(1)


class LabelFree(nn.Module):
    """A prior that is the same for every class: p(z | y) = p(z).

    Args:
        prior: p(z), batch_shape (), event_shape (Z,).
    """

    def __init__(self, prior: Prior) -> None:
        super().__init__()
        self.prior = prior

    def forward(self, label: Tensor) -> TorchDistributionMixin:  # noqa: ARG002
        """Return p(z), whatever the label."""
        return self.prior()


class Conditional(PyroModule):
    r"""A latent vector for what the label does not say: z_n ~ p(z | y_n), x_n ~ p(x | z_n, y_n).

    .. math:: \log p(x, z \mid y) = \log p(z \mid y) + \log p(x \mid z, y).

    The label is always given: the batch is (x, y), and bounds are on log p(x | y). The latent
    site is called ``z``, the observed site ``x``; both sit in the plate ``data``.

    Source: Sohn, Lee and Yan 2015, "Learning structured output representation using deep
    conditional generative models".

    Args:
        prior: p(z | y): a module from indicators (..., C) to a distribution with event_shape (Z,),
            `ClassMeans` or `LabelFree`.
        decoder: network from z and the label's indicator side by side (..., Z + C) to the
            likelihood's parameters (..., *parameter_shape).
        likelihood: p(x | parameters), event_shape that of one datum.
        classes: number C of classes.
    """

    prior: nn.Module
    decoder: nn.Module
    likelihood: Likelihood

    def __init__(
        self, prior: nn.Module, decoder: nn.Module, likelihood: Likelihood, classes: int
    ) -> None:
        super().__init__()
        self.prior = prior
        self.decoder = decoder
        self.likelihood = likelihood
        self.classes = classes

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Run the program on a batch x (B, *event_shape), y (B,); return the observed value."""
        label = indicator(y, self.classes, x.dtype)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior(label))
            parameters = self.decoder(beside(z, label))
            return pyro.sample("x", self.likelihood(parameters), obs=x)


class SemiSupervised(PyroModule):
    r"""M2: label and latent vector make x together, and only some labels are known.

    .. math:: \log p(x, y, z) = \log p(y) + \log p(z \mid y) + \log p(x \mid z, y), \qquad
              p(y) = 1 / C.

    The label is a latent site throughout. The batch is (x, y) with y = -1 where the label is not
    known. This program does not read y: the guide puts its whole mass on a known label.
    So the log weight of such a datum is log p(x, y, z) - log q(z | x, y), that of the others
    log p(x, y, z) - log q(y | x) - log q(z | x, y), and their means are the two bounds of M2: on
    log p(x, y), and on log p(x). The latent sites are called ``y`` and ``z``, the observed site
    ``x``.

    Source: Kingma et al. 2014, arXiv 1406.5298.

    Args:
        prior: p(z | y): a module from indicators (..., C) to a distribution with event_shape (Z,);
            `LabelFree` of a standard normal in the paper.
        decoder: network from z and the label's indicator side by side (..., Z + C) to the
            likelihood's parameters (..., *parameter_shape).
        likelihood: p(x | parameters), event_shape that of one datum.
        classes: number C of classes.
    """

    logits: Tensor
    prior: nn.Module
    decoder: nn.Module
    likelihood: Likelihood

    def __init__(
        self, prior: nn.Module, decoder: nn.Module, likelihood: Likelihood, classes: int
    ) -> None:
        super().__init__()
        self.register_buffer("logits", torch.zeros(classes), persistent=False)
        self.prior = prior
        self.decoder = decoder
        self.likelihood = likelihood
        self.classes = classes

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Run the program on a batch x (B, *event_shape); return the observed site's value."""
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(logits=self.logits))
            label = indicator(y, self.classes, x.dtype)
            z = pyro.sample("z", self.prior(label))
            parameters = self.decoder(beside(z, label))
            return pyro.sample("x", self.likelihood(parameters), obs=x)


def indicator(label: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
    """Return labels (...) as indicators (..., C); zeros for -1."""
    return (label.unsqueeze(-1) == torch.arange(classes, device=label.device)).to(dtype)


def beside(a: Tensor, b: Tensor) -> Tensor:
    """Join two vectors (..., A) and (..., B) to one (..., A + B); leading dimensions broadcast."""
    front = torch.broadcast_shapes(a.shape[:-1], b.shape[:-1])
    return torch.cat([a.expand(*front, -1), b.expand(*front, -1)], -1)

"""Guides with a label: q(z | x, y), and the semi-supervised q(y | x) q(z | x, y)."""

import pyro
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.nn import PyroModule
from torch import Tensor, nn

from .families import Family
from .label import IMPOSSIBLE, Label, indicator


class Conditional(PyroModule):
    r"""One latent vector per datum, given its label: :math:`z_n \sim q(z \mid x_n, y_n)`.

    The batch is (x, y). The latent site is called ``z`` and sits in the plate ``data``.

    Source: Sohn, Lee and Yan 2015, "Learning structured output representation using deep
    conditional generative models".

    Args:
        encoder: network from x (B, *event_shape) to features (B, H).
        head: network from features and the label's indicator side by side (..., H + C) to the
            family's parameters (..., P).
        family: from parameters (..., P) to a distribution with event_shape (Z,).
        classes: number C of classes.
    """

    encoder: nn.Module
    head: nn.Module
    family: Family

    def __init__(self, encoder: nn.Module, head: nn.Module, family: Family, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.family = family
        self.classes = classes

    def posterior(self, features: Tensor, y: Tensor) -> TorchDistributionMixin:
        """Return q(z | x, y) for the features (B, H) of x and labels y (..., B)."""
        label = indicator(y, self.classes, features.dtype)
        return self.family(self.head(beside(features, label)))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Run the program on a batch x (B, *event_shape), y (B,); return z (..., B, Z)."""
        features = self.encoder(x)
        with pyro.plate("data", len(x)):
            return pyro.sample("z", self.posterior(features, y))


class SemiSupervised(Conditional):
    r"""M2's guide: a classifier q(y | x), and q(z | x, y).

    The batch is (x, y) with y = -1 where the label is not known. There y ~ q(y | x); a known
    label has the whole mass, and teaches the classifier nothing through the bound. So each
    labelled datum adds the term :math:`\alpha \log q(y \mid x)` to what is maximised, as a factor
    that is zero and has the term's gradient: the log weights and every bound that is reported stay
    bounds. Estimators that freeze the guide (StickingTheLanding, DoublyReparametrised) leave the
    term out, as a KL in closed form does.

    The label has no reparametrised sampler: take the estimator ``Enumerate``, which sums over it,
    or ``ScoreFunction``. The latent sites are called ``y`` and ``z``.

    Source: Kingma et al. 2014, arXiv 1406.5298.

    Args:
        classifier: network from x (B, *event_shape) to logits (B, C) of q(y | x).
        encoder: network from x (B, *event_shape) to features (B, H).
        head: network from features and the label's indicator side by side (..., H + C) to the
            family's parameters (..., P).
        family: from parameters (..., P) to a distribution with event_shape (Z,).
        classes: number C of classes.
        alpha: weight of the classifier's term in nats per labelled datum. The paper takes
            0.1 N / (labelled data): the sum over the data is then 0.1 N times their mean.
    """

    classifier: nn.Module

    def __init__(
        self,
        classifier: nn.Module,
        encoder: nn.Module,
        head: nn.Module,
        family: Family,
        classes: int,
        alpha: float = 10.0,
    ) -> None:
        super().__init__(encoder, head, family, classes)
        if alpha < 0:
            raise ValueError(f"Expected an alpha of at least 0; got {alpha}.")
        self.classifier = classifier
        self.alpha = alpha

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Run the program on a batch x (B, *event_shape), y (B,); return z (..., B, Z)."""
        log_q = self.classifier(x).log_softmax(-1)
        features = self.encoder(x)
        label = indicator(y, self.classes, log_q.dtype)
        known = (y >= 0).unsqueeze(-1)
        right = self.alpha * (label * log_q).sum(-1)  # 0 where there is no label
        with pyro.plate("data", len(x)):
            # A guide's factor enters the bound with a minus sign.
            pyro.factor("classifier", right.detach() - right, has_rsample=True)
            y = pyro.sample("y", Label(logits=log_q.where(~known, IMPOSSIBLE * (1 - label))))
            return pyro.sample("z", self.posterior(features, y))


def beside(a: Tensor, b: Tensor) -> Tensor:
    """Join two vectors (..., A) and (..., B) to one (..., A + B); leading dimensions broadcast."""
    front = torch.broadcast_shapes(a.shape[:-1], b.shape[:-1])
    return torch.cat([a.expand(*front, -1), b.expand(*front, -1)], -1)

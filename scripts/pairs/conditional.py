"""What the digit's class leaves open, its style: p(x | z, y) with a mean of z for each class."""

from pyro.nn import DenseNN
from torch.nn import ReLU, Sequential

import guides
import models

CLASSES, LATENT, HIDDEN = 10, 16, [200]
"""Number of classes, size of z, and widths of the hidden layers."""


def pair(event_shape: tuple[int, ...]) -> tuple[models.Conditional, guides.Conditional]:
    """(y, z) -> x; the guide (x, y) -> z. For data with labels: --data digits-labelled."""
    likelihood = models.Bernoulli(event_shape)
    prior = models.ClassMeans(CLASSES, LATENT)
    decoder = models.MLP(LATENT + CLASSES, likelihood.parameter_shape, HIDDEN)
    family = guides.DiagonalNormal(LATENT)
    encoder = Sequential(guides.MLP(event_shape, HIDDEN[0], HIDDEN), ReLU())
    head = DenseNN(HIDDEN[0] + CLASSES, HIDDEN, [family.parameter_dim])
    model = models.Conditional(prior, decoder, likelihood, CLASSES)
    return model, guides.Conditional(encoder, head, family, CLASSES)

"""M2: few labels, many images; the classifier q(y | x) learns from both. --estimator Enumerate."""

from pyro.nn import DenseNN
from torch.nn import ReLU, Sequential

import guides
import models

CLASSES, LATENT, HIDDEN = 10, 16, [200]
"""Number of classes, size of z, and widths of the hidden layers."""

ALPHA = 10.0
"""Weight of the classifier's term in nats per labelled datum."""


def pair(event_shape: tuple[int, ...]) -> tuple[models.SemiSupervised, guides.SemiSupervised]:
    """(y, z) -> x; the guide x -> y, (x, y) -> z. For labels of -1 too: --data digits-semi."""
    likelihood = models.Bernoulli(event_shape)
    prior = models.LabelFree(models.StandardNormal(LATENT))
    decoder = models.MLP(LATENT + CLASSES, likelihood.parameter_shape, HIDDEN)
    family = guides.DiagonalNormal(LATENT)
    classifier = guides.MLP(event_shape, CLASSES, HIDDEN)
    encoder = Sequential(guides.MLP(event_shape, HIDDEN[0], HIDDEN), ReLU())
    head = DenseNN(HIDDEN[0] + CLASSES, HIDDEN, [family.parameter_dim])
    model = models.SemiSupervised(prior, decoder, likelihood, CLASSES)
    return model, guides.SemiSupervised(classifier, encoder, head, family, CLASSES, ALPHA)

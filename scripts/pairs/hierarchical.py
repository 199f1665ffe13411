"""Two stochastic layers with skip connections, and a bottom-up guide."""

from pyro.nn import DenseNN
from torch.nn import Sequential

import guides
import models

LOW, HIGH, HIDDEN = 32, 16, [200]
"""Size of z_1, of z_2, and widths of the hidden layers."""


def pair(event_shape: tuple[int, ...]) -> tuple[models.Hierarchical, guides.BottomUp]:
    """z_2 -> z_1 -> x, and z_2 -> x; the guide x -> z_1 -> z_2."""
    likelihood = models.Bernoulli(event_shape)
    decoder = models.MLP(LOW + HIGH, likelihood.parameter_shape, HIDDEN)
    p_low = Sequential(models.MLP(HIGH, (2, LOW), HIDDEN), models.HeteroscedasticNormal((LOW,)))
    q_low = Sequential(guides.MLP(event_shape, 2 * LOW, HIDDEN), guides.DiagonalNormal(LOW))
    q_high = Sequential(DenseNN(LOW, HIDDEN, [2 * HIGH]), guides.DiagonalNormal(HIGH))
    prior = models.StandardNormal(HIGH)
    model = models.Hierarchical(prior, [p_low], decoder, likelihood, skip=True)
    return model, guides.BottomUp([q_low, q_high])

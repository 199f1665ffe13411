"""A ladder: three stochastic layers, inferred from the top down with the model's own priors.

Its upper layers come into use with a warm-up alone: --kl_weight Linear --kl_weight.epochs 100.
"""

from itertools import pairwise

from torch.nn import Linear, ReLU, Sequential

import guides
import models

SIZES = [8, 16, 32]
"""Sizes of z_3, z_2 and z_1."""

WIDTHS = [200, 100, 100]
"""Widths of the pass upwards, d_1, d_2 and d_3."""

HIDDEN = [200]
"""Widths of the hidden layers downwards."""


def pair(event_shape: tuple[int, ...]) -> tuple[models.Hierarchical, guides.Ladder]:
    """z_3 -> z_2 -> z_1 -> x, and all three -> x; the guide x -> d_1 -> d_2 -> d_3, then back."""
    likelihood = models.Bernoulli(event_shape)
    layers = [
        Sequential(models.MLP(above, (2, here), HIDDEN), models.HeteroscedasticNormal((here,)))
        for above, here in pairwise(SIZES)
    ]
    decoder = models.MLP(sum(SIZES), likelihood.parameter_shape, HIDDEN)
    prior = models.StandardNormal(SIZES[0])
    model = models.Hierarchical(prior, layers, decoder, likelihood, skip=True)
    steps = [
        Sequential(guides.MLP(event_shape, WIDTHS[0], WIDTHS[:1]), ReLU()),
        *(Sequential(Linear(below, here), ReLU()) for below, here in pairwise(WIDTHS)),
    ]
    heads = [
        Sequential(Linear(width, 2 * size), guides.DiagonalNormal(size))
        for width, size in zip(WIDTHS, reversed(SIZES), strict=True)
    ]
    return model, guides.Ladder(steps, heads, layers)

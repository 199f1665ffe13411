"""A sigmoid belief network: layers of bits, each a linear map below the next; inferred bottom-up.

Two layers take --objective Iwae --objective.particles 5 --estimator Vimco, or --estimator
ScoreFunction; one layer also DisArm, Rebar, Relax and their like.
"""

import math
from itertools import pairwise

from pyro.nn import DenseNN
from torch.nn import Flatten, Linear, Module, Sequential, Unflatten

import guides
import models

SIZES = [200, 200]
"""Sizes of z_1, next to x, and of the layers above it; one size makes a network of one layer."""

HIDDEN: list[int] = []
"""Widths of the hidden layers between two layers of bits; none makes linear maps."""


def network(inputs: int, outputs: int) -> Module:
    """Return a map from one layer of bits to the log odds of the next, (..., N) to (..., M)."""
    return DenseNN(inputs, HIDDEN, [outputs]) if HIDDEN else Linear(inputs, outputs)


def pair(
    event_shape: tuple[int, ...],
) -> tuple[models.VAE, guides.Amortized] | tuple[models.Hierarchical, guides.BottomUp]:
    """z_L -> ... -> z_1 -> x; the guide x -> z_1 -> ... -> z_L."""
    likelihood = models.Bernoulli(event_shape)
    flat = math.prod(event_shape)
    prior = models.LearnedBernoulli(SIZES[-1])
    decoder = Sequential(network(SIZES[0], flat), Unflatten(-1, likelihood.parameter_shape))
    encoder, family = Sequential(Flatten(), network(flat, SIZES[0])), guides.Bernoulli(SIZES[0])
    if len(SIZES) == 1:
        return models.VAE(prior, decoder, likelihood), guides.Amortized(encoder, family)
    down = [
        Sequential(network(above, here), models.Bernoulli((here,)))
        for here, above in reversed(list(pairwise(SIZES)))
    ]
    up = [Sequential(network(low, high), guides.Bernoulli(high)) for low, high in pairwise(SIZES)]
    model = models.Hierarchical(prior, down, decoder, likelihood)
    return model, guides.BottomUp([Sequential(encoder, family), *up])

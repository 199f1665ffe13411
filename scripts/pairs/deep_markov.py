"""A deep Markov model: an image as the sequence of its rows, from the top down.

Its states come into use with a warm-up alone: --kl_weight Linear --kl_weight.epochs 50.
"""

import guides
import models

LATENT, HIDDEN = 16, 100
"""Size of z_t, and width of the hidden layers."""


def pair(event_shape: tuple[int, ...]) -> tuple[models.DeepMarkov, guides.DeepMarkov]:
    """z_1 -> z_2 -> ..., and z_t -> x_t; the guide reads the rows from the last to the first."""
    likelihood = models.Bernoulli(event_shape[-1:])
    transition = models.GatedTransition(LATENT, HIDDEN)
    emitter = models.MLP(LATENT, likelihood.parameter_shape, [HIDDEN])
    prior = models.LearnedNormal(LATENT)
    family = guides.DiagonalNormal(LATENT)
    encoder = guides.BackwardGRU(event_shape[-1], HIDDEN)
    combiner = guides.Combiner(LATENT, HIDDEN, family.parameter_dim)
    model = models.DeepMarkov(prior, transition, emitter, likelihood)
    return model, guides.DeepMarkov(encoder, combiner, family)

"""Generative programs p(z) p(x|z) and their parts: priors, likelihoods, decoders."""

from .likelihoods import Bernoulli, Binomial, Likelihood, Normal
from .networks import MLP, Decoder
from .priors import Prior, StandardNormal
from .vae import VAE

__all__ = [
    "MLP",
    "VAE",
    "Bernoulli",
    "Binomial",
    "Decoder",
    "Likelihood",
    "Normal",
    "Prior",
    "StandardNormal",
]

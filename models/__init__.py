"""Generative programs p(z) p(x|z) and their parts: priors, likelihoods, decoders."""

from .likelihoods import Bernoulli, Binomial, Likelihood, Normal
from .likelihoods_counts import (
    Multinomial,
    NegativeBinomial,
    Poisson,
    ZeroInflatedNegativeBinomial,
)
from .likelihoods_grey import Beta, ContinuousBernoulli
from .likelihoods_levels import Categorical, DiscretisedLogistic, MixtureOfDiscretisedLogistics
from .likelihoods_real import HeteroscedasticNormal, Laplace, StudentT
from .networks import MLP, Decoder
from .priors import Prior, StandardNormal
from .vae import VAE

__all__ = [
    "MLP",
    "VAE",
    "Bernoulli",
    "Beta",
    "Binomial",
    "Categorical",
    "ContinuousBernoulli",
    "Decoder",
    "DiscretisedLogistic",
    "HeteroscedasticNormal",
    "Laplace",
    "Likelihood",
    "MixtureOfDiscretisedLogistics",
    "Multinomial",
    "NegativeBinomial",
    "Normal",
    "Poisson",
    "Prior",
    "StandardNormal",
    "StudentT",
    "ZeroInflatedNegativeBinomial",
]

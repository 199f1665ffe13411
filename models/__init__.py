"""Generative programs p(z) p(x|z) and their parts: priors, likelihoods, decoders."""

from .flow_priors import AutoregressiveFlow, CouplingFlow, SplineFlow
from .likelihoods import Bernoulli, Binomial, Likelihood, Normal
from .mixture_priors import MixtureOfNormals, Vamp
from .networks import MLP, Decoder
from .priors import Laplace, LearnedNormal, Prior, StandardNormal, StudentT
from .vae import VAE

__all__ = [
    "MLP",
    "VAE",
    "AutoregressiveFlow",
    "Bernoulli",
    "Binomial",
    "CouplingFlow",
    "Decoder",
    "Laplace",
    "LearnedNormal",
    "Likelihood",
    "MixtureOfNormals",
    "Normal",
    "Prior",
    "SplineFlow",
    "StandardNormal",
    "StudentT",
    "Vamp",
]

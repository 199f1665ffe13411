"""Generative programs p(z) p(x|z) and their parts: priors, likelihoods, decoders."""

from .autoregressive import Autoregressive
from .autoregressive_priors import AutoregressiveBernoulli, AutoregressiveCategorical
from .conditional import ClassMeans, Conditional, LabelFree, SemiSupervised
from .convolutional import Convolutional, ResidualConvolutional
from .deep_markov import DeepMarkov, GatedTransition
from .discrete_priors import (
    LearnedBernoulli,
    LearnedCategorical,
    StandardBernoulli,
    StandardCategorical,
)
from .flow_priors import AutoregressiveFlow, CouplingFlow, SplineFlow
from .gated import GatedMLP
from .hierarchical import Hierarchical
from .likelihoods import Bernoulli, Binomial, Likelihood
from .likelihoods_counts import (
    Multinomial,
    NegativeBinomial,
    Poisson,
    ZeroInflatedNegativeBinomial,
)
from .likelihoods_grey import Beta, ContinuousBernoulli
from .likelihoods_levels import Categorical, DiscretisedLogistic, MixtureOfDiscretisedLogistics
from .likelihoods_real import HeteroscedasticNormal, Laplace, Normal, OptimalNormal, StudentT
from .masked import MaskedVAE
from .mixture_priors import MixtureOfNormals, Vamp
from .networks import MLP, Decoder
from .perturb_max import EXPONENTIAL, GUMBEL, LOGISTIC, NORMAL, UNIFORM, Noise, PerturbMax
from .priors import LearnedNormal, Prior, StandardLaplace, StandardNormal, StandardStudentT
from .resampled_prior import ResampledNormal
from .smooth import smooth_accuracy, smooth_f1, smooth_maximum, smoothed
from .sphere import UniformSphere
from .vae import VAE
from .wrapped_normal import WrappedNormal

__all__ = [
    "EXPONENTIAL",
    "GUMBEL",
    "LOGISTIC",
    "MLP",
    "NORMAL",
    "UNIFORM",
    "VAE",
    "Autoregressive",
    "AutoregressiveBernoulli",
    "AutoregressiveCategorical",
    "AutoregressiveFlow",
    "Bernoulli",
    "Beta",
    "Binomial",
    "Categorical",
    "ClassMeans",
    "Conditional",
    "ContinuousBernoulli",
    "Convolutional",
    "CouplingFlow",
    "Decoder",
    "DeepMarkov",
    "DiscretisedLogistic",
    "GatedMLP",
    "GatedTransition",
    "HeteroscedasticNormal",
    "Hierarchical",
    "LabelFree",
    "Laplace",
    "LearnedBernoulli",
    "LearnedCategorical",
    "LearnedNormal",
    "Likelihood",
    "MaskedVAE",
    "MixtureOfDiscretisedLogistics",
    "MixtureOfNormals",
    "Multinomial",
    "NegativeBinomial",
    "Noise",
    "Normal",
    "OptimalNormal",
    "PerturbMax",
    "Poisson",
    "Prior",
    "ResampledNormal",
    "ResidualConvolutional",
    "SemiSupervised",
    "SplineFlow",
    "StandardBernoulli",
    "StandardCategorical",
    "StandardLaplace",
    "StandardNormal",
    "StandardStudentT",
    "StudentT",
    "UniformSphere",
    "Vamp",
    "WrappedNormal",
    "ZeroInflatedNegativeBinomial",
    "smooth_accuracy",
    "smooth_f1",
    "smooth_maximum",
    "smoothed",
]

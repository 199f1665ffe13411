"""Amortized guides q(z|x) and their parts: encoders and posterior families."""

from .amortized import Amortized
from .auto_amortized import AutoAmortized
from .autoregressive_flows import InverseAutoregressive, NeuralSpline
from .conditional import Conditional, SemiSupervised
from .convolutional import Convolutional, ResidualConvolutional
from .counts import LogMLP
from .deep_markov import BackwardGRU, Combiner, DeepMarkov
from .discrete import Bernoulli, Categorical
from .families import DiagonalNormal, Family
from .flows import Bijection, Flow
from .gated import GatedMLP
from .hierarchical import BottomUp, Ladder
from .implicit import Implicit
from .label import Label
from .linear_flows import Householder, RankOneExponential
from .masked import MaskedAmortized
from .mixture import MixtureOfNormals
from .networks import MLP, Encoder
from .normals import FullNormal, LowRankNormal
from .power_spherical import PowerSpherical
from .residual_flows import Planar, Radial, Sylvester
from .semi_amortized import SemiAmortized
from .wrapped_normal import WrappedNormal

__all__ = [
    "MLP",
    "Amortized",
    "AutoAmortized",
    "BackwardGRU",
    "Bernoulli",
    "Bijection",
    "BottomUp",
    "Categorical",
    "Combiner",
    "Conditional",
    "Convolutional",
    "DeepMarkov",
    "DiagonalNormal",
    "Encoder",
    "Family",
    "Flow",
    "FullNormal",
    "GatedMLP",
    "Householder",
    "Implicit",
    "InverseAutoregressive",
    "Label",
    "Ladder",
    "LogMLP",
    "LowRankNormal",
    "MaskedAmortized",
    "MixtureOfNormals",
    "NeuralSpline",
    "Planar",
    "PowerSpherical",
    "Radial",
    "RankOneExponential",
    "ResidualConvolutional",
    "SemiAmortized",
    "SemiSupervised",
    "Sylvester",
    "WrappedNormal",
]

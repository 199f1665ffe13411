"""Amortized guides q(z|x) and their parts: encoders and posterior families."""

from .amortized import Amortized
from .auto_amortized import AutoAmortized
from .autoregressive_flows import InverseAutoregressive, NeuralSpline
from .convolutional import Convolutional, ResidualConvolutional
from .counts import LogMLP
from .families import DiagonalNormal, Family
from .flows import Bijection, Flow
from .gated import GatedMLP
from .implicit import Implicit
from .label import Label
from .linear_flows import Householder, RankOneExponential
from .mixture import MixtureOfNormals
from .networks import MLP, Encoder
from .normals import FullNormal, LowRankNormal
from .residual_flows import Planar, Radial, Sylvester
from .semi_amortized import SemiAmortized

__all__ = [
    "MLP",
    "Amortized",
    "AutoAmortized",
    "Bijection",
    "Convolutional",
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
    "LogMLP",
    "LowRankNormal",
    "MixtureOfNormals",
    "NeuralSpline",
    "Planar",
    "Radial",
    "RankOneExponential",
    "ResidualConvolutional",
    "SemiAmortized",
    "Sylvester",
]

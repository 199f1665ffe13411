"""Inference on pairs of Pyro programs: log weights, objectives, SVI, evaluation, runs, data."""

from .captured_step import Compile
from .enumeration import Enumerate
from .estimators import (
    Default,
    DoublyReparametrised,
    Estimator,
    Pathwise,
    ScoreFunction,
    StickingTheLanding,
    Vimco,
)
from .importance import Ciwae, Iwae, Miwae, Piwae, Renyi
from .kl_weight import Constant, Cyclic, KLWeight, Linear, Schedule
from .log_weights import LogWeights, log_weights
from .multisample import Chi, Tvo, WakeSleep
from .objectives import (
    Bound,
    Elbo,
    Estimate,
    FreeBits,
    Objective,
    with_estimator,
)
from .products import Precision
from .regularised import BetaTc, Discrepancy, InfoVae, MatchedMoments, MaximumMeanDiscrepancy
from .straight_through import StraightThrough
from .svi import SVI

__all__ = [
    "SVI",
    "BetaTc",
    "Bound",
    "Chi",
    "Ciwae",
    "Compile",
    "Constant",
    "Cyclic",
    "Default",
    "Discrepancy",
    "DoublyReparametrised",
    "Elbo",
    "Enumerate",
    "Estimate",
    "Estimator",
    "FreeBits",
    "InfoVae",
    "Iwae",
    "KLWeight",
    "Linear",
    "LogWeights",
    "MatchedMoments",
    "MaximumMeanDiscrepancy",
    "Miwae",
    "Objective",
    "Pathwise",
    "Piwae",
    "Precision",
    "Renyi",
    "Schedule",
    "ScoreFunction",
    "StickingTheLanding",
    "StraightThrough",
    "Tvo",
    "Vimco",
    "WakeSleep",
    "log_weights",
    "with_estimator",
]

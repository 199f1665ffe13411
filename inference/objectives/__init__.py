"""Objectives and gradient estimators: reductions of the log weights. They know the core."""

from .bounds import Bound, Elbo, Estimate, FreeBits, Objective, with_estimator
from .control_variates import Rebar, Relax
from .coupled import DisArm
from .divergences import bhattacharyya_distance, kl_divergence, wasserstein2
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
from .from_pyro import FromPyro, as_objective
from .importance import Ciwae, Iwae, Miwae, Piwae, Renyi
from .multisample import Chi, Tvo, WakeSleep
from .regularised import BetaTc, Discrepancy, InfoVae, MatchedMoments, MaximumMeanDiscrepancy
from .relaxed import GumbelSoftmax
from .straight_through import StraightThrough

__all__ = [
    "BetaTc",
    "Bound",
    "Chi",
    "Ciwae",
    "Default",
    "DisArm",
    "Discrepancy",
    "DoublyReparametrised",
    "Elbo",
    "Enumerate",
    "Estimate",
    "Estimator",
    "FreeBits",
    "FromPyro",
    "GumbelSoftmax",
    "InfoVae",
    "Iwae",
    "MatchedMoments",
    "MaximumMeanDiscrepancy",
    "Miwae",
    "Objective",
    "Pathwise",
    "Piwae",
    "Rebar",
    "Relax",
    "Renyi",
    "ScoreFunction",
    "StickingTheLanding",
    "StraightThrough",
    "Tvo",
    "Vimco",
    "WakeSleep",
    "as_objective",
    "bhattacharyya_distance",
    "kl_divergence",
    "wasserstein2",
    "with_estimator",
]

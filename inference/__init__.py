"""Inference on pairs of Pyro programs: log weights, objectives, SVI, evaluation, runs, data."""

from .kl_weight import Constant, Cyclic, KLWeight, Linear, Schedule
from .log_weights import LogWeights, log_weights
from .objectives import Elbo, Estimate, Objective
from .svi import SVI

__all__ = [
    "SVI",
    "Constant",
    "Cyclic",
    "Elbo",
    "Estimate",
    "KLWeight",
    "Linear",
    "LogWeights",
    "Objective",
    "Schedule",
    "log_weights",
]

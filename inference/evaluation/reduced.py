"""Log weights of many draws, reduced to the bounds of each datum."""

import math

import torch
from torch import Tensor

from .pareto import k_hat


def reduced(log_w: Tensor, steps: list[int], particles: int) -> dict[str, Tensor]:
    """Reduce the log weights of some data to the results of each datum, as `Evaluation` has them.

    Args:
        log_w: (draws, B), in nats.
        steps: numbers of particles of the curve.
        particles: number K, of which there are one or more groups.
    """
    curve = torch.stack([bounds(log_w, size).mean(0) for size in steps])
    last = bounds(log_w, particles)  # (repeats, B)
    squares = (2 * log_w.log_softmax(0)).logsumexp(0).exp()  # sum of normalised weights' squares
    if len(last) > 1:
        noise = standard_error(last)
    elif len(log_w) > 1:
        noise = (squares - 1 / len(log_w)).clamp(min=0).sqrt()
    else:
        noise = torch.full_like(squares, math.nan)  # one draw does not show how draws differ
    return {
        "elbo": log_w.mean(0),
        "log_px": last.mean(0),
        "log_px_mc_se": noise,
        "curve": curve,
        "ess": 1 / squares,
        "k_hat": k_hat(log_w),
    }


def bounds(log_w: Tensor, size: int) -> Tensor:
    """Return the K-sample bound of each whole group of ``size`` draws, (groups, B)."""
    groups = len(log_w) // size
    grouped = log_w[: groups * size].unflatten(0, (groups, size))
    return grouped.logsumexp(1) - math.log(size)


def standard_error(values: Tensor) -> Tensor:
    """Return the standard error of the mean over the first dimension."""
    return values.std(0) / math.sqrt(len(values))

r"""Pareto k-hat: how heavy the upper tail of importance weights is, for many data at once."""

import math

import torch
from torch import Tensor

FEWEST = 25
"""Smallest number of weights of which a fifth is a tail to fit."""

ROUNDING = 1e-4
"""Log weights that differ by less are equal, but for the rounding of floats."""

AT_ONCE = 1 << 22
"""Numbers that the fit holds in one tensor."""


def k_hat(log_weights: Tensor) -> Tensor:
    r"""Return the Pareto shape of the largest weights of each datum.

    A generalised Pareto density of shape k is fitted to how far the largest
    :math:`\min(S / 5, 3 \sqrt S)` of S weights lie above the others, by the estimator of Zhang and
    Stephens 2009 and a weak prior around 1/2. Weights of shape k have moments up to order 1 / k.

    Source: Vehtari et al. 2024, arXiv 1507.02646, section 3 and appendix; what `arviz_stats`
    computes datum by datum.

    Args:
        log_weights: log w of S draws for each of B data, (S, B), in nats.

    Returns:
        k-hat (B,) in float64. nan where there are fewer than 25 draws, a weight is nan, or a
        quarter of the tail is tied with what is below it, so that there is no tail to fit. 0 where
        the weights, or those of the tail, are equal. inf where weights underflow next to
        the largest, which is then the only one that counts.
    """
    draws, data = log_weights.shape
    if draws < FEWEST:
        return log_weights.new_full((data,), math.nan, dtype=torch.float64)
    size = int(3 * draws**0.5) if draws > 225 else draws // 5
    largest = log_weights.T.double().topk(size + 1).values.flip(1)  # (B, M + 1), rising
    largest = largest - largest[:, -1:]
    cutoff, tail = largest[:, :1], largest[:, 1:]
    grid = _grid_size(size)
    parts = (tail.exp() - cutoff.exp()).split(max(1, AT_ONCE // (grid * size)))
    found = torch.cat([_shape(part) for part in parts])
    quarter = tail[:, _quarter(size)]
    underflown = (quarter > cutoff[:, 0]) & (quarter.exp() - cutoff[:, 0].exp() <= 0)
    found = found.masked_fill(underflown, math.inf)
    spread = log_weights.amax(0) - log_weights.amin(0)
    return found.masked_fill((spread < ROUNDING) | (tail[:, 0] == tail[:, -1]), 0.0)


def _shape(x: Tensor) -> Tensor:
    """Return the shape (B,) of a generalised Pareto density for excesses x (B, M), rising."""
    size = x.shape[1]
    grid = _grid_size(size)
    places = torch.arange(1, grid + 1, dtype=x.dtype, device=x.device) - 0.5
    b = (1 - (grid / places).sqrt()) / (3 * x[:, _quarter(size), None]) + 1 / x[:, -1:]  # (B, G)
    k = (-b.unsqueeze(-1) * x.unsqueeze(1)).log1p().mean(-1)
    weights = (size * ((-b / k).log() - k - 1)).softmax(1)
    weights = weights.where(weights >= 10 * torch.finfo(x.dtype).eps, 0)
    b = (b * weights).sum(1) / weights.sum(1)  # its posterior mean
    k = (-b.unsqueeze(-1) * x).log1p().mean(-1)
    return (size * k + 10 * 0.5) / (size + 10)


def _grid_size(size: int) -> int:
    return 30 + int(size**0.5)


def _quarter(size: int) -> int:
    """Return the place of the first quartile."""
    return int(size / 4 + 0.5) - 1

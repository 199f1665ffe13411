"""Monotonic rational-quadratic splines, of fixed shapes and so capturable."""

import math

import torch
from torch import Tensor
from torch.nn.functional import pad, softplus

SMALLEST = 1e-3
"""Of a bin's share of the interval, and of a slope at a knot."""


def rational_quadratic(
    x: Tensor, knots: Tensor, bound: float, inverse: bool = False
) -> tuple[Tensor, Tensor]:
    r"""Bend numbers by splines on [-bound, bound]; outside, and at knots = 0, they stay.

    In the bin of width w and height h, with :math:`t = (x - x_k) / w`, mean slope :math:`s = h / w`
    and slopes :math:`d_k, d_{k+1}` at its ends,

    .. math:: y = y_k + h \frac{s t^2 + d_k t (1 - t)}{s + (d_k + d_{k+1} - 2 s) t (1 - t)}.

    Source: Gregory and Delbourgo 1982; Durkan et al. 2019, arXiv 1906.04032, equations 4 to 8.

    Args:
        x: numbers (...), outputs where ``inverse``.
        knots: (..., 3 bins - 1): widths and heights before a softmax, inner slopes.
        bound: end of the interval.
        inverse: whether to go back.

    Returns:
        What the numbers become (...), and log |dy/dx| of the direction taken (...).
    """
    bins = (knots.shape[-1] + 1) // 3
    widths, heights, slopes = knots.split([bins, bins, bins - 1], -1)
    x_knots, y_knots = (_places(share, bound) for share in (widths, heights))
    # A slope of 1 at both ends joins the identity outside.
    slopes = pad(
        SMALLEST + softplus(slopes + math.log(math.expm1(1 - SMALLEST))), (1, 1), value=1.0
    )
    inside = x.abs() < bound
    at = torch.where(inside, x, torch.zeros_like(x)).unsqueeze(-1)
    place = (at >= (y_knots if inverse else x_knots)[..., 1:-1]).sum(-1, keepdim=True)

    def here(values: Tensor, offset: int = 0) -> Tensor:
        shape = torch.broadcast_shapes(values.shape[:-1], place.shape[:-1])
        index = place.expand(*shape, 1) + offset
        return values.expand(*shape, values.shape[-1]).gather(-1, index).squeeze(-1)

    left, bottom = here(x_knots), here(y_knots)
    width, height = here(x_knots, 1) - left, here(y_knots, 1) - bottom
    first, last, mean = here(slopes), here(slopes, 1), height / width
    curve = first + last - 2 * mean
    at = at.squeeze(-1)
    if inverse:
        up = at - bottom
        a = height * (mean - first) + up * curve
        b = height * first - up * curve
        c = -mean * up
        t = 2 * c / (-b - (b.square() - 4 * a * c).clamp_min(0).sqrt())
    else:
        t = (at - left) / width
    down = mean + curve * t * (1 - t)
    if inverse:
        bent = left + width * t
    else:
        bent = bottom + height * (mean * t.square() + first * t * (1 - t)) / down
    slope = mean.square() * (last * t.square() + 2 * mean * t * (1 - t) + first * (1 - t).square())
    log_slope = slope.log() - 2 * down.log()
    log_slope = -log_slope if inverse else log_slope
    return torch.where(inside, bent, x), torch.where(inside, log_slope, torch.zeros_like(x))


def _places(share: Tensor, bound: float) -> Tensor:
    """Return knots (..., bins + 1) from -bound to bound."""
    bins = share.shape[-1]
    share = SMALLEST + (1 - SMALLEST * bins) * share.softmax(-1)
    inner = bound * (2 * share[..., :-1].cumsum(-1) - 1)
    return pad(pad(inner, (1, 0), value=-bound), (0, 1), value=bound)

"""The noise of a gradient estimator: its mean, variance and time, and how far the mean is off."""

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyro
import torch
from torch import Tensor

from ..objectives.bounds import Objective
from ..programs import Batch, Program

BUCKETS = 512
"""Sums of signed parameters that stand for an estimate where directions in it matter."""


@dataclass(frozen=True)
class GradientNoise:
    """Estimates of one gradient on one batch, that of the loss with its sign turned.

    Args:
        mean: of the estimates, (P,).
        variance: of one estimate, (P,).
        sketches: of each estimate (R, S), sums of its elements with random signs, the same for all
            gradients of P elements: linear, and inner products are kept on average.
        seconds: median time of one.
    """

    mean: Tensor
    variance: Tensor
    sketches: Tensor
    seconds: float

    @property
    def repeats(self) -> int:
        """How many estimates there were."""
        return len(self.sketches)

    @property
    def total(self) -> float:
        """The variances of all parameters added up: the mean square of an estimate's error."""
        return float(self.variance.sum())


def gradient_noise(
    objective: Objective,
    model: Program,
    guide: Program,
    x: Batch,
    parameters: Mapping[str, Tensor],
    repeats: int = 200,
) -> GradientNoise:
    """Estimate a gradient again and again on one batch.

    A tenth of the repeats come before, for baselines to settle and for the clock; they count
    nowhere.

    Args:
        objective: what to differentiate.
        model: p(z) p(x | z).
        guide: q(z | x).
        x: the batch.
        parameters: by which, by name.
        repeats: number of estimates, at least 2.

    Raises:
        ValueError: fewer than 2 repeats; or the pair does not admit the objective's estimator.
    """
    if repeats < 2:
        raise ValueError(f"Expected at least 2 repeats; got {repeats}.")
    named = list(parameters.values())
    size = sum(parameter.numel() for parameter in named)
    generator = torch.Generator().manual_seed(0)
    buckets = torch.randint(BUCKETS, (size,), generator=generator).to(named[0].device)
    signs = torch.randint(2, (size,), generator=generator).to(named[0].device) * 2.0 - 1
    mean = square = signs.new_zeros(size, dtype=torch.double)
    seconds, sketches = list[float](), list[Tensor]()
    before = max(2, repeats // 10)
    with pyro.validation_enabled(False):
        for place in range(-before, repeats):
            start = time.perf_counter()
            loss = objective(model, guide, x).loss
            parts = torch.autograd.grad(loss, named, allow_unused=True)
            now = torch.cat(
                [
                    (torch.zeros_like(p) if g is None else -g).flatten().double()
                    for p, g in zip(named, parts, strict=True)
                ]
            )
            if now.is_cuda:
                torch.cuda.synchronize()
            if place < 0:
                continue
            seconds.append(time.perf_counter() - start)
            sketches.append(signs.new_zeros(BUCKETS).double().index_add(0, buckets, signs * now))
            away = now - mean  # Welford's sums, for means that are large beside the noise
            mean = mean + away / (place + 1)
            square = square + away * (now - mean)
    variance = square / (repeats - 1)
    return GradientNoise(mean, variance, torch.stack(sketches), statistics.median(seconds))


def bias(found: GradientNoise, truth: Sequence[GradientNoise]) -> tuple[float, float]:
    r"""Return the length of a mean's error over that of the truth, and how sure it is, a z.

    The noise of both means is taken from the square, :math:`|m - g|^2 - \sum_p s_p^2`; what is
    below zero counts as none. z is that of the second half of the estimates along the error of the
    first half: about standard normal where there is no bias.

    Args:
        found: estimates.
        truth: others of the same gradient without bias, weighed by their precision. One without
            variance is the gradient itself.
    """
    precision = [each.repeats / max(each.total, 1e-300) for each in truth]
    shares = [p / sum(precision) for p in precision]
    parts = list(zip(shares, truth, strict=True))
    mean = torch.stack([s * each.mean for s, each in parts]).sum(0)
    noise = found.variance / found.repeats
    for share, each in parts:
        noise = noise + share**2 * each.variance / each.repeats
    rest = float((found.mean - mean).square().sum() - noise.sum())
    length = max(float(mean.norm()), 1e-300)

    target = torch.stack([s * each.sketches.mean(0) for s, each in parts]).sum(0)
    first, second = found.sketches.tensor_split(2)
    direction = first.mean(0) - target
    along = (second - target) @ direction
    square = along.var() / len(second)
    for share, each in parts:
        square = square + share**2 * (each.sketches @ direction).var() / each.repeats
    # The truth's noise is in the direction too, and adds to the mean along it as much as it varies.
    shared = sum(s**2 * each.sketches.var(0).sum() / each.repeats for s, each in parts)
    error = float(square.sqrt())
    if error < 1e-12 * length**2:  # neither has any noise
        return max(rest, 0.0) ** 0.5 / length, 0.0
    return max(rest, 0.0) ** 0.5 / length, float(along.mean() - shared) / error

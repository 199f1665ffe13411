"""Evaluation: the ELBO and the K-sample bound of every datum of a split."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from torch import Tensor
from tqdm import tqdm

from . import rng
from .data import Split
from .log_weights import log_weights
from .programs import Program, evaluating

ROWS_PER_PASS = 4096
"""Data times particles that the programs see at once, so that memory stays flat."""


@dataclass(frozen=True)
class Evaluation:
    r"""Bounds on log p(x) of each of N data, in nats.

    Args:
        elbo: mean over the particles of log w, (N,); its expectation is the ELBO.
        log_px: :math:`\log \frac1K \sum_k w_k`, (N,); its expectation, the K-sample bound, lies
            between the ELBO and log p(x) and rises with K.
        particles: number K.
        split: name of the split.
    """

    elbo: Tensor
    log_px: Tensor
    particles: int
    split: str

    def summary(self) -> dict[str, Any]:
        """Return means over the data and the standard error of log_px's mean, as plain data.

        The standard error, sd / sqrt(N), is that of the finite split; Monte Carlo noise of the
        weights is in it, their bias (log_px is a lower bound) is not.
        """
        count = len(self.log_px)
        spread = self.log_px.std().item() if count > 1 else math.nan
        return {
            "split": self.split,
            "count": count,
            "particles": self.particles,
            "elbo": self.elbo.mean().item(),
            "log_px": self.log_px.mean().item(),
            "log_px_se": spread / math.sqrt(count),
        }


def evaluate(
    model: Program,
    guide: Program,
    split: Split,
    *,
    particles: int = 100,
    name: str = "test",
    seed: int = 0,
    show_progress: bool | None = None,
) -> Evaluation:
    r"""Estimate the ELBO and the K-sample bound of every datum.

    .. math:: L_K(x) = \mathbb E \log \frac1K \sum_{k=1}^K \frac{p(x, z_k)}{q(z_k \mid x)},
              \qquad z_k \sim q(z \mid x)

    Modules are in evaluation mode, the random states are left alone, and the particles are summed
    up in passes, so that memory does not grow with K.

    Source: Burda, Grosse and Salakhutdinov 2016, arXiv 1509.00519.

    Args:
        model: p(z) p(x | z).
        guide: q(z | x).
        split: the data, on the device of the pair.
        particles: number K.
        name: what the split is called.
        seed: of the particles, and of x where the split draws it.
        show_progress: whether to draw a progress bar; None draws one on a terminal.

    Raises:
        ValueError: ``particles`` is below 1, or the pair has a site outside the data plate.
    """
    if particles < 1:
        raise ValueError(f"Expected at least 1 particle; got {particles}.")
    elbo = torch.empty(len(split), device=split.device)
    log_px = torch.empty(len(split), device=split.device)
    bar = tqdm(
        total=len(split),
        disable=None if show_progress is None else not show_progress,
        desc=f"{name}, K = {particles:,}",
        unit="datum",
    )
    with bar, rng.isolated(seed), evaluating(model, guide), pyro.validation_enabled(False):
        for places, count in _passes(len(split), particles):
            x = split.batch(places)
            total = torch.zeros(len(x), device=split.device)
            log_sum = torch.full((len(x),), -math.inf, device=split.device)
            for taken in count:
                weights = log_weights(model, guide, x, taken).total
                total += weights.sum(0)
                log_sum = torch.logaddexp(log_sum, weights.logsumexp(0))
            elbo[places] = total / particles
            log_px[places] = log_sum - math.log(particles)
            bar.update(len(x))
    return Evaluation(elbo.cpu(), log_px.cpu(), particles, name)


def _passes(size: int, particles: int) -> Iterator[tuple[slice, list[int]]]:
    """Yield the data in slices, each with the particles that every pass over it takes."""
    data = max(1, min(size, ROWS_PER_PASS // min(particles, 64)))
    taken = max(1, ROWS_PER_PASS // data)
    passes = [taken] * (particles // taken) + [particles % taken] * (particles % taken > 0)
    for start in range(0, size, data):
        yield slice(start, min(start + data, size)), passes

"""What an evaluation finds: bounds on log p(x) of each datum, their errors and their warnings."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from .reduced import standard_error

HEAVY_TAIL = 0.7
"""Above this Pareto k-hat an importance-sampling estimate converges too slowly to trust it."""

NO_VARIANCE = 0.5
"""Above it the weights have no variance, and a standard error is too small in any finite sample."""

SETTLED = 100
"""A bound is asked whether it still rises from this number of particles on."""


@dataclass(frozen=True)
class Evaluation:
    r"""Bounds on log p(x) of each of N data, in nats.

    Args:
        elbo: mean over all draws of log w, (N,); its expectation is the ELBO.
        rate: mean over all draws of log q(z | x) - log p(z), (N,); the KL is its expectation.
        log_px: the K-sample bound :math:`\log \frac1K \sum_k w_k` with all K particles, (N,), mean
            over repeats; its expectation lies between the ELBO and log p(x) and rises with K.
        log_px_mc_se: Monte Carlo standard error of ``log_px``, (N,): over repeats, or where there
            is one, by the delta method, sqrt(sum w~^2 - 1/K); nan where K and repeats are 1. Where
            k-hat is above 0.5 it is too small: at 0.5 to 0.7, K = 20 and 12 repeats, 2 of them
            cover the bound in 0.86 to 0.90 of all cases.
        steps: numbers of particles K = 1, 10, 100, ... of the curve, (S,).
        curve: mean over independent groups of K draws of the K-sample bound, (S, N).
        ess: effective sample size 1 / sum w~^2 of all draws, (N,).
        k_hat: Pareto k-hat of all draws' weights, (N,), as `pareto.k_hat` says: nan for fewer than
            25 draws, 0 where the weights are equal, inf where one drowns all others.
        particles: number K.
        repeats: independent estimates of the K-sample bound.
        split: name of the split.
        field_units: ``log_px`` in the units of the data's field, bits per dimension or perplexity,
            where it has one of its own.
        shared: names of the sites outside the data plate, which all data share.
        by_repeat: mean over the data of each repeat's bound, (repeats,), where there are such
            sites: its spread has the noise of their draws, which no datum's shows.
    """

    elbo: Tensor
    rate: Tensor
    log_px: Tensor
    log_px_mc_se: Tensor
    steps: Tensor
    curve: Tensor
    ess: Tensor
    k_hat: Tensor
    particles: int
    repeats: int
    split: str
    field_units: dict[str, float] = field(default_factory=dict)
    shared: tuple[str, ...] = ()
    by_repeat: Tensor | None = None

    def summary(self) -> dict[str, Any]:
        """Return means over the data and their standard errors, as plain data.

        ``log_px_se``, sd / sqrt(N), is that of the finite split; ``log_px_mc_se`` that of the
        draws, those of ``shared`` sites included; None where the number of draws does not show it.
        The bias of the bound (log_px is too low) is in neither: the curve shows it.
        """
        count = len(self.log_px)
        spread = self.log_px.std().item() if count > 1 else math.nan
        noise = self.log_px_mc_se.square().sum().sqrt() / count
        if self.by_repeat is not None:
            several = len(self.by_repeat) > 1  # one draw does not show how draws differ
            noise = standard_error(self.by_repeat) if several else noise * math.nan
        known = self.k_hat[~self.k_hat.isnan()]
        finite = known[known.isfinite()]
        return {
            "split": self.split,
            "count": count,
            "particles": self.particles,
            "repeats": self.repeats,
            "elbo": self.elbo.mean().item(),
            "rate": self.rate.mean().item(),
            "distortion": -(self.elbo + self.rate).mean().item(),
            "log_px": self.log_px.mean().item(),
            "log_px_se": spread / math.sqrt(count),
            "log_px_mc_se": None if noise.isnan() else noise.item(),
            **self.field_units,
            "ess": self.ess.mean().item(),
            "k_hat": finite.mean().item() if len(finite) else None,
            "k_hat_share_above_0.7": (known > HEAVY_TAIL).float().mean().item()
            if len(known)
            else None,
            "curve": dict(
                zip(map(str, self.steps.tolist()), self.curve.mean(1).tolist(), strict=True)
            ),
        }

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the values of each datum, for paired comparisons."""
        names = ["elbo", "rate", "log_px", "log_px_mc_se", "steps", "curve", "ess", "k_hat"]
        names += [] if self.by_repeat is None else ["by_repeat"]
        return {name: getattr(self, name).numpy() for name in names}

    def warnings(self) -> list[str]:
        """Return the reasons not to trust the numbers, in words."""
        heavy = self._heavy
        sentence = (
            f"{heavy:,} of {len(self.k_hat):,} data have a Pareto k-hat above {HEAVY_TAIL}: a few "
            "weights carry their estimates, so that log_px is likely far too low for them, and "
            "log_px_mc_se too small. Take more particles, a wider guide, or annealed importance "
            "sampling."
        )
        return [sentence] if heavy and not self._settled else []

    def notes(self) -> list[str]:
        """Return what to know of the numbers that takes nothing from them, in words."""
        found: list[str] = []
        if self._heavy and self._settled:
            before, last = self.steps[-2:].tolist()
            found.append(
                f"{self._heavy:,} of {len(self.k_hat):,} data have a Pareto k-hat above "
                f"{HEAVY_TAIL}, but the bound rises by no more than its error, "
                f"{self._rise[0]:.3f} nats, from K = {before:,} to {last:,}."
            )
        if self.shared:
            found.append(
                f"All data share site {', '.join(map(repr, self.shared))}: log_px is the bound on "
                "log p(x) given a draw of it, less a training datum's part of its KL. A datum's "
                "error leaves out the noise of that draw, which all have in common; that of the "
                "mean has it where there are 2 repeats or more."
            )
        if between := int((self.k_hat > NO_VARIANCE).sum()) - self._heavy:
            found.append(
                f"{between:,} of {len(self.k_hat):,} data have a Pareto k-hat from {NO_VARIANCE} "
                f"to {HEAVY_TAIL}: their log_px_mc_se is too small, as a rule by up to a half."
            )
        return found

    @property
    def _heavy(self) -> int:
        return int((self.k_hat > HEAVY_TAIL).sum())

    @property
    def _rise(self) -> tuple[float, float]:
        """How much the mean bound rises in the last step of the curve, and its standard error."""
        rises = self.curve[-1] - self.curve[-2]
        return rises.mean().item(), rises.std().item() / math.sqrt(len(rises))

    @property
    def _settled(self) -> bool:
        """Whether the bound at K agrees with that of 100 particles or more within 2 errors."""
        if len(self.steps) < 2 or self.steps[-2] < SETTLED or len(self.k_hat) < 2:
            return False
        rise, error = self._rise
        return rise <= 2 * error

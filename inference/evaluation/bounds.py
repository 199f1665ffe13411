"""Evaluation: bounds on log p(x) of every datum of a split, and how reliable they are."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor
from tqdm import tqdm

from .. import distributed, rng
from ..capture.choosing import Setting
from ..data.records import Split
from ..log_weights import log_weights
from ..memory import keep_freed
from ..programs import Program, as_tuple, evaluating
from .not_finite import refuse_nan
from .reduced import reduced
from .shared import holding, shared_draws
from .tiles import Tiles, data_of_a_pass

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

    def summary(self) -> dict[str, Any]:
        """Return means over the data and their standard errors, as plain data.

        ``log_px_se``, sd / sqrt(N), is that of the finite split; ``log_px_mc_se`` that of the
        draws. The bias of the bound (log_px is too low) is in neither: the curve shows it.
        """
        count = len(self.log_px)
        spread = self.log_px.std().item() if count > 1 else math.nan
        noise = self.log_px_mc_se.square().sum().sqrt()
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
            "log_px_mc_se": None if noise.isnan() else noise.item() / count,
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
        names = ("elbo", "rate", "log_px", "log_px_mc_se", "steps", "curve", "ess", "k_hat")
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
                "log p(x) given a draw of it, less a training datum's part of its KL; the noise of "
                "that draw, which all data have in common, is not in log_px_mc_se."
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


def evaluate(
    model: Program,
    guide: Program,
    split: Split,
    *,
    particles: int = 100,
    repeats: int = 1,
    name: str = "test",
    seed: int = 0,
    compile: Setting = "auto",  # noqa: A002  (torch's own word for it)
    data_size: int | None = None,
    show_progress: bool | None = None,
) -> Evaluation:
    r"""Estimate the ELBO and the K-sample bound of every datum, and how reliable they are.

    .. math:: L_K(x) = \mathbb E \log \frac1K \sum_{k=1}^K \frac{p(x, z_k)}{q(z_k \mid x)},
              \qquad z_k \sim q(z \mid x)

    A site w that all N training data share is drawn from the guide, once for each of the repeats,
    and held for all particles and data, whose bounds are :math:`L_K(x \mid w) + \frac1N \log
    \frac{p(w)}{q(w)}`: over the training data they sum to a bound on log p of them all.

    Modules are in evaluation mode, the random states are left alone, and the programs see a bounded
    number of particles at a time, so that memory does not grow with K. Several processes share the
    data, and each has the whole result. From then on the process keeps the memory that passes free
    (`memory.keep_freed`).

    Sources: Burda, Grosse and Salakhutdinov 2016, arXiv 1509.00519 (bound); Vehtari et al. 2024,
    arXiv 1507.02646 (k-hat).

    >>> from guides import MLP, Amortized, DiagonalNormal
    >>> from inference import evaluate, load
    >>> from models import MLP as Decoder, VAE, Bernoulli, StandardNormal
    >>> model = VAE(StandardNormal(2), Decoder(2, (1, 8, 8)), Bernoulli((1, 8, 8)))
    >>> guide = Amortized(MLP((1, 8, 8), 4), DiagonalNormal(2))
    >>> found = evaluate(model, guide, load("digits").test, particles=10, show_progress=False)
    >>> found.log_px.shape, found.steps.tolist()
    (torch.Size([200]), [1, 10])
    >>> bool((found.log_px.mean() > found.elbo.mean()))
    True

    Args:
        model: p(z) p(x | z).
        guide: q(z | x).
        split: the data, on the device of the pair.
        particles: number K.
        repeats: independent estimates of the K-sample bound; 2 or more measure its noise directly.
        name: what the split is called.
        seed: of the particles, and of x where the split draws it.
        compile: whether to capture and compile a pass over the programs, as for `SVI`; ``auto``
            does if there are enough passes.
        data_size: number N of training data, for the sites that they share, if no plate says it.
        show_progress: whether to draw a progress bar; None draws one on a terminal.

    Raises:
        ValueError: ``particles`` or ``repeats`` is below 1, or the pair has a site outside the data
            plate and N is not known.
        FloatingPointError: a bound is nan; the message has the datum and the site.
    """
    if particles < 1 or repeats < 1:
        raise ValueError(
            f"Expected at least 1 particle and 1 repeat; got {particles} and {repeats}."
        )
    keep_freed()
    draws = particles * repeats
    steps = [10**i for i in range(len(str(particles))) if 10**i < particles] + [particles]
    # Allocate the results first: small tensors that are kept between the large ones of the passes
    # split the heap, and memory then grows with K after all.
    values = {
        name: torch.zeros(len(split), dtype=torch.float64)
        for name in ("elbo", "rate", "log_px", "log_px_mc_se", "ess", "k_hat")
    }
    values["curve"] = torch.zeros(len(steps), len(split), dtype=torch.float64)
    bar = tqdm(
        total=math.ceil(len(split) / distributed.world()),
        disable=None if show_progress is None else not show_progress,
        desc=f"{name}, K = {particles:,}",
        unit="datum",
    )
    data = data_of_a_pass(len(split), draws, split.device)

    # What refuses the pair is said here, before many particles fail otherwise.
    rounds = shared_draws(model, guide, split, data, data_size, seed, repeats)
    held: dict[str, Tensor] = {}

    def weigh(*batch: Tensor, count: int) -> list[Tensor]:
        with holding(held, data_size):
            weights = log_weights(model, guide, batch, count)
        total = weights.reconstruction - weights.kl
        return [total, weights.kl.expand_as(total).sum(0)]

    if rounds:
        draws, compile = particles, "off"  # noqa: A001  (a capture would keep what is held)
    begins = range(data * distributed.rank(), len(split), data * distributed.world())
    tiles = Tiles(weigh, data, draws, len(begins), split.device, compile, [model, guide])
    with bar, rng.isolated(), evaluating(model, guide), pyro.validation_enabled(False):
        for begin in begins:
            places = slice(begin, min(begin + data, len(split)))
            found = []
            for number, drawn in enumerate(rounds or [{}]):
                held |= drawn
                # Each slice has its own seed, so it does not matter which process takes it.
                key = [seed, begin, number] if number else [seed, begin]
                drawing = int(np.random.SeedSequence(key).generate_state(1)[0])

                def start(drawing: int = drawing, places: slice = places) -> tuple[Tensor, ...]:
                    pyro.set_rng_seed(drawing)
                    return as_tuple(split.batch(places))

                found.append(tiles(start))
            log_w = torch.cat([weights for weights, _ in found])
            rate = torch.stack([each for _, each in found]).mean(0)
            for key, value in {"rate": rate, **reduced(log_w, steps, particles)}.items():
                values[key][..., places] = value.to(values[key])
            bar.update(len(rate))
    if (shift := split.log_det()) is not None and not distributed.rank():
        for key in ("elbo", "log_px", "curve"):
            values[key] += shift.cpu()
    if distributed.world() > 1:
        distributed.wait_for_all()  # one may have a slower device
        parts = distributed.total([value.to(split.device) for value in values.values()])
        values = dict(zip(values, (part.cpu() for part in parts), strict=True))
    refuse_nan(values["log_px"], model, guide, split, name)
    return Evaluation(
        **values,
        steps=torch.tensor(steps),
        particles=particles,
        repeats=repeats,
        split=name,
        field_units={}
        if split.mask is not None
        else split.view.field_units(split.stored, values["log_px"]),
        shared=tuple(held),
    )

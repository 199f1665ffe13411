"""Where log p(x) - ELBO comes from: the guide's family, or the one network for all data."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import transform_to
from tqdm import tqdm

from .. import rng
from ..laws import factors, point_of
from ..log_weights import log_weights
from ..programs import (
    Batch,
    Program,
    as_tuple,
    evaluating,
    frozen,
    run,
)
from ..sites import Site, select


@dataclass(frozen=True)
class Gaps:
    r"""The inference gap of B data and its two parts, in nats.

    Args:
        elbo: ELBO of the guide as it is, (B,).
        refined: ELBO of the best member q* of its family for each datum, (B,).
        log_px: K-sample bound under q*, which stands for log p(x), (B,).
        particles: number K of draws that each was measured with.
    """

    elbo: Tensor
    refined: Tensor
    log_px: Tensor
    particles: int

    @property
    def approximation(self) -> Tensor:
        """Log p(x) - ELBO(q*): the cost of the family, (B,)."""
        return self.log_px - self.refined

    @property
    def amortisation(self) -> Tensor:
        """ELBO(q*) - ELBO(q): the cost of the encoder, (B,)."""
        return self.refined - self.elbo

    def summary(self) -> dict[str, Any]:
        """Return the means over the data and the standard errors of the two gaps."""
        root = math.sqrt(len(self.elbo))
        return {
            "count": len(self.elbo),
            "elbo": self.elbo.mean().item(),
            "log_px": self.log_px.mean().item(),
            "approximation": self.approximation.mean().item(),
            "approximation_se": self.approximation.std().item() / root,
            "amortisation": self.amortisation.mean().item(),
            "amortisation_se": self.amortisation.std().item() / root,
        }


def inference_gaps(
    model: Program,
    guide: Program,
    x: Batch,
    *,
    steps: int = 500,
    learning_rate: float = 0.02,
    draws: int = 16,
    particles: int = 1000,
    seed: int = 0,
    show_progress: bool | None = None,
) -> Gaps:
    r"""Refine q for every datum by itself, from the encoder's output, and split the gap.

    .. math:: \log p - \mathrm{ELBO}(q)
              = \underbrace{\log p - \mathrm{ELBO}(q^*)}_{\text{approximation}}
              + \underbrace{\mathrm{ELBO}(q^*) - \mathrm{ELBO}(q)}_{\text{amortisation}}

    The parameters of each latent site's distribution are taken from one run of the guide and
    optimised by Adam, the learning rate falling to nothing; model and guide stay as they are.

    Source: Cremer, Li and Duvenaud 2018, arXiv 1801.03558.

    Args:
        model: p(z) p(x | z).
        guide: q(z | x), one latent site or several that do not depend on each other.
        x: the batch.
        steps: optimiser steps.
        learning_rate: Adam's, at the start.
        draws: draws for each datum and step.
        particles: number K of draws that the three values are measured with.
        seed: of all draws.
        show_progress: whether to draw a progress bar; None draws one on a terminal.

    Raises:
        ValueError: a latent site is discrete, outside the data plate, or of a family whose
            parameters can't be freed.
    """
    batch = as_tuple(x)
    bar = tqdm(
        range(steps),
        disable=None if show_progress is None else not show_progress,
        desc="refining",
        unit="step",
    )
    with rng.isolated(seed), evaluating(model, guide), pyro.validation_enabled(False):
        drawn = select(run(model, guide, batch).guide, "latent")
        free = {name: _Free(site, len(batch[0])) for name, site in drawn.items()}
        before = log_weights(model, guide, x, particles).total
        values = [value for one in free.values() for value in one.values.values()]
        optimizer = torch.optim.Adam(values, lr=learning_rate)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps))
        with _Refined(free), frozen(model, guide):
            for _ in bar:
                with torch.enable_grad():
                    optimizer.zero_grad(set_to_none=True)
                    # A sum over data: each has its own parameters, and Adam its own steps.
                    (-log_weights(model, guide, x, draws).total.mean(0).sum()).backward()
                optimizer.step()
                scheduler.step()
            after = log_weights(model, guide, x, particles).total
    bound = after.logsumexp(0) - math.log(particles)
    return Gaps(before.mean(0), after.mean(0), bound, particles)


class _Free:
    """A distribution of its own for each datum, its parameters free of the encoder."""

    def __init__(self, site: Site, size: int) -> None:
        fn = factors(site.distribution)
        self.event_dims = len(fn.batch_shape) - len(site.distribution.batch_shape)
        if point_of(fn) is not None:
            raise ValueError(
                f"Site {site.name!r} is a Delta: one point has no parameters of a density to "
                "refine. The gaps need a family such as Normal."
            )
        if len(site.distribution.batch_shape) > 1:
            raise ValueError(
                f"Site {site.name!r} sits in plates beside the data's: the gaps are known for one "
                "code of each datum, whose own dimensions are event dimensions, by .to_event()."
            )
        if not site.in_data_plate(size) or not fn.has_rsample:
            raise ValueError(
                f"Site {site.name!r} is discrete or outside the data plate: there is no "
                "distribution of each datum to refine by gradients."
            )
        self.make: Callable[..., Any] = type(fn)
        names = list(fn.arg_constraints)
        if "scale_tril" in names:  # one of three ways to say the same
            names = ["loc", "scale_tril"]
        if not names or isinstance(fn, dist.TransformedDistribution):
            raise ValueError(
                f"Site {site.name!r} has a {type(fn).__name__}, whose parameters lie in its "
                "transforms: they can't be freed. The gaps need a family such as Normal."
            )
        self.transforms = {n: transform_to(fn.arg_constraints[n]) for n in names}
        self.values = {
            n: transform.inv(getattr(fn, n)).detach().clone().requires_grad_(True)
            for n, transform in self.transforms.items()
        }

    def __call__(self, batch_shape: torch.Size) -> Any:
        made = self.make(**{n: t(self.values[n]) for n, t in self.transforms.items()})
        return dist.Independent(made, self.event_dims).expand(batch_shape)


class _Refined(Messenger):
    """Put the free distributions in the place of the guide's."""

    def __init__(self, free: dict[str, _Free]) -> None:
        super().__init__()
        self.free = free

    def _pyro_sample(self, msg: Any) -> None:
        # The model's site of that name comes replayed, with its value already there.
        if msg["name"] in self.free and msg["value"] is None:
            msg["fn"] = self.free[msg["name"]](msg["fn"].batch_shape)

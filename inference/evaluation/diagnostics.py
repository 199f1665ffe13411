"""Diagnostics of the code: what the latent sites of a trained pair say of x, and what x needs."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from torch import Tensor

from .. import rng
from ..data.records import Split
from ..objectives.divergences import bhattacharyya_distance, kl_divergence, wasserstein2
from ..programs import Program, as_tuple, evaluating
from .latent_code import LatentCode
from .validation import REMEDY

DIVERGENCES = {
    "kl": kl_divergence,
    "bhattacharyya": bhattacharyya_distance,
    "wasserstein2": wasserstein2,
}


@dataclass(frozen=True)
class SiteDiagnostics:
    r"""What one latent site z says of N data, given the sites before it where there are several.

    Args:
        kl: KL(q(z | x) || p(z)) in nats, mean over the data: of each dimension (Z,), in closed
            form, where both are normals with independent coordinates; else one estimate of the
            whole site from one draw a datum, (1,).
        by_dimension: whether ``kl`` is by dimension.
        mean_variance: variance over the data of each unit's posterior mean, Var_x E_q[z | x], (U,).
            The units of a Categorical site are the probabilities of its values.
        information: log q(z_n | x_n) - log q(z_n), (N,), nats; its mean estimates I_q(x; z), which
            cannot exceed log N. None where q has no density at another datum's draw.
        aggregate_kl: log q(z_n) - log p(z_n), (N,), nats; its mean estimates KL(q(z) || p(z)).
        moments: KL, Bhattacharyya distance (nats) and squared 2-Wasserstein distance (squared units
            of z) of the normal with the moments of q(z) from p(z), which see less than
            ``aggregate_kl`` but have no noise of a density estimate. None if q and p are not
            normals.
        sensitivity: root mean square, over data, of the distance by which E[x | z] moves as one
            coordinate of z moves by one prior standard deviation, (Z,), in units of x. None where
            z is not a real vector, or E[x | z] has no closed form.
    """

    kl: Tensor
    by_dimension: bool
    mean_variance: Tensor
    information: Tensor | None
    aggregate_kl: Tensor | None
    moments: dict[str, float] | None
    sensitivity: Tensor | None

    @property
    def sorted_kl(self) -> Tensor:
        """Return ``kl`` from the largest to the smallest."""
        return self.kl.sort(descending=True).values

    def active(self, threshold: float) -> int:
        """Return the number of active units: those whose posterior mean's variance is above it."""
        return int((self.mean_variance > threshold).sum())

    def collapsed(self, epsilon: float) -> float:
        """Return the share of dimensions whose KL is below epsilon nats."""
        return (self.kl < epsilon).double().mean().item()


@dataclass(frozen=True)
class Diagnostics:
    """What `diagnose` found.

    Args:
        sites: of each latent site in the data plate, by name.
        rate: KL(q(z | x) || p(z)) of each datum over all those sites, (N,), nats.
        distortion: - log p(x | z) of each datum at one draw of z, (N,), nats.
        sensitivity_size: how many of the N data the sensitivity is a mean over.
        epsilon: below this KL, in nats, a dimension counts as collapsed.
        threshold: above this variance of its posterior mean a unit counts as active.
        split: name of the split.
    """

    sites: dict[str, SiteDiagnostics]
    rate: Tensor
    distortion: Tensor
    sensitivity_size: int
    epsilon: float
    threshold: float
    split: str

    @property
    def size(self) -> int:
        """Number N of data."""
        return len(self.rate)

    def summary(self) -> dict[str, Any]:
        """Return means over the data and their standard errors, sd / sqrt(N), as plain data."""
        return {
            "split": self.split,
            "count": self.size,
            **_mean_and_error("rate", self.rate),
            **_mean_and_error("distortion", self.distortion),
            "information_cap": math.log(self.size),
            "epsilon": self.epsilon,
            "active_threshold": self.threshold,
            "sensitivity_count": self.sensitivity_size,
            "sites": {name: self._summary(site) for name, site in self.sites.items()},
        }

    def warnings(self) -> list[str]:
        """Return what is wrong, in a sentence or two each; an empty list if nothing is."""
        return [f"Site {n!r}: {text}" for n, site in self.sites.items() for text in self._say(site)]

    def _summary(self, site: SiteDiagnostics) -> dict[str, Any]:
        moves = site.sensitivity
        return {
            "kl_sorted": _plain(site.sorted_kl),
            "kl_by_dimension": site.by_dimension,
            "collapsed_share": site.collapsed(self.epsilon),
            "units": len(site.mean_variance),
            "active_units": site.active(self.threshold),
            "mean_variance": _plain(site.mean_variance),
            **_mean_and_error("information", site.information),
            **_mean_and_error("aggregate_kl", site.aggregate_kl),
            "aggregate_moments": site.moments,
            "sensitivity": None if moves is None else _plain(moves),
        }

    def _say(self, site: SiteDiagnostics) -> Iterator[str]:
        share, count = site.collapsed(self.epsilon), len(site.kl)
        said = "all" if count > 1 else "the one"
        of = f"{said} of its {count} dimensions" if site.by_dimension else "the whole site"
        if share == 1:
            yield (
                f"the posterior has collapsed to the prior: the KL of {of} is below "
                f"{self.epsilon} nats, so that z says nothing of x. {REMEDY}"
            )
        elif share >= 0.5:
            yield (
                f"{round(share * count)} of {count} dimensions have collapsed to the prior (KL "
                f"below {self.epsilon} nats). Fewer dimensions would do, or: {REMEDY}"
            )
        if site.information is None:
            yield (
                "I_q(x; z) is not known, for its posterior has no density at another datum's draw "
                "(a flow without an inverse). Take a flow that has one."
            )
            return
        information, cap = site.information.mean().item(), math.log(self.size)
        # A deeper layer may say nothing of x beyond those before it, and be the same code of x.
        if share < 1 and information < self.epsilon and not site.active(self.threshold):
            yield (
                f"the posterior is the same for every x, and it is not the prior: I_q(x; z) = "
                f"{information:.2g} nats at a KL of {site.kl.sum().item():.2g}. {REMEDY}"
            )
        # With less than log 2 to spare, fewer than two of the N data could have made a draw.
        if cap - information < math.log(2):
            yield (
                f"I_q(x; z) = {information:.2f} nats is at its cap, log {self.size} = {cap:.2f}: "
                "it is a lower bound only, and KL(q(z) || p(z)) an upper one. Take a larger size."
            )


def diagnose(
    model: Program,
    guide: Program,
    split: Split,
    *,
    size: int = 500,
    seed: int = 0,
    epsilon: float = 0.01,
    threshold: float = 0.01,
    sensitivity_size: int = 100,
    name: str = "test",
) -> Diagnostics:
    r"""Measure what the latent sites of a pair say of x, on N data drawn from a split.

    With the aggregate posterior :math:`q(z) = \frac1N \sum_m q(z \mid x_m)` the rate splits into

    .. math:: \frac1N \sum_n \mathrm{KL}(q(z \mid x_n) \| p(z))
              = I_q(x; z) + \mathrm{KL}(q(z) \| p(z)),

    both estimated from one draw :math:`z_n \sim q(z \mid x_n)` a datum. Datum n itself is in the
    sum, so I_q is at most log N: where it comes near, it is a lower bound on what more data would
    show, and the divergence an upper one. Of several latent sites each has its term of the chain
    rule, I_q(x; z_s | z_<s); the terms add up to the whole. Where the model's prior depends on
    more than earlier sites (a label), the second term is E log q(z) - log p(z | label).

    **Active units**: variance over the N data of E_q[z | x] > threshold. It is the covariance of
    two runs of the guide, which is unbiased also where that mean is itself drawn (a flow's, or
    that of a site given the draws of those before it), and the variance itself where it is not.

    **Sensitivity** of coordinate i: :math:`\sqrt{\frac1M \sum_n \|E[x | z_n + \frac{\sigma_i}2 e_i]
    - E[x | z_n - \frac{\sigma_i}2 e_i]\|^2}`, z_n one draw of the guide for each of the first M
    data, sigma the standard deviation of p(z), all other sites held, and the norm over all
    observed sites; an autoregressive decoder goes on reading the x that it was given.

    Sites outside the data plate are left out: they are drawn once and held. Modules are in
    evaluation mode and random states are left alone. The encoder runs twice a datum if there is
    one latent site, and N times a datum if there are several.

    Sources: Burda et al. 2016, arXiv 1509.00519 (active units, threshold 0.01 on 500 data); Hoffman
    and Johnson 2016, "ELBO surgery" (the split); Alemi et al. 2018, arXiv 1711.00464 (rate and
    distortion).

    Args:
        model: p(z) p(x | z).
        guide: q(z | x).
        split: the data, on the device of the pair.
        size: number N of data, drawn without replacement; all if there are fewer.
        seed: of that choice, of the draws, and of x where the split draws it.
        epsilon: below this KL, in nats, a dimension counts as collapsed.
        threshold: above this variance of its posterior mean a unit counts as active.
        sensitivity_size: M, at most N.
        name: what the split is called.

    Raises:
        ValueError: there are fewer than 2 data, or none for the sensitivity.
    """
    count = min(size, len(split))
    if count < 2:
        raise ValueError(
            f"Expected 2 data or more; got size {size} of a split of {len(split)}. "
            "A variance over the data needs two."
        )
    if sensitivity_size < 1:
        raise ValueError(f"Expected a sensitivity_size of at least 1; got {sensitivity_size}.")
    with rng.isolated(seed), evaluating(model, guide), pyro.validation_enabled(False):
        places = torch.randperm(len(split))[:count].to(split.device)
        code = LatentCode(model, guide, as_tuple(split.batch(places)))
        moved = min(sensitivity_size, count)
        aggregate = code.aggregate()
        sites: dict[str, SiteDiagnostics] = {}
        before: Tensor | float = 0.0
        for site, one in code.sites.items():
            a, b = one.mean.double(), one.again.double()
            covariance = ((a - a.mean(0)) * (b - b.mean(0))).sum(0) / (count - 1)
            information = divergence = None
            if aggregate is not None:
                # The chain rule: log q(z_s | z_<s) of the aggregate is a difference of joints.
                conditional = aggregate[site] - before
                before = aggregate[site]
                information = (one.log_q - conditional).cpu()
                divergence = (conditional - one.log_p).cpu()
            sensitivity, normals = code.sensitivity(site, moved), one.normals()
            sites[site] = SiteDiagnostics(
                one.kl.mean(0).cpu(),
                one.by_dimension,
                covariance.to(one.kl.dtype).cpu(),
                information,
                divergence,
                normals and {name: f(*normals).item() for name, f in DIVERGENCES.items()},
                None if sensitivity is None else sensitivity.cpu(),
            )
        none = torch.zeros(count, device=split.device)
        rate = sum((one.kl.sum(1) for one in code.sites.values()), none)
    shift = split.log_det()
    distortion = code.distortion.cpu() if shift is None else (code.distortion - shift).cpu()
    return Diagnostics(sites, rate.cpu(), distortion, moved, epsilon, threshold, name)


def _mean_and_error(key: str, values: Tensor | None) -> dict[str, float | None]:
    if values is None:
        return {key: None, f"{key}_se": None}
    error = values.std() / len(values) ** 0.5
    mean, error = _plain(torch.stack([values.mean(), error]))
    return {key: mean, f"{key}_se": error}


def _plain(values: Tensor) -> list[float | None]:
    """Return numbers for JSON, which has no nan or infinity."""
    return [value if math.isfinite(value) else None for value in values.tolist()]

"""One draw of a pair's latent sites for each of N data, and what their two traces say of it."""

import math
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from torch import Tensor
from torch.distributions import (
    Categorical,
    Distribution,
    Independent,
    MultivariateNormal,
    Normal,
    constraints,
    kl_divergence,
)

from ..capture.captured_pass import CapturedPass
from ..log_weights import read
from ..objectives.divergences import aggregate_normal
from ..programs import (
    Program,
    in_data_plate,
    latent_sites,
    observed_sites,
    param_store,
    run,
    tile,
)

ROWS_PER_PASS = 256
"""Data that the programs see at once."""

PAIRS_PER_PASS = 16_384
"""Pairs (z_n, x_m) whose density is taken at once, so that memory does not grow as N^2."""

DRAWS_FOR_MOMENTS = 64
"""Draws that a mean or a standard deviation is taken over where it has no closed form."""


class LatentCode:
    """One draw of every latent site in the data plate for each of N data, read pass by pass.

    Sites outside the data plate are drawn once and held. The programs should be in evaluation mode.

    Args:
        model: p(z) p(x | z).
        guide: q(z | x).
        batch: the N data, as the programs take them.
    """

    def __init__(self, model: Program, guide: Program, batch: tuple[Tensor, ...]) -> None:
        self.model, self.guide, self.batch = model, guide, batch
        self.size = len(batch[0])
        self.names: list[str] = []
        self.by_dimension: dict[str, bool] = {}
        self._held: dict[str, Tensor] = {}
        self._distortion: list[Tensor] = []
        self._passes: list[dict[str, dict[str, Any]]] = []  # by pass, site and quantity
        for rows in self._chunks():
            self._passes.append(self._pass(rows))

    @property
    def distortion(self) -> Tensor:
        """Return - log p(x | z) of each datum, (N,)."""
        return torch.cat(self._distortion)

    def _chunks(self) -> Iterator[tuple[Tensor, ...]]:
        for start in range(0, self.size, ROWS_PER_PASS):
            yield tuple(t[start : start + ROWS_PER_PASS] for t in self.batch)

    def stacked(self, key: str, site: str) -> Tensor:
        """Return one quantity of a site for all data, (N, ...)."""
        return torch.cat([each[site][key] for each in self._passes])

    def _pass(self, rows: tuple[Tensor, ...]) -> dict[str, dict[str, Any]]:
        size = len(rows[0])
        with param_store(self.model):
            free = self._holding(self.model, {}), self._holding(self.guide, {})
            model_trace, guide_trace = run(*free, rows)
            local = {n: s for n, s in latent_sites(guide_trace).items() if in_data_plate(s, size)}
            if not self._passes:
                drawn = latent_sites(guide_trace)
                self.names = list(local)
                self._held = {n: s["value"] for n, s in drawn.items() if n not in local}
        # Read at once: a flow may know the density of its latest draw alone.
        weights = read(model_trace, guide_trace, size, (1, size))
        with param_store(self.model):
            twin = latent_sites(poutine.trace(self._holding(self.guide, {})).get_trace(*rows))
        observed = observed_sites(model_trace)
        likelihood = [
            value[0]
            for name, value in weights.likelihood.items()
            if name not in self._held and in_data_plate(observed[name], size)
        ]
        self._distortion.append(-sum(likelihood, torch.zeros(size, device=rows[0].device)))
        found: dict[str, dict[str, Any]] = {}
        for name, q in local.items():
            p = latent_sites(model_trace).get(name)  # an auxiliary site is the guide's alone
            log_q = weights.guide[name][0]
            log_p = weights.prior[name][0] if p else torch.zeros_like(log_q)
            kl = kl_by_dimension(q, p, size) if p else None
            self.by_dimension[name] = kl is not None
            found[name] = {
                "q": q,
                "p": p,
                "draw": q["value"].movedim(_data_dim(q["fn"]), 0),
                "log_q": log_q,
                "log_p": log_p,
                "kl": (log_q - log_p).unsqueeze(1) if kl is None else kl,
                "mean": by_datum(_drawn_mean(q["fn"]), q["fn"]),
                "again": by_datum(_drawn_mean(twin[name]["fn"]), twin[name]["fn"]),
            }
        return found

    def _holding(self, program: Program, values: dict[str, Tensor]) -> Program:
        return poutine.condition(program, data={**self._held, **values})

    def aggregate(self) -> dict[str, Tensor] | None:
        """Return log q(z_n) of the sites up to each one, (N,), or None where q has no density."""
        draws = {name: self.stacked("draw", name) for name in self.names}
        own = {name: self.stacked("log_q", name) for name in self.names}
        sums = {name: torch.full_like(own[name], -math.inf) for name in self.names}
        start = 0
        for columns, found in zip(self._chunks(), self._passes, strict=True):
            width = len(columns[0])
            for rows in torch.arange(self.size).split(max(1, PAIRS_PER_PASS // width)):
                try:
                    densities = self._densities(
                        {n: d[rows] for n, d in draws.items()}, columns, found
                    )
                except (NotImplementedError, KeyError):  # Pyro's and torch's flows without inverse
                    return None
                # What a datum says of its own draw is known; computed anew it differs by rounding,
                # which a point mass would not forgive.
                same = rows.unsqueeze(1) == torch.arange(start, start + width)
                joint = torch.zeros(())
                for name in self.names:
                    density = densities[name]
                    known = own[name][rows].unsqueeze(1)
                    joint = torch.where(same.to(density.device), known, density) + joint
                    sums[name][rows] = torch.logaddexp(sums[name][rows], joint.logsumexp(1))
            start += width
        return {name: value - math.log(self.size) for name, value in sums.items()}

    def _densities(
        self, draws: dict[str, Tensor], columns: tuple[Tensor, ...], found: dict[str, Any]
    ) -> dict[str, Tensor]:
        """Return log q(z_c | x_b) of each site (C, B) for C draws and the B data of one pass."""
        if len(draws) == 1:
            ((name, draw),) = draws.items()
            return {name: _log_prob(found[name]["q"], draw)}
        # A site's posterior may depend on those before it: run the guide on every pair.
        return dict(zip(draws, self._on_pairs(*draws.values(), *columns), strict=True))

    @cached_property
    def _on_pairs(self) -> CapturedPass:
        per_pass = max(1, PAIRS_PER_PASS // min(ROWS_PER_PASS, self.size))
        return CapturedPass(
            self._densities_on_pairs,
            "auto",
            len(self._passes) * math.ceil(self.size / per_pass),
            [self.model, self.guide],
        )

    def _densities_on_pairs(self, *tensors: Tensor) -> list[Tensor]:
        """Return log q(z_c | x_b) of each site (C, B) for its C draws and the B data after."""
        draws, columns = tensors[: len(self.names)], tensors[len(self.names) :]
        count, width = len(draws[0]), len(columns[0])
        values = {}
        for name, draw in zip(self.names, draws, strict=True):
            place = _data_dim(self._passes[0][name]["q"]["fn"])
            values[name] = draw.repeat_interleave(width, 0).movedim(0, place)
        with param_store(self.model):
            held = self._holding(self.guide, values)
            trace = poutine.trace(held).get_trace(*tile(columns, count))
        weights = read(poutine.Trace(), trace, count * width, (1, count * width))
        return [weights.guide[name].reshape(count, width) for name in self.names]

    def sensitivity(self, site: str, size: int) -> Tensor | None:
        """Return how far E[x | z] moves with each coordinate of one site, (Z,)."""
        found = self._passes[0][site]
        if found["p"] is None or not _is_real(found["q"]["fn"]):
            return None
        if any(_data_dim(self._passes[0][n]["q"]["fn"]) > 0 for n in self.names):
            return None  # plates inside the datum: a coordinate has no place of its own
        deviation = torch.cat(
            [by_datum(_deviation(f[site]["p"]["fn"]), f[site]["p"]["fn"]) for f in self._passes]
        )[:size]
        draws = {name: self.stacked("draw", name)[:size] for name in self.names}
        shape = draws[site].shape
        batch = tuple(t[:size] for t in self.batch)
        flat = draws[site].reshape(size, -1)
        moved = []
        for some in torch.arange(flat.shape[1]).split(max(1, 8 * ROWS_PER_PASS // size)):
            count = len(some)
            step = flat.new_zeros(count, *flat.shape)
            step[torch.arange(count), :, some] = deviation[:, some].T / 2
            tiled = dict(zip(draws, tile(tuple(draws.values()), count), strict=True))
            ends = []
            for end in (flat + step, flat - step):
                values = {**tiled, site: end.reshape(count * size, *shape[1:])}
                expected = self._expected(tile(batch, count), values)
                if expected is None:
                    return None
                ends.append(expected)
            squares = (ends[0] - ends[1]).square().sum(1)
            moved.append(squares.reshape(count, size).mean(1).sqrt())
        return torch.cat(moved)

    def normals(self, site: str) -> tuple[MultivariateNormal, MultivariateNormal] | None:
        """Return the normals with the moments of q(z) and of p(z); None where these are others."""
        if not self.by_dimension[site]:
            return None
        whole = []
        for role in ("q", "p"):
            fns = [each[site][role]["fn"] for each in self._passes]
            loc, scale = (
                torch.cat([by_datum(getattr(fn, moment), fn).double() for fn in fns])
                for moment in ("mean", "stddev")
            )
            whole.append(aggregate_normal(Independent(Normal(loc, scale), 1)))
        return whole[0], whole[1]

    def _expected(self, batch: tuple[Tensor, ...], values: dict[str, Tensor]) -> Tensor | None:
        """Return E[x | z] of every observed site of each datum, side by side."""
        with param_store(self.model):
            trace = poutine.trace(self._holding(self.model, values)).get_trace(*batch)
        size = len(batch[0])
        means = []
        for name, site in observed_sites(trace).items():
            if name in values or not in_data_plate(site, size):
                continue
            mean = closed_form_mean(site["fn"])
            if mean is None:
                return None
            means.append(by_datum(mean, site["fn"]))
        return torch.cat(means, 1) if means else None


def _data_dim(fn: Any) -> int:
    """Return where the data are among a value's dimensions: last of the batch's."""
    return len(fn.batch_shape) - 1


def by_datum(value: Tensor, fn: Any) -> Tensor:
    """Bring the data's dimension to the front and flatten what belongs to one datum, (B, U)."""
    first = value.movedim(_data_dim(fn), 0)
    return first.reshape(len(first), -1)


def _log_prob(site: dict[str, Any], draws: Tensor) -> Tensor:
    """Return log q(z_c | x_b) (C, B) for draws (C, ...) of other data, as `read` would."""
    fn = site["fn"]
    shape = (len(draws), *fn.batch_shape, *fn.event_shape)
    value = fn.log_prob(draws.unsqueeze(1 + _data_dim(fn)).expand(shape))
    scale = site.get("unweighted_scale", site["scale"])
    value = scale_and_mask(value, scale, site["mask"])
    return value.reshape(len(draws), -1, value.shape[-1]).sum(1)


def kl_by_dimension(q: dict[str, Any], p: dict[str, Any], size: int) -> Tensor | None:
    """Return KL(q || p) of each coordinate (B, Z), or None where it has no such closed form."""
    for site in (q, p):
        scale = site.get("unweighted_scale", site["scale"])
        one = bool(scale.eq(1).all()) if isinstance(scale, Tensor) else scale == 1
        if site["mask"] is not None or not one:
            return None
        if not isinstance(_base(site["fn"]), Normal) or site["fn"].batch_shape != (size,):
            return None
    return kl_divergence(_base(q["fn"]), _base(p["fn"])).reshape(size, -1)


def _base(fn: Any) -> Distribution:
    while isinstance(fn, Independent):
        fn = fn.base_dist
    return fn


def _is_real(fn: Any) -> bool:
    try:
        support = fn.support
    except NotImplementedError:
        return False
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support is constraints.real


def closed_form_mean(fn: Any) -> Tensor | None:
    """Return E[z]; a Categorical's is that of its indicator; None where there is no closed form."""
    base = _base(fn)
    if isinstance(base, Categorical):
        return base.probs
    try:
        return fn.mean
    except NotImplementedError:
        return None


def _drawn_mean(fn: Any) -> Tensor:
    mean = closed_form_mean(fn)
    if mean is not None:
        return mean
    draws = fn.sample((DRAWS_FOR_MOMENTS,))
    return draws.to(torch.result_type(draws, 1.0)).mean(0)


def _deviation(fn: Any) -> Tensor:
    try:
        return fn.stddev
    except NotImplementedError:
        return fn.sample((DRAWS_FOR_MOMENTS,)).std(0)

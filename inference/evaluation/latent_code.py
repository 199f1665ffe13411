"""One draw of a pair's latent sites for each of N data, and what their densities say of it."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import torch
from pyro import poutine
from torch import Tensor

from ..capture.captured_pass import CapturedPass
from ..log_weights import read
from ..programs import PairSites, Program, run, tile
from ..sites import NoInverseError, Site, Sites, select, sites_of
from ..stores import param_store
from ..summed import cases_of, summed_out, summed_sites
from .moments import by_datum, data_dim, deviation
from .sensitivity import moves
from .site_code import SiteCode, joined, site_code

ROWS_PER_PASS = 256
"""Data that the programs see at once."""

PAIRS_PER_PASS = 16_384
"""Pairs (z_n, x_m) whose density is taken at once, so that memory does not grow as N^2."""


class LatentCode:
    """One draw of every latent site in the data plate for each of N data, read pass by pass.

    Sites outside the data plate are drawn once and held. The programs should be in evaluation mode.

    Args:
        model: p(z) p(x | z).
        guide: q(z | x).
        batch: the N data, as the programs take them.

    Attributes:
        sites: of each latent site in the data plate, by name.
        distortion: - log p(x | z) of each datum, (N,), nats.
    """

    def __init__(self, model: Program, guide: Program, batch: tuple[Tensor, ...]) -> None:
        self.model, self.guide, self.batch = model, guide, batch
        self.size = len(batch[0])
        self._held: dict[str, Tensor] = {}
        self._chunks = [
            tuple(t[start : start + ROWS_PER_PASS] for t in batch)
            for start in range(0, self.size, ROWS_PER_PASS)
        ]
        found = [self._pass(rows) for rows in self._chunks]
        if not found[0][0]:
            raise ValueError(
                "The guide draws no latent site in the data plate, so there is no code of each "
                "datum to describe."
            )
        if any(sites.keys() != found[0][0].keys() for sites, _ in found):
            self._chunks = [batch]  # sites come and go with the batch: all data have all of them
            found = [self._pass(batch)]
        self.distortion = torch.cat([distortion for _, distortion in found])
        self.sites = {name: joined([each[name] for each, _ in found]) for name in found[0][0]}

    def _pass(self, rows: tuple[Tensor, ...]) -> tuple[dict[str, SiteCode], Tensor]:
        """Run the pair on some data; return what it says of each site, and - log p(x | z)."""
        size = len(rows[0])
        with param_store(self.model):
            pair = run(self._holding(self.model), self._holding(self.guide), rows)
        drawn = select(pair.guide, "latent")
        self._held |= {n: s.value for n, s in drawn.items() if not s.in_data_plate(size)}
        # Read at once: a flow may know the density of its latest draw alone.
        weights = read(pair, size, (1, size))
        with param_store(self.model):
            twin = sites_of(self._holding(self.guide), rows)
        prior = select(pair.model, "latent")
        found = {
            name: site_code(q, prior.get(name), twin[name], weights)
            for name, q in drawn.items()
            if q.in_data_plate(size)
        }
        if summed := summed_sites(pair, size):
            return self._summed_out(rows, pair, summed, found)
        terms = [
            value[0]
            for name, value in weights.likelihood.items()
            if name not in self._held and pair.model[name].in_data_plate(size)
        ]
        return found, -sum(terms, torch.zeros(size, device=rows[0].device))

    def _summed_out(
        self,
        rows: tuple[Tensor, ...],
        pair: PairSites,
        summed: dict[str, Tensor],
        found: dict[str, SiteCode],
    ) -> tuple[dict[str, SiteCode], Tensor]:
        """Return the same with discrete sites of the model summed out of p(z) and p(x | z)."""
        size = len(rows[0])
        cases = cases_of(self._holding(self.model), rows, 1, pair, summed)
        each = [read(case, size, (1, size)) for case in cases]
        whole = summed_out(each, summed)
        for name, code in found.items():
            first, *others = (case.prior.get(name, torch.zeros(())) for case in each)
            if all(torch.allclose(first, other) for other in others):
                continue
            if sum(other.p is not None for other in found.values()) > 1:
                raise ValueError(
                    f"Site {name!r} has a prior that depends on {', '.join(map(repr, summed))}, "
                    "which is summed out, and is not the only latent site: no KL of its own can "
                    "be told. Sample that in the guide for its diagnostics."
                )
            log_p = sum((value[0] for value in whole.prior.values()), torch.zeros(()))
            kl = (code.log_q - log_p).unsqueeze(1)
            found[name] = replace(code, p=None, log_p=log_p, kl=kl, by_dimension=False)
        return found, -whole.reconstruction[0]

    def _holding(self, program: Program, values: dict[str, Tensor] | None = None) -> Program:
        return poutine.condition(program, data={**self._held, **(values or {})})

    def aggregate(self) -> dict[str, Tensor] | None:
        """Return log q(z_n) of the sites up to each one, (N,), or None where q has no density."""
        sums = {n: torch.full_like(code.log_q, -math.inf) for n, code in self.sites.items()}
        start = 0
        for place, columns in enumerate(self._chunks):
            width = len(columns[0])
            for rows in torch.arange(self.size).split(max(1, PAIRS_PER_PASS // width)):
                try:
                    densities = self._densities(rows, place)
                except (NotImplementedError, KeyError, NoInverseError):  # flows without an inverse
                    return None
                # A datum's density at its own draw is known; computed again it differs by rounding,
                # at which a point mass has no density.
                same = rows.unsqueeze(1) == torch.arange(start, start + width)
                joint = torch.zeros(())
                for (name, code), density in zip(self.sites.items(), densities, strict=True):
                    known = code.log_q[rows].unsqueeze(1)
                    joint = torch.where(same.to(density.device), known, density) + joint
                    sums[name][rows] = torch.logaddexp(sums[name][rows], joint.logsumexp(1))
            start += width
        return {name: value - math.log(self.size) for name, value in sums.items()}

    def _densities(self, rows: Tensor, place: int) -> Sequence[Tensor]:
        """Return log q(z_c | x_b) of each site (C, B) for the draws in C rows, one pass's data."""
        if len(self.sites) == 1:
            (code,) = self.sites.values()
            return [_log_prob(code.q[place], code.draw[rows])]
        # A site's posterior may depend on those before it: run the guide on every pair.
        draws = [code.draw[rows] for code in self.sites.values()]
        return self._on_pairs(*draws, *self._chunks[place])

    @cached_property
    def _on_pairs(self) -> CapturedPass:
        per_pass = max(1, PAIRS_PER_PASS // min(ROWS_PER_PASS, self.size))
        calls = len(self._chunks) * math.ceil(self.size / per_pass)
        programs = [self.model, self.guide]
        return CapturedPass(self._densities_on_pairs, "auto", calls, programs)

    def _densities_on_pairs(self, *tensors: Tensor) -> list[Tensor]:
        """Return log q(z_c | x_b) of each site (C, B) for its C draws and the B data after."""
        draws, columns = tensors[: len(self.sites)], tensors[len(self.sites) :]
        count, width = len(draws[0]), len(columns[0])
        values = {
            name: draw.repeat_interleave(width, 0).movedim(0, data_dim(code.q[0]))
            for (name, code), draw in zip(self.sites.items(), draws, strict=True)
        }
        with param_store(self.model):
            held = sites_of(self._holding(self.guide, values), tile(columns, count))
        weights = read(PairSites({}, held), count * width, (1, count * width))
        return [weights.guide[name].reshape(count, width) for name in self.sites]

    def sensitivity(self, name: str, size: int) -> Tensor | None:
        """Return how far E[x | z] moves with each coordinate of one site, (Z,).

        Args:
            name: of the site.
            size: number of data that it is a mean over, the first ones.

        Returns:
            Units of x; None if z is not a real vector, or E[x | z] has no closed form.
        """
        code = self.sites[name]
        if code.p is None or not code.q[0].is_real:
            return None
        if any(data_dim(each.q[0]) > 0 for each in self.sites.values()):
            return None  # plates inside the datum: a coordinate has no place of its own
        deviations = torch.cat([by_datum(deviation(site), site) for site in code.p])[:size]
        draws = {n: each.draw[:size] for n, each in self.sites.items()}
        batch = tuple(t[:size] for t in self.batch)
        at_once = max(1, 8 * ROWS_PER_PASS // size)
        return moves(self._model_at, batch, draws, name, deviations, at_once)

    def _model_at(self, batch: tuple[Tensor, ...], values: dict[str, Tensor]) -> Sites:
        with param_store(self.model):
            return sites_of(self._holding(self.model, values), batch)


def _log_prob(site: Site, draws: Tensor) -> Tensor:
    """Return log q(z_c | x_b) (C, B) for draws (C, ...) of other data, as `read` would."""
    fn = site.distribution
    at = draws.unsqueeze(1 + data_dim(site)).expand(len(draws), *fn.batch_shape, *fn.event_shape)
    value = site.log_prob(at)
    return value.reshape(len(draws), -1, value.shape[-1]).sum(1)

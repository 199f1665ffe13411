"""A trained run, opened again: its pair with the weights it chose, put to use on new data."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import rng
from ..data.fresh import fresh, new_rows
from ..data.records import Dataset, Split
from ..data.sources import Source
from ..evaluation.bounds import evaluate
from ..evaluation.evaluated import Evaluation
from ..evaluation.generate import decode, encode, posterior_means
from ..evaluation.imputation import Imputation, impute
from ..programs import Program, as_tuple
from ..training.trace import Trace
from .codes import in_batches, latent_sites, positive, the_only
from .exporting import export
from .run import Run

Values = Any
"""A tensor where the pair has one such site, else a dict of one for each site by its name."""

Rows = Any
"""New data, as `fresh` takes them."""

ALL = slice(None)

MANY = 10_000
"""Data that the means of missing entries are taken over, before the pair has a say."""


class OpenRun:
    """A trained pair and what to ask of it.

    New data are given as the run's data set stores them: its view makes x of them and undoes that
    in what comes back. Digits that are stored as 0, ..., 16 come back as means from 0 to 16.
    Answers are on the CPU. A call draws by its own seed and leaves the random states alone; modules
    are in evaluation mode.

    Args:
        run: the directory.
        model: p(z) p(x | z), with its trained weights.
        guide: q(z | x), the same.
        data: what the run was trained on, on the device of the pair.

    Attributes:
        first: a batch of two training data.
        sites: the latent sites.
    """

    def __init__(self, run: Run, model: Program, guide: Program, data: Dataset) -> None:
        self.run, self.model, self.guide, self.data = run, model, guide, data
        self.first = as_tuple(data.train.batch(slice(2)))
        self.sites = latent_sites(model, guide, self.first)
        self.device = self.first[0].device

    def __repr__(self) -> str:
        sites = ", ".join(self.sites.codes)
        return f"OpenRun({str(self.run.path)!r}, {self.data.name}, latent {sites}, {self.run.unit})"

    @property
    def trace(self) -> Trace:
        """The ELBO trace."""
        return self.run.trace

    @property
    def config(self) -> dict[str, Any]:
        """The arguments of the run, as plain data."""
        return self.run.config

    def encode(self, x: Rows, particles: int | None = None, seed: int = 0) -> Values:
        """Return the code of each of N data, by latent site where there are several.

        Args:
            x: the data.
            particles: None gives E[z | x] under q, (N, *event_shape), a Categorical's being its
                probabilities; K gives K draws, (K, N, *event_shape).
            seed: of the draws.
        """

        def code(batch: tuple[Tensor, ...]) -> dict[str, Tensor]:
            if particles is None:
                return self._by_datum(posterior_means(self.model, self.guide, batch))
            draws = [encode(self.model, self.guide, batch) for _ in range(positive(particles))]
            rows = [self._by_datum(draw) for draw in draws]
            return {name: torch.stack([row[name] for row in rows], 1) for name in self.sites.codes}

        found = self._over(self._fresh(x), code, seed)
        if particles is not None:
            found = {name: value.transpose(0, 1) for name, value in found.items()}
        return the_only(found)

    def decode(
        self, z: Values, given: tuple[Any, ...] = (), means: bool = True, seed: int = 0
    ) -> Values:
        """Return what the model makes of codes, by observed site where there are several.

        Args:
            z: codes (*lead, *event_shape), or those of each latent site by name; a site left out
                is drawn from the model.
            given: what the pair takes beside x, as labels, (*lead, ...) each.
            means: E[x | z]; its mode, or a draw, where it has no finite mean. False draws x.
            seed: of the draws.

        Returns:
            x (*lead, *event_shape), as the data set stores it.
        """
        codes, lead = self.sites.flattened(z)
        count = math.prod(lead)
        beside = tuple(torch.as_tensor(g).reshape(count, *g.shape[len(lead) :]) for g in given)
        found = self._generate(count, codes, beside, means, seed)
        return the_only(
            {name: value.reshape(*lead, *value.shape[1:]) for name, value in found.items()}
        )

    def reconstruct(self, x: Rows, means: bool = True, seed: int = 0) -> Values:
        """Return E[x' | z] of each datum at one draw z ~ q(z | x), or a draw of x'.

        Args:
            x: the data.
            means: whether to return E[x' | z]; False draws x'.
            seed: of the draws.

        Returns:
            (N, *event_shape), as the data set stores x.
        """

        def again(batch: tuple[Tensor, ...]) -> dict[str, Tensor]:
            z = encode(self.model, self.guide, batch)
            return self._stored(decode(self.model, batch, z, means))

        return the_only(self._over(self._fresh(x), again, seed))

    def sample(
        self, count: int, given: tuple[Any, ...] = (), means: bool = False, seed: int = 0
    ) -> Values:
        """Return draws x ~ p(x), of p(x | given) where the pair takes more.

        Args:
            count: how many.
            given: what the pair takes beside x, as labels, (count, ...) each.
            means: whether to return E[x | z] of draws z ~ p(z).
            seed: of the draws.

        Returns:
            (count, *event_shape), as the data set stores x.
        """
        beside = tuple(torch.as_tensor(each) for each in given)
        return the_only(self._generate(positive(count), {}, beside, means, seed))

    def log_px(self, x: Rows, particles: int = 1000, seed: int = 0) -> Evaluation:
        """Return bounds on log p(x) of each datum and how far to trust them; see `evaluate`.

        The result's ``log_px``, ``elbo``, ``k_hat`` and ``ess`` have a value for each datum;
        ``warnings()`` says what speaks against them.

        Args:
            x: the data.
            particles: number K of draws for each.
            seed: of the draws, and of x where the view draws it.
        """
        split = self._fresh(x).to(self.device)
        return evaluate(
            self.model, self.guide, split, particles=particles, name="x", seed=seed,
            show_progress=False,
        )  # fmt: skip

    def elbo(self, x: Rows, particles: int = 100, seed: int = 0) -> Tensor:
        """Return the ELBO of each datum, the mean over K draws, nats, (N,)."""
        return self.log_px(x, particles, seed).elbo

    def impute(
        self, x: Rows, mask: Any = None, particles: int = 1000, draws: int = 0, seed: int = 0
    ) -> Imputation:
        """Fill in missing entries, given those observed; see `imputation.impute`.

        The guide sees a missing entry at its mean over the training data first, and then at what
        that imputed.

        Args:
            x: the data; what a missing entry holds plays no part.
            mask: True where x is observed, (N, *event_shape); None takes NaN as missing.
            particles: number K of draws of z for each datum.
            draws: number M of data sets to draw, for multiple imputation.
            seed: of the draws.

        Returns:
            The data with means in the missing places, M draws, and effective sample sizes.
        """
        values, given, said = new_rows(x, replace(self._source, on_disk=False))
        mask = said if mask is None else torch.as_tensor(mask).bool()
        known = ~values.isnan() if mask is None else mask
        if known.shape != values.shape:
            raise ValueError(
                f"Expected a mask of the shape of x, {tuple(values.shape)}; got "
                f"{tuple(known.shape)}."
            )
        train = self.data.train
        whole = Split(values, train.view, given=given[: len(train.given)], mask=known)
        split, known = self._fresh(whole).to(self.device), known.to(self.device)
        with rng.isolated(seed):
            some = train.at(slice(MANY))
            seen = torch.ones(()) if some.mask is None else some.mask
            usual = some.x(ALL).sum(0) / seen.expand_as(some.stored[:]).sum(0).clamp(min=1)
            x_0, mask_0, *beside = as_tuple(split.batch(ALL))
            both = (mask_0,) if train.mask is not None else ()
            batch = (x_0.where(known, usual.to(x_0)), *both, *beside)
            found = impute(self.model, self.guide, batch, known, particles=particles, draws=draws)
        view, known = split.view, known.cpu()
        return Imputation(
            values.where(known, view.undo(found.x).cpu().to(values)),
            values.where(known, view.undo(found.draws).cpu().to(values)),
            found.ess.cpu(),
            found.k_hat.cpu(),
            found.log_px.cpu(),
        )

    def export(self, path: str | Path, rows: int | None = None) -> list[Path]:
        """Write E[z | x] under q and E[x | z] as programs that need neither Pyro nor this package.

        They take and give x as the pair sees it, which ``data.train.view`` makes of stored values,
        and what comes with x in a batch after it; codes in the order of the latent sites.

        Args:
            path: FILE.pt2 for ``torch.export.load``, or FILE.onnx; written are FILE-encoder and
                FILE-decoder.
            rows: number of rows that the programs take; None for any, which convolutions refuse.

        Returns:
            The two files.

        Raises:
            ValueError: a mean has no closed form, or a program can't be exported in that way.
            ImportError: the packages of ``lowerbound[onnx]`` are missing.
        """
        return export(self, Path(path), rows)

    @property
    def _source(self) -> Source:
        """How the run read its data."""
        asked = self.config.get("data")
        return Source(**asked) if isinstance(asked, dict) else Source()

    def _fresh(self, x: Rows) -> Split:
        return fresh(x, self.data, self._source)

    def _over(
        self, split: Split, each: Callable[[tuple[Tensor, ...]], dict[str, Tensor]], seed: int
    ) -> dict[str, Tensor]:
        return in_batches(
            len(split), lambda rows: each(as_tuple(split.at(rows).to(self.device).batch(ALL))), seed
        )

    def _generate(
        self,
        count: int,
        codes: dict[str, Tensor],
        given: tuple[Tensor, ...],
        means: bool,
        seed: int,
    ) -> dict[str, Tensor]:
        """Run the model at codes (count, ...), drawing those left out; return what it observes."""
        masked = self.data.train.mask is not None
        x, *others = self.first[:1] + self.first[1 + masked :]
        if len(given) != len(others) or any(len(each) != count for each in given):
            raise ValueError(
                f"The pair takes {len(others)} more than x: expected them as given, {count:,} rows "
                f"of each; got {[tuple(each.shape) for each in given]}."
            )

        def make(rows: slice) -> dict[str, Tensor]:
            like = x[:1].expand(rows.stop - rows.start, *x.shape[1:])
            whole = (torch.ones_like(like).bool(),) if masked else ()
            batch = (like, *whole, *(each[rows].to(self.device) for each in given))
            values = encode(self.model, self.guide, self.first) if self.sites.shared else {}
            values = {name: values[name] for name in self.sites.shared}
            for name, z in codes.items():
                values[name] = z[rows].to(self.device).movedim(0, self.sites.codes[name].dim)
            return self._stored(decode(self.model, batch, values, means))

        return in_batches(count, make, seed)

    def _stored(self, found: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return what the model observes in the units of the stored data, where it is x."""
        view, shape = self.data.train.view, self.first[0].shape[1:]
        return {
            name: view.undo(value) if value.shape[1:] == shape else value
            for name, value in found.items()
        }

    def _by_datum(self, codes: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: codes[name].movedim(s.dim, 0) for name, s in self.sites.codes.items()}

"""Validation: the ELBO of a whole split, and how much of the code is in use."""

from contextlib import nullcontext
from functools import partial
from typing import NamedTuple

import pyro
import torch
from torch import Tensor

from .. import distributed, rng
from ..capture.captured_pass import CapturedPass
from ..capture.choosing import Setting
from ..data.split import Split
from ..data.streams import Stream
from ..data_plate import DataSize
from ..kl_weight import KLWeight
from ..log_weights import log_weights
from ..objectives.bounds import Objective
from ..programs import Program, as_tuple, evaluating
from ..sites import select
from .moments import by_datum, closed_form_mean, kl_by_dimension

SEED = 0
"""Seed of every validation: two of them differ only by the weights."""

ACTIVE = 0.01
"""A unit is active where its posterior mean's variance over the data is above this."""

COLLAPSED = 0.01
"""A dimension has collapsed where its KL is below this, in nats."""

REMEDY = "Warm up the KL (KLWeight), take FreeBits, or weaken the decoder."
"""Against a collapse."""


class Validation(NamedTuple):
    """The result of one pass over a split, nats per datum.

    Args:
        elbo: the ELBO at KL weight 1, from one draw a datum.
        reconstruction: E_q log p(x | z).
        kl: KL(q(z | x) || p(z)).
        active_units: number of coordinates of E_q[z | x] whose variance over the split is above
            0.01; None where no latent site in the data plate has that mean in closed form.
        collapsed: share of dimensions whose KL is below 0.01 nats; None where no site has it in
            closed form.
        objective: an estimate of what is optimised, nats per datum; None where it is not asked for.
        relaxed: the bound of the relaxed pair, where that is optimised.
    """

    elbo: float
    reconstruction: float
    kl: float
    active_units: int | None = None
    collapsed: float | None = None
    objective: float | None = None
    relaxed: float | None = None

    def shifted(self, by: float) -> "Validation":
        """Return the same where log p(x) is so much more, in nats."""
        return self._replace(elbo=self.elbo + by, reconstruction=self.reconstruction + by)


class Validator:
    """Measures a pair on a split, again and again.

    Modules are in evaluation mode, each datum gets one draw, the random state is left alone, and
    the same numbers are drawn each time.

    Source: Burda, Grosse and Salakhutdinov 2016, arXiv 1509.00519 (active units).

    Args:
        model: p(z) p(x | z).
        guide: q(z | x).
        split: the data.
        batch_size: data that the programs see at once.
        times: how often it will be measured in all.
        compile: ``auto`` captures a pass where that pays; anything else runs it eagerly.
        data_size: number of training data, which share the terms of the sites outside the data
            plate; None takes that of the batch.
        objective: what to measure besides; None is the ELBO alone.
        relaxed: an objective whose estimator may relax the pair: its own bound is measured too.
        bound: an objective that takes more pairs than log weights do, as those of Pyro's do: where
            these refuse the pair, the ELBO is its bound, and the ELBO's parts are nan.
    """

    def __init__(
        self,
        model: Program,
        guide: Program,
        split: Split | Stream,
        batch_size: int = 1000,
        times: int = 1,
        compile: Setting = "off",  # noqa: A002  (torch's own word for it)
        data_size: int | None = None,
        objective: Objective | None = None,
        relaxed: Objective | None = None,
        bound: Objective | None = None,
    ) -> None:
        self._programs, self._split, self._size = (model, guide), split, batch_size
        self._objective, self._data_size = objective, data_size
        relaxes = getattr(getattr(relaxed, "estimator", None), "relaxes", False)
        self._relaxed = relaxed if relaxes else None
        calls = times * (len(split) // batch_size)
        how: Setting = "auto" if compile == "auto" else "off"
        # Compiling takes longer than it saves: a validation is a tenth of an epoch.
        self._names: list[str] = []
        sums = partial(_sums, *self._programs, names=self._names, data_size=data_size, bound=bound)
        self._sums = CapturedPass(sums, how, calls, self._programs, compiler=False)

    def __call__(self, kl_weight: float = 1.0) -> Validation:
        """Measure the pair as it is now.

        Args:
            kl_weight: weight of the KL in what is optimised.
        """
        found = self._measure().shifted(self._split.mean_log_det)
        if self._objective is not None:
            found = found._replace(objective=self._optimised(self._objective, kl_weight))
        if self._relaxed is not None:
            found = found._replace(relaxed=self._optimised(self._relaxed, kl_weight=1.0))
        return found

    def _optimised(self, objective: Objective, kl_weight: float) -> float:
        split, total = self._split, 0.0
        sized = nullcontext() if self._data_size is None else DataSize(self._data_size)
        quietly = pyro.validation_enabled(False)
        with rng.isolated(SEED), evaluating(*self._programs), quietly, sized, KLWeight(kl_weight):
            for batch in split.batches(self._size):
                if isinstance(objective, Objective):
                    value = objective.value(*self._programs, batch)
                else:  # a user's own may be any callable
                    value = -objective(*self._programs, batch).loss
                total += value.item() * len(as_tuple(batch)[0])
        return total / len(split)

    def _measure(self) -> Validation:
        split, sums = self._split, dict[str, Tensor]()
        with rng.isolated(SEED), evaluating(*self._programs), pyro.validation_enabled(False):
            for batch in map(as_tuple, split.batches(self._size)):
                if shared := len(batch[0]) % distributed.world() == 0:
                    batch = as_tuple(distributed.share(batch))
                size = len(batch[0])
                with distributed.drawing_for_all(size) if shared else nullcontext():
                    new = self._sums(*batch)
                if not shared and distributed.rank():  # every process has the whole of it
                    new = [torch.zeros_like(value) for value in new]
                for name, value in zip(self._names, new, strict=True):
                    sums[name] = sums[name] + value if name in sums else value
        totals = distributed.total(list(sums.values()))
        means = {n: v.cpu() / len(split) for n, v in zip(sums, totals, strict=True)}
        reconstruction, rate = means.pop("").tolist()
        bound = means.pop("bound", None)
        units = [(v, means[f"square {n[5:]}"]) for n, v in means.items() if n.startswith("mean ")]
        kls = [value for name, value in means.items() if name.startswith("kl ")]
        active = (int((square - mean.square() > ACTIVE).sum()) for mean, square in units)
        return Validation(
            reconstruction - rate if bound is None else bound.item(),
            reconstruction,
            rate,
            sum(active) if units else None,
            (torch.cat(kls) < COLLAPSED).double().mean().item() if kls else None,
        )


def _sums(
    model: Program,
    guide: Program,
    *batch: Tensor,
    names: list[str],
    data_size: int | None = None,
    bound: Objective | None = None,
) -> list[Tensor]:
    """Return sums over a batch: reconstruction and KL, and of each site KLs, means and squares.

    Their names go into ``names``, for a site may be in one batch and not in another. A captured
    pass has the sites, and the names, that it was captured with.
    """
    with nullcontext() if data_size is None else DataSize(data_size):
        try:
            weights = log_weights(model, guide, batch, model_draws=True)
        except ValueError:
            if bound is None:
                raise
            estimate = bound(model, guide, batch)
            names[:] = "", "bound"
            parts = torch.stack([estimate.reconstruction, estimate.kl])
            return [value.double() * len(batch[0]) for value in (parts, estimate.bound)]
    p_sites, q_sites = (select(found, "latent") for found in weights.sites)
    totals = torch.stack([weights.reconstruction.mean(), weights.kl.mean()]).double()
    found = {"": totals * weights.size}
    for name, q in q_sites.items():
        if not q.in_data_plate(weights.size):
            continue
        kl = kl_by_dimension(q, p_sites[name], weights.size) if name in p_sites else None
        mean = closed_form_mean(q)
        if kl is not None:
            found[f"kl {name}"] = kl.sum(0)
        if mean is not None:
            units = by_datum(mean, q).double()
            found |= {f"mean {name}": units.sum(0), f"square {name}": units.square().sum(0)}
    names[:] = found
    return list(found.values())

"""Pyro's own ELBOs as objectives."""

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer import (
    ELBO,
    ReweightedWakeSleep,
    Trace_ELBO,
    TraceGraph_ELBO,
    TraceTailAdaptive_ELBO,
)
from pyro.infer.trace_mmd import Trace_MMD
from torch import Tensor, nn

from .. import rng
from ..data_plate import known_data_size, need_data_plate, outside
from ..default_device import on_device_of
from ..log_weights import log_weights
from ..programs import Batch, Program, as_tuple, run
from ..sites import select
from ..statements import ParamStatements
from ..stores import param_store
from ..tensors import announced
from .bounds import Elbo, Estimate, Objective
from .pyro_scales import Shared, Unscaled


@dataclass(frozen=True)
class FromPyro(Objective):
    """One of Pyro's own ELBOs as an objective; `SVI` wraps one that it is given in it.

    Its loss and gradients are Pyro's, per datum; the two parts come from a run of their own, and
    are nan for a pair that Pyro takes and log weights don't. Where a program has a
    ``poutine.scale``, the bound comes from a run without it. A site outside the data plate has its
    part of the training data's number, as in `Elbo`.

    Args:
        elbo: ``Trace_ELBO``, ``TraceMeanField_ELBO``, ``TraceGraph_ELBO``, ``TraceEnum_ELBO``,
            ``RenyiELBO`` or another.

    Raises:
        TypeError: it is ``ReweightedWakeSleep``, whose loss is two numbers, or
            ``TraceTailAdaptive_ELBO``, whose loss has a gradient and no meaning as a value.
    """

    elbo: Any
    _averages: nn.Module = field(default_factory=nn.Module, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Refuse what has no bound to report."""
        if isinstance(self.elbo, ReweightedWakeSleep | TraceTailAdaptive_ELBO):
            raise TypeError(
                f"Expected one of Pyro's ELBOs that has a bound; got {type(self.elbo).__name__}, "
                "whose loss bounds nothing. Write RenyiELBO(alpha=0, num_particles=10), the "
                "importance-weighted bound."
            )
        # Its default is infinity, so a command line reads 1 as 1.0, by which Pyro can't index.
        nesting = getattr(self.elbo, "max_plate_nesting", None)
        if isinstance(nesting, float) and nesting.is_integer():
            self.elbo.max_plate_nesting = int(nesting)

    @property
    def state(self) -> nn.Module:
        """The running averages of ``infer={"baseline": {"use_decaying_avg_baseline": True}}``."""
        return self._averages

    @property
    def bounds_log_px(self) -> bool:
        """Whether it is an ELBO of Pyro's own; what is derived from one has other terms besides."""
        return self._is_own and isinstance(self.elbo, Trace_ELBO | TraceGraph_ELBO)

    @property
    def _is_own(self) -> bool:
        """Whether its loss is a bound and nothing besides."""
        own = type(self.elbo).__module__.startswith("pyro.infer.")
        return own and not isinstance(self.elbo, Trace_MMD)

    def __call__(self, model: Program, guide: Program, x: Batch) -> Estimate:
        """Run Pyro's ELBO on x; one that has no differentiable loss leaves its gradients behind."""
        batch = as_tuple(x)
        size = len(batch[0])
        with torch.no_grad(), rng.isolated():
            pair = run(model, guide, batch)
        every = [site for half in pair for site in half.values()]
        data = next((s.stated_size for s in every if s.stated_size is not None), None)
        away = frozenset[str]().union(*(outside(half, size) for half in pair))
        shared, known = nullcontext(), known_data_size(*pair)
        if away:
            need_data_plate(pair.model, size, size, known)
        if data is None and away and known:
            shared = Shared(away, size / known)
        reconstruction, kl = _parts(model, guide, x)
        with on_device_of(batch), param_store(model), shared:
            if hasattr(self.elbo, "differentiable_loss") or not torch.is_grad_enabled():
                loss = self._loss(model, guide, batch) / (data or size)
            else:
                loss = self._accumulate(model, guide, batch, data or size)
            bound = -loss.detach()
            if any(site.is_scaled for site in every):
                with torch.no_grad(), rng.isolated(), Unscaled():
                    bound = -self._loss(model, guide, batch) / (data or size)
        parts = reconstruction - kl
        if select(pair.guide, "observed"):  # the loss has their terms besides
            bound = parts
        elif not self._is_own:
            bound = torch.where(parts.isnan(), bound.to(parts.device), parts)
        bound = bound.to(batch[0].device)
        return Estimate(loss, bound, reconstruction, kl)

    def _loss(self, model: Program, guide: Program, batch: tuple[Tensor, ...]) -> Tensor:
        """Return Pyro's loss, a sum over the batch; differentiable where it can be."""
        # Without gradients some of Pyro's differentiable losses raise.
        if torch.is_grad_enabled() and hasattr(self.elbo, "differentiable_loss"):
            return torch.as_tensor(self.elbo.differentiable_loss(model, guide, *batch))
        return torch.as_tensor(self.elbo.loss(model, guide, *batch))

    def _accumulate(
        self, model: Program, guide: Program, batch: tuple[Tensor, ...], size: int
    ) -> Tensor:
        """Let Pyro run its backward pass, which sums over the data; make means of its sums."""
        # Some take no gradient where no program states a parameter, as modules need not.
        programs = [_stating(program) for program in (model, guide)]
        with ParamStatements() as params, poutine.block(hide_fn=_is_own), self._averages_stored():
            loss = torch.as_tensor(self.elbo.loss_and_grads(*programs, *batch))
        every = announced(model, guide, params.found(None)).values()
        for parameter in {id(value): value for value in every}.values():
            if parameter.grad is not None:
                parameter.grad /= size
        return loss / size

    @contextmanager
    def _averages_stored(self) -> Iterator[None]:
        """Lend Pyro its running averages, which are no parameters, for one backward pass."""
        store, kept = pyro.get_param_store(), self._averages
        for name, value in kept.named_buffers():
            store[name.replace("/", ".")] = value.clone()
        try:
            yield
        finally:
            for name in [name for name in store if name.startswith((_STATED, _AVERAGE))]:
                if name != _STATED:  # a buffer's name has no dot
                    kept.register_buffer(name.replace(".", "/"), store[name].detach().clone())
                del store[name]


_STATED = "_stated"
_AVERAGE = "__baseline_avg"  # how Pyro names the running averages of rewards in its store


def _is_own(msg: Any) -> bool:
    return msg["type"] == "param" and msg["name"].startswith((_STATED, _AVERAGE))


def _stating(program: Program) -> Program:
    """Return the program with a param statement before it."""

    def stated(*batch: Tensor) -> Any:
        pyro.param(_STATED, lambda: torch.zeros(()))
        return program(*batch)

    return stated


def as_objective(objective: Objective | ELBO | None) -> Objective:
    """Return an objective of what `SVI` is given: an ELBO of Pyro's is wrapped, None is `Elbo`.

    Raises:
        TypeError: it is neither, or a loss of Pyro's that bounds nothing.
    """
    if isinstance(objective, ELBO):
        return FromPyro(objective)
    if type(objective).__module__.startswith("pyro."):
        raise TypeError(
            f"Expected an objective or one of Pyro's ELBOs; got {type(objective).__name__}. Take "
            "Elbo(), Trace_ELBO() or another bound."
        )
    return Elbo() if objective is None else objective


def _parts(model: Program, guide: Program, x: Batch) -> tuple[Tensor, Tensor]:
    """Return reconstruction and KL, batch means; nan where log weights refuse the pair."""
    with torch.no_grad(), rng.isolated():
        try:
            weights = log_weights(model, guide, x, model_draws=True)
            return weights.reconstruction.mean(), weights.kl.mean()
        except ValueError:
            return torch.tensor(math.nan), torch.tensor(math.nan)

"""Stochastic variational inference: one objective, one optimiser, one step at a time."""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any, cast

import pyro
import torch
from pyro.infer import ELBO
from pyro.optim import PyroOptim
from torch import Tensor
from torch.optim import LBFGS, Adam, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from .. import rng
from ..alone import ALONE
from ..capture.choosing import Setting
from ..capture.tracing import unchanged
from ..data_plate import DataSize
from ..distributed import world
from ..log_weights import log_weights
from ..memory import keep_freed
from ..objectives.bounds import Estimate, Objective
from ..objectives.from_pyro import as_objective
from ..precision import Precision, products_in
from ..programs import Batch, Program, as_tuple, evaluating
from ..tensors import Tensors, tensors_of
from ..watch import Watch
from .captures import Captures
from .first_run import first_run, warn_of_shared
from .from_pyro import Maker, maker
from .saved import WayBack, load, remembered, saved
from .update import Source, Update


class SVI:
    """Follow an objective's gradient with a torch optimiser.

    `SVI` makes the optimiser once it knows the pair's parameters: those of a module, or of the
    module that a method belongs to, and those that a plain function makes with ``pyro.param`` and
    ``pyro.module`` on its first batch. A step returns tensors on the device of the data and reads
    no value back, so nothing waits for it.

    >>> import torch
    >>> from guides import MLP, Amortized, DiagonalNormal
    >>> from inference import SVI
    >>> from models import MLP as Decoder, VAE, Bernoulli, StandardNormal
    >>> model = VAE(StandardNormal(2), Decoder(2, (8,)), Bernoulli((8,)))
    >>> guide = Amortized(MLP((8,), 4), DiagonalNormal(2))
    >>> svi = SVI(model, guide)
    >>> estimate = svi.step(torch.eye(8))
    >>> estimate.bound.shape, svi.steps
    (torch.Size([]), 1)

    Args:
        model: p(z) p(x | z), conditioned on the batch with ``obs=``.
        guide: q(z | x).
        optimizer: makes a torch optimiser from parameters; or one of ``pyro.optim``.
        objective: what to optimise, one of Pyro's own ELBOs included; None is `Elbo`.
        scheduler: makes a learning-rate scheduler from the optimiser; `fit` advances it once an
            epoch.
        clip_norm: largest norm of the gradient; a longer one is scaled down. None leaves it.
        compile: how to take steps. ``off``: eagerly. ``graph``: captured after the first one as a
            graph of tensor operations and replayed, on CUDA as a CUDA graph. ``inductor``: that
            graph compiled. ``auto``: captured once it pays, compiled where the run that `fit`
            plans is long; eagerly, with a warning, where the pair can't be captured. A
            `capture.Backend` runs the captured graph in a way of one's own.
        precision: ``32``; or ``bf16``, or on CUDA ``tf32``, for the factors of the networks' matrix
            products and convolutions in steps. Log densities, KL and sums stay in 32 bits, as
            evaluations do altogether. On a CPU ``tf32`` is ``32``.
        data_size: number N of training data, which share the terms of the sites outside the data
            plate; None takes what such a plate says of itself, else the size of the batch, with a
            warning. `fit` sets it to the number of its training data where it is None.

    Attributes:
        parameters: what is optimised, by name.
        scheduler: the learning-rate scheduler, or None.
        steps: how many steps have been taken.
        planned: how many there will be in all, 0 if that is not known; `fit` sets it.
        data_size: number of training data, or None.
    """

    def __init__(
        self,
        model: Program,
        guide: Program,
        optimizer: Maker | PyroOptim = partial(Adam, lr=1e-3, fused=True),  # noqa: B008
        objective: Objective | ELBO | None = None,
        scheduler: Callable[[Optimizer], LRScheduler] | None = None,
        clip_norm: float | None = None,
        compile: Setting = "auto",  # noqa: A002  (torch's own word for it)
        precision: Precision = "32",
        data_size: int | None = None,
    ) -> None:
        if data_size is not None:
            DataSize(data_size)  # refuses what is no number of data
        self.data_size = data_size
        self.model = model
        self.guide = guide
        self.objective = as_objective(objective)
        self._followed = [self.objective]  # kept: a captured step knows its objective by identity
        self.clip_norm = clip_norm
        self.precision: Precision = precision
        self._owned = Tensors({})
        self._watch: Watch | None = None
        self.parameters: dict[str, Tensor] = {}
        self.scheduler: LRScheduler | None = None
        self.steps = self.planned = 0
        self._make_optimizer, self._make_scheduler = maker(optimizer), scheduler
        self._update: Update | None = None
        self._captured = Captures(compile)
        self._back = WayBack(self._captured, self._state, self._restore)
        self._shared: list[str] = []

    @property
    def optimizer(self) -> Optimizer:
        """The torch optimiser.

        Raises:
            RuntimeError: no batch has been seen, so the parameters are not known.
        """
        if self._update is None:
            raise RuntimeError("The parameters are not known yet: call prepare(x) or step(x).")
        return self._update.optimizer

    @property
    def compile(self) -> Setting:
        """The setting that says how to take steps."""
        return self._captured.compile

    @property
    def captured(self) -> str | None:
        """Name of the backend that takes steps; None before the first one, and for eager steps."""
        return self._captured.how if self._captured.known else None

    @property
    def due(self) -> bool:
        """Whether a check of the captured steps is due before the next step."""
        return self._back.due

    def prepare(self, x: Batch) -> None:
        """Run the pair once, with Pyro's validation on, to find the parameters.

        From then on the process keeps the memory that steps free (`memory.keep_freed`).

        Raises:
            ValueError: the pair has no parameter; or its loss reaches a tensor that is neither
                trained nor saved; or the optimiser can't follow noisy gradients; or several
                processes share the batch, and a site lies outside the data plate.
        """
        keep_freed()
        with pyro.validation_enabled(True):
            loss = partial(self.objective, self.model, self.guide, x)
            owned = tensors_of(self.model, self.guide, x, lambda: loss().loss)
        self._owned, self.parameters = owned, dict(owned.parameters)
        self._watch = Watch(self.model, owned)
        if not self.parameters:
            raise ValueError("The pair has no parameter that requires a gradient: nothing to fit.")
        if world() > 1:  # else each process counts a global site's terms in full
            with rng.isolated(), torch.no_grad():
                log_weights(self.model, self.guide, x).total  # noqa: B018
        for parameter in self.parameters.values():
            parameter.grad = None  # an objective that runs its own backward pass leaves it behind
        optimizer = self._make_optimizer(list(self.parameters.values()))
        if isinstance(optimizer, LBFGS):
            raise ValueError("LBFGS searches along a line, and an ELBO's draws change: take Adam.")
        if self._make_scheduler is not None:
            self.scheduler = self._make_scheduler(optimizer)
        parts = (self.model, self.guide, self.objective, optimizer, self.parameters)
        self._update = Update(*parts, self.clip_norm, self.precision)
        with unchanged(self._update.changing()), self._update.attributes_kept():
            self._shared = first_run(self.model, self.guide, x)
        self.steps = 0

    def use(self, objective: Objective) -> None:
        """Follow another objective from the next step on; the optimiser keeps its moments."""
        self.objective = objective
        if self._update is not None and self._update.objective is not objective:
            self._followed.append(objective)
            self._update.objective = objective

    @ALONE
    def step(self, x: Batch, kl_weight: float = 1.0, source: Source | None = None) -> Estimate:
        """Take one gradient step on a batch.

        Args:
            x: the batch, or what ``source`` makes it of.
            kl_weight: weight of the KL term in the loss; the bound returned is never weighted.
            source: makes the batch of x, as a part of the step that is captured with it. With the
                places of the data for x and ``Split.batch`` for source, the step gathers and
                binarises the data.

        Returns:
            The objective before the step, detached.

        Raises:
            ValueError: the step can't be captured and ``compile`` insists; or it was, and `verify`
                raises; or the pair made or lost a parameter after its first batch, or is another.
        """
        if self.due:
            self.verify()
        inputs = as_tuple(x)
        if self._update is None:
            self.prepare(source(*inputs) if source else x)
        update = cast(Update, self._update)
        self.use(self.objective)
        update.follow(self.model, self.guide, self.clip_norm, self.precision)
        update.data_size = self.data_size
        if self._shared and self.data_size is None:
            warn_of_shared(self._shared)
            self._shared = []
        weight = None if kl_weight == 1.0 else kl_weight
        watch = cast(Watch, self._watch)
        watch.refuse_new()
        if watch.frozen_or_thawed():
            self.parameters.clear()  # the update's, too
            self.parameters.update(watch.learning())
        estimate = self._captured.step(update, inputs, weight, source, self.steps, self.planned)
        if estimate is None:
            with products_in(self.precision):
                estimate, gradients = update.gradients(inputs, weight, source)
                if world() > 1:
                    estimate, gradients = update.gather_all(estimate, gradients)
                watch.refuse_new()
                update.apply(gradients)
        self.steps += 1
        return estimate

    def verify(self) -> bool:
        """Compare captured steps with eager ones; undo those since the last check if they differ.

        Where they differ, weights, optimiser, scheduler, objective and random states go back to the
        last check that found no difference, every later step is eager, and a warning counts the
        steps undone. `step` does this by itself from time to time, `state_dict` before it returns
        anything, and `fit` before each checkpoint and at the end. Call it at the end of a loop of
        your own.

        Returns:
            True if nothing differs.

        Raises:
            ValueError: they differ, and ``compile`` insists on captured steps, or several processes
                share them; the weights are those of the last check.
        """
        if not self._back.check(self.steps):
            return False
        self._back.keep()
        return True

    def evaluate(self, x: Batch, objective: Objective | None = None) -> Estimate:
        """Estimate an objective on a batch, with modules in evaluation mode; change nothing.

        Args:
            x: the batch.
            objective: what to estimate; None is the one that `SVI` optimises.
        """
        sized = nullcontext() if self.data_size is None else DataSize(self.data_size)
        with evaluating(self.model, self.guide), sized, pyro.validation_enabled(False):
            return (objective or self.objective)(self.model, self.guide, x)

    def state_dict(self) -> dict[str, Any]:
        """Return weights, optimiser, scheduler and objective as tensors and plain data.

        Raises:
            ValueError: a captured step has come to differ from the eager one; see `verify`.
        """
        self._back.check(self.steps)
        return self._state()

    def _state(self) -> dict[str, Any]:
        found = saved(self._owned, self.objective, self.optimizer, self.scheduler)
        return {**found, "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned, here or in version 0.1; call `prepare` before."""
        self._restore(state)
        self._back.forget()

    def _restore(self, state: dict[str, Any]) -> None:
        load(state, self._owned, self.objective, self.optimizer, self.scheduler)
        self.steps = state.get("steps", self.steps)

    def weights(self) -> dict[str, Tensor]:
        """Return a copy of the pair's tensors by name: parameters, frozen or not, and buffers."""
        return self._owned.weights()

    def tensors(self) -> dict[str, Tensor]:
        """Return the pair's tensors by name, and what the objective remembers."""
        state = {f"objective.{name}": value for name, value in remembered(self.objective).items()}
        return self._owned.named | state

    def load_weights(self, weights: dict[str, Tensor]) -> None:
        """Copy in what `weights` returned; call `prepare` before.

        Raises:
            ValueError: the names or shapes are those of another pair.
        """
        self._owned.load(weights)
        self._back.forget()

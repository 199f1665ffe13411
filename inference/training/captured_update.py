"""A captured update: one step of SVI as a graph, checked against the eager one."""

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ..capture.backends import Backend, Replay
from ..capture.cuda_graphs import recorded
from ..capture.products import MatrixProducts
from ..capture.tracing import NotCapturable, capture, copies, unchanged
from ..distributed import world
from ..log_weights import log_weights
from ..objectives.bounds import Estimate
from .update import Source, Update, make_batch

FIRST_CHECKS = 4
"""Uses of a captured update that are checked, each; after them every power of two is."""

LOSS_TOLERANCE = 1e-3
"""Largest difference of the estimate to the eager one's, as a part of it."""

TOLERANCE = 1e-2
"""The same of gradients and updates, in the norm of each: rounding may flip a ReLU of one datum.
Those a thousand times smaller than the largest gradient are rounding themselves."""

WHOLE_TOLERANCE = 0.1
"""The same of all that a recorded step changes, to the step that it is a recording of."""

_log = logging.getLogger(__name__)


class CapturedUpdate:
    """One step, captured for inputs of one shape.

    Args:
        update: what to do.
        inputs: what its gradient takes.
        kl_weight: weight of the KL term in the loss; it may vary later. None is 1, for good.
        source: makes the batch of the inputs.
        backend: runs the gradient's operations.

    Raises:
        NotCapturable: with the reason.
    """

    def __init__(
        self,
        update: Update,
        inputs: Sequence[Tensor],
        kl_weight: float | None,
        source: Source | None,
        backend: Backend,
    ) -> None:
        self.source = source  # kept, for its identity is in the key
        self.uses = 0
        self._eager = update
        self._first = [tensor.clone() for tensor in inputs]
        device = inputs[0].device
        self._kl_weight = None if kl_weight is None else torch.tensor(kl_weight, device=device)
        self._set_to: list[Any] = [kl_weight]
        groups = update.optimizer.param_groups
        self._rates = [torch.as_tensor(group["lr"], device=device).clone() for group in groups]
        self._set_to += [group["lr"] for group in groups]
        self._has: list[bool] = []
        state = update.changing()
        gradients = capture(self._trace_gradients, inputs, state, backend)
        with unchanged(state):
            found = gradients(*inputs)[1:]
        self.eager_update = not update.counts_in_tensors
        self._gradients: Replay = gradients
        self._update: Replay = self._update_eagerly
        self._whole: Replay = self._both
        parts = [gradients]
        if not self.eager_update:
            try:
                parts.append(capture(self._trace_update, found, state))
                self._update = parts[-1]
            except NotCapturable as error:
                self.eager_update = True
                _log.info("The optimiser's update stays eager: %s.", error)
        if world() == 1 and not self.eager_update:
            self._whole = recorded(self._both, inputs, state, parts)
        else:  # what is between the two, or the second, can't be recorded
            self._gradients = recorded(gradients, inputs, state, parts[:1])
            if not self.eager_update:
                self._update = recorded(parts[1], found, state, parts[1:])

    def __call__(self, inputs: Sequence[Tensor]) -> Estimate:
        """Take the step."""
        self.uses += 1
        values = self._whole(*inputs)[0]
        if values.is_cuda:
            values = values.clone()  # the next replay writes to the same place
        return Estimate(*values.unbind())

    def set(self, kl_weight: float | None) -> None:
        """Bring what varies between steps into the tensors that the graph reads."""
        now = [kl_weight, *(group["lr"] for group in self._eager.optimizer.param_groups)]
        if now != self._set_to:
            self._set_to = now
            tensors = [self._kl_weight, *self._rates]
            for tensor, value in zip(tensors, now, strict=True):
                if tensor is not None:
                    tensor.copy_(value) if isinstance(value, Tensor) else tensor.fill_(value)

    def check(self, inputs: Sequence[Tensor]) -> None:
        """Compare the next step with the eager one: loss, every gradient, every update.

        Raises:
            NotCapturable: they differ; the message names the site.
        """
        if self.uses >= FIRST_CHECKS and self.uses & (self.uses - 1):
            return
        state, step = self._eager.changing(), self._eager
        before = copies(step.parameters.values())

        def updates() -> Iterator[Tensor]:
            for parameter, value in zip(step.parameters.values(), before, strict=True):
                yield parameter.detach() - value

        with unchanged(state):
            estimate, gradients = step.gradients(inputs, self._kl_weight, self.source)
            given = [gradient for gradient in gradients if gradient is not None]
            expected = [torch.stack(estimate), *given, *copies(step.buffers)]
            if not self.eager_update:  # clipping works in place
                self._update_eagerly(*copies(given))
                expected += updates()
        with unchanged(state):
            found = [*copies(self._gradients(*inputs)), *copies(step.buffers)]
            if not self.eager_update:
                # On the same gradients: those of rounding alone have updates of any sign.
                self._update(*copies(given))
                found += updates()
        whole = self._check_whole(inputs, state) if self._whole != self._both else None
        if whole is not None:
            found[0] = whole
        names = [name for name, has in zip(step.parameters, self._has, strict=True) if has]
        labels = [
            "the loss",
            *(f"the gradient of {name}" for name in names),
            *("a buffer" for _ in step.buffers),
            *(f"the update of {name}" for name in step.parameters if not self.eager_update),
        ]
        if not expected[0].isfinite().all():
            return  # who trains will be told of that
        least = max((float(gradient.norm()) for gradient in given), default=0.0) / 1000
        for label, a, b in zip(labels, expected, found, strict=True):
            error, size = float((a.double() - b.double()).norm()), float(a.double().norm())
            floor = 0.0 if label.startswith("the update") else least
            limit = LOSS_TOLERANCE if label == "the loss" else TOLERANCE
            if not error <= limit * max(size, floor):
                raise NotCapturable(
                    f"the captured step differs from the eager one in {label}"
                    f"{self._blame(inputs)}; a Python number, branch or array that changes from "
                    "step to step is fixed in it (make it a tensor that is updated in place)"
                )

    def _check_whole(self, inputs: Sequence[Tensor], state: Sequence[Tensor]) -> Tensor:
        """Compare a recorded step with its two halves in a row, in all that it changes.

        Returns:
            The recorded step's values, (4,).

        Raises:
            NotCapturable: they differ.
        """
        before = copies(state)
        with unchanged(state):
            self._both(*inputs)
            expected = copies(state)
        with unchanged(state):
            values = self._whole(*inputs)[0].clone()
            found = copies(state)
        moved = [a.double() - b.double() for a, b in zip(expected, before, strict=True)]
        size = torch.stack([change.norm() for change in moved]).norm()
        # All together: a single one may be rounding, which sums in another order turn around.
        errors = [a.double() - b.double() for a, b in zip(expected, found, strict=True)]
        error = torch.stack([difference.norm() for difference in errors]).norm()
        if size.isfinite() and not error <= WHOLE_TOLERANCE * size:
            raise NotCapturable(
                f"the recorded step moves parameters, buffers and moments by {float(size):.3g}, "
                f"and is {float(error):.3g} off the step whose kernels are launched one by one"
            )
        return values

    def _trace_gradients(self, *inputs: Tensor) -> list[Tensor]:
        with MatrixProducts(self._eager.precision):
            estimate, found = self._eager.gradients(inputs, self._kl_weight, self.source)
        self._has = [gradient is not None for gradient in found]
        return [torch.stack(estimate), *(g for g in found if g is not None)]

    def _trace_update(self, *gradients: Tensor) -> list[Tensor]:
        groups = self._eager.optimizer.param_groups
        rates = [group["lr"] for group in groups]
        try:
            for group, rate in zip(groups, self._rates, strict=True):
                group["lr"] = rate
            self._update_eagerly(*gradients)
        finally:
            for group, rate in zip(groups, rates, strict=True):
                group["lr"] = rate
        return []

    def _update_eagerly(self, *gradients: Tensor) -> list[Tensor]:
        rest = iter(gradients)
        self._eager.apply([next(rest) if has else None for has in self._has])
        return []

    def _both(self, *inputs: Tensor) -> Sequence[Tensor]:
        values, *gradients = self._gradients(*inputs)
        values, gradients = self._eager.gather(values, gradients)
        self._update(*gradients)
        return [values]

    def _blame(self, inputs: Sequence[Tensor]) -> str:
        """Name the first site, in the order of the programs, whose captured density differs."""
        names: list[str] = []
        step, source = self._eager, self.source

        def densities(*inputs: Tensor) -> list[Tensor]:
            weights = log_weights(step.model, step.guide, make_batch(inputs, source))
            sites = {**weights.guide, **weights.prior, **weights.likelihood}
            names[:] = sites
            return [value.detach() for value in sites.values()]

        state = step.changing()
        try:
            replay = capture(densities, self._first, state)
            with unchanged(state):
                found = replay(*inputs)
            with unchanged(state):
                expected = densities(*inputs)
        except (NotCapturable, ValueError, RuntimeError):
            return ""
        for name, a, b in zip(names, expected, found, strict=True):
            if not torch.allclose(a, b, rtol=1e-3, atol=1e-3):
                return f", first at site {name!r}"
        return ""

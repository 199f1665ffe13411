"""A captured update: one step of SVI as a graph, checked against the eager one."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from ..capture.backends import Backend, Replay
from ..capture.comparing import first_difference
from ..capture.cuda_graphs import recorded
from ..capture.products import MatrixProducts
from ..capture.tracing import (
    NotCapturable,
    capture,
    copies,
    drawing_by_torch_alone,
    unchanged,
    writes_undone,
)
from ..distributed import world
from ..log_weights import log_weights
from ..objectives.bounds import Estimate
from ..precision import products_in
from ..references import Reads
from .captured_optimizer import CapturedOptimizer
from .update import Source, Update, make_batch

FIRST_CHECKS = 4
"""Number of first uses of a captured update that are each checked before they are taken."""

LOSS_TOLERANCE = 1e-3
"""Largest difference of the estimate to the eager one's, as a part of it."""

TOLERANCE = 1e-2
"""The same of gradients and updates, in the norm of each: rounding may flip a ReLU of one datum.
Those a thousand times smaller than the largest gradient are rounding themselves."""

WHOLE_TOLERANCE = 0.1
"""The same of all that a recorded step changes, to the step that it is a recording of."""


class CapturedUpdate:
    """One step, captured for inputs of one shape.

    Args:
        update: what to do.
        inputs: what its gradient takes.
        kl_weight: weight of the KL term in the loss; it may vary later. None is 1, for good.
        source: makes the batch of the inputs.
        backend: runs the gradient's operations.
        reads: what the programs and the source read, as it is now.

    Attributes:
        update: what to do.
        numbers: 0-dim tensors that the graph reads, by name: what a schedule moves.
        unchecked: how many of the next uses are to be checked first.

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
        reads: Reads,
    ) -> None:
        self.source = source  # kept, for its identity is in the key
        self.unchecked = FIRST_CHECKS
        self.update, self._reads = update, reads
        self._first = [tensor.clone() for tensor in inputs]
        self._device = inputs[0].device
        self._set_to: dict[str, float] = {} if kl_weight is None else {"kl_weight": kl_weight}
        self.numbers = {
            name: torch.tensor(value, device=self._device) for name, value in self._set_to.items()
        }
        self._has: list[bool] = []
        state = update.changing()
        with self._refusing_changes():
            self._captured = capture(self._trace_gradients, inputs, state, backend)
        self._optimizer = CapturedOptimizer(update, self._has, self._device)
        self._record()

    @property
    def eager_update(self) -> bool:
        """Whether only the gradient is captured."""
        return self._optimizer.eager

    def __call__(self, inputs: Sequence[Tensor]) -> Estimate:
        """Take the step."""
        if self._whole == self._both:  # a recording has its precision in it
            with products_in(self.update.precision):
                values = self._whole(*inputs)[0]
        else:
            values = self._whole(*inputs)[0]
        if values.is_cuda:
            values = values.clone()  # the next replay writes to the same place
        return Estimate(*values.unbind())

    def set(self, numbers: Mapping[str, float]) -> None:
        """Bring what varies between steps into the tensors that the graph reads.

        Args:
            numbers: each of ``numbers``, as it is now.
        """
        for name, value in numbers.items():
            if value != self._set_to[name]:
                self._set_to[name] = value
                self.numbers[name].fill_(value)
        if self._optimizer.set():
            self.unchecked = FIRST_CHECKS
            self._record()

    def check(self, inputs: Sequence[Tensor]) -> None:
        """Compare the next step with the eager one: loss, gradients, buffers, updates.

        Raises:
            NotCapturable: they differ; the message names the site.
        """
        state, step = self.update.changing(), self.update
        before = copies(step.parameters.values())
        with unchanged(state), self._refusing_changes(), drawing_by_torch_alone():
            estimate, gradients = step.gradients(inputs, self.numbers.get("kl_weight"), self.source)
            given = [gradient for gradient in gradients if gradient is not None]
            expected = [torch.stack(estimate), *given, *copies(step.buffers.values())]
            if [gradient is not None for gradient in gradients] != self._has:
                raise NotCapturable("other parameters have a gradient than when it was captured")
            updates: dict[str, Tensor] = {}
            if not self.eager_update:
                self._optimizer.eagerly(*copies(given))  # clipping works in place
                updates = self._moves(before)
        with unchanged(state):
            found = [*copies(self._gradients(*inputs)), *copies(step.buffers.values())]
            moves: dict[str, Tensor] = {}
            if not self.eager_update:
                # On the same gradients: those of rounding alone have updates of any sign.
                self._optimizer(*copies(given))
                moves = self._moves(before)
        if self._whole != self._both:
            found[0] = self._check_whole(inputs, state)
        if not expected[0].isfinite().all() and not found[0].isfinite().all():
            return  # `fit` reports this in an error
        names = [name for name, has in zip(step.parameters, self._has, strict=True) if has]
        labels = [
            *(f"the gradient of {name}" for name in names),
            *(f"the buffer {name}" for name in step.buffers),
        ]
        least = max((float(gradient.norm()) for gradient in given), default=0.0) / 1000
        gradients = dict(zip(labels, expected[1:], strict=True))
        difference = (
            first_difference({"the loss": expected[0]}, found[:1], LOSS_TOLERANCE, least)
            or first_difference(gradients, found[1:], TOLERANCE, least)
            or first_difference(updates, [*moves.values()], TOLERANCE)
        )
        if difference is not None:
            raise NotCapturable(
                f"the captured step differs from the eager one in {difference}"
                f"{self._blame(inputs)}; a Python number, branch or array that changes from "
                "step to step is fixed in it (make it a tensor that is updated in place)"
            )

    @contextmanager
    def _refusing_changes(self) -> Iterator[None]:
        """Check that the step changes what it reads only by tensors in place."""
        owned = set(map(id, self.update.changing()))
        others = [(t, at) for t, at in self._reads.tensors() if id(t) not in owned]
        with self.update.attributes_kept() as assigned, writes_undone(others) as written:
            yield
            place = self._reads.changed()
        if written:
            raise NotCapturable(
                f"the step writes to {written[0]}, which is neither a parameter nor a buffer, so "
                "that it would be neither saved nor undone; make it one: register_buffer"
            )
        if assigned:
            raise NotCapturable(
                f"buffer {assigned[0]!r} is assigned anew in the step, which a graph does not "
                "repeat; update it in place: buffer.copy_(value), or buffer.mul_(a).add_(b)"
            )
        if place is not None:
            raise NotCapturable(
                f"{place} changes in the step, and a graph would hold it as it was for good; "
                "make it a buffer that is updated in place, and a branch on it a torch.where"
            )

    def _moves(self, before: Sequence[Tensor]) -> dict[str, Tensor]:
        return {
            f"the update of {name}": parameter.detach() - value
            for (name, parameter), value in zip(self.update.parameters.items(), before, strict=True)
        }

    def _record(self) -> None:
        """Record the step as a CUDA graph where there is CUDA, else leave it as it is."""
        self._gradients: Replay = self._captured
        self._whole: Replay = self._both
        state, update = self.update.changing(), self._optimizer.captured
        if world() == 1 and update is not None:
            self._whole = recorded(self._both, self._first, state, [self._captured, update])
        else:  # what is between the two, or the second, can't be recorded
            self._gradients = recorded(self._captured, self._first, state, [self._captured])
            self._optimizer.record()

    def _check_whole(self, inputs: Sequence[Tensor], state: Sequence[Tensor]) -> Tensor:
        """Compare a recorded step with its two halves in a row, in all that it changes together.

        A single parameter may move by rounding alone, which sums in another order turn around.

        Returns:
            The recorded step's values, (4,).

        Raises:
            NotCapturable: they differ.
        """
        before = copies(state)

        def moved() -> Tensor:
            pairs = zip(state, before, strict=True)
            return torch.cat([(now.detach().double() - then).reshape(-1) for now, then in pairs])

        with unchanged(state):
            self._both(*inputs)
            expected = moved()
        with unchanged(state):
            values = self._whole(*inputs)[0].clone()
            found = moved()
        changes = {"the change of weights, buffers and moments": expected}
        if difference := first_difference(changes, [found], WHOLE_TOLERANCE):
            raise NotCapturable(f"the recorded step differs from the captured one in {difference}")
        return values

    def _trace_gradients(self, *inputs: Tensor) -> list[Tensor]:
        with MatrixProducts(self.update.precision):
            weight = self.numbers.get("kl_weight")
            estimate, found = self.update.gradients(inputs, weight, self.source)
        self._has = [gradient is not None for gradient in found]
        return [torch.stack(estimate), *(g for g in found if g is not None)]

    def _both(self, *inputs: Tensor) -> Sequence[Tensor]:
        values, *gradients = self._gradients(*inputs)
        values, gradients = self.update.gather(values, gradients)
        self._optimizer(*gradients)
        return [values]

    def _blame(self, inputs: Sequence[Tensor]) -> str:
        """Name the first site, in the order of the programs, whose captured density differs."""
        names: list[str] = []
        step, source = self.update, self.source

        def densities(*inputs: Tensor) -> list[Tensor]:
            weights = log_weights(step.model, step.guide, make_batch(inputs, source))
            sites = {**weights.guide, **weights.prior, **weights.likelihood}
            names[:] = sites
            return [value.detach() for value in sites.values()]

        state = step.changing()
        try:
            with step.attributes_kept():
                replay = capture(densities, self._first, state)
                with unchanged(state):
                    found = replay(*inputs)
                with unchanged(state):
                    expected = densities(*inputs)
        except (NotCapturable, ValueError, RuntimeError):
            return ""
        for name, a, b in zip(names, expected, found, strict=True):
            if not torch.allclose(a, b, rtol=1e-3, atol=1e-3, equal_nan=True):
                return f", first at site {name!r}"
        return ""

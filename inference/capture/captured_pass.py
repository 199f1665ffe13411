"""Captured passes: what an evaluation runs again and again, as one graph where that pays."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..references import Reads
from .backends import Backend, Replay
from .choosing import Setting, choose
from .comparing import first_difference
from .cuda_graphs import recorded
from .products import MatrixProducts
from .tracing import NotCapturable, capture, copies, drawing_by_torch_alone, unchanged

TOLERANCE = 1e-3
"""Largest difference to the eager pass, of each result's largest element."""

CHANGES = 4
"""Times that a pass is captured again after something that its programs read has changed."""

_log = logging.getLogger(__name__)


class CapturedPass:
    """A function of tensors that changes none, captured for the shapes of its first call.

    Calls with other shapes are eager. The graph is checked against the function, at the same seed,
    at two calls. If something that the programs read changes, it is captured again.

    Args:
        function: of tensors, to tensors; it may draw.
        compile: as for `SVI`.
        calls: how many calls are to come.
        programs: what the function calls.
        compiler: whether ``auto`` may compile, where there are calls enough.
    """

    def __init__(
        self,
        function: Replay,
        compile: Setting,  # noqa: A002  (torch's own word for it)
        calls: int,
        programs: Sequence[Callable[..., Any]] = (),
        compiler: bool = True,
    ) -> None:
        self._programs, self._reads, self._changes = programs, Reads(), 0
        self._function = function
        self._compile: Setting = compile
        self._calls, self._compiler = calls, compiler
        self._shapes: list[torch.Size] | None = None
        self._replay: Replay | None = None
        self._unchecked = 2
        self._eager = False
        self._backends: tuple[Backend, ...] | None = None

    def __call__(self, *inputs: Tensor) -> Sequence[Tensor]:
        """Return what the function returns.

        Raises:
            ValueError: it can't be captured, or its graph is wrong, and ``compile`` insists on one.
        """
        shapes = [tensor.shape for tensor in inputs]
        self._shapes = self._shapes or shapes
        if self._backends is None:
            device = inputs[0].device
            choice = choose(self._compile, self._calls, device, compiler=self._compiler)
            self._backends, self._eager = choice.backends, not choice.backends
        if self._eager or shapes != self._shapes:
            return self._function(*inputs)
        try:
            if self._replay is not None and (place := self._reads.changed()):
                self._forget(place)
            self._replay = self._replay or self._capture(inputs, self._backends)
            if self._unchecked:
                self._check(self._replay, inputs)
        except NotCapturable as error:
            if self._compile != "auto":
                raise ValueError(
                    f"The evaluation can't be captured: {error}. Take compile 'off', or 'auto'."
                ) from None
            _log.warning("The evaluation can't be captured (%s); running it eagerly.", error)
            self._eager = True
            return self._function(*inputs)
        results = self._replay(*inputs)
        return copies(results) if inputs[0].is_cuda else results

    def _capture(self, inputs: Sequence[Tensor], backends: Sequence[Backend]) -> Replay:
        def function(*inputs: Tensor) -> Sequence[Tensor]:
            with MatrixProducts():
                return self._function(*inputs)

        with unchanged([]):
            self._function(*inputs)  # settles what a first run settles
        self._reads = Reads(*self._programs)
        for backend in backends:
            try:
                captured = capture(function, inputs, [], backend)
                self._refuse_changes()
            except NotCapturable as error:
                if backend is backends[-1]:
                    raise
                _log.info("The evaluation can't be run by %s: %s.", backend.name, error)
            else:
                return recorded(captured, inputs, [], [captured])
        raise NotCapturable("there is no backend")

    def _refuse_changes(self) -> None:
        if place := self._reads.changed():
            raise NotCapturable(f"{place} changes in the pass, and a graph would hold it as it was")

    def _forget(self, place: str) -> None:
        self._replay, self._unchecked = None, 2
        self._changes += 1
        if self._changes > CHANGES:
            raise NotCapturable(f"{place} keeps changing, and a graph holds it as it was")

    def _check(self, replay: Replay, inputs: Sequence[Tensor]) -> None:
        self._unchecked -= 1
        with unchanged([]), drawing_by_torch_alone():
            expected = self._function(*inputs)
        with unchanged([]):
            found = replay(*inputs)
        names = {f"result {place + 1}": value for place, value in enumerate(expected)}
        largest = float("inf")
        if difference := first_difference(names, found, TOLERANCE, order=largest):
            raise NotCapturable(
                f"the captured pass differs from the eager one in {difference}; a Python number, "
                "branch or array that changes from batch to batch is fixed in it"
            )

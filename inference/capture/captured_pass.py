"""Captured passes: what an evaluation runs again and again, as one graph where that pays."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..reads import Reads
from .comparing import first_difference
from .products import MatrixProducts
from .tracing import (
    Compile,
    NotCapturable,
    Replay,
    capture,
    compiler_missing,
    copies,
    cuda_graph,
    drawing_by_torch_alone,
    unchanged,
)

MANY, VERY_MANY = 20, 1_000
"""Calls to come from which ``auto`` captures, and from which it compiles."""

TOLERANCE = 1e-3
"""Largest difference to the eager pass, of each result's largest element."""

CHANGES = 4
"""Times that a pass is captured anew since something that its programs read has changed."""

_log = logging.getLogger(__name__)


class CapturedPass:
    """A function of tensors that changes none, captured for the shapes of its first call.

    Calls with other shapes are eager. The graph is checked against the function, at the same seed,
    at two calls. Where something that the programs read has changed, it is captured anew.

    Args:
        function: of tensors, to tensors; it may draw.
        compile: as for `SVI`.
        calls: how many calls are to come.
        programs: what the function calls.
    """

    def __init__(
        self,
        function: Replay,
        compile: Compile,  # noqa: A002  (torch's own word for it)
        calls: int,
        programs: Sequence[Callable[..., Any]] = (),
    ) -> None:
        self._programs, self._reads, self._changes = programs, Reads(), 0
        self._function, self._compile, self._calls = function, compile, calls
        self._shapes: list[torch.Size] | None = None
        self._replay: Replay | None = None
        self._unchecked = 2
        self._eager = compile == "off" or (compile == "auto" and calls < MANY)

    def __call__(self, *inputs: Tensor) -> Sequence[Tensor]:
        """Return what the function returns.

        Raises:
            ValueError: it can't be captured, or its graph is wrong, and the user insists on one.
        """
        shapes = [tensor.shape for tensor in inputs]
        self._shapes = self._shapes or shapes
        if self._eager or shapes != self._shapes:
            return self._function(*inputs)
        try:
            if self._replay is not None and (place := self._reads.changed()):
                self._forget(place)
            self._replay = self._replay or self._capture(inputs)
            if self._unchecked:
                self._check(self._replay, inputs)
        except NotCapturable as error:
            if self._compile != "auto":
                raise ValueError(
                    f"The evaluation can't be captured: {error}. Take compile 'off', or 'auto'."
                ) from None
            _log.warning("The evaluation runs eagerly, for it can't be captured: %s.", error)
            self._eager = True
            return self._function(*inputs)
        results = self._replay(*inputs)
        return copies(results) if inputs[0].is_cuda else results

    def _capture(self, inputs: Sequence[Tensor]) -> Replay:
        def function(*inputs: Tensor) -> Sequence[Tensor]:
            with MatrixProducts():
                return self._function(*inputs)

        with unchanged([]):
            self._function(*inputs)  # what programs settle in their first run is no part of it
        self._reads = Reads(*self._programs)
        pays = self._calls >= VERY_MANY and not compiler_missing(inputs[0].device)
        compiled = self._compile == "inductor" or (self._compile == "auto" and pays)
        try:
            replay = capture(function, inputs, [], "inductor" if compiled else "graph")
        except NotCapturable:
            if not compiled or self._compile != "auto":
                raise
            replay = capture(function, inputs, [])
        if place := self._reads.changed():
            raise NotCapturable(f"{place} changes in the pass, and a graph would hold it as it was")
        return cuda_graph(replay, inputs, []) if inputs[0].is_cuda else replay

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

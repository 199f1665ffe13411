"""Captured passes: what an evaluation runs again and again, as one graph where that pays."""

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from .products import MatrixProducts
from .tracing import (
    Compile,
    NotCapturable,
    Replay,
    capture,
    compiler_missing,
    copies,
    cuda_graph,
    unchanged,
)

MANY, VERY_MANY = 20, 1_000
"""Calls to come from which ``auto`` captures, and from which it compiles."""

TOLERANCE = 1e-3
"""Largest difference to the eager pass, of each result's largest element."""

_log = logging.getLogger(__name__)


class CapturedPass:
    """A function of tensors that changes none, captured for the shapes of its first call.

    Calls with other shapes are eager. The graph is checked against the function, at the same seed,
    at two calls.

    Args:
        function: of tensors, to tensors; it may draw.
        compile: as for `SVI`.
        calls: how many calls are to come.
    """

    def __init__(self, function: Replay, compile: Compile, calls: int) -> None:  # noqa: A002
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
        pays = self._calls >= VERY_MANY and not compiler_missing(inputs[0].device)
        compiled = self._compile == "inductor" or (self._compile == "auto" and pays)
        try:
            replay = capture(function, inputs, [], "inductor" if compiled else "graph")
        except NotCapturable:
            if not compiled or self._compile != "auto":
                raise
            replay = capture(function, inputs, [])
        return cuda_graph(replay, inputs, []) if inputs[0].is_cuda else replay

    def _check(self, replay: Replay, inputs: Sequence[Tensor]) -> None:
        self._unchecked -= 1
        with unchanged([]):
            expected = self._function(*inputs)
        with unchanged([]):
            found = replay(*inputs)
        for a, b in zip(expected, found, strict=True):
            most = float(a.abs().max()) if a.numel() else 0.0
            if not torch.allclose(a, b, rtol=TOLERANCE, atol=TOLERANCE * most):
                raise NotCapturable(
                    "the captured pass differs from the eager one; a Python number, branch or "
                    "array that changes from batch to batch is fixed in it"
                )

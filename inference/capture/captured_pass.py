"""Captured passes: what an evaluation runs again and again, as one graph where that pays."""

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from .backends import Backend, Replay
from .choosing import Setting, choose
from .cuda_graphs import recorded
from .products import MatrixProducts
from .tracing import NotCapturable, capture, copies, unchanged

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
        compiler: whether ``auto`` may compile, where there are calls enough.
    """

    def __init__(
        self,
        function: Replay,
        compile: Setting,  # noqa: A002  (torch's own word for it)
        calls: int,
        compiler: bool = True,
    ) -> None:
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
            ValueError: it can't be captured, or its graph is wrong, and the user insists on one.
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
            self._function(*inputs)  # what programs settle in their first run is no part of it
        for backend in backends:
            try:
                captured = capture(function, inputs, [], backend)
            except NotCapturable as error:
                if backend is backends[-1]:
                    raise
                _log.info("The evaluation can't be run by %s: %s.", backend.name, error)
            else:
                return recorded(captured, inputs, [], [captured])
        raise NotCapturable("there is no backend")

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

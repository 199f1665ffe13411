"""A captured optimiser: its update as a graph, whose inputs are the numbers that change."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..capture.backends import Replay
from ..capture.cuda_graphs import recorded
from ..capture.tracing import Captured, NotCapturable, capture
from .update import Update

RENEWALS = 3
"""Times that an update is captured again with its numbers as constants; after them the numbers that
keep changing become inputs, or the update stays eager where the optimiser takes no tensors."""

Place = tuple[int, str]
"""A number of an optimiser: its group, and its name there."""

_log = logging.getLogger(__name__)


class CapturedOptimizer:
    """What an optimiser does with gradients, captured; eagerly where it can't be.

    The learning rates are inputs. Other numbers (momentum, betas, weight decay) are constants of
    the graph, which is captured again when one changes, a few times; then they become inputs too,
    or the update becomes eager, which the log says once.

    Args:
        update: whose optimiser it is.
        has: of each parameter, whether it has a gradient.
        device: where the inputs are to be.

    Attributes:
        captured: the graph, or None where the update is eager.
    """

    def __init__(self, update: Update, has: Sequence[bool], device: torch.device) -> None:
        self._step, self._has, self._device = update, has, device
        groups = range(len(update.optimizer.param_groups))
        self._changing: set[Place] = {(group, "lr") for group in groups}
        self._inputs: dict[Place, Any] = {}
        self.captured: Captured | None = None
        self._replay: Replay | None = None
        self._renewals = 0
        self._given_up = False
        self._waits_for_state: int | None = None
        self._numbers = self._read()
        self._capture()

    @property
    def eager(self) -> bool:
        """Whether the update is taken eagerly."""
        return self.captured is None

    def __call__(self, *gradients: Tensor) -> Sequence[Tensor]:
        """Update the parameters that have a gradient."""
        return (self._replay or self.eagerly)(*gradients)

    def record(self) -> None:
        """Make a CUDA graph of its own of the update where that can be."""
        if self.captured is not None:
            state, parts = self._step.changing(), [self.captured]
            self._replay = recorded(self.captured, self._like_gradients(), state, parts)

    def eagerly(self, *gradients: Tensor) -> list[Tensor]:
        """Update them without a graph."""
        rest = iter(gradients)
        self._step.apply([next(rest) if has else None for has in self._has])
        return []

    def set(self) -> bool:
        """Bring the optimiser's numbers into the graph; return whether it was captured again."""
        if self._given_up:
            return False
        now = self._read()
        waits = self._waits_for_state
        made = waits is not None and waits != len(self._step.optimizer.state)
        if now == self._numbers and not made:
            return False
        moved = {place for place, value in now.items() if value != self._numbers.get(place)}
        self._numbers = now
        if moved <= self._inputs.keys() and not made:
            for place in moved:
                _fill(self._inputs[place], now[place])
            return False
        self._renewals += 1
        if self._renewals >= RENEWALS:
            self._changing |= moved
        if all(_is_number(now[place]) for place in self._changing) or self._renewals < RENEWALS:
            self._capture()
        else:
            self._stay_eager("its settings keep changing")
        return True

    def _read(self) -> dict[Place, Any]:
        return {
            (place, name): _plain(value) if name != "params" else [*map(id, value)]
            for place, group in enumerate(self._step.optimizer.param_groups)
            for name, value in group.items()
        }

    def _capture(self) -> None:
        self.captured = self._replay = self._waits_for_state = None
        optimizer = self._step.optimizer
        values = [v for state in optimizer.state.values() for v in state.values()]
        if not all(value is None or isinstance(value, Tensor) for value in values):
            self._stay_eager("its state holds Python numbers")
            return
        self._inputs = {
            place: _as_input(self._numbers[place], self._device)
            for place in self._changing
            if _is_number(self._numbers[place])
        }
        try:
            with _no_new_state(optimizer):
                found = capture(self._trace, self._like_gradients(), self._step.changing())
            self.captured = self._replay = found
        except _NewState as error:
            if self._renewals < RENEWALS:  # the next step makes it, and the one after is captured
                self._waits_for_state = len(optimizer.state)
            else:
                self._stay_eager(str(error))
        except NotCapturable as error:
            self._stay_eager(str(error))

    def _like_gradients(self) -> list[Tensor]:
        parameters = self._step.parameters.values()
        return [torch.zeros_like(p) for p, has in zip(parameters, self._has, strict=True) if has]

    def _stay_eager(self, why: str) -> None:
        self._given_up = True
        numbers = sorted({name for _, name in self._changing} - {"lr"})
        changing = f" ({', '.join(numbers)} changes from step to step)" if numbers else ""
        _log.info("The optimiser's update stays eager%s: %s.", changing, why)

    def _trace(self, *gradients: Tensor) -> list[Tensor]:
        groups = self._step.optimizer.param_groups
        before = {(i, name): groups[i][name] for i, name in self._inputs}
        try:
            for (i, name), value in self._inputs.items():
                groups[i][name] = value
            return self.eagerly(*gradients)
        finally:
            for (i, name), value in before.items():
                groups[i][name] = value


class _NewState(NotCapturable):
    """The optimiser made state in the step: zeros that a graph would make at each replay."""


@contextmanager
def _no_new_state(optimizer: Optimizer) -> Iterator[None]:
    """Check that the step makes no moments; forget those that it made."""
    state: dict[Any, dict[str, Any]] = optimizer.state
    before = {parameter: {**values} for parameter, values in state.items()}
    made = False
    try:
        yield
    finally:
        for parameter in list(state):
            if parameter not in before:
                del state[parameter]
                made = True
                continue
            kept = before[parameter]
            if any(state[parameter].get(name) is not value for name, value in kept.items()):
                made = True
            made = made or len(state[parameter]) != len(kept)
            state[parameter].clear()
            state[parameter].update(kept)
    if made:
        raise _NewState("the optimiser makes state in the step")


def _plain(value: Any) -> Any:
    """Return a value to compare; a tensor elsewhere than on the CPU is read by the graph itself."""
    if isinstance(value, Tensor):
        return float(value) if value.device.type == "cpu" and value.numel() == 1 else id(value)
    return tuple(map(_plain, value)) if isinstance(value, tuple) else value


def _is_number(value: Any) -> bool:
    """Whether it can be an input; an identity, which is an int, can't be one."""
    return all(map(_is_number, value)) if isinstance(value, tuple) else isinstance(value, float)


def _as_input(value: Any, device: torch.device) -> Any:
    if isinstance(value, tuple):
        return tuple(_as_input(each, device) for each in value)
    return torch.tensor(value, device=device)


def _fill(places: Any, values: Any) -> None:
    if isinstance(places, tuple):
        for place, value in zip(places, values, strict=True):
            _fill(place, value)
    else:
        places.fill_(values)

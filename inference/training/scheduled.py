"""Scheduled numbers: where the value of a schedule goes, and which values are allowed there."""

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from .schedules import Constant, Schedule
from .svi import SVI

POINTS = 1_000
"""Places of a schedule, evenly over the run, whose values are checked before the first step."""

_Part = TypeVar("_Part")


@dataclass(frozen=True)
class _Number:
    """A number that can be set.

    Args:
        check: raises ValueError for a value that the number can't have.
        put: brings a value to where the next step reads it, without reading one back.
    """

    check: Callable[[float], object]
    put: Callable[[float], object]


def named_schedules(
    kl_weight: Schedule, others: Mapping[str, Schedule] | None
) -> dict[str, Schedule]:
    """Return all schedules by name.

    Raises:
        ValueError: the KL weight has two.
    """
    schedules = {"kl_weight": kl_weight, **(others or {})}
    if schedules["kl_weight"] is not kl_weight and kl_weight != Constant():
        raise ValueError(f"kl_weight has two schedules, {kl_weight} and {schedules['kl_weight']}.")
    return schedules


class Scheduled:
    """Numbers of one `SVI`, each set by a schedule over epochs.

    The names are ``kl_weight`` and ``learning_rate``; ``objective.beta``,
    ``objective.estimator.temperature`` and any other number of the objective and its parts;
    ``guide.family.temperature`` for a buffer of shape () of the pair's modules, which is saved with
    the weights. A step reads the objective's and the pair's from tensors that change in
    place: a captured step sees them, and no step waits for them.

    Example:
        >>> from inference import SVI, Elbo, Linear
        >>> from inference.training import Scheduled
        >>> import pyro, pyro.distributions as dist, torch
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(0, 1)), 1), obs=x)
        >>> def guide(x):
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(pyro.param("slope", torch.tensor(0.0)) * x, 1))
        >>> svi, x = SVI(model, guide, objective=Elbo(beta=4.0)), torch.zeros(8)
        >>> svi.prepare(x)
        >>> with Scheduled(svi, {"objective.beta": Linear(epochs=4, end=8.0)}) as numbers:
        ...     for epoch in range(4):
        ...         numbers.set(epoch)
        ...         _ = svi.step(x)
        >>> numbers.values
        {'objective.beta': 6.0}

    Args:
        svi: prepared; inside of ``with`` it has another objective, with tensors for numbers.
        schedules: by the name of the number.
        epochs: length of the run, over which values are checked.
        device: where the batches are.

    Attributes:
        values: the numbers as they are now, by name.

    Raises:
        ValueError: there is no such number, or a schedule has a value that the number can't have.
    """

    def __init__(
        self,
        svi: SVI,
        schedules: Mapping[str, Schedule],
        epochs: float = 0.0,
        device: torch.device | None = None,
    ) -> None:
        self.schedules = dict(schedules)
        self.values: dict[str, float] = {}
        self._svi, self._device = svi, device
        self._objective = self._moved = svi.objective
        self._numbers = {name: self._find(name) for name in self.schedules}
        for name, schedule in self.schedules.items():
            for point in range(POINTS + 1):
                epoch = epochs * point / POINTS
                self._check(name, schedule(epoch), epoch)
                if isinstance(schedule, Constant) or not epochs:
                    break

    def __enter__(self) -> "Scheduled":
        """Make the SVI follow its objective with tensors for numbers."""
        if self._moved is not self._objective:
            self._svi.use(self._moved)
        return self

    def __exit__(self, *_: object) -> None:
        """Give the SVI its own objective back."""
        if self._moved is not self._objective:
            self._svi.use(self._objective)

    def moving(self, epoch: float) -> dict[str, float]:
        """Return the values after that many epochs of what is not constant, by name."""
        found = self.schedules.items()
        return {name: each(epoch) for name, each in found if not isinstance(each, Constant)}

    def set(self, epoch: float) -> None:
        """Give every number the value of its schedule after that many epochs.

        Raises:
            ValueError: a number can't have its value.
            RuntimeError: this is called outside of ``with``.
        """
        if self._svi.objective is not self._moved:
            raise RuntimeError("Set scheduled numbers inside of `with Scheduled(...) as numbers:`.")
        for name, schedule in self.schedules.items():
            value = schedule(epoch)
            if value != self.values.get(name):
                self._check(name, value, epoch)
                self.values[name] = value
            self._numbers[name].put(value)

    def _check(self, name: str, value: float, epoch: float) -> None:
        try:
            if not math.isfinite(value):
                raise ValueError(f"Expected a finite number; got {value}.")
            self._numbers[name].check(value)
        except ValueError as error:
            raise ValueError(f"The schedule of {name}, after {epoch:g} epochs: {error}") from None

    def _find(self, name: str) -> _Number:
        room, _, path = name.partition(".")
        if name == "kl_weight":
            return _Number(lambda value: _need_sign(name, value), lambda _: None)
        if name == "learning_rate":
            return self._learning_rate()
        if room == "objective":
            return self._field(name, path.split("."))
        buffer = self._svi.tensors().get(name)
        if buffer is None or name in self._svi.parameters or buffer.dim():
            raise self._unknown(name)
        return _Number(lambda _: None, buffer.fill_)

    def _learning_rate(self) -> _Number:
        svi = self._svi
        if svi.scheduler is not None:
            raise ValueError(
                f"learning_rate has a schedule, and {type(svi.scheduler).__name__} schedules "
                "it too: leave one of them out."
            )
        if (count := len(svi.optimizer.param_groups)) > 1:
            raise ValueError(
                f"The optimiser has {count} groups of parameters, each with a learning rate "
                "of its own: leave the schedule of learning_rate out, and take a torch scheduler."
            )

        def put(value: float) -> None:
            (group,) = svi.optimizer.param_groups  # replaced when a state is loaded
            if isinstance(rate := group["lr"], Tensor):
                rate.fill_(value)
            else:
                group["lr"] = value

        return _Number(lambda value: _need_sign("learning_rate", value), put)

    def _field(self, name: str, path: Sequence[str]) -> _Number:
        """Make a tensor of a field of the objective, or of a part of it; parts check floats."""
        part: Any = self._objective
        for step in path[:-1]:
            part = getattr(part, step, None)
        if path[-1] not in _floats(part):
            raise self._unknown(name)
        tensor = torch.tensor(float(getattr(part, path[-1])), device=self._device)
        self._moved = _with(self._moved, path, tensor)
        return _Number(lambda value: replace(part, **{path[-1]: value}), tensor.fill_)

    def _unknown(self, name: str) -> ValueError:
        tensors, trained = self._svi.tensors().items(), self._svi.parameters
        names = ["kl_weight", "learning_rate", *_paths(self._objective, "objective")]
        names += [k for k, v in tensors if not v.dim() and v.is_floating_point()]
        return ValueError(
            f"No number to schedule has the name {name!r}. There are: "
            f"{', '.join(k for k in names if k not in trained)}. A number of a module becomes one "
            "as a buffer: self.register_buffer('temperature', torch.tensor(0.5))."
        )


def _floats(part: object) -> list[str]:
    """Return the fields of a dataclass that hold a float: whole numbers are shapes."""
    if not is_dataclass(part) or isinstance(part, type):
        return []
    return [field.name for field in fields(part) if field.type in (float, "float")]


def _paths(part: object, name: str) -> Iterator[str]:
    """Yield the name of every number of a dataclass and of those that it holds."""
    if is_dataclass(part):
        yield from (f"{name}.{each}" for each in _floats(part))
        for field in fields(part):
            yield from _paths(getattr(part, field.name), f"{name}.{field.name}")


def _with(part: _Part, path: Sequence[str], value: Tensor) -> _Part:
    """Return a frozen dataclass with a tensor for a number; its own check would read the value."""
    changed = copy.copy(part)
    first, *rest = path
    value = _with(getattr(part, first), rest, value) if rest else value
    object.__setattr__(changed, first, value)
    return changed


def _need_sign(name: str, value: float) -> None:
    if value < 0:
        raise ValueError(f"Expected a {name} of at least 0; got {value}.")

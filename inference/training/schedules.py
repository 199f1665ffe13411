"""Schedules: a number over training time."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass


class Schedule(ABC):
    """A number over training time: a KL weight, a learning rate, a temperature.

    The number decides which values it can have: `Scheduled` checks them.
    """

    @abstractmethod
    def __call__(self, epoch: float) -> float:
        """Return the number after that many epochs, fractions counted."""


@dataclass(frozen=True)
class Constant(Schedule):
    """One number throughout; a KL weight other than 1 trains a beta-VAE (Higgins et al. 2017).

    Args:
        weight: the number.
    """

    weight: float = 1.0

    def __call__(self, epoch: float) -> float:  # noqa: ARG002
        """Return the number."""
        return self.weight


@dataclass(frozen=True)
class Linear(Schedule):
    """A straight line from ``start`` to ``end`` (Bowman et al. 2016, arXiv 1511.06349).

    >>> from inference import Linear
    >>> warm_up = Linear(epochs=10)
    >>> warm_up(0), warm_up(5), warm_up(20)
    (0.0, 0.5, 1.0)

    Args:
        epochs: how long the line is, above 0.
        start: number at the first step.
        end: number at the end of the line, and after it.
    """

    epochs: float = 10.0
    start: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        """Check that the line has a length."""
        _need_length(self.epochs)

    def __call__(self, epoch: float) -> float:
        """Return the number after that many epochs."""
        return _up_to(self.end, self.start, (self.end - self.start) * epoch / self.epochs)


@dataclass(frozen=True)
class Cosine(Schedule):
    """Half a cosine from ``start`` to ``end``: flat at both (Loshchilov and Hutter 2017).

    Source: arXiv 1608.03983, without restarts.

    Args:
        epochs: how long it takes, above 0.
        start: number at the first step.
        end: number after that many epochs.
    """

    epochs: float = 10.0
    start: float = 1.0
    end: float = 0.0

    def __post_init__(self) -> None:
        """Check that the curve has a length."""
        _need_length(self.epochs)

    def __call__(self, epoch: float) -> float:
        """Return the number after that many epochs."""
        share = min(1.0, epoch / self.epochs)
        return self.end + (self.start - self.end) * (1 + math.cos(math.pi * share)) / 2


@dataclass(frozen=True)
class Exponential(Schedule):
    r"""A constant factor an epoch: :math:`s (e / s)^{t / T}` from s to e (Jang et al. 2017).

    Source: arXiv 1611.01144 (temperature of relaxed draws).

    Args:
        epochs: how long T it takes, above 0.
        start: number s at the first step, above 0.
        end: number e after that many epochs, above 0.
    """

    epochs: float = 10.0
    start: float = 1.0
    end: float = 0.1

    def __post_init__(self) -> None:
        """Check that the curve has a length, and that both ends are above 0."""
        _need_length(self.epochs)
        if not self.start > 0 or not self.end > 0:
            raise ValueError(
                f"Expected start and end above 0; got {self.start} and {self.end}. Take Linear or "
                "Cosine for a number that reaches 0."
            )

    def __call__(self, epoch: float) -> float:
        """Return the number after that many epochs."""
        if epoch >= self.epochs:
            return self.end
        return self.start * (self.end / self.start) ** (epoch / self.epochs)


@dataclass(frozen=True)
class Cyclic(Schedule):
    """Repeated warm-up: each period goes from ``start`` to ``end``, then stays (Fu et al. 2019).

    Source: arXiv 1903.10145.

    Args:
        period: length of one cycle in epochs.
        cycles: number of cycles; the number is ``end`` afterwards.
        rise: share of a period in which the number moves, above 0 and at most 1.
        start: number at the start of each period.
        end: number at the end of each period.
    """

    period: float = 10.0
    cycles: int = 4
    rise: float = 0.5
    start: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        """Check that a cycle has a length."""
        if not self.period > 0 or not 0 < self.rise <= 1:
            raise ValueError(
                "Expected a period above 0 epochs and a rise above 0 and at most 1; got "
                f"period={self.period}, rise={self.rise}."
            )

    def __call__(self, epoch: float) -> float:
        """Return the number after that many epochs."""
        if epoch >= self.period * self.cycles:
            return self.end
        phase = (epoch % self.period) / (self.period * self.rise)
        return _up_to(self.end, self.start, (self.end - self.start) * phase)


def _up_to(end: float, start: float, gone: float) -> float:
    """Return ``start + gone``, but nothing beyond ``end``."""
    return min(end, start + gone) if start <= end else max(end, start + gone)


def _need_length(epochs: float) -> None:
    if not epochs > 0:
        raise ValueError(f"Expected a length of more than 0 epochs; got {epochs}.")

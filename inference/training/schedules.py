"""Schedules: a number over training time."""

from abc import ABC, abstractmethod
from dataclasses import dataclass


class Schedule(ABC):
    """The KL weight over training time."""

    @abstractmethod
    def __call__(self, epoch: float) -> float:
        """Return the weight after that many epochs, fractions counted."""


@dataclass(frozen=True)
class Constant(Schedule):
    """One weight throughout; anything but 1 trains a beta-VAE (Higgins et al. 2017).

    Args:
        weight: the weight, at least 0.
    """

    weight: float = 1.0

    def __post_init__(self) -> None:
        """Refuse a negative weight."""
        if self.weight < 0:
            raise ValueError(f"Expected a KL weight of at least 0; got {self.weight}.")

    def __call__(self, epoch: float) -> float:  # noqa: ARG002
        """Return the weight."""
        return self.weight


@dataclass(frozen=True)
class Linear(Schedule):
    """A straight line from ``start`` to 1 (Bowman et al. 2016, arXiv 1511.06349).

    Args:
        epochs: how long the line is.
        start: weight at the first step.
    """

    epochs: float = 10.0
    start: float = 0.0

    def __post_init__(self) -> None:
        """Refuse a line without length."""
        if not self.epochs > 0:
            raise ValueError(f"Expected a warm-up of more than 0 epochs; got {self.epochs}.")

    def __call__(self, epoch: float) -> float:
        """Return the weight after that many epochs."""
        return min(1.0, self.start + (1.0 - self.start) * epoch / self.epochs)


@dataclass(frozen=True)
class Cyclic(Schedule):
    """Repeated warm-up: each period rises from ``start`` to 1, then stays (Fu et al. 2019).

    Source: arXiv 1903.10145.

    Args:
        period: length of one cycle in epochs.
        cycles: number of cycles; the weight is 1 afterwards.
        rise: share of a period that the rise takes, above 0 and at most 1.
        start: weight at the start of each period.
    """

    period: float = 10.0
    cycles: int = 4
    rise: float = 0.5
    start: float = 0.0

    def __post_init__(self) -> None:
        """Refuse a cycle without length."""
        if not self.period > 0 or not 0 < self.rise <= 1:
            raise ValueError(
                "Expected a period above 0 epochs and a rise above 0 and at most 1; got "
                f"period={self.period}, rise={self.rise}."
            )

    def __call__(self, epoch: float) -> float:
        """Return the weight after that many epochs."""
        if epoch >= self.period * self.cycles:
            return 1.0
        phase = (epoch % self.period) / (self.period * self.rise)
        return min(1.0, self.start + (1.0 - self.start) * phase)

"""What a guide puts in the place of a model's latent site: by support, a family."""

from abc import ABC, abstractmethod
from math import prod
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import biject_to, constraints

Shape = tuple[int, ...]


class Head(ABC):
    """From parameters (..., parameter_dim) to a site's distribution; and its values as numbers."""

    parameter_dim: int
    numbers_dim: int

    @abstractmethod
    def __call__(self, parameters: Tensor) -> Any:
        """Return the distribution, batch_shape (...)."""

    @abstractmethod
    def numbers(self, value: Tensor) -> Tensor:
        """Return values as (..., numbers_dim) for a linear layer."""


class _Continuous(Head):
    """A normal, sent to the support."""

    def __init__(self, shape: Shape, support: Any) -> None:
        self.shape, self.transform = shape, biject_to(support)
        self.inner = tuple(self.transform.inverse_shape(shape))
        self.plain = support in (constraints.real, constraints.real_vector)
        self.numbers_dim = prod(self.inner)
        self.parameter_dim = 2 * self.numbers_dim

    def __call__(self, parameters: Tensor) -> Any:
        loc, log_scale = (
            part.reshape((*part.shape[:-1], *self.inner)) for part in parameters.chunk(2, -1)
        )
        normal = dist.Normal(loc, log_scale.exp()).to_event(len(self.inner))
        return normal if self.plain else dist.TransformedDistribution(normal, [self.transform])

    def numbers(self, value: Tensor) -> Tensor:
        value = value if self.plain else self.transform.inv(value)
        return value.reshape(*value.shape[: value.dim() - len(self.inner)], self.numbers_dim)


class _Bits(Head):
    """Independent bits."""

    def __init__(self, shape: Shape) -> None:
        self.shape, self.parameter_dim = shape, prod(shape)
        self.numbers_dim = self.parameter_dim

    def __call__(self, parameters: Tensor) -> Any:
        logits = parameters.reshape((*parameters.shape[:-1], *self.shape))
        return dist.Bernoulli(logits=logits).to_event(len(self.shape))

    def numbers(self, value: Tensor) -> Tensor:
        return value.reshape(*value.shape[: value.dim() - len(self.shape)], self.numbers_dim)


class _Categories(Head):
    """Independent choices out of as many, as integers or one-hot vectors."""

    def __init__(self, shape: Shape, classes: int, one_hot: bool) -> None:
        self.shape = shape[:-1] if one_hot else shape
        self.classes, self.one_hot = classes, one_hot
        self.parameter_dim = self.numbers_dim = prod(self.shape) * classes

    def __call__(self, parameters: Tensor) -> Any:
        logits = parameters.reshape(*parameters.shape[:-1], *self.shape, self.classes)
        kind = dist.OneHotCategorical if self.one_hot else dist.Categorical
        return kind(logits=logits).to_event(len(self.shape))

    def numbers(self, value: Tensor) -> Tensor:
        if not self.one_hot:
            value = one_hot_of(value, self.classes).to(torch.get_default_dtype())
        event = len(self.shape) + 1
        return value.reshape(*value.shape[: value.dim() - event], self.numbers_dim)


def one_hot_of(value: Tensor, classes: int) -> Tensor:
    """Return (..., classes), all 0 where a value is none of the classes."""
    return value.unsqueeze(-1) == torch.arange(classes, device=value.device)


def head_of(name: str, site: dict[str, Any]) -> Head:
    """Return the family for a site of a trace.

    Raises:
        ValueError: none is known for its support.
    """
    fn, support = site["fn"], site["fn"].support
    shape = tuple(fn.event_shape)
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    while not isinstance(fn, dist.Categorical | dist.OneHotCategorical) and hasattr(
        fn, "base_dist"
    ):
        fn = fn.base_dist
    if support is constraints.boolean:
        return _Bits(shape)
    if isinstance(fn, dist.Categorical | dist.OneHotCategorical):
        one_hot = isinstance(fn, dist.OneHotCategorical)
        return _Categories(shape, fn.logits.shape[-1], one_hot)
    try:
        return _Continuous(shape, support)
    except NotImplementedError:
        raise ValueError(
            f"Site {name!r} has the support {support}, which no bijection from real numbers and no "
            "finite family is known for. Write its guide by hand, or give the site a distribution "
            "over reals, positive numbers, an interval, a simplex, bits or categories."
        ) from None

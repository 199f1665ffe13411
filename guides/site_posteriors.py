"""Posterior of a latent site with any support, and its values as vectors that networks take."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, cast

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn
from torch.distributions import biject_to, constraints
from torch.distributions.transforms import ReshapeTransform, Transform

from .families import Family
from .label import IMPOSSIBLE, Label, indicator


class SitePosterior(nn.Module, ABC):
    """From P parameters to a distribution over one latent site.

    Args:
        event_shape: shape of one value.
        parameter_dim: number P of parameters.
        vector_dim: length V of a value as a vector.
    """

    def __init__(self, event_shape: tuple[int, ...], parameter_dim: int, vector_dim: int) -> None:
        super().__init__()
        self.event_shape = event_shape
        self.parameter_dim = parameter_dim
        self.vector_dim = vector_dim

    @abstractmethod
    def forward(self, parameters: Tensor) -> TorchDistributionMixin:
        """Return q for parameters (..., P): batch_shape (...), the site's event_shape."""

    @abstractmethod
    def vector(self, value: Tensor) -> Tensor:
        """Return values (..., *event_shape) as real vectors (..., V)."""

    def _flat(self, value: Tensor, event_dim: int) -> Tensor:
        return value.reshape(*value.shape[: value.dim() - event_dim], self.vector_dim)


class ContinuousPosterior(SitePosterior):
    r"""A family on the reals, carried to the support: :math:`z = T(u)`, :math:`u \sim q(u)`.

    .. math:: \log q(z) = \log q(u) - \log |\det T'(u)|, \qquad u = T^{-1}(z)

    T is torch's ``biject_to``: exp for positive numbers, sigmoid for intervals, stick breaking for
    the simplex, nothing for real vectors.

    Source: Kucukelbir et al. 2017, arXiv 1603.00788 (ADVI).

    Args:
        support: the site's.
        event_shape: shape of one value.
        family: makes the family of u from its length.
    """

    def __init__(
        self,
        support: constraints.Constraint,
        event_shape: tuple[int, ...],
        family: Callable[[int], Family],
    ) -> None:
        shape = tuple(biject_to(support).inverse_shape(torch.Size(event_shape)))
        q = family(math.prod(shape))
        super().__init__(event_shape, q.parameter_dim, q.latent_dim)
        self.family = q
        self.shape = shape
        self._depth, self._base, self._bounds = 0, support, []
        while isinstance(self._base, constraints.independent):
            self._depth += self._base.reinterpreted_batch_ndims
            self._base = self._base.base_constraint
        for side in ("lower_bound", "upper_bound"):
            if hasattr(self._base, side):
                bound = getattr(self._base, side)
                self._bounds.append(side)
                if isinstance(bound, Tensor):  # it follows the module's device
                    self.register_buffer(side, bound, persistent=False)
                else:
                    setattr(self, side, bound)

    @property
    def transform(self) -> Transform:
        """The map from the reals to the support, that remembers its last value."""
        support = cast(Any, self._base)
        if self._bounds:
            support = type(support)(**{side: getattr(self, side) for side in self._bounds})
        support = constraints.independent(support, self._depth) if self._depth else support
        return biject_to(support).with_cache()

    def forward(self, parameters: Tensor) -> TorchDistributionMixin:
        """Return q for parameters (..., P): batch_shape (...), the site's event_shape."""
        u = self.family(parameters)
        transforms: list[Transform] = []
        flat = torch.Size((self.vector_dim,))
        if self.shape != flat:
            transforms.append(ReshapeTransform(flat, torch.Size(self.shape), cache_size=1))
        if self._base is not constraints.real:
            transforms.append(self.transform)
        return dist.TransformedDistribution(u, transforms) if transforms else u

    def vector(self, value: Tensor) -> Tensor:
        """Return what the values (..., *event_shape) are made of, u (..., V)."""
        if self._base is not constraints.real:
            value = cast(Any, self.transform).inv(value)
        return self._flat(value, len(self.shape))


class BooleanPosterior(SitePosterior):
    """Independent bits, a logit for each.

    Args:
        event_shape: shape of one value.
    """

    def __init__(self, event_shape: tuple[int, ...]) -> None:
        size = math.prod(event_shape)
        super().__init__(event_shape, size, size)

    def forward(self, parameters: Tensor) -> TorchDistributionMixin:
        """Return q for logits (..., P): batch_shape (...), the site's event_shape."""
        logits = parameters.reshape(*parameters.shape[:-1], *self.event_shape)
        return dist.Bernoulli(logits=logits).to_event(len(self.event_shape))

    def vector(self, value: Tensor) -> Tensor:
        """Return the bits (..., *event_shape) side by side (..., V)."""
        return self._flat(value, len(self.event_shape))


class CategoricalPosterior(SitePosterior):
    """Independent labels, C logits for each.

    Args:
        event_shape: shape of one value.
        classes: number C of classes.
    """

    def __init__(self, event_shape: tuple[int, ...], classes: int) -> None:
        size = math.prod(event_shape) * classes
        super().__init__(event_shape, size, size)
        self.classes = classes

    def forward(self, parameters: Tensor, known: Tensor | None = None) -> TorchDistributionMixin:
        """Return q, batch_shape (...) and the site's event_shape.

        Args:
            parameters: logits (..., P).
            known: labels (..., *event_shape) that q puts its whole mass on; -1 where it is free.
        """
        logits = parameters.reshape(*parameters.shape[:-1], *self.event_shape, self.classes)
        if known is not None:
            others = IMPOSSIBLE * (1 - indicator(known, self.classes, logits.dtype))
            logits = logits.where((known < 0).unsqueeze(-1), others)
        return Label(logits=logits).to_event(len(self.event_shape))

    def vector(self, value: Tensor) -> Tensor:
        """Return the labels' indicators (..., V)."""
        hot = indicator(value, self.classes, torch.get_default_dtype())
        return self._flat(hot, len(self.event_shape) + 1)


class OneHotPosterior(SitePosterior):
    """Independent labels as one-hot vectors, C logits for each.

    Args:
        event_shape: shape of one value, that ends with C.
    """

    def __init__(self, event_shape: tuple[int, ...]) -> None:
        size = math.prod(event_shape)
        super().__init__(event_shape, size, size)

    def forward(self, parameters: Tensor) -> TorchDistributionMixin:
        """Return q for logits (..., P): batch_shape (...), the site's event_shape."""
        logits = parameters.reshape(*parameters.shape[:-1], *self.event_shape)
        return OneHotLabel(logits=logits).to_event(len(self.event_shape) - 1)

    def vector(self, value: Tensor) -> Tensor:
        """Return the vectors (..., *event_shape) side by side (..., V)."""
        return self._flat(value, len(self.event_shape))


class OneHotLabel(dist.OneHotCategorical):
    """`OneHotCategorical`, but for torch's own sampler, which reads a value back: see `Label`."""

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw one-hot vectors (*sample_shape, *batch_shape, C)."""
        label = Label(logits=self.logits).sample(sample_shape)
        return indicator(label, self.logits.shape[-1], self.logits.dtype)


def posterior_for(
    name: str,
    support: constraints.Constraint,
    event_shape: tuple[int, ...],
    family: Callable[[int], Family],
) -> SitePosterior:
    """Return a posterior that suits a site's support.

    Args:
        name: of the site, for messages.
        support: the site's.
        event_shape: shape of one value.
        family: makes the family of a continuous site's reals from their number.

    Raises:
        ValueError: no posterior is known for that support.
    """
    base: Any = support
    while isinstance(base, constraints.independent):
        base = base.base_constraint
    if base is constraints.boolean:
        return BooleanPosterior(event_shape)
    if base is constraints.one_hot:
        return OneHotPosterior(event_shape)
    if isinstance(base, constraints.integer_interval):
        first, last = base.lower_bound, base.upper_bound
        if isinstance(last, int) and first == 0:
            return CategoricalPosterior(event_shape, last + 1)
    if not support.is_discrete:
        try:
            return ContinuousPosterior(support, event_shape, family)
        except NotImplementedError:
            pass
    remedy = (
        "Sum it out in the model, or sample a Categorical over its likely values"
        if support.is_discrete
        else "Sample reals and map them to it in the model"
    )
    raise ValueError(
        f"Site {name!r} has the support {support}, for which there is no amortised posterior. "
        f"{remedy}; or write the guide by hand."
    )

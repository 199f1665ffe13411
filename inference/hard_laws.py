"""The mass of draws that are hard forwards and soft backwards: straight-through distributions."""

from typing import Any

import pyro.distributions as dist
from torch import Tensor
from torch.distributions import Distribution, Independent, OneHotCategorical


class Linear(dist.OneHotCategorical):
    r"""A one-hot categorical whose log density :math:`\sum_c z_c \log p_c` is one of soft z too."""

    def log_prob(self, value: Tensor) -> Tensor:
        """Return it, (*batch_shape): that of the categorical where z is one-hot."""
        return (value * self.logits).sum(-1)


class _Hard:
    has_rsample = True  # its draws have been made, and have a gradient


class _HardChoice(_Hard, Linear):
    """The law of a straight-through choice."""


class _HardBit(_Hard, dist.Bernoulli):
    """The law of a straight-through bit."""


def hard_law(fn: Distribution, value: Any) -> Distribution:
    """Return the law of a site's value, which is discrete where the draw is.

    The density of a soft value that no other program sees has no ratio to the mass that the model
    gives the hard one. A one-hot mass beside a value with a gradient has one too, as the mass of
    bits has.
    """
    each: Any = fn
    while isinstance(each, Independent):
        each = each.base_dist
    kind: Any = None
    if isinstance(each, dist.RelaxedOneHotCategoricalStraightThrough):
        kind = _HardChoice
    elif isinstance(each, dist.RelaxedBernoulliStraightThrough):
        kind = _HardBit
    elif isinstance(each, OneHotCategorical) and not isinstance(each, Linear):
        soft = value is not None and value.requires_grad
        kind = (_HardChoice if each.has_rsample else Linear) if soft else None
    if kind is None:
        return fn
    law = kind(logits=each.logits, validate_args=False)
    events = len(fn.event_shape) - len(law.event_shape)
    return law.to_event(events) if events else law

"""What a distribution is under what was put around it: its factors, its support, a point."""

from typing import Any

import pyro.distributions as dist
from torch.distributions import Distribution, Independent, constraints
from torch.distributions.constraints import MixtureSameFamilyConstraint


def factors(distribution: Distribution) -> Distribution:
    """Return the independent factors of a distribution: every ``Independent``, however nested, off.

    The event dimensions come back as batch dimensions, and the log densities of the factors add up
    to the distribution's. It stays as it is where it is no ``Independent`` of Pyro or torch.
    """
    while isinstance(distribution, Independent):
        distribution = distribution.base_dist
    return distribution


def point_of(distribution: Any) -> dist.Delta | None:
    """Return the Delta that a distribution is, events, masks and expansions aside; or None."""
    while not isinstance(distribution, dist.Delta):
        if not hasattr(distribution, "base_dist"):
            return None
        distribution = distribution.base_dist
    return distribution


def support(distribution: Distribution) -> constraints.Constraint:
    """Return the values at which a distribution has a density; a mixture has that of its parts.

    Raises:
        NotImplementedError: the distribution has no support of its own.
    """
    found: Any = distribution.support
    # torch knows no map to its mark for mixtures.
    return found.base_constraint if isinstance(found, MixtureSameFamilyConstraint) else found


def is_real(space: constraints.Constraint) -> bool:
    """Whether a support is all of a real space, of any event shape."""
    return elementwise(space) is constraints.real


def elementwise(space: Any) -> constraints.Constraint:
    """Return what a support says of each element, where it says it of each by itself."""
    while isinstance(space, constraints.independent):
        space = space.base_constraint
    return space

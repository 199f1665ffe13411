"""Sample sites as typed records, made once from a trace: Pyro's own dictionaries stop here."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import pyro.distributions as dist
from pyro import poutine
from pyro.distributions.torch_distribution import ExpandedDistribution
from pyro.distributions.util import scale_and_mask
from pyro.poutine.indep_messenger import CondIndepStackFrame
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import Distribution, Independent, constraints
from torch.distributions.constraints import MixtureSameFamilyConstraint

from .default_device import on_device_of

Kind = Literal["latent", "observed", "factor", "deterministic"]
"""What a site is: a draw, data, a term by ``pyro.factor``, a value by ``pyro.deterministic``."""


class Plate(NamedTuple):
    """A plate that a site sits in; its dim is None where it is a loop."""

    name: str
    size: int
    dim: int | None


class Site(NamedTuple):
    """One sample site of one run of a program.

    Args:
        name: of the site.
        kind: draw, data, factor or deterministic value. A deterministic site has no density and
            is not data. A site that ``pyro.condition`` holds counts as observed.
        distribution: as the program made it, expanded by its plates.
        value: what was drawn or observed, (*batch_shape, *event_shape).
        mask: the program's own; None where there is none.
        scale: the program's own, without the weight of `KLWeight`.
        kl_weight: what `KLWeight` multiplied its terms by; None outside of one.
        frames: Pyro's own records of the plates; see `plates`.
        infer: what the program tells inference.
        taken: log density at its value, where Pyro took it already, unscaled; else None.
        arguments: what the density takes besides the value.
        keywords: what it takes besides, by name.
    """

    name: str
    kind: Kind
    distribution: Distribution
    value: Tensor
    mask: Tensor | bool | None = None
    scale: float | Tensor = 1.0
    kl_weight: float | Tensor | None = None
    frames: tuple[CondIndepStackFrame, ...] = ()
    infer: Mapping[str, Any] = MappingProxyType({})
    taken: Tensor | None = None
    arguments: tuple[Any, ...] = ()
    keywords: Mapping[str, Any] = MappingProxyType({})

    @property
    def plates(self) -> tuple[Plate, ...]:
        """The plates that it sits in, from the outermost."""
        return tuple(Plate(frame.name, frame.size, frame.dim) for frame in self.frames)

    @property
    def auxiliary(self) -> bool:
        """Whether the guide marks it as a site that the model does not have."""
        return bool(self.infer.get("is_auxiliary"))

    @property
    def was_observed(self) -> bool:
        """Whether it is data that ``pyro.poutine.uncondition`` drew."""
        return bool(self.infer.get("was_observed"))

    def in_data_plate(self, size: int) -> bool:
        """Whether it sits in a plate of that size at dim -1."""
        return any(frame.dim == -1 and frame.size == size for frame in self.frames)

    def log_prob(self, value: Tensor | None = None) -> Tensor:
        """Return its log density, nats, (*batch_shape): scaled, masked, without a KL weight.

        Args:
            value: where; None is its own value.
        """
        density = self.taken if value is None else None
        if density is None:
            at = self.value if value is None else value
            density = self.distribution.log_prob(at, *self.arguments, **self.keywords)
        return self.scaled(density)

    def scaled(self, density: Tensor) -> Tensor:
        """Return a log density of this site, or a KL, times its scale, and 0 where it is masked."""
        scale: Any = self.scale  # Pyro declares a number, and takes a tensor too
        return scale_and_mask(density, scale, self.mask)

    @property
    def base(self) -> Distribution:
        """The family of its values, without what was put around it: events, masks, expansions.

        It has the name, the support and the kind of the distribution's elements; its shape may be
        smaller, and its density knows no mask. For densities see `factors`.
        """
        found = factors(self.distribution)
        while isinstance(found, dist.MaskedDistribution | ExpandedDistribution):
            found = factors(found.base_dist)
        return found

    @property
    def support(self) -> constraints.Constraint:
        """The values at which it has a density; see `support`."""
        return support(self.distribution)

    @property
    def is_real(self) -> bool:
        """Whether its support is known and is all of a real space."""
        try:
            return is_real(self.support)
        except NotImplementedError:
            return False


Sites = dict[str, Site]
"""The sites of one run of a program, by name, in the order in which it came to them."""


def sites(trace: poutine.Trace) -> Sites:
    """Return the sample sites of a trace, without those that plates make for themselves."""
    messages: dict[str, Any] = {**trace.nodes}
    return {
        name: _site(name, message)
        for name, message in messages.items()
        if message["type"] == "sample" and not site_is_subsample(message)
    }


def sites_of(program: Callable[..., Any], batch: tuple[Tensor, ...]) -> Sites:
    """Run a program once on a batch, under the handlers around, and return its sites."""
    with on_device_of(batch):
        return sites(poutine.trace(program).get_trace(*batch))


def select(found: Sites, *kinds: Kind) -> Sites:
    """Return the sites of these kinds."""
    return {name: site for name, site in found.items() if site.kind in kinds}


def with_density(found: Sites) -> Sites:
    """Return the sites that add to a log density: all but the deterministic ones."""
    return {name: site for name, site in found.items() if site.kind != "deterministic"}


def factors(distribution: Distribution) -> Distribution:
    """Return the independent factors of a distribution: every ``Independent``, however nested, off.

    The event dimensions come back as batch dimensions, and the log densities of the factors add up
    to the distribution's. It stays as it is where it is no ``Independent`` of Pyro or torch.
    """
    while isinstance(distribution, Independent):
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


def _site(name: str, message: Any) -> Site:
    get = message.get
    scale = message["scale"]
    return Site(  # by place: a step makes one of each site
        name,
        _kind(message),
        message["fn"],
        message["value"],
        message["mask"],
        get("unweighted_scale", scale),  # KLWeight leaves it behind
        get("kl_weight"),
        message["cond_indep_stack"],
        message["infer"],
        get("unscaled_log_prob"),
        message["args"],
        message["kwargs"],
    )


def _kind(message: Any) -> Kind:
    # The first two even if a handler drew them: they are not draws from the program.
    if isinstance(message["fn"], dist.Unit):
        return "factor"
    if _is_deterministic(message):
        return "deterministic"
    return "observed" if message["is_observed"] else "latent"


def _is_deterministic(message: Any) -> bool:
    """Whether ``pyro.deterministic`` made a site: by its mark, or else by what it is made of."""
    if "_deterministic" in message["infer"]:
        return bool(message["infer"]["_deterministic"])
    fn = message["fn"]
    if getattr(fn, "_mask", None) is not False or not isinstance(fn, dist.MaskedDistribution):
        return False
    return isinstance(factors(fn.base_dist), dist.Delta)

"""Sample sites as typed records, made once from a trace: Pyro's own dictionaries stop here."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import pyro.distributions as dist
from pyro import poutine
from pyro.distributions.torch_distribution import ExpandedDistribution
from pyro.distributions.util import scale_and_mask
from pyro.poutine.indep_messenger import CondIndepStackFrame
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import Distribution, constraints

from .default_device import on_device_of
from .hard_laws import hard_law
from .laws import factors, is_real, support

Kind = Literal["latent", "observed", "factor", "deterministic"]
"""What a site is: a draw, data, a term by ``pyro.factor``, a value by ``pyro.deterministic``."""


class NoInverseError(ValueError):
    """A flow without an inverse was asked for its density at a value that it did not just draw."""


@contextmanager
def naming(site: str) -> Iterator[None]:
    """Say what it means where a flow finds no inverse, by an error of Pyro's cache or none at all.

    Raises:
        NoInverseError: it finds none.
    """
    try:
        yield
    except (KeyError, NotImplementedError) as error:
        # Pyro's flows raise the one of no words; torch has words for what it can't compute.
        bare = isinstance(error, NotImplementedError) and not str(error)
        if not bare and "intermediates cache" not in str(error):
            raise
        raise NoInverseError(
            f"Site {site!r}: no density is known at a value that its distribution did not just "
            "draw, as of a flow without an inverse (Planar, Radial, Sylvester): take Elbo or Iwae "
            "with their default estimator, which ask for no other; or one with an inverse."
        ) from error


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
        scale: of ``pyro.poutine.scale`` in the program: neither a plate's N / B is in it nor the
            weight of `KLWeight`. It acts in losses alone; a density is without it.
        kl_weight: what `KLWeight` multiplied its terms by; None outside of one.
        frames: Pyro's own records of the plates; see `plates`.
        infer: what the program tells inference.
        taken: log density at its value, where Pyro took it already, unscaled; else None.
        arguments: what the density takes besides the value.
        keywords: what it takes besides, by name.
        data_size: number of training data, where `DataSize` said it; else None.
        elsewhere: whether its plate at dim -1 is another one than that of the data.
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
    data_size: int | None = None
    elsewhere: bool = False

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
        """Whether it sits in the plate of the data: at dim -1, of that size, not `elsewhere`.

        A plate without a size, as ``pyro.plate("data")`` is, has that of what is in it: -1 in Pyro.
        """
        sizes = (size, -1)
        return not self.elsewhere and any(f.dim == -1 and f.size in sizes for f in self.frames)

    @property
    def stated_size(self) -> int | None:
        """Number N of data that its plate of the data says that it subsamples; None if all."""
        frames = () if self.elsewhere else self.frames
        return next((f.full_size for f in frames if f.dim == -1 and f.full_size != f.size), None)

    def log_prob(self, value: Tensor | None = None) -> Tensor:
        """Return its log density, nats, (*batch_shape): see `counted`.

        Args:
            value: where; None is its own value.
        """
        density = self.taken if value is None else None
        if density is None:
            at = self.value if value is None else value
            with naming(self.name):
                density = self.distribution.log_prob(at, *self.arguments, **self.keywords)
        return self.counted(density)

    def scaled_log_prob(self) -> Tensor:
        """Return what a loss takes of its log density at its value, nats, (*batch_shape)."""
        return self.scaled(self.log_prob())

    def score(self) -> Tensor:
        """Return the log density that it is drawn from, nats, (*batch_shape): without any mask."""
        found: Any = self.distribution
        if self.taken is not None and not isinstance(found, dist.MaskedDistribution):
            return self.taken
        while isinstance(found, dist.MaskedDistribution):
            found = found.base_dist
        with naming(self.name):
            return found.log_prob(self.value, *self.arguments, **self.keywords)

    @property
    def has_mask(self) -> bool:
        """Whether part of its density may not count."""
        return self.mask is not None or isinstance(self.distribution, dist.MaskedDistribution)

    def counted(self, density: Tensor) -> Tensor:
        """Return what counts of a log density of this site, or of a KL: 0 where it is masked.

        A plate that takes B of N members, and is not that of the data, has it times N / B: an
        estimate of the sum over all.
        """
        others = (f for f in self.frames if self.elsewhere or f.dim != -1)
        return scale_and_mask(density, subsampled(others), self.mask)

    def scaled(self, counted: Tensor) -> Tensor:
        """Return what a loss takes of what counts of a log density, or of a KL."""
        scale: Any = self.scale  # Pyro declares a number, and takes a tensor too
        return scale_and_mask(counted, scale)

    @property
    def is_scaled(self) -> bool:
        """Whether the program scales it; a tensor may be anything, for its value is not read."""
        return isinstance(self.scale, Tensor) or self.scale != 1.0

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


def _site(name: str, message: Any) -> Site:
    get = message.get
    frames, fn = message["cond_indep_stack"], message["fn"]
    law = hard_law(fn, message["value"])
    return Site(  # by place: a step makes one of each site
        name,
        _kind(message),
        law,
        message["value"],
        message["mask"],
        _own(get("unweighted_scale", message["scale"]), frames),  # KLWeight leaves it behind
        get("kl_weight"),
        frames,
        message["infer"],
        get("unscaled_log_prob") if law is fn else None,
        message["args"],
        message["kwargs"],
        get("data_size"),
    )


def _own(scale: float | Tensor, frames: Iterable[CondIndepStackFrame]) -> float | Tensor:
    """Return a scale without the N / B that plates put into it."""
    plates = subsampled(frames)
    if plates == 1.0:
        return scale
    if isinstance(scale, Tensor):
        return scale / plates
    # Plates multiply one by one, in their own order, and so leave rounding behind.
    return 1.0 if math.isclose(scale, plates, rel_tol=1e-12) else scale / plates


def subsampled(frames: Iterable[CondIndepStackFrame]) -> float:
    """Return N / B of plates that take B of N members, all together."""
    found = 1.0
    for frame in frames:
        if frame.full_size is not None and frame.full_size != frame.size:
            found = found * frame.full_size / frame.size
    return found


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

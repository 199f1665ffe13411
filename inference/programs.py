"""Running a pair of Pyro programs under handlers."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import pyro
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from . import rng
from .alone import ALONE
from .data_plate import of_the_data, sizes_observed
from .default_device import on_device_of
from .laws import point_of
from .precision import products_in
from .private import quiet
from .references import modules
from .sites import Sites, naming, select, sites, sites_of
from .stores import Program, owner, param_store, unwrapped

Batch = Tensor | tuple[Tensor, ...]
"""x (B, *event_shape), or a tuple that starts with it."""


class PairSites(NamedTuple):
    """The sites of one run of a pair."""

    model: Sites
    guide: Sites


def run(
    model: Program,
    guide: Program,
    batch: tuple[Tensor, ...],
    particles: int = 1,
    detach_draws: bool = False,
    detach_guide: bool = False,
) -> PairSites:
    """Run the guide on the batch, then the model replayed on the guide's draws.

    Args:
        model: the generative program.
        guide: the inference program.
        batch: the arguments of both.
        particles: with K > 1, the size of an outer plate at dim -2.
        detach_draws: cut the gradient at the guide's draws.
        detach_guide: run the guide again on its own draws, its parameters frozen.
    """
    with on_device_of(batch), param_store(model), _particle_plate(particles):
        with DetachDraws(scored=not detach_guide) if detach_draws else nullcontext():
            guide_trace = poutine.trace(quiet(guide)).get_trace(*batch)
        if detach_guide:
            for name, site in select(sites(guide_trace), "latent").items():
                # A node of its own: densities hang on it, and later draws on the one behind it.
                guide_trace.nodes[name]["value"] = site.value.view_as(site.value)
            with frozen(guide):
                again = poutine.replay(quiet(guide), guide_trace)
                guide_trace = poutine.trace(again).get_trace(*batch)
                with naming("', '".join(select(sites(guide_trace), "latent"))):
                    guide_trace.compute_log_prob()  # a flow uses its parameters no sooner than here
        replayed = poutine.replay(quiet(model), guide_trace)
        found = sites_of(replayed, batch)
        fixed = _fixed_plates(model, guide, batch, found)
        return PairSites(*of_the_data(found, sites(guide_trace), fixed=fixed))


def need_guide(pair: PairSites, but: Collection[str] = ()) -> None:
    """Refuse a pair whose model has a latent site that the guide does not have.

    Args:
        pair: one run of both programs.
        but: sites that are summed out.

    Raises:
        ValueError: it has one.
    """
    if lone := sorted(select(pair.model, "latent").keys() - pair.guide.keys() - {*but}):
        raise ValueError(
            f"Site {', '.join(map(repr, lone))} is latent in the model, and the guide does not "
            "sample it: p(x, z) / q(z | x) would lack its log q. Sample it in the guide under the "
            "same name, mark it to be summed out if it is discrete (infer={'enumerate': "
            "'parallel'}), observe it with obs=, or leave out the unobserved data (an obs_mask "
            "makes a latent site of them; poutine.mask does not)."
        )


def run_at(
    model: Program, guide: Program, batch: tuple[Tensor, ...], values: dict[str, Tensor]
) -> PairSites:
    """Run both programs with their latent sites held at given values, as if observed.

    Args:
        model: the generative program.
        guide: the inference program.
        batch: the arguments of both.
        values: what each latent site is, by name.
    """
    with param_store(model), poutine.condition(data=values):
        drawn, found = sites_of(guide, batch), sites_of(model, batch)
        fixed = _fixed_plates(model, guide, batch, found)
        return PairSites(*of_the_data(found, drawn, held=values, fixed=fixed))


_fixed: WeakKeyDictionary[Any, dict[frozenset[str], frozenset[str]]] = WeakKeyDictionary()


def _fixed_plates(
    model: Program, guide: Program, batch: tuple[Tensor, ...], found: Sites
) -> frozenset[str]:
    """Return the plates of B members whose size does not follow B, where several have B members.

    A run on the batch twice over tells them apart, once for each model and names of plates.
    """
    alike = frozenset(name for name, size in sizes_observed(found).items() if size == len(batch[0]))
    if len(alike) < 2:
        return frozenset()
    known = _fixed.setdefault(getattr(model, "__self__", model), {})
    if alike not in known:
        with rng.isolated(), torch.no_grad(), poutine.block():
            twice = tile(batch, 2)
            try:
                drawn = poutine.trace(guide).get_trace(*twice)
                sizes = sizes_observed(sites_of(poutine.replay(model, drawn), twice))
            except (RuntimeError, ValueError, LookupError):  # which others report
                sizes = dict[str, int]()
        same = frozenset(name for name in alike if sizes.get(name) == len(batch[0]))
        known[alike] = same if same != alike else frozenset()
    return known[alike]


def run_model_at(
    model: Program, batch: tuple[Tensor, ...], values: dict[str, Tensor], particles: int
) -> Sites:
    """Run the model with its latent sites at given values, drawn as it were.

    Args:
        model: the generative program.
        batch: its arguments.
        values: what each latent site is, by name.
        particles: with K > 1, the size of an outer plate at dim -2.
    """
    with param_store(model), _particle_plate(particles), Drawn(values):
        return sites_of(quiet(model), batch)


class Drawn(Messenger):
    """Give latent sites their values, as a replay does."""

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.values and not msg["is_observed"]:
            msg["value"], msg["done"] = self.values[msg["name"]], True


@contextmanager
def frozen(*programs: Program) -> Iterator[None]:
    """Treat the parameters of these programs as constants, to which nothing inside has a gradient.

    Those that a plain function made are in the present parameter store; all of it is frozen then.
    """
    parameters: list[Tensor] = []
    for program in programs:
        module = owner(unwrapped(program))
        parameters += [] if module is None else module.parameters()
    parameters += [value for _, value in pyro.get_param_store().named_parameters()]
    learned = {id(p): p for p in parameters if p.requires_grad}
    for parameter in learned.values():
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learned.values():
            parameter.requires_grad_(True)


class DetachDraws(Messenger):
    """Cut the gradient at every latent site, so that later sites and densities see constants.

    Args:
        scored: whether the gradient is to reach the guide by the scores of its draws, which a value
            that parameters determine does not have.
    """

    def __init__(self, scored: bool = False) -> None:
        super().__init__()
        self.scored = scored

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["is_observed"] or site_is_subsample(msg):
            return
        if self.scored and (point := point_of(msg["fn"])) is not None:
            density: Any = point.log_density
            if msg["value"].requires_grad or getattr(density, "requires_grad", False):
                raise ValueError(
                    f"Site {msg['name']!r} is a Delta at what parameters say: it has no score, by "
                    "which this gradient reaches the guide, and would not be trained. Take Elbo or "
                    "Iwae with their default estimator, which differentiate through it."
                )
        msg["value"] = msg["value"].detach()


def as_tuple(x: Batch) -> tuple[Tensor, ...]:
    """Return the arguments that a pair is called with.

    Raises:
        TypeError: the batch is neither a tensor nor a tuple of tensors.
    """
    batch: tuple[Any, ...] = x if isinstance(x, tuple) else (x,)
    for each in batch:
        if not isinstance(each, Tensor):
            held = "" if each is x else " in a tuple"
            raise TypeError(
                f"Expected a batch that is a tensor or a tuple of tensors; got "
                f"{type(each).__name__}{held}. Give (x, y) for x and what comes with it; what is "
                "the same for each datum belongs into the pair."
            )
    if not batch:
        raise TypeError("Expected a batch that is a tensor or a tuple of tensors; got ().")
    return batch


def tile(batch: tuple[Tensor, ...], times: int) -> tuple[Tensor, ...]:
    """Repeat a batch of B data, particle by particle: row k * B + n is datum n."""
    return tuple(t.repeat(times, *[1] * (t.dim() - 1)) for t in batch)


@contextmanager
def evaluating(*programs: Program) -> Iterator[None]:
    """Run without gradients, in 32 bits, modules in evaluation mode; put the modes back after.

    The modules are all that the programs refer to (`references.modules`).
    """
    roots = [module for program in programs for module in modules(program).values()]
    training = {id(m): m for root in roots for m in root.modules() if m.training}.values()
    for module in training:
        module.training = False
    try:
        with ALONE, torch.no_grad(), products_in("32"):
            yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def _particle_plate(particles: int) -> Iterator[None]:
    if particles == 1:
        yield
    else:
        with pyro.plate("particles", particles, dim=-2):
            yield

"""The path of densities from a guide or prior to the posterior, and Hamiltonian moves on it."""

from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import biject_to

from ..capture.captured_pass import CapturedPass
from ..laws import support
from ..log_weights import carries_particles, read
from ..programs import PairSites, Program, run, tile
from ..sites import Sites, select, sites_of, with_density
from .stereographic import Stereographic

Start = Literal["guide", "prior"]
"""The density that the chains start from: q(z | x) or p(z)."""


class State(NamedTuple):
    """Chains at a point of the path: log f_t = log_start + b_t log_ratio."""

    z: Tensor  # (C, B, D), unconstrained
    log_start: Tensor  # log p_0(z) and the log-Jacobian, (C, B)
    log_ratio: Tensor  # log p(x, z) - log p_0(z), (C, B)
    grad_start: Tensor  # (C, B, D)
    grad_ratio: Tensor  # (C, B, D)

    def log_prob(self, b: float) -> Tensor:
        """Return log f_b up to its normaliser, (C, B)."""
        return self.log_start + b * self.log_ratio

    def grad(self, b: float) -> Tensor:
        """Return the gradient of log f_b, (C, B, D)."""
        # Kept apart, the two gradients serve the next f_t too: no run of its own to set out.
        return self.grad_start + b * self.grad_ratio


class _Held(Messenger):
    """Hold latent sites at values given in the unconstrained space of their support."""

    def __init__(self, values: dict[str, Tensor]) -> None:
        super().__init__()
        self.values = values
        self.log_det: list[Tensor] = []

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.values:
            free = self.values[msg["name"]]
            # Found at every run: the support may depend on an earlier site.
            to_support = bijection(msg["fn"])
            msg["value"] = to_support(free)
            msg["is_observed"] = True
            log_det = to_support.log_abs_det_jacobian(free, msg["value"])
            self.log_det.append(scale_and_mask(log_det, mask=msg["mask"]))


@dataclass(frozen=True)
class Path:
    """The densities between p_0 and the posterior, for C chains of each of B data.

    Args:
        model: p(z) p(x | z).
        start: the program of p_0.
        from_prior: whether p_0 is the model's own prior, which one run of it evaluates.
        batch: the data; tiled, C times, where the pair carries no particles.
        shape: (C, B).
        plate: whether the chains are a plate at dim -2.
        leapfrog: steps of one transition.
        moves: transitions to come, in all.
        sites: by latent site, the shape of a row's unconstrained value, and how many of its
            dimensions are plates to the left of the data.
    """

    model: Program
    start: Program
    from_prior: bool
    batch: tuple[Tensor, ...]
    shape: tuple[int, int]
    plate: bool
    leapfrog: int
    moves: int
    sites: dict[str, tuple[torch.Size, int]]

    def draw(self) -> Tensor:
        """Draw from p_0, (C, B, D)."""
        particles = self.shape[0] if self.plate else 1
        pair = run(self.model, self.start, self.batch, particles)
        return unconstrained(select(pair.model, "latent"), self.plate).unflatten(0, self.shape)

    def evaluate(self, z: Tensor) -> State:
        """Run the programs at z (C, B, D); return the densities and their gradients."""
        return State(z.detach(), *self._captured(z))

    @cached_property
    def _captured(self) -> CapturedPass:
        return CapturedPass(
            self._evaluate, "auto", self.moves * self.leapfrog, [self.model, self.start]
        )

    def _evaluate(self, z: Tensor) -> list[Tensor]:
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            log_start, log_ratio = self._densities(z)
            # A density that is flat in z has no graph to it; this term has, and is 0.
            none = 0 * z.sum()
            (grad_start,) = torch.autograd.grad(log_start.sum() + none, z, retain_graph=True)
            (grad_ratio,) = torch.autograd.grad(log_ratio.sum() + none, z)
        return [log_start.detach(), log_ratio.detach(), grad_start, grad_ratio]

    def _densities(self, z: Tensor) -> tuple[Tensor, Tensor]:
        chains, size = self.shape
        held = _Held(self._values(z))
        plate = pyro.plate("particles", chains, dim=-2) if self.plate else nullcontext()
        with plate:
            with held:
                pair = PairSites(sites_of(self.model, self.batch), {})
            if not self.from_prior:
                data = {name: pair.model[name].value for name in self.sites}
                with poutine.condition(data=data):
                    pair = PairSites(pair.model, sites_of(self.start, self.batch))
        shape = self.shape if self.plate else (1, chains * size)
        weights = read(pair, size, shape, select(pair.guide, "observed").keys() - {*self.sites})
        joint = weights.likelihood  # held sites count as observed
        log_det = sum(d.reshape(-1, chains * size).sum(0).view(self.shape) for d in held.log_det)
        if self.from_prior:
            log_start = sum(joint[name] for name in self.sites)
            log_ratio = sum(value for name, value in joint.items() if name not in self.sites)
        else:
            log_start = sum(weights.guide.values())
            log_ratio = weights.total
        zero = z.new_zeros(self.shape)
        return zero + log_start + log_det, zero + log_ratio

    def _values(self, z: Tensor) -> dict[str, Tensor]:
        """Part z (C, B, D) into the sites' unconstrained values, in the shape that they have."""
        parts = z.split([shape.numel() for shape, _ in self.sites.values()], -1)
        values: dict[str, Tensor] = {}
        for part, (name, (shape, left)) in zip(parts, self.sites.items(), strict=True):
            value = part.unflatten(-1, shape) if shape else part.squeeze(-1)
            values[name] = value if self.plate else value.flatten(0, 1).movedim(0, left)
        return values


def transition(at: Path, old: State, b: float, step: Tensor) -> tuple[State, Tensor, Tensor]:
    """Move every chain by Hamiltonian dynamics at f_b; return also whether it moved, how likely.

    Args:
        at: the path.
        old: where the chains are.
        b: place on the path.
        step: step size of each datum, (B,).
    """
    step = step.unsqueeze(-1)
    before = torch.randn_like(old.z)
    momentum = before + 0.5 * step * old.grad(b)
    new = old
    for left in reversed(range(at.leapfrog)):
        new = at.evaluate(new.z + step * momentum)
        momentum = momentum + (step if left else 0.5 * step) * new.grad(b)
    kinetic = 0.5 * (momentum.square() - before.square()).sum(-1)
    log_ratio = new.log_prob(b) - old.log_prob(b) - kinetic
    likely = log_ratio.clamp(max=0).exp().nan_to_num(nan=0)  # reject an overflow
    moved = torch.rand_like(likely) < likely
    kept = (
        torch.where(moved.unsqueeze(-1) if ours.dim() == 3 else moved, theirs, ours)
        for theirs, ours in zip(new, old, strict=True)
    )
    return State(*kept), moved, likely


def path(
    model: Program,
    guide: Program | None,
    batch: tuple[Tensor, ...],
    chains: int,
    leapfrog: int,
    moves: int,
    start: Start,
) -> Path:
    """Check the pair on a run of its own, and find out how it carries the chains."""
    if start not in ("guide", "prior"):
        raise ValueError(f"Expected start 'guide' or 'prior'; got {start!r}.")
    if start == "guide" and guide is None:
        raise ValueError("Expected a guide to start from; got None. Give one, or start='prior'.")
    first = guide if guide is not None and start == "guide" else _prior(model)
    size = len(batch[0])
    pair = run(model, first, batch)
    _refuse(pair, size)
    plate = chains > 1 and carries_particles(model, guide or first, batch)
    sites: dict[str, tuple[torch.Size, int]] = {}
    for name, site in select(pair.model, "latent").items():
        to_support = bijection(site.distribution)
        free, event = to_support.inv(site.value), to_support.domain.event_dim
        left = free.dim() - event - 1
        sites[name] = (free.movedim(left, 0)[0].shape, left)
    if not plate:
        batch = tile(batch, chains)
    return Path(
        model, first, start == "prior", batch, (chains, size), plate, leapfrog, moves, sites
    )


def _refuse(pair: PairSites, size: int) -> None:
    """Check that every latent site has gradients, is in the data plate, and is in both programs."""
    for name, site in with_density(pair.model).items():
        if not site.in_data_plate(size):
            raise ValueError(
                f"Site {name!r} lies outside the data plate: the data share it, so no datum has a "
                "log p(x) of its own. Move the site into pyro.plate('data', len(x))."
            )
        if site.kind == "latent" and site.support.is_discrete:
            raise ValueError(
                f"Site {name!r} is discrete, and annealing moves z along gradients. Sum the site "
                "out in the model, or use evaluate, whose importance weights need no gradient."
            )
    latent, drawn = (select(found, "latent").keys() for found in pair)
    if odd := sorted(latent ^ drawn):
        raise ValueError(
            f"Latent site {', '.join(map(repr, odd))} is in one of model and guide only. Give both "
            "the same latent sites, or start='prior', which does without the guide."
        )


def _prior(model: Program) -> Program:
    """Return the model's prior as a program: its latent sites alone."""

    def prior(*batch: Tensor) -> None:
        with poutine.block(hide_fn=lambda msg: bool(msg.get("is_observed"))):
            model(*batch)

    return prior


def unconstrained(latent: Sites, plate: bool) -> Tensor:
    """Return the values of latent sites in one tensor, a row for every chain and datum, (R, D)."""
    rows: list[Tensor] = []
    for site in latent.values():
        to_support = bijection(site.distribution)
        free = to_support.inv(site.value)
        left = free.dim() - to_support.domain.event_dim - 1
        free = free.flatten(0, 1) if plate else free.movedim(left, 0)
        rows.append(free.reshape(len(free), -1))
    return torch.cat(rows, -1)


def bijection(fn: Any) -> Any:
    """Return the map from unconstrained values to a distribution's support.

    Raises:
        ValueError: none is known.
    """
    space = support(fn)
    if isinstance(space, type(dist.constraints.sphere)):
        return Stereographic()
    try:
        return biject_to(space)
    except NotImplementedError:
        raise ValueError(
            f"No map is known from unconstrained space, where annealing moves z, to {space}. "
            "Leave annealing out: the bound by importance weights needs none."
        ) from None

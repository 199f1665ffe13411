"""Annealed importance sampling: log p(x) bounded from below, and on simulated data from above."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor
from tqdm import tqdm

from .. import rng
from ..memory import keep_freed
from ..programs import Batch, Program, as_tuple, evaluating
from ..sites import Sites, select, sites_of
from ..stores import param_store
from .annealing_path import Path, Start, path, transition, unconstrained

TARGET = 0.65
"""Acceptance that step sizes are tuned to, near the best for HMC (Neal 2011, arXiv 1206.1901)."""

WARM_UP = 20
"""Transitions at the starting density, before the pilot run's step sizes are kept."""


@dataclass(frozen=True)
class Annealed:
    r"""Estimates of log p(x) of each of B data, in nats.

    Args:
        log_px: :math:`\log \frac1C \sum_c w_c`, (B,); its expectation is a lower bound on log p(x).
        log_weights: log w of every chain, (C, B); E w = p(x), whatever T and the step sizes are.
        acceptance: share of accepted transitions, (B,); nan where T = 1 makes none.
        distributions: number T of steps from the starting density to the posterior.
        chains: number C.
    """

    log_px: Tensor
    log_weights: Tensor
    acceptance: Tensor
    distributions: int
    chains: int

    def summary(self) -> dict[str, Any]:
        """Return the mean over the data, its standard error sd / sqrt(B) and the acceptance."""
        mean, error = _mean(self.log_px)
        acceptance = self.acceptance.mean().item()
        return {"log_px": mean, "log_px_se": error, "acceptance": acceptance, **_effort(self)}


@dataclass(frozen=True)
class Sandwich:
    """Bounds on log p(x) of B data that the model itself made, in nats.

    Args:
        lower: (B,), each at most log p(x) in expectation.
        upper: (B,), each at least log p(x) in expectation.
        acceptance: share of accepted transitions, both ways together, (B,).
        distributions: number T.
        chains: number C, each way.
    """

    lower: Tensor
    upper: Tensor
    acceptance: Tensor
    distributions: int
    chains: int

    def summary(self) -> dict[str, Any]:
        """Return the means of both bounds and of their gap, each with its standard error."""
        parts = {"lower": self.lower, "upper": self.upper, "gap": self.upper - self.lower}
        means = {name: _mean(value) for name, value in parts.items()}
        numbers = {name: mean for name, (mean, _) in means.items()}
        errors = {f"{name}_se": error for name, (_, error) in means.items()}
        return {**numbers, **errors, **_effort(self)}


def ais(
    model: Program,
    guide: Program | None,
    x: Batch,
    *,
    chains: int = 16,
    distributions: int = 1000,
    leapfrog: int = 10,
    start: Start = "guide",
    seed: int = 0,
    show_progress: bool | None = None,
) -> Annealed:
    r"""Estimate log p(x) of every datum by annealed importance sampling with HMC transitions.

    .. math:: f_t(z) = p_0(z) \left( \frac{p(x, z)}{p_0(z)} \right)^{b_t}, \qquad
              \log w = \sum_{t=1}^T (b_t - b_{t-1}) \log \frac{p(x, z_{t-1})}{p_0(z_{t-1})},

    :math:`z_0 \sim p_0`, z_t from z_(t-1) by a transition that leaves f_t as it is, and b_t the
    sigmoid of 4 (2t / T - 1), shifted and scaled to run from 0 to 1. With T = 1 it is importance
    sampling. Chains move in the unconstrained space of each site's support. A pilot run with other
    random numbers finds the step sizes, one for each t and datum; the chains never adapt theirs:
    then E w = p(x) would not hold. From a trained guide T can be some ten times smaller than from
    the prior. All chains and data run at once: memory grows with B times C, so give a large
    split in pieces. From then on the process keeps the memory that passes free
    (`memory.keep_freed`).

    Sources: Neal 2001 (Statistics and Computing 11); Wu et al. 2017, arXiv 1611.04273.

    Args:
        model: p(z) p(x | z), its latent sites continuous and in the data plate.
        guide: q(z | x), with the same latent sites; it may be None for ``start="prior"``.
        x: the batch (B, *event_shape), or a tuple that starts with it.
        chains: number C.
        distributions: number T.
        leapfrog: steps of one transition, each a run of the programs and its gradient.
        start: the density p_0: "guide" or "prior".
        seed: of pilot and chains; the random states outside are left alone.
        show_progress: whether to draw a progress bar; None draws one on a terminal.

    Raises:
        ValueError: a number is below 1, or a site is discrete, outside the data plate, or in one
            of the two programs only.
    """
    batch = as_tuple(x)
    _at_least_one(chains=chains, distributions=distributions, leapfrog=leapfrog)
    with _apart(model, guide, seed):
        bridge = path(model, guide, batch, chains, leapfrog, distributions, start)
        with _bar(distributions, 1, show_progress) as bar:
            steps = _tune(bridge, distributions, bar)
            log_w, acceptance = _anneal(bridge, bridge.draw(), schedule(distributions), steps, bar)
    log_px = log_w.logsumexp(0) - math.log(chains)
    return Annealed(log_px.cpu(), log_w.cpu(), acceptance.cpu(), distributions, chains)


def bdmc(
    model: Program,
    guide: Program | None,
    like: Batch,
    *,
    chains: int = 16,
    distributions: int = 1000,
    leapfrog: int = 10,
    start: Start = "guide",
    seed: int = 0,
    show_progress: bool | None = None,
) -> Sandwich:
    r"""Enclose log p(x) of data that the model makes: bidirectional Monte Carlo.

    The model draws (z, x), so that z is an exact draw from p(z | x). Chains that start there and
    walk the path of `ais` back have weights with :math:`\mathbb E w = 1 / p(x)`, hence

    .. math:: \mathbb E \log \frac1C \sum_c w_c^{\mathrm{forward}} \le \log p(x)
              \le -\mathbb E \log \frac1C \sum_c w_c^{\mathrm{back}}.

    It says how tight `ais` is on simulated data; compare it with `ais` on real data as well.

    Source: Grosse, Ghahramani and Adams 2015, arXiv 1511.02543.

    Args:
        model: p(z) p(x | z), which observes tensors of the batch as they are (``obs=x``).
        guide: q(z | x), or None for ``start="prior"``.
        like: a batch that gives number, shape, dtype and device; the observed values play no part.
        chains: number C, each way.
        distributions: number T.
        leapfrog: steps of one transition.
        start: the other end of the path: "guide" or "prior".
        seed: of the data, pilot and chains; the random states outside are left alone.
        show_progress: whether to draw a progress bar; None draws one on a terminal.

    Raises:
        ValueError: as `ais` does, or the model's data cannot be put in the place of x.
    """
    _at_least_one(chains=chains, distributions=distributions, leapfrog=leapfrog)
    with _apart(model, guide, seed):
        batch, sites = _simulate(model, as_tuple(like))
        bridge = path(model, guide, batch, chains, leapfrog, 2 * distributions, start)
        exact = unconstrained(sites, plate=False).expand(chains, -1, -1)
        with _bar(distributions, 2, show_progress) as bar:
            steps, ladder = _tune(bridge, distributions, bar), schedule(distributions)
            forward, there = _anneal(bridge, bridge.draw(), ladder, steps, bar)
            # All chains start at one exact draw, which adds no bias.
            back, again = _anneal(bridge, exact, ladder[::-1], steps.flip(0), bar)
    lower = forward.logsumexp(0) - math.log(chains)
    upper = math.log(chains) - back.logsumexp(0)
    acceptance = (there + again) / 2
    return Sandwich(lower.cpu(), upper.cpu(), acceptance.cpu(), distributions, chains)


def schedule(distributions: int) -> list[float]:
    """Return b_0 = 0, ..., b_T = 1: the sigmoid of 4 (2t / T - 1), shifted and scaled."""
    t = torch.linspace(-4, 4, distributions + 1, dtype=torch.float64).sigmoid()
    return ((t - t[0]) / (t[-1] - t[0])).tolist()


def _anneal(
    bridge: Path, z: Tensor, ladder: list[float], steps: Tensor, bar: Any
) -> tuple[Tensor, Tensor]:
    """Walk the ladder of b from draws z at its first; return log w (C, B), acceptance (B,)."""
    state = bridge.evaluate(z)
    log_w = torch.zeros_like(state.log_ratio)
    accepted = torch.zeros_like(log_w[0])
    for i in range(1, len(ladder)):
        log_w += (ladder[i] - ladder[i - 1]) * state.log_ratio
        if i < len(ladder) - 1:  # a move at the far end changes no weight
            state, moved, _ = transition(bridge, state, ladder[i], steps[i])
            accepted += moved.to(accepted.dtype).mean(0)
        bar.update()
    moves = len(ladder) - 2
    return log_w, accepted / moves if moves else accepted * math.nan


def _tune(bridge: Path, distributions: int, bar: Any) -> Tensor:
    """Find step sizes (T + 1, B) in a pilot run, over fewer distributions where T is large."""
    state = bridge.evaluate(bridge.draw())
    log_step = torch.full_like(state.log_start[0], math.log(0.2))
    found = [log_step]
    ladder = _pilot(distributions)
    for b in ladder:
        state, _, likely = transition(bridge, state, b, log_step.exp())
        # Robbins and Monro's rule, with a gain that does not fall: the optimum moves with b.
        log_step = log_step + 0.3 * (likely.mean(0) - TARGET)
        found.append(log_step)
        bar.update()
    kept = torch.stack(found[min(len(ladder), WARM_UP) :])
    places = torch.linspace(0, len(kept) - 1, distributions + 1).round().long()
    return kept[places.to(kept.device)].exp()


def _pilot(distributions: int) -> list[float]:
    """Return the pilot run's ladder: WARM_UP times 0, then at least 100 steps or T of them."""
    if distributions == 1:  # no transition, no step size
        return []
    return [0.0] * WARM_UP + schedule(min(distributions, max(100, distributions // 10)))[1:]


def _simulate(model: Program, batch: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], Sites]:
    """Draw (z, x) from the model; return the batch with x in its place, and the latent sites."""
    seen = select(sites_of(model, batch), "observed", "factor")
    drawn, made = sites_of(poutine.uncondition(model), batch), list(batch)
    for name, site in seen.items():
        if not (places := [i for i, t in enumerate(batch) if t is site.value]):
            raise ValueError(
                f"Site {name!r} observes no tensor of the batch as it is, so what the model draws "
                "there cannot be put into a batch. Observe what the model is called with (obs=x)."
            )
        for i in places:
            made[i] = drawn[name].value.to(batch[i].dtype)
    latent = {n: site for n, site in select(drawn, "latent").items() if n not in seen}
    with poutine.condition(data={name: site.value for name, site in latent.items()}):
        again = sites_of(model, tuple(made))
    then, now = (sum(s.log_prob().sum().item() for s in f.values()) for f in (drawn, again))
    if not math.isclose(then, now, rel_tol=1e-3, abs_tol=1e-2):
        raise ValueError(
            f"The model gives what it drew {now:.6g} nats, and drew it with {then:.6g}: it reads x "
            "besides observing it, so one run of it is no draw of x. Use ais on data of your own."
        )
    return tuple(made), latent


@contextmanager
def _apart(model: Program, guide: Program | None, seed: int) -> Iterator[None]:
    """Leave random states and modules' modes as they are; check no distribution's arguments."""
    programs = [model] if guide is None else [model, guide]
    keep_freed()
    with (
        rng.isolated(seed),
        evaluating(*programs),
        param_store(model),
        pyro.validation_enabled(False),
    ):
        yield


def _bar(distributions: int, ways: int, show_progress: bool | None) -> Any:
    return tqdm(
        total=ways * distributions + len(_pilot(distributions)),
        disable=None if show_progress is None else not show_progress,
        desc=f"T = {distributions:,}",
        unit="step",
    )


def _at_least_one(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"Expected {name} of at least 1; got {number}.")


def _mean(value: Tensor) -> tuple[float, float]:
    """Return the mean over data and its standard error."""
    spread = value.std().item() if len(value) > 1 else math.nan
    return value.mean().item(), spread / math.sqrt(len(value))


def _effort(result: Annealed | Sandwich) -> dict[str, int]:
    return {
        "count": len(result.acceptance),
        "distributions": result.distributions,
        "chains": result.chains,
    }

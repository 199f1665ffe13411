"""Evaluate a split: bounds on log p(x) of every datum of it."""

import math

import numpy as np
import pyro
import torch
from torch import Tensor
from tqdm import tqdm

from .. import distributed, rng
from ..capture.choosing import Setting
from ..data.records import Split
from ..log_weights import log_weights
from ..memory import keep_freed
from ..programs import Program, as_tuple, evaluating
from .evaluated import Evaluation
from .not_finite import refuse_nan
from .reduced import bounds, reduced
from .shared import holding, shared_draws
from .tiles import Tiles, data_of_a_pass


def evaluate(
    model: Program,
    guide: Program,
    split: Split,
    *,
    particles: int = 100,
    repeats: int = 1,
    name: str = "test",
    seed: int = 0,
    compile: Setting = "auto",  # noqa: A002  (torch's own word for it)
    data_size: int | None = None,
    show_progress: bool | None = None,
) -> Evaluation:
    r"""Estimate the ELBO and the K-sample bound of every datum, and how reliable they are.

    .. math:: L_K(x) = \mathbb E \log \frac1K \sum_{k=1}^K \frac{p(x, z_k)}{q(z_k \mid x)},
              \qquad z_k \sim q(z \mid x)

    A site w that all N training data share is drawn from the guide, once for each of the repeats,
    and held for all particles and data, whose bounds are :math:`L_K(x \mid w) + \frac1N \log
    \frac{p(w)}{q(w)}`: over the training data they sum to a bound on log p of them all.

    Modules are in evaluation mode, the random states are left alone, and the programs see a bounded
    number of particles at a time, so that memory does not grow with K. Several processes share the
    data, and each has the whole result. From then on the process keeps the memory that passes free
    (`memory.keep_freed`).

    Sources: Burda, Grosse and Salakhutdinov 2016, arXiv 1509.00519 (bound); Vehtari et al. 2024,
    arXiv 1507.02646 (k-hat).

    >>> from guides import MLP, Amortized, DiagonalNormal
    >>> from inference import evaluate, load
    >>> from models import MLP as Decoder, VAE, Bernoulli, StandardNormal
    >>> model = VAE(StandardNormal(2), Decoder(2, (1, 8, 8)), Bernoulli((1, 8, 8)))
    >>> guide = Amortized(MLP((1, 8, 8), 4), DiagonalNormal(2))
    >>> found = evaluate(model, guide, load("digits").test, particles=10, show_progress=False)
    >>> found.log_px.shape, found.steps.tolist()
    (torch.Size([200]), [1, 10])
    >>> bool((found.log_px.mean() > found.elbo.mean()))
    True

    Args:
        model: p(z) p(x | z).
        guide: q(z | x).
        split: the data, on the device of the pair.
        particles: number K.
        repeats: independent estimates of the K-sample bound; 2 or more measure its noise directly.
        name: what the split is called.
        seed: of the particles, and of x where the split draws it.
        compile: whether to capture and compile a pass over the programs, as for `SVI`; ``auto``
            does if there are enough passes.
        data_size: number N of training data, for the sites that they share, if no plate says it.
        show_progress: whether to draw a progress bar; None draws one on a terminal.

    Raises:
        ValueError: ``particles`` or ``repeats`` is below 1, or the pair has a site outside the data
            plate and N is not known.
        FloatingPointError: a bound is nan; the message has the datum and the site.
    """
    if particles < 1 or repeats < 1:
        raise ValueError(
            f"Expected at least 1 particle and 1 repeat; got {particles} and {repeats}."
        )
    keep_freed()
    draws = particles * repeats
    steps = [10**i for i in range(len(str(particles))) if 10**i < particles] + [particles]
    # Allocate the results first: small tensors that are kept between the large ones of the passes
    # split the heap, and memory then grows with K after all.
    values = {
        name: torch.zeros(len(split), dtype=torch.float64)
        for name in ("elbo", "rate", "log_px", "log_px_mc_se", "ess", "k_hat")
    }
    values["curve"] = torch.zeros(len(steps), len(split), dtype=torch.float64)
    values["by_repeat"] = torch.zeros(repeats, dtype=torch.float64)
    bar = tqdm(
        total=math.ceil(len(split) / distributed.world()),
        disable=None if show_progress is None else not show_progress,
        desc=f"{name}, K = {particles:,}",
        unit="datum",
    )
    data = data_of_a_pass(len(split), draws, split.device)

    # What refuses the pair is said here, before many particles fail otherwise.
    rounds = shared_draws(model, guide, split, data, data_size, seed, repeats)
    held: dict[str, Tensor] = {}

    def weigh(*batch: Tensor, count: int) -> list[Tensor]:
        with holding(held, data_size):
            weights = log_weights(model, guide, batch, count, held=held.keys())
        total = weights.reconstruction - weights.kl
        return [total, weights.kl.expand_as(total).sum(0)]

    if rounds:
        draws, compile = particles, "off"  # noqa: A001  (a capture would keep what is held)
    begins = range(data * distributed.rank(), len(split), data * distributed.world())
    tiles = Tiles(weigh, data, draws, len(begins), split.device, compile, [model, guide])
    with bar, rng.isolated(), evaluating(model, guide), pyro.validation_enabled(False):
        for begin in begins:
            places = slice(begin, min(begin + data, len(split)))
            found = []
            for number, drawn in enumerate(rounds or [{}]):
                held |= drawn
                # Each slice has its own seed, so it does not matter which process takes it.
                key = [seed, begin, number] if number else [seed, begin]
                drawing = int(np.random.SeedSequence(key).generate_state(1)[0])

                def start(drawing: int = drawing, places: slice = places) -> tuple[Tensor, ...]:
                    pyro.set_rng_seed(drawing)
                    return as_tuple(split.batch(places))

                found.append(tiles(start))
            log_w = torch.cat([weights for weights, _ in found])
            rate = torch.stack([each for _, each in found]).mean(0)
            for key, value in {"rate": rate, **reduced(log_w, steps, particles)}.items():
                values[key][..., places] = value.to(values[key])
            values["by_repeat"] += bounds(log_w, particles).sum(1).cpu() / len(split)
            bar.update(len(rate))
    if (shift := split.log_det()) is not None and not distributed.rank():
        for key in ("elbo", "log_px", "curve"):
            values[key] += shift.cpu()
        values["by_repeat"] += shift.cpu().mean()
    if distributed.world() > 1:
        distributed.wait_for_all()  # one may have a slower device
        parts = distributed.total([value.to(split.device) for value in values.values()])
        values = dict(zip(values, (part.cpu() for part in parts), strict=True))
    refuse_nan(values["log_px"], model, guide, split, name)
    by_repeat = values.pop("by_repeat")
    return Evaluation(
        **values,
        steps=torch.tensor(steps),
        particles=particles,
        repeats=repeats,
        split=name,
        field_units={}
        if split.mask is not None
        else split.view.field_units(split.stored, values["log_px"]),
        shared=tuple(held),
        by_repeat=by_repeat if held else None,
    )

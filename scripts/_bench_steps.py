"""One training step in one case: build contenders, check that they agree, time them in turns."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pyro
import torch
from torch.utils.flop_counter import FlopCounterMode

from inference import SVI
from inference.data import Split
from scripts._bench_pairs import Case, Setting
from scripts._bench_peers import CONTENDERS
from scripts._bench_timing import (
    CHUNK,
    in_turns,
    product_rate,
    products,
    ratio,
    seconds,
    spread,
    steps_in,
)
from scripts._bench_torch import LeftOut, Turn

AGREEMENT = 0.01
"""Largest difference of the mean loss to the reference's at the same weights, as a part of it."""

AGREEMENT_TRAINED = 0.05
"""The same over some steps of training; the noise of early ones makes it a percent or so."""

AGAINST = {f"x {name}": name for name in ("pyro", "torch.compile", "numpyro-scan")}
"""Columns of ratios, each with the contender whose time is divided by."""


def measure(
    case: Case, split: Split, names: Sequence[str], rounds: int, quick: bool
) -> dict[str, dict[str, Any]]:
    """Measure one training step of every contender.

    All start from the same weights, which some steps have brought to where each term of the loss
    counts. Their mean losses are compared with that of the eager `SVI` on the same data: first
    without learning, so that the weights stay, then with it, which compares gradients and
    optimisers as well and warms all up. A contender that differs gets no ratio.

    Args:
        case: what a step does.
        split: the data.
        names: of the contenders.
        rounds: turns of each, one after the other.
        quick: take `CHUNK` steps a turn, not as many as half a second takes.

    Returns:
        For each contender milliseconds a step, difference of losses, ratios and, as ``share``, the
        operations a second in its products over those of ``torch.mm`` (above 1 where other kernels
        are faster); ``left out`` says why there is none. Times and ratios are median, lowest and
        highest.
    """
    torch.compiler.reset()  # it compiles a function for a few cases at most
    pyro.set_rng_seed(0)
    device = split.device
    setting = Setting(case, split).trained(60 if quick else 200)
    off = CONTENDERS["off"](setting)
    step = seconds(lambda: off(setting.places(CHUNK)), device) / CHUNK
    places = setting.places(steps_in(3.0, step, 200))
    still, _ = mean_losses(replace(setting, learning_rate=0.0), names, places)
    moved, turns = mean_losses(setting, names, places)
    found: dict[str, dict[str, Any]] = {}
    lengths: dict[str, int] = {}
    for name in names:
        if isinstance(why := moved[name], str):
            found[name] = {"left out": why}
            continue
        found[name] = {
            "loss": still[name],
            "loss of training": moved[name],
            "loss differs by": _difference(still[name], still["off"]),
            "loss of training differs by": _difference(moved[name], moved["off"]),
        }
        row, turn = places[:CHUNK], turns[name]
        step = seconds(lambda t=turn, r=row: t(r), device) / CHUNK
        lengths[name] = steps_in(0.0 if quick else 0.5, step)
    rows = {name: setting.places(length) for name, length in lengths.items()}

    def take(name: str) -> None:
        try:
            turns[name](rows[name])
        except (RuntimeError, ValueError) as error:  # a captured step that fails its check, say
            found[name] = {"left out": _failure(error)}

    calls = {name: partial(take, name) for name in rows}
    taken = in_turns({**calls, "products": products(device)}, rounds, device)
    rate = product_rate(taken.pop("products"), device)
    work = operations(setting)
    measured = {n: values for n, values in taken.items() if "left out" not in found[n]}
    times = {n: [t / lengths[n] for t in values] for n, values in measured.items()}
    for name, values in times.items():
        found[name]["ms"] = [1e3 * value for value in spread(values)]
        found[name]["steps a turn"] = lengths[name]
        if agrees(found[name]):
            found[name]["share"] = work / found[name]["ms"][0] / 1e6 / rate
            for column, other in AGAINST.items():
                if other in times and agrees(found[other]):
                    found[name][column] = ratio(times[other], values)
    return found


def mean_losses(
    setting: Setting, names: Sequence[str], places: torch.Tensor
) -> tuple[dict[str, float | str], dict[str, Turn]]:
    """Build contenders, let each take a step at every row of places, and return its mean loss.

    Returns:
        Nats per datum of each contender and of the reference, ``off``, or why there is none; and
        the contenders, warm.
    """
    losses: dict[str, float | str] = {}
    turns: dict[str, Turn] = {}
    for name in {**dict.fromkeys(names), "off": None}:
        try:
            turns[name] = CONTENDERS[name](setting)
        except LeftOut as why:
            losses[name] = str(why)
    # A pair empties Pyro's parameter store when it is made: nothing runs before all are there.
    for name, turn in turns.items():
        pyro.set_rng_seed(0)
        try:
            losses[name] = turn(places).double().mean().item()
        except (RuntimeError, ValueError) as error:  # no compiler, say
            losses[name] = _failure(error)
    return losses, turns


def agrees(figures: dict[str, Any]) -> bool:
    """Whether a contender does what the reference does."""
    fixed, trained = figures["loss differs by"], figures["loss of training differs by"]
    return fixed <= AGREEMENT and trained <= AGREEMENT_TRAINED


def operations(setting: Setting) -> int:
    """Return the floating-point operations of the products in one step.

    For dense layers that is 2 B (3 weights - those of the first layer, whose input has no
    gradient), the decoder's once for every particle.
    """
    svi = SVI(*setting.pair(), objective=setting.case.objective, compile="off")
    x = setting.split.batch(setting.places(1)[0])
    svi.prepare(x)
    with FlopCounterMode(display=False) as counted:
        svi.step(x)
    return counted.get_total_flops()


def cells(figures: dict[str, Any]) -> list[str]:
    """Return a contender's line of the table, without its name."""
    if "left out" in figures:
        return [f"left out: {figures['left out']}", *[""] * (len(AGAINST) + 2)]
    differ = [figures["loss differs by"], figures["loss of training differs by"]]
    words = " ".join(
        [*(["DIFFERS:"] if not agrees(figures) else []), *map("{:.2%}".format, differ)]
    )
    times = [_shown(figures.get(column)) for column in AGAINST]
    share = f"{figures['share']:.0%}" if "share" in figures else "-"
    return [f"{figures['ms'][0]:.3f}", *times, share, words]


def _failure(error: Exception) -> str:
    return f"it fails: {(str(error).strip() or type(error).__name__).splitlines()[0]}"


def _difference(loss: float | str, reference: float | str) -> float:
    if isinstance(loss, str) or isinstance(reference, str):
        return math.inf
    return abs(loss / reference - 1)


def _shown(values: Sequence[float] | None) -> str:
    return "-" if values is None else "{:.2f} ({:.2f}-{:.2f})".format(*values)

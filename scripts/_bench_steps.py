"""One training step in one case: contenders built, seen to agree, timed in turns."""

import math
from collections.abc import Sequence
from typing import Any

import pyro
import torch
from _bench_pairs import Case, Setting
from _bench_peers import CONTENDERS
from _bench_timing import CHUNK, in_turns, product_rate, products, ratio, seconds, spread, steps_in
from _bench_torch import LeftOut, Turn
from torch.utils.flop_counter import FlopCounterMode

from inference import SVI
from inference.data import Split

AGREEMENT = 0.01
"""Largest difference of the mean loss to the reference's, as a part of it."""

AGAINST = {"x pyro": "pyro", "x torch.compile": "torch.compile"}
"""Columns of ratios, each with the contender whose time is divided by."""


def measure(
    case: Case, split: Split, names: Sequence[str], rounds: int, quick: bool
) -> dict[str, dict[str, Any]]:
    """Measure one training step of every contender.

    All start from the same weights, which some steps have brought to where each term of the loss
    counts. The first steps, up to 200, are on the same data for all: there the mean losses must
    agree with those of the eager `SVI`, or else there is no ratio. Thereby the gradients and the
    optimisers are compared as well, and everybody is warm.

    Args:
        case: what a step does.
        split: the data.
        names: of the contenders.
        rounds: turns of each, one after the other.
        quick: take `CHUNK` steps a turn, not as many as half a second takes.

    Returns:
        For each contender milliseconds a step, difference of losses, ratios and, as ``share``, the
        part of the device's rate at matrix products that it attains; ``left out`` is why there is
        none. Every figure of time is median, lowest and highest.
    """
    torch._dynamo.reset()  # noqa: SLF001  (it compiles a function for a few cases at most)
    pyro.set_rng_seed(0)
    device = split.device
    setting = Setting(case, split).trained(60 if quick else 200)
    off = CONTENDERS["off"](setting)
    step = seconds(lambda: off(setting.places(CHUNK)), device) / CHUNK
    places = setting.places(steps_in(5.0, step, 200))
    found: dict[str, dict[str, Any]] = {}
    turns: dict[str, Turn] = {}
    for name in names:
        try:
            turns[name] = CONTENDERS[name](setting)
        except LeftOut as why:
            found[name] = {"left out": str(why)}
    reference = _mean_loss(CONTENDERS["off"](setting), places)
    # A pair empties Pyro's parameter store when it is made: nothing runs before all are there.
    lengths: dict[str, int] = {}
    for name, turn in turns.items():
        try:
            loss = _mean_loss(turn, places)
        except (RuntimeError, ValueError) as error:  # no compiler, say
            found[name] = {"left out": f"it fails: {str(error).strip().splitlines()[0]}"}
            continue
        found[name] = {"loss": loss, "loss differs by": abs(loss / reference - 1)}
        row = places[:CHUNK]
        step = seconds(lambda t=turn, r=row: t(r), device) / CHUNK
        lengths[name] = steps_in(0.0 if quick else 0.5, step)
    rows = {name: setting.places(length) for name, length in lengths.items()}
    calls: dict[str, Any] = {n: lambda n=n: turns[n](rows[n]) for n in rows}
    taken = in_turns({**calls, "products": products(device)}, rounds, device)
    rate = product_rate(taken.pop("products"), device)
    work = operations(setting)
    times = {n: [t / lengths[n] for t in values] for n, values in taken.items()}
    for name, values in times.items():
        found[name]["ms"] = [1e3 * value for value in spread(values)]
        found[name]["steps a turn"] = lengths[name]
        if found[name]["loss differs by"] <= AGREEMENT:
            found[name]["share"] = work / found[name]["ms"][0] / 1e6 / rate
            for column, other in AGAINST.items():
                if found.get(other, {}).get("loss differs by", math.inf) <= AGREEMENT:
                    found[name][column] = ratio(times[other], values)
    return found


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
        return [f"left out: {figures['left out']}", "", "", "", ""]
    differs = figures["loss differs by"]
    agrees = f"{differs:.2%}" if differs <= AGREEMENT else f"DIFFERS by {differs:.1%}"
    times = [_shown(figures.get(column)) for column in AGAINST]
    share = f"{figures['share']:.0%}" if "share" in figures else "-"
    return [f"{figures['ms'][0]:.3f}", *times, share, agrees]


def _mean_loss(turn: Turn, places: torch.Tensor) -> float:
    pyro.set_rng_seed(0)
    return turn(places).double().mean().item()


def _shown(values: Sequence[float] | None) -> str:
    return "-" if values is None else "{:.2f} ({:.2f}-{:.2f})".format(*values)

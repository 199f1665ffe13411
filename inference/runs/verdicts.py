"""Verdicts: the differences between evaluated configurations, read from run directories."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, Literal

import numpy as np

from .comparison import Group
from .differences import Difference, Scores, difference, holm, unknown
from .run import Run

Quantity = Literal["log_px", "elbo"]

NAMES: dict[Quantity, str] = {"log_px": "log p(x)", "elbo": "ELBO"}
"""What each quantity is called."""

SAME = {
    "split": "evaluated on the splits",
    "count": "evaluated on numbers of data",
    "particles": "evaluated with K =",
    "seed": "evaluated with the seeds",
}
"""What two evaluations must have in common for their values to be pairs, in words."""

HEAVY = 0.1
"""Share of data with a Pareto k-hat above 0.7 from which on it is said."""


class Unpaired(ValueError):  # noqa: N818  (a finding)
    """Values of two runs are no pairs; the message says why, and what to do."""


def verdicts(
    groups: Sequence[Group], quantity: Quantity = "log_px", baseline: str | None = None
) -> list[Difference]:
    """Compare each two configurations, or each with a baseline, by their evaluations.

    Values are paired by datum: the same split, number of particles and seed of the evaluation,
    which also draws x where the data set draws it. P-values are corrected for their number.

    Args:
        groups: what `compare` returned.
        quantity: the K-sample bound on log p(x), or the ELBO.
        baseline: label of the configuration to compare each other one with, or a part of it that no
            other label has; None compares each two, the later less the earlier.

    Returns:
        A difference for each; its verdict is the reason where it can't be had.

    Raises:
        ValueError: no label, or more than one, has the baseline in it.
    """
    first = None if baseline is None else _named(groups, baseline)
    known = [_measured(group, quantity) for group in groups]
    pairs = (
        combinations(known, 2)
        if first is None
        else ((known[groups.index(first)], each) for each in known if each.group is not first)
    )
    return holm([_compared(a, b, quantity) for a, b in pairs])


def scores(group: Group, quantity: Quantity = "log_px") -> Scores:
    """Read what was measured of a configuration, for each datum.

    Args:
        group: runs that differ by their seed alone.
        quantity: the K-sample bound on log p(x), or the ELBO.

    Raises:
        Unpaired: a run was not evaluated, or two were evaluated in another way.
    """
    arrays = [_arrays(run) for run in group.runs]
    _need_same(group.runs)
    noise = np.stack([found["log_px_mc_se"] for found in arrays])
    return Scores(
        group.label,
        np.stack([found[quantity] for found in arrays]),
        tuple(run.config["seed"] for run in group.runs),
        noise if quantity == "log_px" and np.isfinite(noise).all() else None,
        arrays[0].get("by_repeat") if len(arrays) == 1 else None,
    )


@dataclass(frozen=True)
class _Measured:
    """What is known of a group before it is compared: it is read once for all comparisons.

    Args:
        group: the runs.
        scores: values by datum; None where they can't be had.
        reason: why not, in words.
        steps: numbers K of draws, (T,).
        curve: mean bound at each of them, over data and seeds, (T,).
        ends: which of its runs diverged or stopped, in words.
        heavy: how many data have heavy-tailed weights, in words.
        shared: that all data share a draw, in words.
    """

    group: Group
    scores: Scores | None
    reason: str = ""
    steps: Sequence[int] = ()
    curve: Sequence[float] = ()
    ends: tuple[str, ...] = ()
    heavy: str = ""
    shared: str = ""


def _measured(group: Group, quantity: Quantity) -> _Measured:
    try:
        found = scores(group, quantity)
    except Unpaired as reason:
        return _Measured(group, None, str(reason))
    arrays = [_arrays(run) for run in group.runs]
    curve = np.mean([each["curve"].mean(1) for each in arrays], 0)
    ends = (_diverged(group), _unfinished(group))
    steps = arrays[0]["steps"].tolist()
    return _Measured(group, found, "", steps, curve.tolist(), ends, _heavy(group), _shared(group))


def _compared(one: _Measured, other: _Measured, quantity: Quantity) -> Difference:
    a, b = one.group, other.group
    try:
        if one.scores is None or other.scores is None:
            raise Unpaired(one.reason or other.reason)
        _need_same([a.runs[0], b.runs[0]])  # each group's own are alike
    except Unpaired as reason:
        return unknown(a.label, b.label, str(reason), (len(a.runs), len(b.runs)))
    found = difference(one.scores, other.scores)
    notes = [*one.ends, *other.ends]
    if quantity == "log_px":
        notes += [_rising(one, other, found), one.heavy, other.heavy]
    notes += [one.shared, other.shared]
    return replace(found, note="; ".join(filter(None, notes)))


def _named(groups: Sequence[Group], label: str) -> Group:
    found = [group for group in groups if group.label == label]
    found = found or [group for group in groups if label in group.label]
    if len(found) != 1:
        those = ", ".join(repr(group.label) for group in groups)
        which = "No configuration has" if not found else f"{len(found)} configurations have"
        raise ValueError(f"{which} {label!r} in its label. The labels are {those}.")
    return found[0]


def _arrays(run: Run) -> dict[str, np.ndarray]:
    arrays = run.evaluation_arrays if run.evaluation else None
    if arrays is None:
        raise Unpaired(f"{run.path} is not evaluated: run lowerbound evaluate {run.path}")
    return arrays


def _need_same(runs: Sequence[Run]) -> None:
    """Check that runs were evaluated in the same way."""
    evaluations: list[dict[str, Any]] = [run.evaluation or {} for run in runs]
    for key, words in SAME.items():
        values = {str(e.get(key)): run for e, run in zip(evaluations, runs, strict=True)}
        if len(values) > 1:
            (one, first), (other, second) = list(values.items())[:2]
            raise Unpaired(
                f"{words} {one} ({first.path}) and {other} ({second.path}): evaluate them alike"
            )


def _diverged(group: Group) -> str:
    runs = [run for run in group.runs if run.diverged is not None]
    more = f" and {len(runs) - 1} more" if len(runs) > 1 else ""
    return f"{runs[0].path}{more} diverged at step {runs[0].diverged:,}" if runs else ""


def _unfinished(group: Group) -> str:
    runs = [run for run in group.runs if not run.finished and run.diverged is None]
    if not runs:
        return ""
    rows = runs[0].trace.rows
    epoch, others = (rows[-1].epoch if rows else 0.0), len(runs) - 1
    more = f" and {others} more" if others else ""
    return f"{runs[0].path}{more} stopped at epoch {epoch:g} of {runs[0].config['epochs']:,}"


def _rising(a: _Measured, b: _Measured, found: Difference) -> str:
    """Say that the difference still moves with K, where it moves by more than its error."""
    if len(a.steps) < 3:
        return ""
    before = b.curve[-2] - a.curve[-2]
    if abs(found.difference - before) <= found.se:
        return ""
    return f"the bounds still rise with K: at K = {a.steps[-2]:,} the difference is {before:.2f}"


def _shared(group: Group) -> str:
    """Say that the draw of what all data share has an error that no interval holds."""
    drawn = _arrays(group.runs[0]).get("by_repeat")
    if drawn is None or len(drawn) > 1 or len(group.runs) > 1:
        return ""
    return (
        f"all data of {group.label} share one draw of a site, whose noise is in no interval: "
        "evaluate with --repeats 5"
    )


def _heavy(group: Group) -> str:
    shares = [(run.evaluation or {}).get("k_hat_share_above_0.7") for run in group.runs]
    known = [share for share in shares if share is not None]
    share = sum(known) / len(known) if known else 0.0
    if math.isnan(share) or share < HEAVY:
        return ""
    return f"k-hat is above 0.7 for {100 * share:.0f} % of the data of {group.label}"

"""Figures of a comparison: traces, the rate-distortion plane, differences."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from textwrap import wrap
from typing import Any

import numpy as np

from ..training.trace import Row
from .comparison import Group
from .differences import Difference
from .figures import AXES, new_figure, save, zoom

LOOKS: list[dict[str, Any]] = [
    {"color": color, "linestyle": dash, "marker": marker}
    for dash, marker, color in zip(
        ("-", "--", "-.", ":") * 7,
        "osD^vPX" * 4,
        ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000") * 4,
        strict=True,
    )
]
"""Looks of up to 28 groups: dash, marker and colour (Okabe and Ito's, for every kind of sight)."""

RESAMPLES = 1000
"""Resamples of seeds for the band about a mean trace."""


def draw(
    groups: Sequence[Group], found: Sequence[Difference], folder: Path, over: str = "step"
) -> list[Path]:
    """Draw the traces and, where runs are evaluated, differences and rate-distortion plane.

    Args:
        groups: what `compare` returned.
        found: the differences between them.
        folder: where to; made if it is not there.
        over: ``step``, ``epoch`` or ``seconds``, the traces' horizontal axis.

    Returns:
        The paths of ``traces.png``, ``differences.png`` and ``rate-distortion.png``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / "traces.png"]
    unit = groups[0].runs[0].unit
    names = {group.label: plain(group.label) for group in groups}
    traces = {names[group.label]: [run.trace.rows for run in group.runs] for group in groups}
    save_comparison(traces, over, paths[0], unit)
    if known := [each for each in found if each.difference == each.difference]:
        paths.append(folder / "differences.png")
        save_differences(known, paths[-1], unit)
    evaluations = {
        names[group.label]: [run.evaluation or {} for run in group.runs] for group in groups
    }
    if all("rate" in each for members in evaluations.values() for each in members):
        points = {
            label: [(each["rate"], each["distortion"]) for each in members]
            for label, members in evaluations.items()
        }
        paths.append(folder / "rate-distortion.png")
        save_plane(points, paths[-1], unit)
    return paths


def plain(label: str) -> str:
    """Return a label as a figure writes it: no dollar begins mathematics, no line is too long."""
    return "\n".join(wrap(label, 60)[:6]).replace("$", r"\$")


def save_comparison(
    traces: Mapping[str, Sequence[Sequence[Row]]], over: str, path: Path, unit: str
) -> None:
    """Draw the validation ELBO of groups of runs: the mean over seeds, and how sure it is.

    Three seeds and more have the 95 % band of a bootstrap over seeds, too narrow for so few (the
    verdicts are Student's); two are drawn thinly.

    Args:
        traces: the traces of each group's runs, by the group's label.
        over: ``step``, ``epoch`` or ``seconds``.
        path: PNG file.
        unit: what the ELBO is measured in.

    Raises:
        ValueError: ``over`` is not one of the three.
    """
    if over not in AXES:
        raise ValueError(f"Expected over to be one of {', '.join(AXES)}; got {over!r}.")
    figure = new_figure(7.5, 4.5)
    axes = figure.subplots()
    for place, (label, members) in enumerate(traces.items()):
        valid = [[row for row in rows if row.split == "valid"] for rows in members]
        length = min(map(len, valid), default=0)
        if not length:
            continue
        look = LOOKS[place % len(LOOKS)]
        # Seeds of one configuration validate at the same steps; an early end shortens the mean.
        at = [fmean([getattr(rows[i], over) for rows in valid]) for i in range(length)]
        values = np.array([[row.elbo for row in rows[:length]] for rows in valid])
        named = f"{label} ({len(members)} seeds)" if len(members) > 1 else label
        every = max(1, length // 8)
        axes.plot(
            at, values.mean(0), label=named, linewidth=1.8, markersize=4, markevery=every, **look
        )
        if len(valid) > 2:
            axes.fill_between(at, *band(values), color=look["color"], alpha=0.2, linewidth=0)
        for rows in valid if len(valid) == 2 else []:
            axes.plot(
                [getattr(row, over) for row in rows],
                [row.elbo for row in rows],
                color=look["color"],
                alpha=0.35,
                linewidth=0.8,
            )
    zoom(axes, [r.elbo for m in traces.values() for rows in m for r in rows if r.split == "valid"])
    axes.set(title="Validation ELBO", xlabel=AXES[over], ylabel=unit)
    if axes.lines:  # a run that has just begun has none
        axes.legend(frameon=False, fontsize=8, loc="lower right")
    save(figure, path)


def band(values: np.ndarray) -> np.ndarray:
    """Return the 2.5 % and 97.5 % points of the mean over resampled seeds, (2, T), of (S, T)."""
    rng = np.random.default_rng(0)
    counts = rng.multinomial(len(values), np.full(len(values), 1 / len(values)), RESAMPLES)
    return np.quantile(counts @ values / len(values), (0.025, 0.975), axis=0)


def save_plane(points: Mapping[str, Sequence[tuple[float, float]]], path: Path, unit: str) -> None:
    """Draw groups of runs in the rate-distortion plane, with lines of equal ELBO.

    ELBO = -(distortion + rate), so equal ELBOs lie on a line of slope -1; where on it a run lies
    says how much its code carries (Alemi et al. 2018, arXiv 1711.00464).

    Args:
        points: (rate, distortion) of each group's runs, by the group's label.
        path: PNG file.
        unit: what the two are measured in.
    """
    figure = new_figure(6, 5)
    axes = figure.subplots()
    for place, (label, members) in enumerate(points.items()):
        look = {k: v for k, v in LOOKS[place % len(LOOKS)].items() if k != "linestyle"}
        axes.scatter(*zip(*members, strict=True), label=label, zorder=2, **look)
    sums = [rate + distortion for members in points.values() for rate, distortion in members]
    for place, total in enumerate(sorted({round(value, 1) for value in sums})):
        name = "_" if place else "equal ELBO"  # the legend needs one of them
        axes.axline((0, total), slope=-1, color="0.8", linewidth=0.8, zorder=1, label=name)
    axes.set(title="Rate and distortion", xlabel="rate, KL (nats)", ylabel=f"distortion ({unit})")
    axes.legend(frameon=False, fontsize=8)
    save(figure, path)


def save_differences(found: Sequence[Difference], path: Path, unit: str) -> None:
    """Draw differences of log p(x) with their 95 % intervals, one a line, from the top.

    Args:
        found: whose difference is known.
        path: PNG file.
        unit: what a difference is measured in.
    """
    figure = new_figure(7.5, 1.2 + 0.45 * len(found))
    axes = figure.subplots()
    for place, each in enumerate(found):
        clear = each.low > 0 or each.high < 0
        axes.plot([each.low, each.high], [place, place], color="C0", linewidth=2)
        axes.plot(each.difference, place, marker="o", color="C0", mfc="C0" if clear else "white")
    axes.axvline(0, color="0.5", linewidth=0.8, zorder=0)
    axes.set_yticks(
        range(len(found)), [f"{plain(each.b)}\nless {plain(each.a)}" for each in found], fontsize=8
    )
    axes.set_ylim(len(found) - 0.5, -0.5)
    axes.set(title="Differences of log p(x), 95 % intervals", xlabel=f"{unit}, per datum")
    save(figure, path)

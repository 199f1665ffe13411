"""Figures of a comparison: traces, the rate-distortion plane, differences, curves."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from ..training.trace import Row
from .comparison import Group
from .curves import bound_curve, draw_bounds, draw_kls, sorted_kls
from .differences import Difference
from .figures import AXES, zoom
from .shown import PLAIN, Shown, counted
from .styles import LETTER, LOOKS, Style, distinct, dots
from .verdicts import NAMES, Quantity

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RESAMPLES = 1000
"""Resamples of seeds for the band about a mean trace."""

MOST = 14
"""Groups that a figure shows: more can't be told apart."""

MOST_DIFFERENCES = 30
"""Differences that a figure shows."""


def draw(
    groups: Sequence[Group],
    found: Sequence[Difference],
    folder: Path,
    over: str = "step",
    style: Style = PLAIN,
    quantity: Quantity = "log_px",
) -> list[Path]:
    """Draw the traces and, where runs are evaluated, differences, rates, bounds over K, and KLs.

    Of more groups than 14, those with the best validation ELBO are drawn; a title says so.

    Args:
        groups: what `compare` returned.
        found: the differences between them.
        folder: where to; made if it is not there.
        over: ``step``, ``epoch`` or ``seconds``, the traces' horizontal axis.
        style: format and width.
        quantity: what the differences are of.

    Returns:
        The paths of ``traces.png``, ``differences.png``, ``rate-distortion.png``, ``bounds.png``
        and ``kl-by-dimension.png``, or of another format; of those that there are numbers for.

    Raises:
        ValueError: ``over`` is not one of the three.
    """
    if over not in AXES:
        raise ValueError(f"Expected over to be one of {', '.join(AXES)}; got {over!r}.")
    folder.mkdir(parents=True, exist_ok=True)
    unit = f"{groups[0].runs[0].unit} per datum"
    chosen = _best(groups)
    title, names = distinct([group.label for group in chosen])
    shown = [
        Shown(name, LOOKS[place], group)
        for place, (name, group) in enumerate(zip(names, chosen, strict=True))
    ]
    more = f", best {len(shown)} of {len(groups)} groups" if len(shown) < len(groups) else ""
    with style.applied():
        paths = [draw_traces(shown, folder, over, unit, style, title, more)]
        if known := [each for each in found if each.difference == each.difference]:
            paths.append(draw_differences(known, folder, unit, style, NAMES[quantity]))
        if points := rates(shown):
            paths.append(draw_plane(points, folder, unit, style, title, more))
        if bounds := [(each, curve) for each in shown if (curve := bound_curve(each))]:
            paths.append(draw_bounds(bounds, folder, unit, style, title, more))
        if kls := [(each, own) for each in shown if (own := sorted_kls(each))]:
            paths.append(draw_kls(kls, folder, style, title, more))
    return paths


def draw_traces(
    shown: Sequence[Shown],
    folder: Path,
    over: str,
    unit: str,
    style: Style = PLAIN,
    title: str = "",
    more: str = "",
) -> Path:
    """Draw the validation ELBO of groups of runs: the mean over seeds, and how sure it is.

    Three seeds and more have the 95 % band of a bootstrap over seeds, too narrow for so few (the
    verdicts are Student's); two are drawn thinly.

    Args:
        shown: the groups.
        folder: where to.
        over: ``step``, ``epoch`` or ``seconds``.
        unit: what the ELBO is measured in.
        style: format and width.
        title: of the legend.
        more: end of the title.
    """
    figure = style.figure(0.3 + 0.6 * style.width**0.9)
    axes = figure.subplots()
    entries: list[tuple[Any, str]] = []
    every: list[Row] = []
    for each in shown:
        valid = [run.trace.split("valid") for run in each.group.runs]
        every += [row for rows in valid for row in rows]
        # Seeds of one configuration validate at the same steps; an early end shortens the mean.
        length = min(map(len, valid), default=0)
        if not length:
            continue
        at = [fmean([getattr(rows[i], over) for rows in valid]) for i in range(length)]
        values = np.array([[row.elbo for row in rows[:length]] for rows in valid])
        (line,) = axes.plot(at, values.mean(0), markevery=max(1, length // 8), **each.look)
        entries.append((line, each.name + counted(each.group)))
        if len(valid) > 2:
            color = each.look["color"]
            axes.fill_between(at, *band(values), color=color, alpha=0.2, linewidth=0)
        for rows in valid if len(valid) == 2 else []:
            points = [(getattr(row, over), row.elbo) for row in rows]
            thin = {"color": each.look["color"], "alpha": 0.35, "linewidth": 0.7}
            axes.plot(*zip(*points, strict=True), **thin)
    zoom(axes, [row.elbo for row in every])
    axes.set(xlabel=AXES[over], ylabel=style.fits(f"validation ELBO ({unit})", 0.6))
    axes.set_title(style.fits(f"Validation ELBO{more}", 0.9))
    if entries:  # a run that has just begun has none
        style.legend(figure, entries, title)
    return style.save(figure, folder, "traces")


def band(values: np.ndarray) -> np.ndarray:
    """Return the 2.5 % and 97.5 % points of the mean over resampled seeds, (2, T), of (S, T)."""
    rng = np.random.default_rng(0)
    counts = rng.multinomial(len(values), np.full(len(values), 1 / len(values)), RESAMPLES)
    return np.quantile(counts @ values / len(values), (0.025, 0.975), axis=0)


def rates(shown: Sequence[Shown]) -> list[tuple[Shown, np.ndarray]]:
    """Return the groups with (rate, distortion) of each run, (S, 2); nothing if a run has none."""
    found = []
    for each in shown:
        known = [run.evaluation or {} for run in each.group.runs]
        if any(one.get("rate") is None or one.get("distortion") is None for one in known):
            return []
        points = np.array([(one["rate"], one["distortion"]) for one in known], dtype=float)
        found.append((each, points[np.isfinite(points).all(1)]))
    return found


def draw_plane(
    points: Sequence[tuple[Shown, np.ndarray]],
    folder: Path,
    unit: str,
    style: Style = PLAIN,
    title: str = "",
    more: str = "",
) -> Path:
    """Draw groups of runs in the rate-distortion plane, with lines of equal ELBO.

    ELBO = -(distortion + rate), so equal ELBOs lie on a line of slope -1; where on it a run lies
    says how much its code carries (Alemi et al. 2018, arXiv 1711.00464).

    Args:
        points: the groups, with (rate, distortion) of each run, (S, 2).
        folder: where to.
        unit: what the distortion is measured in.
        style: format and width.
        title: of the legend.
        more: end of the title.
    """
    figure = style.figure(0.3 + 0.7 * style.width**0.9)
    axes = figure.subplots()
    entries: list[tuple[Any, str]] = []
    for each, values in points:
        points_of = axes.scatter(values[:, 0], values[:, 1], s=16, zorder=3, **dots(each.look))
        entries.append((points_of, each.name + counted(each.group)))
    axes.margins(0.12)
    _equal_elbos(axes)
    axes.set(xlabel="rate: KL (nats per datum)", ylabel=style.fits(f"distortion ({unit})", 0.6))
    axes.set_title(style.fits(f"Rate and distortion; grey: equal ELBO{more}", 0.9))
    style.legend(figure, entries, title)
    return style.save(figure, folder, "rate-distortion")


def _equal_elbos(axes: "Axes") -> None:
    """Draw lines of equal ELBO at round values, each with its value where it enters."""
    from matplotlib.ticker import MaxNLocator

    axes.autoscale_view()
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    levels = MaxNLocator(5).tick_values(left + low, right + high)
    for total in levels:
        across, down = right - left, high - low
        if not left + low + 0.1 * (across + down) < total < right + high - 0.02 * (across + down):
            continue
        axes.axline((left, total - left), slope=-1, color="0.75", linewidth=0.6, zorder=1)
        x = max(left + 0.02 * across, total - high + 0.03 * down)
        axes.text(
            x, total - x, f"ELBO {-total:g}", fontsize=6, color="0.45", zorder=2, rotation=-45,
            rotation_mode="anchor", transform_rotates_text=True, va="bottom", ha="left",
            clip_on=True,
        )  # fmt: skip
    axes.set(xlim=(left, right), ylim=(low, high))


def draw_differences(
    found: Sequence[Difference],
    folder: Path,
    unit: str,
    style: Style = PLAIN,
    what: str = "log p(x)",
) -> Path:
    """Draw differences with their 95 % intervals, one a line, from the top.

    Args:
        found: whose difference is known; of more than 30 the clearest are drawn.
        folder: where to.
        unit: what a difference is measured in.
        style: format and width.
        what: the differences are of, in words.
    """
    clearest = sorted(range(len(found)), key=lambda place: found[place].p_value)
    some = [found[place] for place in sorted(clearest[:MOST_DIFFERENCES])]
    more = f", the {len(some)} clearest of {len(found)}" if len(some) < len(found) else ""
    share = 0.4 if style.column == "single" else 0.45
    names = [f"{style.fits(e.b, share, 2)}\nless {style.fits(e.a, share, 2)}" for e in some]
    heights = [0.1 + 0.14 * (name.count("\n") + 1) for name in names]
    figure = style.figure(0.9 + sum(heights))
    axes = figure.subplots()
    ends = np.cumsum(heights)
    places = ends - np.array(heights) / 2
    for place, each in zip(places, some, strict=True):
        clear = each.low > 0 or each.high < 0
        color = LOOKS[0]["color"]
        axes.plot([each.low, each.high], [place, place], color=color, linewidth=1.6)
        axes.plot(each.difference, place, marker="o", color=color, mfc=color if clear else "white")
    axes.axvline(0, color="0.5", linewidth=0.6, zorder=0)
    axes.set_yticks(places.tolist(), names)
    axes.set_ylim(ends[-1], 0)
    axes.locator_params(axis="x", nbins=max(3, int(style.width * (1 - share) / (8 * LETTER))))
    axes.set_xlabel(style.fits(f"difference of {what} ({unit})", 0.9 - share))
    figure.suptitle(style.fits(f"Differences, 95 % intervals{more}; filled: without 0", 0.95))
    return style.save(figure, folder, "differences")


def _best(groups: Sequence[Group]) -> list[Group]:
    """Return the groups to draw, in their order."""
    if len(groups) <= MOST:
        return list(groups)

    def elbo(group: Group) -> float:
        best = [row.elbo for run in group.runs if (row := run.trace.best()) is not None]
        return fmean(best) if best else -np.inf

    chosen = sorted(groups, key=elbo, reverse=True)[:MOST]
    return [group for group in groups if any(group is each for each in chosen)]

"""Curves of a comparison: the bound over the number of draws, and the KL of each dimension."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .shown import PLAIN, Shown, counted
from .styles import Style

MOST_SITES = 4
"""Latent sites that a figure shows: those with the largest KL."""


def bound_curve(each: Shown) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    r"""Return numbers K of draws, the mean bound at each, and its standard error, (T,) each.

    With :math:`L_{s n}(K)` of seed s and datum n, the error is that over data and, from two seeds
    on, over seeds: :math:`\operatorname{var}_n \bar L_{\cdot n} / N +
    \operatorname{var}_s \bar L_{s \cdot} / S`, its root. Groups share the data, so that two of them
    differ more surely than their errors say; `difference` pairs them.

    None where a run is not evaluated, or two were evaluated at other numbers of draws or on other
    data.
    """
    arrays = [run.evaluation_arrays or {} for run in each.group.runs]
    if any("curve" not in one for one in arrays):
        return None
    steps, curves = arrays[0]["steps"], [one["curve"] for one in arrays]
    alike = all(np.array_equal(one["steps"], steps) for one in arrays)
    if not alike or len({curve.shape for curve in curves}) > 1:
        return None
    by_datum = np.mean(curves, 0)
    size, seeds = by_datum.shape[1], len(curves)
    variance = by_datum.var(1, ddof=1) / size if size > 1 else np.zeros(len(steps))
    if seeds > 1:
        variance = variance + np.var([curve.mean(1) for curve in curves], axis=0, ddof=1) / seeds
    return steps, by_datum.mean(1), np.sqrt(variance)


def draw_bounds(
    curves: Sequence[tuple[Shown, tuple[np.ndarray, np.ndarray, np.ndarray]]],
    folder: Path,
    unit: str,
    style: Style = PLAIN,
    title: str = "",
    more: str = "",
) -> Path:
    """Draw bounds over the number of draws: a curve that still rises is a bound that is too low.

    Args:
        curves: the groups, with what `bound_curve` returned.
        folder: where to.
        unit: what the bound is measured in.
        style: format and width.
        title: of the legend.
        more: end of the title.
    """
    figure = style.figure(0.3 + 0.6 * style.width**0.9)
    axes = figure.subplots()
    entries: list[tuple[Any, str]] = []
    for place, (each, (steps, mean, error)) in enumerate(curves):
        aside = 1.04 ** (place - (len(curves) - 1) / 2)  # error bars stand beside each other
        artist = axes.errorbar(steps * aside, mean, error, capsize=1.5, elinewidth=0.7, **each.look)
        entries.append((artist, each.name + counted(each.group)))
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel("number K of draws")
    axes.set_ylabel(style.fits(f"K-sample bound on log p(x) ({unit})", 0.6))
    seeds = " and seeds" if any(len(each.group.runs) > 1 for each, _ in curves) else ""
    axes.set_title(style.fits(f"Bound over K, 1 s.e. over data{seeds}{more}", 0.9))
    style.legend(figure, entries, title)
    return style.save(figure, folder, "bounds")


def sorted_kls(each: Shown) -> dict[str, np.ndarray]:
    """Return the sorted KLs of the dimensions of each latent site, (S, Z), by its name.

    They are what ``lowerbound evaluate`` found (`Diagnostics.summary`); a run with fewer
    dimensions has 0 in the others. A site that a run of the group lacks is left out.
    """
    found = [_kls_of(run.evaluation or {}) for run in each.group.runs]
    names = [name for name in found[0] if all(name in one for one in found)]
    kls: dict[str, np.ndarray] = {}
    for name in names:
        longest = max(len(one[name]) for one in found)
        kls[name] = np.array([one[name] + [0.0] * (longest - len(one[name])) for one in found])
    return kls


def draw_kls(
    kls: Sequence[tuple[Shown, dict[str, np.ndarray]]],
    folder: Path,
    style: Style = PLAIN,
    title: str = "",
    more: str = "",
) -> Path:
    """Draw the KL of each dimension of the code, from the largest: which of them say something.

    The mean over seeds, with their standard deviation where there are two or more.

    Args:
        kls: the groups, with what `sorted_kls` returned.
        folder: where to.
        style: format and width.
        title: of the legend.
        more: end of the title.
    """
    sites = _largest(kls)
    width = 1 if style.column == "single" else min(2, len(sites))
    height = math.ceil(len(sites) / width)
    figure = style.figure(0.3 + height * (1.9 if width * height > 1 else 0.6 * style.width**0.9))
    panels = figure.subplots(height, width, squeeze=False).flatten()
    entries: dict[str, Any] = {}
    for axes, site in zip(panels, sites, strict=False):
        for place, (each, own) in enumerate(kls):
            if site not in own:
                continue
            values = own[site]
            error = values.std(0, ddof=1) if len(values) > 1 else None
            at = np.arange(values.shape[1]) + 1 + 0.06 * (place - (len(kls) - 1) / 2)
            artist = axes.errorbar(
                at, values.mean(0), error, capsize=1.5, elinewidth=0.7, **each.look
            )
            entries.setdefault(each.name + counted(each.group), artist)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_xlabel("dimension, from the largest KL")
        axes.set_ylabel("KL (nats per datum)")
        if len(sites) > 1:
            axes.set_title(style.fits(f"site {site}", 0.8 / width, 1))
    for axes in panels[len(sites) :]:
        axes.remove()
    spread = ", 1 s.d. over seeds" if any(len(each.group.runs) > 1 for each, _ in kls) else ""
    figure.suptitle(style.fits(f"KL by dimension{spread}{more}", 0.9))
    style.legend(figure, [(artist, name) for name, artist in entries.items()], title)
    return style.save(figure, folder, "kl-by-dimension")


def _largest(kls: Sequence[tuple[Shown, dict[str, np.ndarray]]]) -> list[str]:
    sums: dict[str, float] = {}
    for _, own in kls:
        for name, values in own.items():
            sums[name] = max(sums.get(name, 0.0), float(values.sum()))
    return sorted(sums, key=lambda name: -sums[name])[:MOST_SITES]


def _kls_of(evaluation: dict[str, Any]) -> dict[str, list[float]]:
    """Return the sorted KLs by site; a run's file may hold anything in their place."""
    diagnostics = evaluation.get("diagnostics")
    sites = diagnostics.get("sites") if isinstance(diagnostics, dict) else None
    found: dict[str, list[float]] = {}
    for name, site in sites.items() if isinstance(sites, dict) else ():
        values = site.get("kl_sorted") if isinstance(site, dict) else None
        numbers = isinstance(values, list) and all(type(v) in (int, float) for v in values)
        if numbers and values and site.get("kl_by_dimension") is True:
            found[name] = list(map(float, values))
    return found

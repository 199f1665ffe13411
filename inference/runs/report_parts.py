"""What a report draws, as plain data: traces thinned by their extremes, curves, pictures."""

import base64
import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from ..training.trace import Row
from .comparison import Group
from .differences import LEVEL, Difference
from .run import Run
from .tables import printable

POINTS = 40_000
"""Points of all traces of one split: as many as a browser draws at once without a wait."""

FEWEST, MOST = 100, 2000
"""Points of one trace, however many traces there are, and however few."""

SHOWN = ("elbo", "kl", "reconstruction")
"""What a trace can show."""

AXES = ("step", "epoch", "seconds")

RESAMPLES = 200
"""Resamples of seeds for a band: its ends then have an error of about a tenth of its width."""

PICTURES = ("samples", "reconstructions")
LARGEST = 400_000
"""Bytes of a picture that is put into a report."""

WIDEST = 4000
"""Pixels of its sides."""

ALBUM = 5_000_000
"""Bytes of all pictures of a report."""

FOREST = 40
"""Differences that are drawn, one a line."""


def thin(values: np.ndarray, points: int) -> np.ndarray:
    """Choose points of curves such that no peak is lost: the extremes of each bin, not a stride.

    Bins have equal numbers of points. Of each, the places of the smallest and the largest value of
    each curve stay, besides the first and the last point.

    >>> import numpy as np
    >>> from inference.runs.report_parts import thin
    >>> values = np.zeros((1, 1000))
    >>> values[0, 567] = -9.0
    >>> 567 in thin(values, 10)
    True

    Args:
        values: of C curves at T points, (C, T); nan is no extreme.
        points: about how many may stay.

    Returns:
        The places of those that stay, in order; all where they are few enough.
    """
    curves, length = values.shape
    if length <= max(points, 2):
        return np.arange(length)
    bins = max(1, (points - 2) // (2 * curves))
    edges = np.linspace(0, length, bins + 1).astype(int)
    low, high = (
        np.where(np.isnan(values), np.inf, values),
        np.where(np.isnan(values), -np.inf, values),
    )
    kept = {0, length - 1}
    for start, end in pairwise(edges.tolist()):
        if start < end:
            kept.update((start + low[:, start:end].argmin(1)).tolist())
            kept.update((start + high[:, start:end].argmax(1)).tolist())
    return np.array(sorted(kept))


def numbers(values: Iterable[Any], digits: int = 7) -> list[float | int | None]:
    """Return numbers as JSON has them: so many figures, None for what is none or not finite."""
    return [_number(value, digits) for value in values]


def trace_data(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Return the traces of each group: of its seeds, and on valid their mean with a band.

    Three seeds and more have the 95 % band of a bootstrap over seeds, two the range between them.
    """
    count = sum(len(group.runs) for group in groups)
    points = min(MOST, max(FEWEST, POINTS // max(1, count)))
    return [
        {
            "seeds": [
                {
                    "name": printable(str(run.path)),
                    **{
                        name: _thinned(run.trace.split(name), points) for name in ("valid", "train")
                    },
                }
                for run in group.runs
            ],
            "mean": _mean([run.trace.split("valid") for run in group.runs], points),
        }
        for group in groups
    ]


def curve_data(groups: Sequence[Group]) -> list[dict[str, Any] | None]:
    """Return each group's bound over K, the mean of its seeds, and its share of heavy tails.

    ``heavy`` is the share of data whose Pareto k-hat, of the weights of the largest K, is above
    0.7: there the bound's error is not known (Vehtari et al. 2024, arXiv 1507.02646).
    """
    return [_curve([run.evaluation or {} for run in group.runs]) for group in groups]


def plane_data(groups: Sequence[Group]) -> list[list[dict[str, Any]]]:
    """Return rate, distortion and run of each evaluated run, nats per datum, by group."""
    return [
        [
            {"rate": rate, "distortion": distortion, "name": printable(str(run.path))}
            for run in group.runs
            for rate, distortion in [
                numbers((run.evaluation or {}).get(k) for k in ("rate", "distortion"))
            ]
            if rate is not None and distortion is not None
        ]
        for group in groups
    ]


def code_data(groups: Sequence[Group]) -> list[list[dict[str, Any]]]:
    """Return the KL by dimension, sorted, of each latent site of each run that was diagnosed."""
    return [[found for run in group.runs for found in _sites(run)] for group in groups]


def forest_data(found: Sequence[Difference], groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Return the known differences with their intervals, the first `FOREST` of them."""
    places = {group.label: place for place, group in enumerate(groups)}
    known = [each for each in found if not math.isnan(each.difference)]
    return [
        {
            "a": places[each.a],
            "b": places[each.b],
            "at": numbers((each.low, each.difference, each.high)),
            "kind": kind_of(each),
            "p": _number(each.p_value, 3),
        }
        for each in known[:FOREST]
    ]


def kind_of(found: Difference) -> str:
    """Return ``better``, ``worse`` or ``open``, as the verdict says it: after Holm's correction."""
    if not found.p_value < LEVEL:
        return "open"
    return "better" if found.difference > 0 else "worse"


def album(groups: Sequence[Group]) -> list[dict[str, str]]:
    """Return samples and reconstructions of a run of each group as data URIs, by their kind.

    The run is the first of the group's that has any. Files that are no small PNG are left out, and
    so are those that would make the report too large; ``run`` names the run.
    """
    left = ALBUM
    pages: list[dict[str, str]] = []
    for group in groups:
        page: dict[str, str] = {}
        for run in group.runs:
            for kind in PICTURES:
                found = small_png(run.path / "figures" / f"{kind}.png")
                if found is not None and len(found) <= left:
                    left -= len(found)
                    page[kind] = f"data:image/png;base64,{base64.b64encode(found).decode()}"
            if page:
                page["run"] = printable(str(run.path))
                break
        pages.append(page)
    return pages


def small_png(path: Path) -> bytes | None:
    """Return the bytes of a small PNG; None where there is none, or a link, or another file."""
    try:
        if path.is_symlink() or not path.is_file() or path.stat().st_size > LARGEST:
            return None
        found = path.read_bytes()
    except OSError:
        return None
    if len(found) < 33 or found[:8] != b"\x89PNG\r\n\x1a\n" or found[12:16] != b"IHDR":
        return None
    return found if all(0 < side <= WIDEST for side in struct.unpack(">II", found[16:24])) else None


def _number(value: Any, digits: int = 7) -> float | int | None:
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        return None
    if isinstance(value, int):
        return value if abs(value) < 2**53 else float(value) if abs(value) < 2**63 else None
    return float(f"{value:.{digits}g}") if math.isfinite(value) else None


def _columns(rows: Sequence[Row], names: Sequence[str]) -> np.ndarray:
    return np.array([[getattr(row, name) for row in rows] for name in names], float)


def _thinned(rows: Sequence[Row], points: int) -> dict[str, list[Any]]:
    kept = [rows[i] for i in thin(_columns(rows, SHOWN[:2]), points)] if rows else []
    return {name: numbers(getattr(row, name) for row in kept) for name in (*AXES, *SHOWN)}


def _mean(members: Sequence[Sequence[Row]], points: int) -> dict[str, list[Any]] | None:
    """Return the mean over seeds as far as all of them have come, thinned, with its band."""
    length = min(map(len, members))
    if len(members) < 2 or not length:
        return None
    values = np.stack([_columns(rows[:length], SHOWN) for rows in members])  # (S, 3, T)
    at = np.stack([_columns(rows[:length], AXES) for rows in members]).mean(0)
    with np.errstate(invalid="ignore"):  # of an infinite bound
        kept = thin(values.mean(0)[:2], points)
        some = values[:, :, kept]
        means, (low, high) = some.mean(0), _band(some)
    found: dict[str, list[Any]] = {"seeds": [len(members)]}
    for place, name in enumerate(AXES):
        found[name] = numbers(at[place, kept].tolist())
    for place, name in enumerate(SHOWN):
        found[name] = numbers(means[place].tolist())
        found[f"{name}_low"] = numbers(low[place].tolist())
        found[f"{name}_high"] = numbers(high[place].tolist())
    return found


def _band(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of the band about the mean of S curves, each (C, T), of (S, C, T)."""
    count = len(values)
    if count < 3:
        return values.min(0), values.max(0)
    chosen = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), RESAMPLES)
    means = np.einsum("rs,sct->rct", chosen / count, values)
    low, high = np.quantile(means, (0.025, 0.975), axis=0)
    return low, high


def _curve(evaluations: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    found = [each.get("curve") for each in evaluations]
    curves = [each for each in found if isinstance(each, dict)]
    if not curves or len(curves) < len(evaluations):
        return None
    places = [k for k in curves[0] if k.isascii() and k.isdigit() and all(k in c for c in curves)]
    pairs = {int(k): numbers(c[k] for c in curves) for k in places if len(k) < 10}
    known = {k: [v for v in values if v is not None] for k, values in sorted(pairs.items())}
    whole = {k: values for k, values in known.items() if len(values) == len(curves)}
    shares = [
        v for v in numbers(e.get("k_hat_share_above_0.7") for e in evaluations) if v is not None
    ]
    return {
        "k": list(whole),
        "bound": numbers(fmean(values) for values in whole.values()),
        "heavy": _number(fmean(shares), 3) if shares else None,
    }


def _sites(run: Run) -> list[dict[str, Any]]:
    diagnostics = (run.evaluation or {}).get("diagnostics")
    sites = diagnostics.get("sites") if isinstance(diagnostics, dict) else None
    return [
        {
            "name": f"{printable(str(run.path))}, {printable(str(name))}",
            "kl": numbers(site["kl_sorted"], 4),
            "active": _number(site.get("active_units")),
            "units": _number(site.get("units")),
        }
        for name, site in (sites.items() if isinstance(sites, dict) else ())
        if isinstance(site, dict)
        and site.get("kl_by_dimension") is True
        and isinstance(site.get("kl_sorted"), list)
    ]

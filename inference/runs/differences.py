"""Differences of configurations: paired by datum, with errors over data and over seeds."""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

LEVEL = 0.05
"""A difference counts where its p-value, after Holm's correction, is below this."""

MOST_SEEDS = 1000
"""As many more seeds are looked ahead; where they would not do, that is said."""


@dataclass(frozen=True)
class Scores:
    """What was measured of one configuration.

    Args:
        label: its name.
        values: bound on log p(x) of each of N data for each of S seeds, nats, (S, N).
        seeds: of training, in the order of the rows.
        noise: Monte Carlo standard error of each value, (S, N); None where it is not known.
        by_repeat: mean over the data for each draw of the sites that all data share, (R,), for a
            single seed; None where there are none, or the seeds' spread has that of the draws.
    """

    label: str
    values: np.ndarray
    seeds: tuple[int, ...]
    noise: np.ndarray | None = None
    by_repeat: np.ndarray | None = None

    @property
    def means(self) -> np.ndarray:
        """The mean over the data for each seed, (S,)."""
        return self.values.mean(1)


@dataclass(frozen=True)
class Difference:
    r"""How much larger one configuration's mean is than another's, nats per datum.

    Args:
        a: label of the one.
        b: label of the other.
        difference: mean of b less mean of a; above 0 where b is better.
        se_data: standard error over the data, of which the draws' noise is a part.
        se_seeds: standard error over the seeds of training; nan where one has a single seed.
        se_draws: the part of ``se_data`` that the Monte Carlo estimate adds; nan if unknown.
        low: lower end of the 95 % interval.
        high: its upper end.
        p_value: that a difference as large arises by chance, two-sided; see `holm`.
        wins: probability that a new seed of b beats a new seed of a on these data; nan where one
            has a single seed.
        seeds: number of seeds of a and of b.
        paired: whether the error over seeds is that of pairs with the same seed.
        more_seeds: about how many more seeds of each would show a difference of this size; None
            where no number would, or one has a single seed.
        note: what else to know of it, in words.
    """

    a: str
    b: str
    difference: float
    se_data: float
    se_seeds: float
    se_draws: float
    low: float
    high: float
    p_value: float
    wins: float
    seeds: tuple[int, int]
    paired: bool
    more_seeds: int | None
    note: str = ""

    @property
    def se(self) -> float:
        """Standard error over data and, where it is known, over seeds."""
        return math.hypot(self.se_data, 0.0 if math.isnan(self.se_seeds) else self.se_seeds)

    @property
    def verdict(self) -> str:
        """What the numbers say of b against a, in words."""
        if math.isnan(self.difference):
            return self.note
        digits = digits_of(self.se)
        size, interval = f"{abs(self.difference):.{digits}f}", self._interval(digits)
        one = 1 in self.seeds
        if self.p_value < LEVEL:
            said = f"{'better' if self.difference > 0 else 'worse'} by {size} {interval}"
        elif one:
            said = f"not distinguishable on these data {interval}"
        elif self.more_seeds is None:
            said = f"not distinguishable {interval}; more seeds alone would not show {size}"
        else:
            seeds = "seed" if self.more_seeds == 1 else "seeds"
            more = f"about {self.more_seeds} more {seeds} each would show {size}"
            said = f"not distinguishable {interval}; {more}"
        few = "1 seed each" if self.seeds == (1, 1) else "1 seed of one" if one else ""
        alone = f"{few}: says nothing of training's variation" if few else ""
        return "; ".join(filter(None, (said, alone, self.note)))

    def _interval(self, digits: int) -> str:
        return f"[{self.low:.{digits}f}, {self.high:.{digits}f}]"


def difference(a: Scores, b: Scores) -> Difference:
    r"""Compare two configurations on the same data.

    With y[s, n] the value of seed s and datum n, :math:`d_n = \bar y_{B n} - \bar y_{A n}`, means
    over seeds, and :math:`D = \bar d`:

    .. math:: \operatorname{var} D = \frac{\operatorname{var}_n d_n}{N}
              + \frac{\operatorname{var}_s \bar y_{A s}}{S_A}
              + \frac{\operatorname{var}_s \bar y_{B s}}{S_B}

    The interval is Student's, with the degrees of freedom of Welch and Satterthwaite over these
    terms. Where both have the same seeds, and their means are correlated over them by a one-sided
    test at 5 %, the variance of the differences over S takes the place of the last two terms. With
    a single seed a configuration has no such term: the interval is over the data alone.

    Sources: Welch 1947, Biometrika 34; Vehtari et al. 2017, arXiv 1507.04544 (pairs by datum).

    >>> import numpy as np
    >>> from inference.runs.differences import Scores, difference
    >>> rng = np.random.default_rng(0)
    >>> data, seeds = rng.normal(-90, 20, 200), rng.normal(0, 0.1, (2, 5, 1))
    >>> noise = rng.normal(0, 0.5, (2, 5, 200))
    >>> a, b = (Scores(name, data + seeds[i] + noise[i] + i, (0, 1, 2, 3, 4))
    ...         for i, name in enumerate("ab"))
    >>> difference(a, b).verdict
    'better by 1.026 [0.848, 1.204]'

    Args:
        a: the one.
        b: the other, of the same N data, two or more.

    Raises:
        ValueError: the two have other numbers of data, or fewer than two.
    """
    size = a.values.shape[1]
    if b.values.shape[1] != size or size < 2:
        raise ValueError(
            f"Expected values of the same data, two or more; got {size:,} of {a.label} and "
            f"{b.values.shape[1]:,} of {b.label}."
        )
    by_datum = b.values.mean(0) - a.values.mean(0)
    data = (float(by_datum.var(ddof=1)) / size, size - 1)
    seeds, paired = _over_seeds(a, b)
    shared = [
        (float(scores.by_repeat.var(ddof=1)) / len(scores.by_repeat), len(scores.by_repeat) - 1.0)
        for scores in (a, b)
        if scores.by_repeat is not None and len(scores.by_repeat) > 1
    ]
    value, (low, high), p_value = _student(float(by_datum.mean()), [data, *seeds, *shared])
    known = len(a.seeds) > 1 and len(b.seeds) > 1
    return Difference(
        a.label,
        b.label,
        value,
        se_data=math.sqrt(data[0]),
        se_seeds=math.sqrt(sum(term for term, _ in seeds)) if known else math.nan,
        se_draws=math.sqrt(_noise(a) + _noise(b)),
        low=low,
        high=high,
        p_value=p_value,
        wins=_wins(a, b, value) if known else math.nan,
        seeds=(len(a.seeds), len(b.seeds)),
        paired=paired,
        more_seeds=_more_seeds(value, data, seeds) if known else None,
    )


def holm(differences: Sequence[Difference]) -> list[Difference]:
    """Return the same differences with p-values corrected for their number.

    Source: Holm 1979, Scandinavian Journal of Statistics 6.
    """
    known = [i for i, each in enumerate(differences) if not math.isnan(each.p_value)]
    corrected, least = list(differences), 0.0
    for rank, i in enumerate(sorted(known, key=lambda i: differences[i].p_value)):
        least = max(least, min(1.0, differences[i].p_value * (len(known) - rank)))
        corrected[i] = replace(differences[i], p_value=least)
    return corrected


def unknown(a: str, b: str, reason: str, seeds: tuple[int, int] = (0, 0)) -> Difference:
    """Return a difference that can't be had, with the reason in words."""
    nan = math.nan
    return Difference(a, b, nan, nan, nan, nan, nan, nan, nan, nan, seeds, False, None, reason)


def digits_of(error: float) -> int:
    """Return how many decimals show two figures of a standard error; from 2 to 6."""
    if not error > 0 or not math.isfinite(error):
        return 2
    return min(6, max(2, 1 - math.floor(math.log10(error))))


Term = tuple[float, float]
"""A part of a variance, and its degrees of freedom."""


def _over_seeds(a: Scores, b: Scores) -> tuple[list[Term], bool]:
    """Return the terms of training's variation, and whether they are those of pairs."""
    from scipy import stats  # takes a second, and only comparisons need it

    one, other = a.means, b.means
    separate = [
        (float(means.var(ddof=1)) / len(means), len(means) - 1.0)
        for means in (one, other)
        if len(means) > 1
    ]
    same = len({*a.seeds}) == len(a.seeds) and {*a.seeds} == {*b.seeds}
    if not same or len(one) < 3 or not (one.std() > 0 and other.std() > 0):
        return separate, False
    other = other[[b.seeds.index(seed) for seed in a.seeds]]
    correlated: Any = stats.pearsonr(one, other, alternative="greater")
    if correlated.pvalue >= LEVEL:
        return separate, False
    return [(float((other - one).var(ddof=1)) / len(one), len(one) - 1.0)], True


def _student(value: float, terms: Sequence[Term]) -> tuple[float, tuple[float, float], float]:
    """Return a value with its 95 % interval and two-sided p-value."""
    from scipy import special

    variance = sum(term for term, _ in terms)
    if variance == 0.0:
        return value, (value, value), float(value == 0.0)
    freedom = variance**2 / sum(term**2 / free for term, free in terms)
    error = math.sqrt(variance)
    # Student's distribution by its own functions: stats.t takes a hundred times as long.
    half = float(special.stdtrit(freedom, 1 - LEVEL / 2)) * error
    p_value = 2 * float(special.stdtr(freedom, -abs(value) / error))
    return value, (value - half, value + half), p_value


def _noise(scores: Scores) -> float:
    """Return the variance that the draws add to a configuration's mean; nan if unknown."""
    if scores.noise is None:
        return math.nan
    return float(np.square(scores.noise).sum()) / scores.values.size**2


def _wins(a: Scores, b: Scores, value: float) -> float:
    """Return the predictive probability that a new seed of b has a larger mean."""
    from scipy import special

    sizes = [(float(s.means.var(ddof=1)), len(s.means)) for s in (a, b)]
    terms = [(variance * (1 + 1 / size), size - 1.0) for variance, size in sizes]
    spread = sum(term for term, _ in terms)
    if spread == 0.0:
        return 0.5 if value == 0 else float(value > 0)
    freedom = spread**2 / sum(term**2 / free for term, free in terms)
    return float(special.stdtr(freedom, value / math.sqrt(spread)))


def _more_seeds(value: float, data: Term, seeds: Sequence[Term]) -> int | None:
    """Return how many more seeds of each would have the interval leave 0 out."""

    def shown(more: int) -> bool:
        grown = [(v * (f + 1) / (f + 1 + more), f + more) for v, f in seeds]
        return _student(value, [data, *grown])[2] < LEVEL

    tried = range(1, MOST_SEEDS + 1)  # more seeds never show less
    place = bisect_left(tried, True, key=shown)
    return tried[place] if place < len(tried) else None

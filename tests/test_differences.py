"""Differences of configurations: intervals that cover, verdicts, files of numbers."""

import csv
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from scipy import stats

from inference.runs import Run, compare
from inference.runs.differences import Difference, Scores, difference, holm, unknown
from inference.runs.frames import write_numbers
from inference.runs.tables import (
    DIFFERENCES,
    difference_cells,
    group_numbers,
    latex,
    markdown,
    reached,
)
from inference.runs.verdicts import verdicts
from inference.training.trace import Row

FACTS = {"data": {"name": "bits", "hash": "0", "unit": "nats"}, "parameters": 1000}


def scores(label: str, means: list[float], by_datum: list[float]) -> Scores:
    """Return values whose mean over data is ``means`` and whose shape over data is the other."""
    shape = np.array(by_datum) - np.mean(by_datum)
    return Scores(label, np.array(means)[:, None] + shape, tuple(range(len(means))))


def test_terms_by_hand() -> None:
    """d is 0, 1, 2: var 1, N = 3. Seeds of a are 0, 2: var 2, S = 2; of b 2, 1, 3: var 1, S = 3."""
    a, b = scores("a", [0.0, 2.0], [0, 0, 0]), scores("b", [2.0, 1.0, 3.0], [0, 1, 2])
    found = difference(a, b)
    assert found.difference == pytest.approx(1.0)
    assert found.se_data == pytest.approx(math.sqrt(1 / 3))
    assert found.se_seeds == pytest.approx(math.sqrt(2 / 2 + 1 / 3))
    variance = 1 / 3 + 1 + 1 / 3
    freedom = variance**2 / ((1 / 3) ** 2 / 2 + 1**2 / 1 + (1 / 3) ** 2 / 2)
    half = stats.t.ppf(0.975, freedom) * math.sqrt(variance)
    assert (found.low, found.high) == pytest.approx((1 - half, 1 + half))
    assert found.p_value == pytest.approx(2 * stats.t.sf(1 / math.sqrt(variance), freedom))
    # A new seed of each: variances 2 (1 + 1/2) = 3 and 1 (1 + 1/3) = 4/3, of 1 and 2 degrees.
    spread = 3 + 4 / 3
    wins = stats.t.cdf(1 / math.sqrt(spread), spread**2 / (9 + (4 / 3) ** 2 / 2))
    assert found.wins == pytest.approx(wins)
    assert (found.seeds, found.paired) == ((2, 3), False)
    assert math.isnan(found.se_draws)


def test_seeds_are_paired_where_their_means_go_together() -> None:
    a = scores("a", [0.0, 1.0, 2.0, 3.0, 4.0], [0, 1, 0, 1])
    b = scores("b", [0.1, 1.0, 2.1, 3.0, 4.1], [0, 1, 0, 1.0])
    found = difference(a, b)
    assert found.paired
    assert found.se_seeds == pytest.approx(np.std([0.1, 0, 0.1, 0, 0.1], ddof=1) / math.sqrt(5))
    turned = Scores("b", b.values[::-1], (4, 3, 2, 1, 0))  # the same runs in another order
    assert difference(a, turned).se_seeds == pytest.approx(found.se_seeds)
    other = Scores("b", b.values, (5, 6, 7, 8, 9))
    assert not difference(a, other).paired
    assert difference(a, other).se_seeds > 10 * found.se_seeds
    crossed = scores("b", [4.0, 3.0, 2.0, 1.0, 0.0], [0, 1, 0, 1])
    assert not difference(a, crossed).paired


def test_noise_of_draws_is_a_part_of_the_error_over_data() -> None:
    """Two seeds and four data with an error of 0.2 each: sqrt(8 * 0.04) / 8 a configuration."""
    values = np.zeros((2, 4))
    a, b = (Scores(name, values, (0, 1), np.full((2, 4), 0.2)) for name in "ab")
    assert difference(a, b).se_draws == pytest.approx(math.sqrt(2 * 8 * 0.04) / 8)


@pytest.mark.parametrize(
    ("a", "b", "words"),
    [
        ([0.0, 0.1, -0.1], [1.0, 1.1, 0.9], "better by 1.000 ["),
        ([1.0, 1.1, 0.9], [0.0, 0.1, -0.1], "worse by 1.000 ["),
        ([0.0, 1.0, 2.0], [0.5, 1.5, 2.4], "more seeds each would show 0.47"),
        ([0.0, 9.0], [0.001, 9.001], "more seeds alone would not show 0.0"),
        ([0.0], [1.0], "better by 1.000 [0.926, 1.074]; 1 seed each: says nothing of"),
        ([0.0, 0.1], [1.0], "1 seed of one: says nothing of training's variation"),
        ([0.0], [0.0], "not distinguishable on these data [-0.074, 0.074]; 1 seed each"),
    ],
)
def test_verdicts_in_words(a: list[float], b: list[float], words: str) -> None:
    """Of 64 values, evenly from -1/2 to 1/2, the error is sqrt(65 / 12) / 63 = 0.0369; t 1.998."""
    noise = np.random.default_rng(0).permutation(np.linspace(-0.5, 0.5, 64)).tolist()
    one = Scores("a", np.array(a)[:, None] + np.zeros(64), tuple(range(len(a))))
    other = Scores("b", np.array(b)[:, None] + np.array(noise), tuple(range(10, 10 + len(b))))
    assert words in difference(one, other).verdict


def test_more_seeds_are_as_many_as_it_takes() -> None:
    """The number said is the first with which an interval of the same variances leaves out 0."""
    a, b = (scores(name, [m, m + 1, m - 1], [0.0] * 50) for name, m in (("a", 0.0), ("b", 0.8)))
    more = difference(a, Scores("b", b.values, (7, 8, 9))).more_seeds
    assert more is not None

    def p_value(size: int) -> float:  # both variances are 1, each over `size` seeds
        return 2 * float(stats.t.sf(0.8 / math.sqrt(2 / size), 2 * (size - 1)))

    assert p_value(3 + more) < 0.05 <= p_value(3 + more - 1)


def test_holm() -> None:
    """Of 0.04, 0.01, 0.03: 0.01 * 3, then 0.03 * 2, then the larger of 0.04 and the one before."""

    def with_p(p: float) -> Difference:
        return Difference("a", "b", 1, 1, 1, 1, 0, 1, p, 0.5, (2, 2), False, None)

    found = holm([with_p(0.04), with_p(0.01), unknown("a", "b", "why"), with_p(0.03)])
    assert [each.p_value for each in found] == pytest.approx(
        [0.06, 0.03, math.nan, 0.06], nan_ok=True
    )
    assert [each.p_value for each in holm([with_p(0.9), with_p(0.8)])] == [1.0, 1.0]


@pytest.mark.parametrize("repetitions", [60, pytest.param(1000, marks=pytest.mark.slow)])
def test_intervals_cover(repetitions: int) -> None:
    """From 93 to 99 % of the 95 % intervals cover the truth, whatever share of variance is seeds'.

    At 1,000 repetitions a true 94 % falls below 91.5 %, the bound here, once in 2,000 cells; with
    60 a cell, only all cells of a number of seeds together are asked.
    """
    rng, size = np.random.default_rng(3), 200
    for count in (2, 3, 5, 10):
        covered: list[float] = []
        for share in (0.0, 0.2, 0.5, 0.8, 1.0):
            for together in (0.0, 0.9):  # correlation of the two configurations over the seeds
                hits = [_covers(rng, size, count, share, together) for _ in range(repetitions)]
                covered.append(float(np.mean(hits)))
        if repetitions >= 1000:
            assert min(covered) > 0.915, (count, covered)
        assert 0.925 < np.mean(covered) < 0.99, (count, covered)


def _covers(rng: np.random.Generator, size: int, count: int, share: float, together: float) -> bool:
    """Draw two configurations with a true difference of 0.3 and see whether the interval has it."""
    data = rng.normal(-90, 20, size)
    common = rng.normal(size=count)
    effects = [
        math.sqrt(share * count / 2)
        * (math.sqrt(together) * common + math.sqrt(1 - together) * rng.normal(size=count))
        for _ in range(2)
    ]
    own = rng.normal(0.3, math.sqrt((1 - share) * size), size)
    own += 0.3 - own.mean() if share == 1.0 else 0.0
    noise = rng.normal(0, 0.1, (2, count, size))
    a = Scores("a", data + effects[0][:, None] + noise[0], tuple(range(count)))
    b = Scores("b", data + own + effects[1][:, None] + noise[1], tuple(range(count)))
    found = difference(a, b)
    return found.low <= 0.3 <= found.high


def evaluated(path: Path, seed: int, value: float, stop: int = 3, **changes: Any) -> Run:
    """Return a run with an evaluation of 40 data around a value."""
    config = {"seed": seed, "epochs": 3, "latent_dim": changes.pop("latent_dim", 2)}
    run = Run.create(path, yaml.safe_dump(config), FACTS)
    for epoch in range(1, stop + 1):
        run.trace.append(Row(10 * epoch, epoch, 0.5 * epoch, "valid", value - 3 + epoch, 0.0, 0.0))
    log_px = value + np.sin(np.arange(40.0)) + 0.01 * np.cos(np.arange(40.0) * (seed + value))
    curve = np.stack([log_px - 2, log_px - changes.pop("rise", 0.1), log_px])
    noise = np.full(40, 0.01)
    summary = {
        "log_px": log_px.mean(), "log_px_se": log_px.std() / 6, "elbo": value - 2, "particles": 100,
        "split": "test", "count": 40, "seed": 0, "k_hat_share_above_0.7": 0.0, **changes,
    }  # fmt: skip
    arrays = {
        "log_px": log_px, "elbo": log_px - 2, "log_px_mc_se": noise, "curve": curve,
        "steps": np.array([1, 10, 100]),
    }  # fmt: skip
    run.write_evaluation(summary, arrays)
    return run


def test_verdicts_of_runs(tmp_path: Path) -> None:
    runs = [
        evaluated(tmp_path / f"{z}-{seed}", seed, -90 + z / 10 + 0.01 * seed, latent_dim=z)
        for z in (2, 4, 8)
        for seed in (0, 1)
    ]
    groups = compare(runs)
    found = verdicts(groups)
    assert [(each.a, each.b) for each in found] == [
        ("latent_dim=2", "latent_dim=4"),
        ("latent_dim=2", "latent_dim=8"),
        ("latent_dim=4", "latent_dim=8"),
    ]
    assert found[0].difference == pytest.approx(0.2, abs=0.01)
    assert all(each.verdict.startswith("better by") for each in found)
    assert [e.b for e in verdicts(groups, baseline="dim=4")] == ["latent_dim=2", "latent_dim=8"]
    assert verdicts(groups, "elbo")[0].difference == pytest.approx(0.2, abs=0.01)
    for label, words in (("dim=3", "No configuration has"), ("latent", "3 configurations have")):
        with pytest.raises(ValueError, match=f"{words}.*The labels are 'latent_dim=2'"):
            verdicts(groups, baseline=label)
    folder = tmp_path / "out"
    assert [path.name for path in write_numbers(groups, found, folder)] == [
        "comparison.json", "groups.csv", "differences.csv", "runs.csv", "traces.csv",
    ]  # fmt: skip
    whole = json.loads((folder / "comparison.json").read_text())
    assert whole["groups"][0]["seeds"] == [0, 1]
    names = {"a", "b", "difference", "se_data", "se_seeds", "low", "high", "p_value", "verdict"}
    assert names <= set(whole["differences"][0])
    with (folder / "traces.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 18
    with (folder / "runs.csv").open() as file:
        assert {row["latent_dim"] for row in csv.DictReader(file)} == {"2", "4", "8"}


def test_draws_that_all_data_share_widen_the_interval(tmp_path: Path) -> None:
    """One run each: by hand, the variance over draws joins that over data; one draw is said."""
    at = np.array([-0.1, 0.0, 0.1, 0.2])
    a = Scores("a", np.arange(40.0)[None] / 40, (0,))
    b = Scores("b", np.cos(np.arange(40.0))[None], (0,), by_repeat=at)
    plain, found = difference(a, replace(b, by_repeat=None)), difference(a, b)
    variance = plain.se_data**2 + at.var(ddof=1) / 4
    freedom = variance**2 / (plain.se_data**4 / 39 + (at.var(ddof=1) / 4) ** 2 / 3)
    half = stats.t.ppf(0.975, freedom) * math.sqrt(variance)
    assert found.high - found.difference == pytest.approx(half)

    one, other = (evaluated(tmp_path / name, 0, v, latent_dim=z) for name, v, z in
                  (("a", -90.0, 2), ("b", -89.0, 4)))  # fmt: skip
    arrays = dict(other.evaluation_arrays or {})
    other.write_evaluation(other.evaluation or {}, arrays | {"by_repeat": np.array([-89.0])})
    (found,) = verdicts(compare([one, Run(other.path)]))
    assert "all data of latent_dim=4 share one draw" in found.note


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"particles": 1000},
            r"evaluated with K = 100 \(.*\) and 1000 \(.*\): evaluate them alike",
        ),
        ({"split": "valid"}, "evaluated on the splits test"),
        ({"seed": 3}, "evaluated with the seeds 0"),
        ({"stop": 1}, "stopped at epoch 1 of 3"),
        ({"k_hat_share_above_0.7": 0.5}, "k-hat is above 0.7 for 50 % of the data of latent_dim=4"),
        ({"rise": 0.9}, r"the bounds still rise with K: at K = 10 the difference is -0.60"),
    ],
)
def test_what_matters_is_marked(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    one = evaluated(tmp_path / "a", 0, -90.0)
    seed = changes.pop("seed", None)
    other = evaluated(tmp_path / "b", 0, -89.8, latent_dim=4, **changes)
    if seed is not None:
        assert other.evaluation is not None
        other.write_evaluation({**other.evaluation, "seed": seed})
    (found,) = verdicts(compare([one, Run(other.path)]))
    assert re.search(words, found.verdict), found.verdict


def test_runs_that_are_not_evaluated(tmp_path: Path) -> None:
    one = evaluated(tmp_path / "a", 0, -90.0)
    other = evaluated(tmp_path / "b", 0, -89.8, latent_dim=4)
    (other.path / "evaluation.json").unlink()
    (found,) = verdicts(compare([one, other]))
    assert found.verdict == f"{other.path} is not evaluated: run lowerbound evaluate {other.path}"
    assert difference_cells(found)[2:] == ["-"] * 5


def test_numbers_of_a_trace(tmp_path: Path) -> None:
    """ELBOs -92, -91, -90 at steps 10, 20, 30: area (91.5 + 90.5) / 2, -91 reached at step 20."""
    (group,) = compare([evaluated(tmp_path / "a", 0, -90.0)])
    numbers = group_numbers(group)
    assert numbers["area"] == pytest.approx(-91.0)
    assert (numbers["best_elbo"], numbers["steps"], numbers["best_elbo_sd"]) == (-90, 30, None)
    assert numbers["seconds_per_step"] == pytest.approx(0.05)
    row = reached(group.runs[0], -91.0)
    assert row is not None
    assert (row.step, reached(group.runs[0], -80.0)) == (20, None)


def test_formats() -> None:
    rows = [["a|b_c", "1 +- 2"], ["=x", "50 %"]]
    assert markdown(["name", "value"], rows).splitlines() == [
        "| name | value |", "| --- | --: |", r"| a\|b_c | 1 +- 2 |", "| =x | 50 % |",
    ]  # fmt: skip
    assert r"a|b\_c & 1 $\pm$ 2 \\" in latex(["name", "log p >="], rows)
    assert r"log p $\geq$" in latex(["name", "log p >="], rows)
    assert len(DIFFERENCES) == 7


def test_text_in_cells_is_no_formula(tmp_path: Path) -> None:
    run = evaluated(tmp_path / "a", 0, -90.0, latent_dim="=cmd()")
    write_numbers(compare([run]), [], tmp_path / "out")
    assert ",'=cmd()" in (tmp_path / "out" / "runs.csv").read_text()

"""Figures of a comparison: formats, widths, names that do no harm, what is drawn."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from matplotlib import rcParams
from PIL import Image
from torch import Tensor

from inference import Split
from inference.runs import Run, compare
from inference.runs.comparison_figures import MOST, draw
from inference.runs.curves import bound_curve, sorted_kls
from inference.runs.latent_map import classes, plane, save_latent_maps
from inference.runs.shown import Shown
from inference.runs.styles import LOOKS, WIDTHS, Style, dots
from inference.runs.verdicts import verdicts

from .test_differences import evaluated

ODD = ["a$b_c$", "_hidden", "x" * 150, r"\frac $^2_", "50 % <&> #1"]


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """Runs whose arguments are what a figure may take for its own signs."""
    folder = tmp_path_factory.mktemp("odd")
    parts: dict[str, Any] = {"rate": 12.0, "distortion": 80.0}
    return [
        evaluated(folder / f"{place}-{seed}", seed, -90.0 + place, latent_dim=value, **parts)
        for place, value in enumerate(ODD)
        for seed in range(1 + place % 3)
    ]


@pytest.mark.parametrize(
    ("kind", "column"), [("png", "single"), ("png", "double"), ("pdf", "double"), ("svg", "single")]
)
def test_formats_and_widths(kind: Any, column: Any, odd: list[Run], tmp_path: Path) -> None:
    groups, before = compare(odd), dict(rcParams)
    found, style = verdicts(groups), Style(kind, column)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # as of a label that is hidden, or of too little room
        paths = draw(groups, found, tmp_path / "a", style=style)
    assert {"traces", "differences", "rate-distortion"} <= {path.stem for path in paths}
    assert {path.suffix for path in paths} == {f".{kind}"}
    assert dict(rcParams) == before
    for path in paths:
        if kind == "png":
            with Image.open(path) as image:
                assert image.width == int(200 * WIDTHS[column])
        elif kind == "pdf":
            assert path.read_bytes().startswith(b"%PDF")
    if kind == "svg":
        text = paths[0].read_text()
        assert f'width="{72 * WIDTHS[column]:g}' in text
        for name in ("a$b_c$", "_hidden", r"\frac $^2_", "50 % &lt;&amp;&gt; #1", "datum"):
            assert name in text
        assert "8px" in text
        again = draw(groups, found, tmp_path / "b", style=style)
        assert [path.read_bytes() for path in paths] == [path.read_bytes() for path in again]


def test_looks_differ_without_their_colours() -> None:
    assert len({(each["linestyle"], each["marker"]) for each in LOOKS}) == MOST
    points = [(look["marker"], look["facecolors"] == "white") for look in map(dots, LOOKS)]
    assert len({*points}) == MOST


def test_of_many_groups_the_best_are_drawn(tmp_path: Path) -> None:
    runs = [evaluated(tmp_path / str(z), 0, -90.0 + z / 10, latent_dim=z) for z in range(20)]
    groups = compare(runs)
    paths = draw(groups, verdicts(groups), tmp_path / "out", style=Style("svg"))
    text = paths[0].read_text()
    assert "best 14 of 20 groups" in text
    assert f"the 30 clearest of {20 * 19 // 2}" in " ".join(paths[1].read_text().split())


def shown(*runs: Run) -> Shown:
    (group,) = compare(runs)
    return Shown("a", LOOKS[0], group)


def test_bounds_have_errors_over_data_and_seeds(tmp_path: Path) -> None:
    """Of two seeds that differ by 1 at each datum: means 0.5 off, variance 1/2 over 2 seeds."""
    runs = [evaluated(tmp_path / str(seed), seed, -90.0) for seed in (0, 1)]
    one = runs[0].evaluation_arrays or {}
    runs[1].write_evaluation(runs[1].evaluation or {}, {**one, "curve": one["curve"] + 1})
    found = bound_curve(shown(*(Run(run.path) for run in runs)))
    assert found is not None
    steps, mean, error = found
    assert steps.tolist() == [1, 10, 100]
    np.testing.assert_allclose(mean, one["curve"].mean(1) + 0.5)
    over_data = one["curve"].var(1, ddof=1) / 40
    np.testing.assert_allclose(error, np.sqrt(over_data + 0.5 / 2))
    runs[1].write_evaluation(runs[1].evaluation or {}, {**one, "steps": one["steps"] + 1})
    assert bound_curve(shown(*(Run(run.path) for run in runs))) is None


def test_kls_are_read_where_they_are_kls(tmp_path: Path) -> None:
    def diagnosed(name: str, sites: Any) -> Run:
        return evaluated(tmp_path / name, int(name), -90.0, diagnostics={"sites": sites})

    site = {"kl_sorted": [3.0, 1.0], "kl_by_dimension": True}
    whole = {"kl_sorted": [3.0], "kl_by_dimension": False}
    strange = {"kl_sorted": [None, "x"], "kl_by_dimension": True}
    one, other = (diagnosed("0", {"z": site, "y": whole, "w": site}),
                  diagnosed("1", {"z": {**site, "kl_sorted": [2]}, "w": strange}))  # fmt: skip
    assert {k: v.tolist() for k, v in sorted_kls(shown(one, other)).items()} == {
        "z": [[3, 1], [2, 0]]
    }
    for sites in ([1], None, {"z": 3}):
        (tmp_path / "1" / "evaluation.json").unlink()
        other.write_evaluation({**(one.evaluation or {}), "diagnostics": {"sites": sites}})
        assert sorted_kls(shown(one, other)) == {}
    sites = dict.fromkeys(("z", "a$b$", "c", "_d", "e"), site)
    groups = compare([diagnosed("2", sites), diagnosed("3", sites)])
    paths = draw(groups, [], tmp_path / "out", style=Style("svg"))
    assert [path.stem for path in paths] == ["traces", "bounds", "kl-by-dimension"]
    assert "site a$b$" in paths[-1].read_text()


def test_latent_map(tmp_path: Path) -> None:
    """Five coordinates that q puts at x: their principal components, by hand in two directions."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(5), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 0.1).to_event(1))

    x = torch.randn(30, 5) * torch.tensor([0.1, 5.0, 0.1, 2.0, 0.1])
    split = Split(x, labels=torch.arange(30) % 3)
    paths = save_latent_maps(model, guide, split, tmp_path)
    assert [path.name for path in paths] == ["latent-map.png"]
    assert paths[0].read_bytes()[1:4] == b"PNG"
    points, names = plane(x.double())
    centred = (x - x.mean(0)).double()
    correlation = np.corrcoef(points.T.numpy(), centred[:, [1, 3]].T.numpy())
    assert abs(correlation[0, 2]) > 0.99
    assert abs(correlation[1, 3]) > 0.95
    assert names[0].startswith("component 1, 8")
    found = classes(split, torch.tensor([4, 2]))
    assert found is not None
    assert found.tolist() == [1, 2]
    assert save_latent_maps(model, guide, Split(x[:2]), tmp_path) == []

"""Figures of a comparison: formats, widths, names that do no harm, what is drawn."""

import warnings
from pathlib import Path
from typing import Any

import pytest
from matplotlib import rcParams
from PIL import Image

from inference.runs import Run, compare
from inference.runs.comparison_figures import MOST, draw
from inference.runs.styles import LOOKS, WIDTHS, Style
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


@pytest.mark.parametrize("kind", ["png", "pdf", "svg"])
@pytest.mark.parametrize("column", ["single", "double"])
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
    assert len({(each["linestyle"], each["marker"]) for each in LOOKS[:MOST]}) == MOST


def test_of_many_groups_the_best_are_drawn(tmp_path: Path) -> None:
    runs = [evaluated(tmp_path / str(z), 0, -90.0 + z / 10, latent_dim=z) for z in range(20)]
    groups = compare(runs)
    paths = draw(groups, verdicts(groups), tmp_path / "out", style=Style("svg"))
    text = paths[0].read_text()
    assert "best 14 of 20 groups" in text
    assert f"the 30 clearest of {20 * 19 // 2}" in " ".join(paths[1].read_text().split())

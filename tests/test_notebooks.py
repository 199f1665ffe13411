"""Notebooks: their cells in order, in an empty folder, without a kernel."""

import json
import re
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest

from .test_scripts import ROOT

NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


def cells(path: Path, kind: str) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == kind]


class Shown:
    """What a notebook's display returns."""

    def __init__(self, *_: object, **__: object) -> None:
        self.updates = 0

    def update(self, *_: object) -> None:
        self.updates += 1


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plt, "show", lambda: None)
    plt.switch_backend("agg")
    shown: list[Shown] = []

    def display(*words: object, **named: object) -> Shown:
        shown.append(Shown(*words, **named))
        return shown[-1]

    names: dict[str, Any] = {"display": display}
    for number, cell in enumerate(cells(path, "code")):
        exec(compile("".join(cell["source"]), f"{path.stem}, code cell {number}", "exec"), names)
    plt.close("all")
    out = capsys.readouterr().out
    if path.stem == "first-run":
        assert shown[0].updates == 40
        assert -30 < names["found"].summary()["elbo"] < -20
    else:
        means, imputed = map(float, re.findall(r"columns (\S+), imputed (\S+)", out)[0])
        assert imputed < 0.6 < means
        assert (tmp_path / "full.csv").exists()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_clean(path: Path) -> None:
    """No outputs, no counts, code that compiles, links that lead somewhere."""
    for number, cell in enumerate(cells(path, "code")):
        assert cell["outputs"] == []
        assert cell["execution_count"] is None
        compile("".join(cell["source"]), f"{path.stem}, code cell {number}", "exec")
    for cell in cells(path, "markdown"):
        for link in re.findall(r"\]\(([^)#]+)\)", "".join(cell["source"])):
            assert (path.parent / link).exists(), link

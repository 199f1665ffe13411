"""Runs as frames of pandas: the same numbers as in the files of a comparison."""

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import inference
from inference.runs import Comparison, Run
from inference.runs.comparison import compare
from inference.runs.found import find_runs
from inference.runs.frames import write_numbers
from inference.runs.verdicts import Quantity, verdicts
from inference.training import Row
from scripts import compare as show

from .test_differences import evaluated

PAGE = Path(__file__).parents[1] / "docs" / "comparing.md"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two configurations of two seeds, and one that is not evaluated."""
    folder = tmp_path_factory.mktemp("frames") / "runs"
    for z in (2, 4):
        for seed in (0, 1):
            path = folder / f"{z}-{seed}"
            evaluated(path, seed, -90 + z / 10 + 0.01 * seed, latent_dim=z)
    left = evaluated(folder / "other" / "deeper", 0, -91.0, latent_dim="=x, $y$")
    left.trace.append(Row(30, 3.0, 1.5, "train", -91.0, 0.0, 0.0, active_units=3))
    (left.path / "evaluation.json").unlink()
    return folder


def from_file(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, keep_default_na=False, na_values=[""])


@pytest.mark.parametrize("quantity", ["log_px", "elbo"])
def test_frames_equal_the_files(quantity: Quantity, runs: Path) -> None:
    loaded = inference.load_runs(runs)
    groups = compare([run for each in loaded.configurations for run in each.runs])
    found = verdicts(groups, quantity, "dim=2")
    folder = runs.parent / quantity
    write_numbers(groups, found, folder)
    frames = {
        "groups": loaded.groups(),
        "differences": loaded.differences("dim=2", quantity),
        "runs": loaded.runs(),
        "traces": loaded.traces(),
    }
    for name, frame in frames.items():
        stored = from_file(folder / f"{name}.csv").replace("'=x, $y$", "=x, $y$")
        assert list(frame) == list(stored)
        pd.testing.assert_frame_equal(
            frame.astype(object).where(frame.notna() & (frame != ""), None),
            stored.astype(object).where(stored.notna(), None),
            check_dtype=False,
        )
    assert len(frames["runs"]) == 5
    assert len(frames["traces"]) == 16
    assert (frames["runs"]["epochs"] == 3).all()
    assert frames["traces"]["active_units"].dtype == "Int64"


def test_no_differences_have_their_columns(runs: Path) -> None:
    found = inference.load_runs(runs / "2-0").differences()
    assert (len(found), list(found)[:3]) == (0, ["a", "b", "difference"])


def test_runs_are_found(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(runs.parent)
    assert repr(inference.load_runs("runs/*")) == "Comparison(5 runs, 3 configurations)"
    assert isinstance(inference.load_runs(["runs/2-*", "runs/4-0"]), Comparison)
    for where, count in ((runs, 5), ("runs/4*", 2), (["runs/2-0", "runs"], 5), ("runs/o*", 1)):
        assert len(find_runs(where)) == count
    with pytest.raises(ValueError, match="are one run"):
        inference.load_runs(["runs/2-0", "runs/2-0"])
    for nothing in ("runs/9*", "nowhere", "runs/2-0/checkpoint"):
        with pytest.raises(FileNotFoundError, match=nothing.replace("*", r"\*")):
            find_runs(nothing)
    Path("runs[1]").mkdir()
    Run.create(Path("runs[1]/a"), "epochs: 1", {})
    assert [run.path for run in find_runs("runs[1]")] == [Path("runs[1]/a")]


def test_the_page_runs(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(runs.parent)
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
        exec(block, names)
    assert len(names["groups"]) == 3
    assert len(names["runs"]) == 5


WRONG = """
--filter priors=Vamp -> --filter priors: there are epochs, latent_dim, seed
--filter latent=2 -> --filter latent: did you mean latent_dim?
--filter latent_dim -> expected NAME=VALUE
--filter latent_dim=3 -> No run has latent_dim=3: there are 2, 4
--filter latent_dim=2 seed=7 -> No run has seed=7
--group latent-dim -> --group latent-dim: did you mean latent_dim?
--sort log_pz -> --sort log_pz: did you mean log_px?
--sort epocs -> --sort epocs: did you mean epochs?
--baseline dim=9 -> No configuration has 'dim=9'
"""


@pytest.mark.parametrize("line", WRONG.strip().splitlines())
def test_wrong_words_are_one_line(
    line: str, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words, _, answer = line.partition(" -> ")
    with pytest.raises(SystemExit) as end:
        show.main([str(runs), *words.split(), "--out", str(tmp_path / "out")])
    out, err = capsys.readouterr()
    assert (end.value.code, out, len(err.splitlines())) == (2, "", 1)
    assert answer in err
    assert not (tmp_path / "out").exists()


def shown(capsys: pytest.CaptureFixture[str], *words: object) -> list[str]:
    show.main([*map(str, words)])
    return capsys.readouterr().out.splitlines()


def test_runs_are_chosen_grouped_and_ordered(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ("--out", tmp_path / "out")
    lines = shown(capsys, f"{runs}/[24]*", "--sort", "log_px", *out)
    assert [line.split()[0] for line in lines[2:4]] == ["latent_dim=4", "latent_dim=2"]
    assert lines[4] == "nats per datum; +- is the sd over seeds."
    assert not any(line.startswith("Note") for line in lines)
    lines = shown(capsys, runs, "--sort", "latent_dim", "--group", "latent_dim", *out)
    assert [line.split()[0] for line in lines[2:5]] == [f"latent_dim={z}" for z in (2, 4, "=x,")]
    lines = shown(capsys, runs, "--filter", "seed=0", "epochs=3", "--group", "epochs", *out)
    assert lines[2].split()[:2] == ["epochs=3", "3"]
    assert lines[3] == "nats per datum; +- is the sd over runs of a group, by epochs."
    mixed = "latent_dim (2, 4, =x, $y$)"
    assert lines[4] == f"Note: runs of a group differ otherwise too, as seeds do: {mixed}."
    found = inference.load_runs(runs, filter={"seed": 0}, group=["epochs"])
    assert list(found.groups()["label"]) == ["epochs=3"]

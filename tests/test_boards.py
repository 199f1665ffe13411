"""TensorBoard: the rows of the trace, once each, also after a stop."""

from pathlib import Path
from typing import Any

import pytest

from inference import fit
from inference.training import TensorBoard

from .test_runs import data, make, new_run
from .test_scripts import TINY, call


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder))
    found.Reload()
    return {
        name: [(e.step, e.value) for e in found.Scalars(name)] for name in found.Tags()["scalars"]
    }


def test_rows_are_written_once(tmp_path: Path) -> None:
    options: dict[str, Any] = {"batch_size": 20, "log_every": 1, "show_progress": False}
    run = new_run(tmp_path / "run")
    _, svi = make()
    fit(svi, data(), epochs=1, run=run, watch=[TensorBoard(tmp_path / "board")], **options)
    _, svi = make()
    trace = fit(svi, data(), epochs=2, run=run, watch=[TensorBoard(tmp_path / "board")], **options)
    found = scalars(tmp_path / "board")
    for split in ("train", "valid"):
        rows = trace.split(split)
        written = found[f"{split}/elbo"]
        assert [step for step, _ in written] == [row.step for row in rows]
        assert [value for _, value in written] == pytest.approx([row.elbo for row in rows])
    assert "valid/active_units" in found


def test_the_command(tmp_path: Path) -> None:
    call("train", *TINY, "--epochs", 1, "--tensorboard", "true", "--run", tmp_path / "run")
    call("train", "--resume", tmp_path / "run", "--epochs", 2)
    assert len(scalars(tmp_path / "run" / "tensorboard")["valid/elbo"]) == 2

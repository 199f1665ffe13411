"""Exported means: the numbers of the pair, without Pyro and without this package."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from inference import load_run
from inference.data import Split

from .test_scripts import TINY, call

pytestmark = pytest.mark.usefixtures("undrawn")

PLAIN = [word for word in TINY if word not in ("--encoder.hidden", "--decoder.hidden", "[16]")]


ELSEWHERE = """
import sys
import numpy as np

kind, folder, rows = sys.argv[1], sys.argv[2], int(sys.argv[3])
x = np.load(f"{folder}/x.npy")[:rows]


def run(name, values):
    path = f"{folder}/model-{name}.{kind}"
    if kind == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path)
        return session.run(None, {session.get_inputs()[0].name: values})[0]
    import torch

    return torch.export.load(path).module()(torch.from_numpy(values))[0].detach().numpy()


z = run("encoder", x)
np.savez(f"{folder}/found.npz", z=z, x=run("decoder", z))
assert "pyro" not in sys.modules and "inference" not in sys.modules
"""


CONVOLUTIONS = [*PLAIN, "--encoder", "Convolutional", "--decoder", "Convolutional"]


@pytest.mark.parametrize("kind", ["pt2", "onnx"])
@pytest.mark.parametrize(("parts", "rows"), [(TINY, None), (CONVOLUTIONS, 4)], ids=["mlp", "conv"])
def test_an_export_runs_elsewhere(
    kind: str, parts: list[str], rows: int | None, tmp_path: Path
) -> None:
    """In a process without Pyro and this package, for any number of rows or for so many."""
    for package in ("onnx", "onnxscript", "onnxruntime") if kind == "onnx" else ():
        pytest.importorskip(package, reason="the extra onnx is not installed")
    call("train", *parts, "--epochs", 1, "--run", tmp_path / "run")
    run = load_run(tmp_path / "run")
    if rows:
        with pytest.raises(ValueError, match="With rows=N"):
            run.export(tmp_path / f"model.{kind}")
    assert [path.name for path in run.export(tmp_path / f"model.{kind}", rows)] == [
        f"model-encoder.{kind}",
        f"model-decoder.{kind}",
    ]
    load_run(tmp_path / "run")  # classes that the export left would be in its way
    x = run.data.test.x(slice(7))
    np.save(tmp_path / "x.npy", x.numpy())
    (tmp_path / "elsewhere.py").write_text(ELSEWHERE)
    command = [sys.executable, "elsewhere.py", kind, ".", str(rows or 5)]
    bare = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    subprocess.run(command, cwd=tmp_path, check=True, env=bare)
    found = np.load(tmp_path / "found.npz")
    split = Split(x[: rows or 5])
    z = run.encode(split)
    np.testing.assert_allclose(found["z"], z, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["x"], run.decode(z) / 16, rtol=1e-4, atol=1e-5)


def test_what_can_not_be_exported_is_named(tmp_path: Path) -> None:
    words = ["--guide", "InverseAutoregressive", "--latent_dim", 2]
    call("train", *TINY, *words, "--epochs", 1, "--run", tmp_path / "run")
    run = load_run(tmp_path / "run")
    for path, said in (("model.pt2", "'z' has no mean in closed form"), ("model.h5", "neither")):
        with pytest.raises(ValueError, match=said):
            run.export(tmp_path / path)
    assert [*tmp_path.glob("*.pt2*")] == []

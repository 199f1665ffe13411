"""Run directories that were damaged: one line and a status, or the number of the whole run."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from inference.files import sole_writer
from inference.runs import Run
from inference.training import fit

from .test_runs import data, make, new_run
from .test_scripts import TINY, call

pytestmark = pytest.mark.usefixtures("undrawn")

FILES = [
    "config.yaml",
    "environment.json",
    "trace.csv",
    "evaluation.json",
    "evaluation.npz",
    "checkpoint/latest.pt",
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluated run, and another one beside it whose numbers are others."""
    folder = tmp_path_factory.mktemp("damaged")
    for seed in (0, 1):
        call("train", *TINY, "--seed", seed, "--epochs", 2, "--run", folder / str(seed))
        call("evaluate", folder / str(seed), "--particles", 2)
    return folder


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole / "0", tmp_path / "run"))


def cut(file: Path, _: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def empty(file: Path, _: Path) -> None:
    os.truncate(file, 0)


def binary(file: Path, _: Path) -> None:
    file.write_bytes(bytes(range(256)) * 8)


def words(file: Path, _: Path) -> None:
    file.write_text("not what it was\n")


def number(file: Path, _: Path) -> None:
    file.write_text("7\n")


def listed(file: Path, _: Path) -> None:
    file.write_text("[1, 2, 3]\n")


def pipe(file: Path, _: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def folder(file: Path, _: Path) -> None:
    file.unlink()
    file.mkdir()


def gone(file: Path, _: Path) -> None:
    file.unlink()


def nested(file: Path, _: Path) -> None:
    file.write_text("[" * 50_000)


def aliases(file: Path, _: Path) -> None:
    lines = ["a0: &a0 [1, 1]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 60))]
    file.write_text("\n".join(lines))


def another(file: Path, other: Path) -> None:
    shutil.copy(other / file.relative_to(file.parents[file.parent.name == "checkpoint"]), file)


DAMAGE = [cut, empty, binary, words, number, listed, pipe, folder, gone, nested, aliases, another]
COMMANDS: list[tuple[str, list[str]]] = [
    ("evaluate", ["{run}", "--particles", "2"]),
    ("train", ["--resume", "{run}", "--quiet"]),
    ("compare", ["{run}", "{other}", "--out", "{run}/figures"]),
]


@pytest.mark.filterwarnings("ignore:.*can't be read")
@pytest.mark.parametrize("damage", DAMAGE, ids=lambda each: each.__name__)
@pytest.mark.parametrize("name", FILES)
def test_damage_ends_in_a_line(
    name: str,
    damage: Callable[[Path, Path], None],
    run: Path,
    whole: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    damage(run / name, whole / "1")
    for script, words in COMMANDS:
        copy = Path(shutil.copytree(run, run.parent / script, copy_function=_copy))
        status: object = 0
        try:
            call(script, *(w.format(run=copy, other=whole / "1") for w in words))
        except SystemExit as stop:
            status = stop.code
        said = capsys.readouterr().err
        if status != 0:
            assert status == 2, said
            assert said.count("\n") == 1, said
            assert str(copy) in said, said


def _copy(source: str, target: str) -> None:
    if Path(source).is_fifo():
        os.mkfifo(target)
    else:
        shutil.copy2(source, target)


def flip(file: Path) -> None:
    """Turn over one bit in the middle of the largest array in a checkpoint."""
    with zipfile.ZipFile(file) as archive:
        largest = max(archive.infolist(), key=lambda member: member.file_size)
        start = largest.header_offset + 30 + len(largest.filename.encode())
    content = bytearray(file.read_bytes())
    content[start + largest.file_size // 2] ^= 0b0100_0000
    file.write_bytes(content)


@pytest.mark.parametrize("damage", ["a bit", "a NaN"])
def test_weights_that_changed_are_seen(damage: str, run: Path) -> None:
    latest, previous = (run / "checkpoint" / name for name in ("latest.pt", "previous.pt"))
    if damage == "a bit":
        flip(latest)
    else:
        state = torch.load(latest, weights_only=True)
        next(iter(state["svi"]["weights"].values())).view(-1)[0] = float("nan")
        torch.save(state, latest)
    with pytest.warns(UserWarning, match=r"latest.pt can't be read .* Using .*previous.pt"):
        saved = Run(run).load()
    assert saved is not None
    shutil.copy(latest, previous)
    with pytest.raises(ValueError, match="No checkpoint is left; train again"):
        Run(run).load()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_none_are_not_saved(value: float, tmp_path: Path) -> None:
    _, svi = make()
    run, step, steps = new_run(tmp_path / "run"), svi.step, 0

    def breaks(*args: object, **kwargs: object) -> object:
        nonlocal steps
        estimate, steps = step(*args, **kwargs), steps + 1  # type: ignore[arg-type]
        if steps == 3:
            with torch.no_grad():
                next(iter(svi.parameters.values())).view(-1)[0] = value
        return estimate

    svi.step = breaks  # type: ignore[method-assign]
    options = {"batch_size": 10, "log_every": 1, "checkpoint_every": 0.0, "show_progress": False}
    with pytest.raises(FloatingPointError, match="is not finite after step 3"):
        fit(svi, data(), epochs=2, run=run, **options)  # type: ignore[arg-type]
    saved = run.load()
    assert saved is not None
    assert saved["progress"]["step"] == 2


def test_trace_belongs_to_its_run(
    run: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = run / "trace.csv"
    shutil.copy(whole / "1" / "trace.csv", trace)
    before = trace.read_bytes()
    with pytest.raises(SystemExit):
        call("train", "--resume", run, "--quiet")
    assert "is not the trace that the checkpoint was saved with" in capsys.readouterr().err
    assert trace.read_bytes() == before


def test_lost_checkpoints_are_not_started_over(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in (run / "checkpoint").iterdir():
        file.unlink()
    before = (run / "trace.csv").read_bytes()
    with pytest.raises(SystemExit):
        call("train", "--resume", run, "--quiet")
    assert "no checkpoint is left" in capsys.readouterr().err
    assert (run / "trace.csv").read_bytes() == before


HOLD = """
import sys
from pathlib import Path
from inference.files import sole_writer
with sole_writer(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_second_writer_is_refused_and_a_dead_one_holds_nothing(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert first.stdout is not None
    assert first.stdout.readline() == "held\n"
    before = {p.name: p.read_bytes() for p in run.iterdir() if p.is_file()}
    with pytest.raises(SystemExit) as stop:
        call("train", "--resume", run, "--quiet")
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert f"{run} is being written by process {first.pid} on " in said
    assert {p.name: p.read_bytes() for p in run.iterdir() if p.is_file()} == before
    first.kill()
    first.communicate()
    call("train", "--resume", run, "--quiet")


def test_one_process_does_not_write_twice(run: Path) -> None:
    with (
        sole_writer(run),
        pytest.raises(BlockingIOError, match=f"process {os.getpid()} on"),
        sole_writer(run),
    ):
        pass
    with sole_writer(run):
        pass


def test_full_disk_leaves_both_files_of_an_evaluation(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And what was computed is printed all the same."""
    names = ("evaluation.json", "evaluation.npz")
    before = [(run / name).read_bytes() for name in names]

    def full(*_: object, **__: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(json, "dumps", full)
    with pytest.raises(SystemExit) as stop:
        call("evaluate", run, "--particles", 3)
    assert stop.value.code == 2
    said = capsys.readouterr()
    assert "No space left on device" in said.err
    assert said.err.count("\n") == 1
    assert "bound by K" in said.out
    assert [(run / name).read_bytes() for name in names] == before

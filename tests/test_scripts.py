"""Every script as a user runs it: tiny sizes, wrong arguments, a kill in the middle."""

import csv
import importlib
import json
import os
import random
import re
import runpy
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from inference import log_weights
from inference.data import DATASETS, load
from inference.runs import Run
from inference.training import Trace

from .conftest import needs, not_drawing

undrawn = pytest.mark.usefixtures("undrawn")

ROOT = Path(__file__).parent.parent
SCRIPTS = ROOT / "scripts"
TINY = [
    "--learning_rate",
    "0.002",
    "--epochs",
    "2",
    "--latent_dim",
    "3",
    "--encoder.hidden",
    "[16]",
    "--decoder.hidden",
    "[16]",
]

PAIR_FILE = """
import pyro
import pyro.distributions as dist
import torch


def pair(event_shape):
    size = torch.Size(event_shape).numel()
    encoder, decoder = torch.nn.Linear(size, 4), torch.nn.Linear(2, size)

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            logits = decoder(z).reshape(*z.shape[:-1], *event_shape)
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(len(event_shape)), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        loc, log_scale = encoder(x.flatten(1)).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    return model, guide
"""


def run(
    script: str, *words: object, status: int = 0, cwd: Path
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, SCRIPTS / script, *map(str, words)],
        capture_output=True,
        text=True,
        cwd=cwd,
        check=False,
    )
    assert done.returncode == status, done.stderr
    return done


def call(script: str, *words: object) -> None:
    """Run a script's main in this process, which saves seconds of imports."""
    importlib.import_module(f"scripts.{script}").main(list(map(str, words)))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    for seed in (0, 1):
        words = [*TINY, "--seed", seed, "--run", folder / str(seed)]
        if seed:
            call("train", *words)
        else:
            (folder / "stderr").write_text(run("train.py", *words, cwd=folder).stderr)
    return folder


def test_train_leaves_a_run(trained: Path) -> None:
    done = Run(trained / "0")
    config = yaml.safe_load((done.path / "config.yaml").read_text())
    assert config["latent_dim"] == 3
    assert config["prior"]["class_path"] == "StandardNormal"
    assert config["optimizer"]["init_args"]["fused"] is True
    assert done.environment["data"]["name"] == "digits"
    assert done.environment["parameters"] == 64 * 16 + 16 + 16 * 6 + 6 + 3 * 16 + 16 + 16 * 64 + 64
    assert [row.epoch for row in done.trace.split("valid")] == [1.0, 2.0]
    for name in ("trace", "samples", "reconstructions", "interpolations"):
        assert (done.figures / f"{name}.png").read_bytes()[1:4] == b"PNG"


@undrawn
def test_config_runs_again_to_the_same_numbers(trained: Path, tmp_path: Path) -> None:
    config = trained / "0" / "config.yaml"
    call("train", "--config", config, "--run", tmp_path / "again")
    again, first = Trace(tmp_path / "again" / "trace.csv"), Trace(trained / "0" / "trace.csv")
    assert [r.elbo for r in again.rows] == [r.elbo for r in first.rows]


OBSERVER_FILE = """
from inference import Observer


class Board(Observer):
    def __init__(self, path: str, fail: bool = False) -> None:
        self.path, self.fail = path, fail

    def row(self, row, svi) -> None:
        with open(self.path, "a") as file:
            print(row.split, row.step, sorted(row.extra), file=file)
        if self.fail:
            raise ValueError("the board is full")
"""


@undrawn
def test_schedules_and_observers_of_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A user's own observer is named by its import path; one that fails leaves a whole run."""
    (tmp_path / "boards.py").write_text(OBSERVER_FILE)
    monkeypatch.syspath_prepend(tmp_path)
    board, path = tmp_path / "board.txt", tmp_path / "run"
    beta = {"class_path": "Linear", "init_args": {"epochs": 2, "end": 4.0}}
    words = ["--schedules", json.dumps({"objective.beta": beta}), "--kl_weight", "Linear"]
    watch = {"class_path": "boards.Board", "init_args": {"path": str(board), "fail": True}}
    with pytest.raises(SystemExit):
        call("train", *TINY, *words, "--watch", json.dumps([watch]), "--run", path)
    error = capsys.readouterr().err
    assert "lowerbound train: the board is full (raised by the observer Board)" in error
    assert [row.split for row in Run(path).trace.rows] == ["train"]
    saved = Run(path).load()
    assert saved is not None
    assert saved["progress"]["rows"] == 1
    config = path / "config.yaml"
    config.write_text(config.read_text().replace("fail: true", "fail: false"))
    call("train", "--resume", path, "--trust", path)
    rows = Run(path).trace.rows
    names = ["kl_weight", "objective.beta"]
    assert board.read_text().splitlines() == [f"{r.split} {r.step} {names}" for r in rows]
    assert rows[-1].extra == {"kl_weight": 0.19, "objective.beta": pytest.approx(3.8)}
    call("train", *TINY, "--schedules.learning_rate", "Linear", "--run", tmp_path / "short")
    header = (tmp_path / "short" / "trace.csv").read_text().splitlines()[0]
    assert header.endswith(",learning_rate")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--kl_weight", "Constant", "--kl_weight.weight", -1], "kl_weight of at least 0; got -1"),
        (["--schedules", '{"objective.bta": "Linear"}'], "the name 'objective.bta'. There are: k"),
        (["--schedules", '{"learning_rate": "Linear"}', "--scheduler", "StepLR",
          "--scheduler.step_size", 1], "StepLR schedules it too"),
    ],
)  # fmt: skip
def test_a_schedule_that_cannot_be_leaves_no_run(
    words: list[Any], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        call("train", *TINY, *words, "--run", tmp_path / "run")
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_evaluate(trained: Path) -> None:
    done = run("evaluate.py", trained / "0", "--particles", 20, cwd=trained)
    assert "log_px_se" in done.stdout
    result = json.loads((trained / "0" / "evaluation.json").read_text())
    assert {"elbo", "log_px", "log_px_se", "particles", "count", "split"} <= result.keys()
    assert (result["particles"], result["count"], result["split"]) == (20, 200, "test")
    assert result["elbo"] <= result["log_px"]
    assert 0 < result["log_px_se"] < 1
    call("evaluate", trained / "0", "--particles", 20)
    with np.load(trained / "0" / "evaluation.npz") as arrays:
        assert arrays["log_px"].shape == (200,)
        assert arrays["log_px"].mean() == pytest.approx(result["log_px"], abs=1e-5)
    assert result["curve"].keys() == {"1", "10", "20"}
    assert len(result["diagnostics"]["sites"]["z"]["kl_sorted"]) == 3
    assert (trained / "0" / "figures" / "bound.png").exists()
    assert json.loads((trained / "0" / "evaluation.json").read_text()) == result


@undrawn
def test_evaluate_in_depth(trained: Path) -> None:
    words = ["--ais", 4, "--bdmc", 3, "--chains", 2, "--distributions", 5]
    words += ["--gaps", 2]
    call("evaluate", trained / "1", "--particles", 5, *words)
    result = json.loads((trained / "1" / "evaluation.json").read_text())
    assert result["ais"]["count"] == 4
    assert result["bdmc"]["count"] == 3
    assert {"lower", "upper", "gap", "gap_se"} <= result["bdmc"].keys()
    assert {"approximation", "amortisation"} <= result["gaps"].keys()


def test_sample(trained: Path, tmp_path: Path) -> None:
    done = run(
        "sample.py", trained / "0", "--rows", 4, "--columns", 5, "--out", tmp_path, cwd=trained
    )
    names = ["samples.png", "reconstructions.png", "interpolations.png", "latent-map.png"]
    assert done.stdout.split() == [str(tmp_path / name) for name in names]
    assert all((tmp_path / name).read_bytes()[1:4] == b"PNG" for name in names)


def test_compare(trained: Path, tmp_path: Path) -> None:
    done = run("compare.py", trained / "0", trained / "1", "--out", tmp_path / "c", cwd=tmp_path)
    assert "all runs" in done.stdout
    assert "+-" in done.stdout
    with (tmp_path / "c" / "groups.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["seeds"] for row in rows] == ["0 1"]
    assert (tmp_path / "c" / "traces.png").exists()


def test_check(tmp_path: Path) -> None:
    assert "No fault found." in run("check.py", cwd=tmp_path).stdout
    with pytest.raises(SystemExit, match="outside the support of Bernoulli"):  # its text: status 1
        call("check", "--data", "digits-counts", "--likelihood", "Bernoulli")


def test_quickstart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--epochs", 1, "--particles", 20)
    done = run("quickstart.py", *words, cwd=tmp_path)
    assert "latent_dim=16" in done.stdout
    assert "$ python scripts/train.py" in done.stdout
    for line in done.stdout.splitlines():
        if line.endswith((".png", ".csv")):
            assert (tmp_path / line).exists()
    (opened,) = re.findall(r"^Open (\S+) in a browser\.$", done.stdout, re.MULTILINE)
    assert "Verdicts" in (tmp_path / opened).read_text()
    monkeypatch.chdir(tmp_path)
    with not_drawing():
        call("quickstart", *words)
    assert "--resume" in capsys.readouterr().out


@pytest.mark.slow
def test_bench(tmp_path: Path) -> None:
    whole = ["epoch", "evaluation", "memory", "disk", "curves"]  # not capture, which compiles
    words = ["--data", "digits", "--cases", "mlp16", *whole]
    words += ["--contenders", "pyro", "graph", "torch-cuda-graph"]
    words += ["--quick", "--rounds", 1, "--images", 2, "--particles", 30]
    done = run("bench.py", *words, "--out", tmp_path / "bench.json", cwd=tmp_path)
    figures = json.loads((tmp_path / "bench.json").read_text())
    assert "DIFFERS" not in done.stdout
    assert set(figures) == {"facts", "steps", *whole}
    for case, found in figures["steps"].items():
        assert found["graph"]["x pyro"][0] > 0, case
        assert found["graph"]["share"] > 0, case
    assert figures["memory"]["command to first step (s)"] > 0
    assert figures["epoch"]["plain Pyro loop / fit"][0] > 0


def test_bench_counts_the_products_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SCRIPTS)
    pairs, steps = (
        importlib.import_module(f"scripts._bench_{name}") for name in ("pairs", "steps")
    )
    setting = pairs.Setting(pairs.CASES["mlp16"], load("digits").train)
    weights = [p.numel() for m in setting.pair() for p in m.parameters() if p.dim() == 2]
    first = 64 * 400  # no gradient by x is taken
    assert steps.operations(setting) == 2 * 16 * (3 * sum(weights) - first)


@pytest.mark.parametrize("case", ["mlp16", "conv128", "iaf128"])
def test_bench_writes_the_same_log_weights_by_hand(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(SCRIPTS)
    pairs, hand = (importlib.import_module(f"scripts._bench_{name}") for name in ("pairs", "torch"))
    setting = pairs.Setting(pairs.CASES[case], load("digits").train).trained(20)
    model, guide = setting.pair()
    x, draws = setting.split.batch(slice(4)), 4000
    with torch.no_grad():
        found = hand.Loss(setting, pairs.networks((model, guide))).log_weights(x, draws)
        expected = log_weights(model, guide, x, draws).total
    noise = ((found.var(0) + expected.var(0)) / draws).sqrt()
    # Four comparisons at 5 standard errors: wrong at one seed in 400,000.
    assert ((found.mean(0) - expected.mean(0)).abs() < 5 * noise).all()


@pytest.mark.slow
def test_bench_gives_no_ratio_to_another_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SCRIPTS)
    pairs, steps, hand = (
        importlib.import_module(f"scripts._bench_{name}") for name in ("pairs", "steps", "torch")
    )

    class Reconstruction(hand.Loss):
        def forward(self, places: torch.Tensor) -> torch.Tensor:
            x = self.stored[places].float()
            return super().forward(places) + self.encoder(x).square().mean()

    def other(setting: Any) -> Any:
        loss = Reconstruction(setting, pairs.networks(setting.pair()))
        return lambda places: torch.stack([loss(row).detach() for row in places])

    monkeypatch.setitem(steps.CONTENDERS, "other", other)
    data = load("digits").train
    found = steps.measure(pairs.CASES["iwae16"], data, ["pyro", "other"], 1, True)
    assert found["pyro"]["x pyro"] == [1, 1, 1]
    assert "x pyro" not in found["other"]
    assert "DIFFERS" in " ".join(steps.cells(found["other"]))


TESTED = {
    "apply",
    "train",
    "evaluate",
    "sample",
    "runs",  # tests/test_sweep.py
    "sweep",  # tests/test_sweep.py
    "compare",
    "check",
    "quickstart",
    "bench",
    "gpu_first",
    "gradients",  # tests/test_gradient_noise.py
}


def test_every_script_is_run() -> None:
    assert {path.stem for path in SCRIPTS.glob("[!_]*.py")} == TESTED


@pytest.mark.parametrize("script", sorted(TESTED))
def test_help_explains_every_flag(script: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        call(script, "--help")
    assert stop.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    flags = [i for i, line in enumerate(lines) if line.startswith("  --")]
    assert flags
    for i in flags:
        words = " ".join(lines[i : i + 2]).split("(type:")[0].split()
        assert any(word.islower() and word.isalpha() for word in words[1:]), lines[i]


WRONG: list[tuple[str, list[str], str]] = [
    ("train", ["--data", "mnst"], "no data set and no file 'mnst': did you mean mnist?"),
    ("train", ["--data", "frey-faces", "--data_root", "nowhere"], "frey_faces.npz is not there"),
    ("train", ["--latent_dim", "0"], "--latent_dim 0: it takes a whole number of at least 1"),
    ("train", ["--batch_size", "1398"], "--batch_size 1398 is more than 1397 data"),
    ("train", ["--run", "{trained}/0"], "exists: --resume"),
    ("train", ["--resume", "nowhere"], "nowhere is not a run directory"),
    ("train", ["--resume", "{trained}/0", "--latent_dim", "9"], "can't take --latent_dim"),
    ("train", ["--pair", "nowhere.py"], "nowhere.py is not there: --pair takes a Python file"),
    ("train", ["--prior", "Nonsense"], "Nonsense"),
    ("train", ["--config", "nowhere.yaml"], "nowhere.yaml is not there"),
    (
        "train",
        ["--data", "digits-counts", "--likelihood", "Bernoulli"],
        "the pair is not sound. Site 'x'",
    ),
    ("train", ["--encoder.hidden", "[]"], "at least one hidden layer"),
    ("train", ["--unknown", "1"], "--unknown: there is no such argument"),
    ("evaluate", ["nowhere"], "nowhere is not a run directory"),
    (
        "evaluate",
        ["{trained}/0", "--particles", "0"],
        "--particles 0: it takes a whole number of at least 1",
    ),
    ("evaluate", ["{trained}/0", "--split", "dev"], "dev"),
    ("sample", ["nowhere"], "nowhere is not a run directory"),
    ("sample", ["{trained}/0", "--rows", "400"], "Expected at least 3200 data"),
    ("compare", ["nowhere"], "nowhere is not a run directory"),
    ("check", ["--data", "mnst"], "did you mean mnist?"),
]


@pytest.mark.parametrize(("script", "words", "message"), WRONG, ids=lambda v: str(v)[:40])
def test_wrong_argument_is_one_clear_line(
    script: str, words: list[str], message: str, trained: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        call(script, *[word.format(trained=trained) for word in words])
    assert stop.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert message in lines[0]
    assert not list(tmp_path.iterdir())


def test_cuda_is_refused_where_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        call("train", "--device", "cuda")
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert said == "lowerbound train: No CUDA device here: use --device cpu, or auto.\n"


@undrawn
def test_pair_file_lives_anywhere(tmp_path: Path) -> None:
    file = tmp_path / "elsewhere" / "mine.py"
    file.parent.mkdir()
    file.write_text(PAIR_FILE)
    path = tmp_path / "run"
    call("check", "--pair", file)
    call("train", "--pair", file, "--epochs", 2, "--run", path)
    call("evaluate", path, "--particles", 5)
    call("sample", path, "--rows", 2, "--columns", 3)
    assert Run(path).environment["pair"]["source"] == PAIR_FILE
    rows = Trace(path / "trace.csv").split("valid")
    assert rows[1].elbo > rows[0].elbo


MODEL_FILE = """
import pyro
import pyro.distributions as dist
import torch


def model(event_shape):
    size = torch.Size(event_shape).numel()
    decoder = torch.nn.Linear(2, size)

    def program(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            top = pyro.sample("top", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            z = pyro.sample("z", dist.Normal(top, 0.5).to_event(1))
            logits = decoder(z).reshape(*z.shape[:-1], *event_shape)
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(len(event_shape)), obs=x)

    return program
"""


@undrawn
def test_file_of_a_model_alone_gets_a_guide(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, path = tmp_path / "mine.py", tmp_path / "run"
    file.write_text(MODEL_FILE)
    tiny = ("--encoder.hidden", "[8]", "--epochs", 2, "--guide", "FullNormal")
    call("train", "--pair", file, *tiny, "--run", path)
    call("evaluate", path, "--particles", 5)
    rows = Trace(path / "trace.csv").split("valid")
    assert rows[1].elbo > rows[0].elbo
    file.write_text("")
    with pytest.raises(SystemExit):
        call("check", "--pair", file)
    assert "no model(event_shape) -> model" in capsys.readouterr().err


@undrawn
def test_changed_pair_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, path = tmp_path / "mine.py", tmp_path / "run"
    file.write_text(PAIR_FILE)
    call("train", "--pair", file, "--epochs", 1, "--run", path)
    file.write_text(PAIR_FILE + "# changed\n")
    for script, words in (("evaluate", [path]), ("train", ["--resume", path])):
        with pytest.raises(SystemExit):
            call(script, *words)
        assert "is not what it was when" in capsys.readouterr().err


@undrawn
def test_run_survives_being_moved(trained: Path, tmp_path: Path) -> None:
    path = tmp_path / "here"
    call("train", *TINY, "--run", path)
    moved = path.rename(tmp_path / "there")
    call("train", "--resume", moved)
    call("evaluate", moved, "--particles", 2)


STARTER = """
import json, os, sys
import torch._dynamo  # the first optimiser would
from scripts import train

for line in sys.stdin:
    words, said = json.loads(line)
    if (process := os.fork()) == 0:
        file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 1)
        os.dup2(file, 2)
        train.main(words)
        sys.exit()
    print(process, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)
"""
"""Starts one training after another, each a process of its own, without the seconds of imports."""


@undrawn
@pytest.mark.parametrize(
    ("kills", "epochs"),
    [
        ([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGKILL], 36),
        pytest.param([signal.SIGKILL] * 20, 160, marks=pytest.mark.slow),
    ],
)
def test_killed_run_resumes_to_the_same_bits(
    kills: list[signal.Signals], epochs: int, tmp_path: Path
) -> None:
    """Each kill comes at another moment; the end is the same run."""
    words = [*TINY, "--epochs", epochs, "--batch_size", 64, "--checkpoint_every", 0.05]
    call("train", *words, "--run", tmp_path / "whole")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    chance = random.Random(0)
    command = [*words, "--run", broken]
    stderr = tmp_path / "stderr"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", STARTER], cwd=ROOT, **pipes) as starter:
        assert starter.stdout is not None
        for kill in kills:
            goal = rows_of(broken) + chance.randrange(3, 16)
            print(json.dumps([[*map(str, command)], str(stderr)]), file=starter.stdin, flush=True)
            process = int(starter.stdout.readline())
            deadline = time.monotonic() + 60
            while rows_of(broken) < goal and time.monotonic() < deadline:
                time.sleep(0.002)
            time.sleep(chance.random() * 0.01)  # anywhere between two rows
            os.kill(process, kill)
            status = int(starter.stdout.readline())
            if kill == signal.SIGTERM:
                said = stderr.read_text()
                assert status == 128 + signal.SIGTERM
                assert "stopped by SIGTERM after step" in said
                assert f"--resume {broken}" in said
            else:
                assert status == -signal.SIGKILL
            command = ["--resume", broken]
    call("train", *command)
    traces = [Trace(path / "trace.csv").rows for path in (whole, broken)]
    assert len(traces[0]) == 2 * epochs
    ends = [[(*r[:2], *r[3:]) for r in rows] for rows in traces]
    assert ends[0] == ends[1]
    weights = [Run(path).load()["svi"]["weights"] for path in (whole, broken)]  # type: ignore[index]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def rows_of(path: Path) -> int:
    trace = path / "trace.csv"
    return trace.read_bytes().count(b"\n") if trace.exists() else 0


def test_progress_bar_is_quiet_without_a_terminal(trained: Path) -> None:
    first, *lines = (trained / "stderr").read_text().splitlines()
    assert re.match(r"digits: .* parameters\. cpu, \d+ threads\.", first)
    assert lines
    assert all(re.match(r"epoch \d+/\d+, step \d+/\d+, ", line) for line in lines)


@undrawn
def test_progress_bar_on_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ELBO, epoch, rate and time left."""
    pty, termios = pytest.importorskip("pty"), pytest.importorskip("termios")
    leader, follower = pty.openpty()
    termios.tcsetwinsize(follower, (24, 100))
    shown = bytearray()

    def read() -> None:  # a terminal holds a few lines, then writers wait
        with suppress(OSError):  # the other end is closed
            while chunk := os.read(leader, 65536):
                shown.extend(chunk)

    reader = threading.Thread(target=read)
    reader.start()
    with os.fdopen(follower, "w") as terminal, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", terminal)
        call("train", *TINY, "--epochs", 30, "--run", tmp_path / "run")
    reader.join()
    os.close(leader)
    text = shown.decode()
    assert "epoch 30/30" in text
    assert "ELBO -" in text
    assert "step/s" in text
    assert "<" in text  # elapsed<left


@pytest.mark.slow
def test_mnist_end_to_end(files: Path, tmp_path: Path) -> None:
    needs(files, "MNIST/raw/train-images-idx3-ubyte")
    path = tmp_path / "mnist"
    run("train.py", "--data", "mnist", "--epochs", 5, "--run", path, cwd=tmp_path)
    run("evaluate.py", path, "--particles", 100, cwd=tmp_path)
    evaluation = Run(path).evaluation
    assert evaluation is not None
    assert -115 < evaluation["elbo"] < evaluation["log_px"] < -90


@undrawn
def test_readme_pair_and_program_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The README's own code, as a new user would copy it."""
    text = (ROOT / "README.md").read_text()
    pair, program, opened = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(pair.splitlines()) < 40
    (tmp_path / "mine.py").write_text(pair)
    (tmp_path / "program.py").write_text(program.replace("epochs=20", "epochs=2"))
    call("check", "--pair", tmp_path / "mine.py")
    call("train", "--pair", tmp_path / "mine.py", "--epochs", 2, "--run", tmp_path / "run")
    call("evaluate", tmp_path / "run", "--particles", 3)
    exec(opened.replace("runs/mine", str(tmp_path / "run")).replace("1000", "10"), {})
    monkeypatch.syspath_prepend(tmp_path)
    capsys.readouterr()
    runpy.run_path(str(tmp_path / "program.py"), run_name="__main__")
    said = capsys.readouterr().out
    assert said.startswith("[]\n")
    assert "'log_px'" in said


def test_documents_name_every_script_and_data_set() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    text = "".join(page.read_text() for page in pages)
    assert all(f"scripts/{name}.py" in text or f"lowerbound {name}" in text for name in TESTED)
    assert all(f"`{name}`" in text for name in DATASETS)


@undrawn
def test_chosen_part_has_its_own_defaults(tmp_path: Path) -> None:
    """AdamW decays weights by 0.01, and Adam's 0 is not meant for it."""
    call("train", *TINY, "--run", tmp_path / "w", "--optimizer", "AdamW", "--objective", "Iwae")
    config = yaml.safe_load((tmp_path / "w" / "config.yaml").read_text())
    assert config["optimizer"]["init_args"]["weight_decay"] == 0.01
    assert config["objective"]["init_args"]["particles"] == 5
    call("train", "--config", tmp_path / "w" / "config.yaml", "--run", tmp_path / "again")
    again = yaml.safe_load((tmp_path / "again" / "config.yaml").read_text())
    assert {**again, "run": config["run"]} == config


@undrawn
@pytest.mark.parametrize(
    "words",
    [
        ["--scheduler", "MultiStepLR", "--scheduler.milestones", "[1,3]"],
        ["--scheduler", "StepLR", "--scheduler.step_size", "2"],
        ["--scheduler", "CosineAnnealingLR", "--scheduler.T_max", "5"],
        ["--objective", "BetaTc", "--objective.size", "1397"],
        ["--objective", "WakeSleep", "--objective.phi", "sleep"],
        ["--optimizer", "SGD", "--optimizer.momentum", "0.9"],
        ["--objective", "TraceGraph_ELBO", "--objective.num_particles", "2"],
        [
            *("--likelihood", "Autoregressive", "--likelihood.likelihood", "Categorical"),
            *("--likelihood.likelihood.levels", "16", "--likelihood.channels", "4"),
            *("--data", "digits-levels"),
        ],
    ],
    ids=lambda words: words[1],
)
def test_parts_with_arguments_train_and_resume(words: list[str], tmp_path: Path) -> None:
    call("train", *TINY, *words, "--run", tmp_path / "run")
    call("train", "--resume", tmp_path / "run")
    assert len(Trace(tmp_path / "run" / "trace.csv").split("valid")) == 2


def test_missing_argument_of_a_part_is_one_clear_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        call("train", *TINY, "--scheduler", "MultiStepLR", "--run", tmp_path / "run")
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("lowerbound train: ")
    assert "milestones" in line


def test_list_shows_every_part_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        call("train", "--list")
    assert not stop.value.code
    lines = capsys.readouterr().out.splitlines()
    for name in ("Vamp", "Bernoulli", "DiagonalNormal", "MLP", "Iwae", "Vimco", "Linear"):
        (line, *_) = [line for line in lines if line.startswith(f"  {name}: ")]
        assert len(line.split()) > 3
        assert ":math:" not in line


@undrawn
def test_training_starts_from_another_run(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = trained / "0"
    call("train", *TINY, "--run", tmp_path / "again", "--init", source)
    assert f"tensors start from {source}.\n" in capsys.readouterr().err
    first, there = (Run(path).trace for path in (tmp_path / "again", source))
    best = there.best()
    assert best is not None
    assert first.split("valid")[0].elbo > there.split("valid")[0].elbo
    call("train", "--resume", tmp_path / "again", "--epochs", 3)  # goes on, doesn't start again
    assert Run(tmp_path / "again").trace.rows[: len(first)] == first.rows
    capsys.readouterr()
    call("train", *TINY, "--run", tmp_path / "other", "--init", source, "--latent_dim", 5)
    said = capsys.readouterr().err
    assert "5 of 10 tensors" in said
    assert "model.prior.loc (5,), there (3,)" in said
    for words, answer in (
        (["--init", tmp_path / "nowhere"], "not a run directory"),
        (["--resume", source, "--init", source], "can't take --init"),
    ):
        rest = [] if "--resume" in words else [*TINY, "--run", tmp_path / "third"]
        with pytest.raises(SystemExit):
            call("train", *rest, *words)
        assert answer in capsys.readouterr().err


@undrawn
def test_several_runs_are_evaluated_at_once(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call("evaluate", trained / "0", trained / "1", "--particles", 2)
    shown = capsys.readouterr().out
    assert f"{trained / '0'}:\n" in shown
    assert f"{trained / '1'}:\n" in shown
    assert shown.count("log_px is a lower bound") == 2


@undrawn
def test_evaluation_keeps_its_bound_where_annealing_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    words = ["--prior", "StandardBernoulli", "--guide", "Bernoulli", "--latent_dim", 4]
    words += ["--estimator", "ScoreFunction", "--encoder.hidden", "[8]", "--decoder.hidden", "[8]"]
    call("train", "--data", "digits", *words, "--epochs", 1, "--run", run)
    with pytest.raises(SystemExit) as stop:
        call("evaluate", run, "--particles", 10, "--ais", 4, "--bdmc", 4)
    assert stop.value.code == 2
    *_, last = capsys.readouterr().err.splitlines()
    assert last.startswith("lowerbound evaluate: --ais: ")
    assert "--bdmc: " in last
    assert last.endswith("All else is measured and saved.")
    assert Run(run).evaluation is not None

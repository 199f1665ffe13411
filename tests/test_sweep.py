"""Sweeps: the grid, jobs side by side, what is left after a failure or a kill; the list."""

import os
import signal
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

import pytest
import yaml

from inference.files import sole_writer
from inference.runs import Run
from scripts import runs, sweep
from scripts._grid import configurations, few, folders, values_of, words_of
from scripts._jobs import Job, Local
from scripts._sweep_runs import left

WRONG = [
    (["../a"], "is no name of a folder"),
    (["a", "--vary", "latent_dim"], "--vary 'latent_dim': expected 'KEY: VALUE, VALUE'"),
    (["a", "--vary", "latent_dim:"], "expected 'KEY: VALUE, VALUE'"),
    (["a", "--vary", "x: 1", "--vary", "x: 2"], "twice"),
    (["a", "--vary", "x: 1, 1"], "--x 1 is there twice"),
    (["a", "--vary", "seed: 1, 2"], "a sweep sets seed itself: give --seeds N"),
    (["a", "--run", "b"], "a sweep sets it itself: give the name of the sweep"),
    (["a", "--seed=3"], "a sweep sets it itself: give --seeds N"),
    (["a", "--seeds", "0"], "seeds: expected a whole number above 0; got 0"),
    ([], "arguments are required: NAME. See lowerbound sweep --help"),
    (["a", "--seeds", "many"], "invalid int value"),
    (["a", "--jobs", "0"], "expected a whole number above 0"),
    (["a", "--resume"], "there is nothing to resume"),
    (["a", "--resume", "--epochs", "3"], "from its sweep.yaml alone"),
    (["none.yaml"], "none.yaml"),
    (["a", "--vary", "data: digits, digits-counts"], "differ in data can't be compared"),
    (["words.yaml"], "words is no list of words"),
    (["a", "--vary", "latent_dim: 2001-01-01"], "is a date: put it in quotes"),
    (["a", "--vary", f"latent_dim: {'[' * 3000}"], "expected 'KEY: VALUE, VALUE'"),
    (["a", "--vary", "list: true"], "a sweep sets list itself"),
    (["a", "--print_config"], "a sweep sets it itself"),
    (["a", "--seeds", "1000000000"], "seeds: 1,000,000,000 are more than 10,000"),
    (
        ["a", "--vary", "latent_dim: 2, 8", "--baseline", "9"],
        "there are latent_dim=2; latent_dim=8",
    ),
    (["baseline.yaml"], "baseline: expected a label; got 8"),
    (["list.yaml"], "is no mapping of arguments"),
    (["vary.yaml"], "vary.yaml: vary: latent_dim needs a list of values"),
    (["a", "--data", "digits", "--vary", "prior: Vampp"], "nothing was started"),
    (["a", "--data", "digits", "--epoch", "3"], "nothing was started"),
]


@pytest.mark.parametrize(("words", "said"), WRONG, ids=[" ".join(words)[:60] for words, _ in WRONG])
def test_wrong_sweep_is_one_line_and_makes_nothing(
    words: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("list.yaml").write_text("- 1\n")
    Path("vary.yaml").write_text("data: digits\nvary: {latent_dim: 8}\n")
    Path("words.yaml").write_text("words: 5\n")
    Path("baseline.yaml").write_text("vary: {latent_dim: [8]}\nbaseline: 8\n")
    with pytest.raises(SystemExit) as stop:
        sweep.main(words)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not Path("sweeps").exists()


def test_grid_is_every_combination_and_a_sample_some_of_them() -> None:
    vary = dict(map(values_of, ("prior: StandardNormal, Vamp", "latent_dim: 2, 8, 32")))
    found = configurations(vary)
    assert len(found) == 6
    assert found[1] == {"prior": "StandardNormal", "latent_dim": 8}
    assert words_of(found[1]) == ["--prior", "StandardNormal", "--latent_dim", "8"]
    assert [len({str(each) for each in some}) for some in (list(few(found)), found)] == [4, 6]
    some = configurations(vary, 3)
    assert some == configurations(vary, 3)
    assert [each for each in found if each in some] == some
    assert configurations({}) == [{}]


def test_names_of_folders_are_plain_and_differ() -> None:
    parts = {"class_path": "models.Vamp", "init_args": {"count": 50}}
    found = [{"prior": parts}, {"data": "../a/b.csv"}, {"data": "..+a/b.csv"}, {}]
    names = folders(found)
    assert names == ["prior-Vamp-count-50", "data-..-a-b.csv", "data-..+a-b.csv", "all"]
    assert len({*folders([{"x": f"{'y' * 200}{i}"} for i in range(3)])}) == 3


def test_jobs_run_side_by_side_and_a_failure_is_its_last_line(tmp_path: Path) -> None:
    jobs = [
        Job(f"job {i}", (("--version",), words), tmp_path / "logs" / f"{i}.txt")
        for i, words in enumerate([("--help",), ("trian",), ("--version",)])
    ]
    found = {job.name: said for job, said in Local(2)(jobs)}
    assert found["job 0"] == found["job 2"] == ""
    assert found["job 1"] == "lowerbound: no command 'trian': did you mean train?"
    assert "$ lowerbound trian" in jobs[1].log.read_text()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two runs, the second better and stopped, and two that can't be read."""
    head = "step,epoch,seconds,split,elbo,reconstruction,kl\n"
    for name, epochs, elbo in (("a", 2, -30.0), ("b/c", 4, -20.0), ("d", 1, 0.0), ("e", 1, 0.0)):
        path = tmp_path / name
        config = yaml.safe_dump({"seed": 0, "epochs": epochs, "data": "digits"})
        facts = {"data": {"name": "digits", "hash": "0"}, "parameters": 1, "unit": "nats"}
        Run.create(path, config, facts)
        with (path / "trace.csv").open("w") as file:
            file.write(f"{head}10,2,1.5,valid,{elbo},{elbo},0\n")
    (tmp_path / "d" / "config.yaml").write_text("- 1\n")
    (tmp_path / "e" / "trace.csv").write_bytes(b"\xff\xfe\0")
    return tmp_path


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ([], ["a", "b/c", "d", "e"]),
        (["--sort", "elbo"], ["b/c", "a", "d", "e"]),
        (["--filter", "epochs=4"], ["b/c"]),
        (["--filter", "epochs=4", "seed=1"], []),
        (["--format", "markdown"], ["a", "b/c", "d", "e"]),
    ],
    ids=str,
)
def test_runs_are_listed_with_their_states(
    words: list[str], names: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with sole_writer(folder / "a"):
        runs.main([str(folder), *words])
    said = capsys.readouterr().out
    lines = [line for line in said.splitlines() if f"{folder}/" in line]
    assert [line.strip("| ").split()[0] for line in lines] == [f"{folder}/{n}" for n in names]
    states = {"a": "running", "b/c": "stopped at 2 of 4", "d": "unreadable", "e": "unreadable"}
    assert all(states[name] in line for name, line in zip(names, lines, strict=True))
    assert names or f"No runs in {folder} with epochs=4, seed=1." in said
    assert not (folder / "b" / "c" / ".lock").exists()


def test_filter_by_an_argument_that_no_run_has(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        runs.main([str(folder), "--filter", "epoch=3"])
    assert stop.value.code == 2
    assert "--filter epoch: did you mean epochs?" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.5, 0.7, 0.9, 1.5])
def test_signal_while_modules_are_imported_is_one_line(seconds: float, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-m", "lowerbound", "runs", str(tmp_path)]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate()
    assert process.returncode == 130
    assert error == "lowerbound runs: stopped by SIGINT.\n"


@pytest.mark.slow
def test_twelve_runs_of_which_one_fails_and_all_are_killed(tmp_path: Path) -> None:
    """A run of the grid diverges; the sweep is stopped in its middle and goes on."""
    command = [sys.executable, "-m", "lowerbound", "sweep"]
    words = ["few", "--vary", "learning_rate: 0.001, 0.002, 1e30", "--seeds", "4", "--jobs", "2"]
    words += ["--data", "digits", "--epochs", "40", "--latent_dim", "2", "--particles", "10"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    first = subprocess.Popen([*command, *words], cwd=tmp_path, env=environment)
    trace = tmp_path / "sweeps" / "few" / "runs" / "learning_rate-0.002_seed-1" / "trace.csv"
    while first.poll() is None and not trace.exists():
        time.sleep(0.2)
    first.send_signal(signal.SIGINT)
    assert first.wait() == 130
    again = subprocess.run(
        [*command, "few", "--resume", "--jobs", "2"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert again.returncode == 1
    assert "4 of 12 runs failed" in again.stdout
    assert "learning_rate=0.002, against learning_rate=0.001: " in again.stdout
    finished = [p for p in (tmp_path / "sweeps/few/runs").iterdir() if Run(p).finished]
    assert len(finished) == 8
    assert all(Run(path).evaluation for path in finished)


def test_run_of_other_arguments_is_none_of_the_sweep(tmp_path: Path) -> None:
    config = {"seed": 0, "epochs": 2, "latent_dim": 3, "prior": {"class_path": "Vamp"}}
    facts = {"data": {"name": "digits", "hash": "0", "unit": "nats"}, "parameters": 1}
    run = Run.create(tmp_path / "run", yaml.safe_dump(config), facts).path
    words = ["--prior", "models.Vamp", "--epochs", "2", "--seed", "0", "--latent_dim"]
    assert left(run, [*words, "3"], 10)[0][:2] == ("train", "--resume")
    with pytest.raises(ValueError, match="has latent_dim 3, and the sweep says 2"):
        left(run, [*words, "2"], 10)
    for own in (["--prior", '{"class_path": "StandardLaplace"}'], ["--prior", "mine.Other"]):
        with pytest.raises(ValueError, match="has prior Vamp, and the sweep says"):
            left(run, [*own, "--latent_dim", "3"], 10)


def test_trust_goes_no_further_than_the_words(tmp_path: Path) -> None:
    config = {
        "seed": 0, "epochs": 2, "prior": {"class_path": "mine.Prior"},
        "likelihood": {"class_path": "evil.Part"},
    }  # fmt: skip
    facts = {"data": {"name": "digits", "hash": "0", "unit": "nats"}, "parameters": 1}
    run = Run.create(tmp_path / "run", yaml.safe_dump(config), facts).path
    with pytest.raises(ValueError, match=r"names evil.Part, and the sweep's words don't"):
        left(run, ["--prior", "mine.Prior"], 10)
    both = ["--prior", "mine.Prior", "--likelihood", '{"class_path": "evil.Part"}']
    assert left(run, both, 10)[0][-2:] == ("--trust", str(run))


def test_large_grids_are_sampled_or_refused_at_once() -> None:
    vary = {f"name{i}": [*range(10)] for i in range(12)}
    assert len(configurations(vary, 5)) == 5
    with pytest.raises(ValueError, match="1,000,000,000,000 configurations; a sweep has 10,000"):
        configurations(vary)
    with pytest.raises(ValueError, match="is a date: put it in quotes"):
        configurations({"latent_dim": [date(2001, 1, 1)]})

"""A run directory is data, never a program: what comes with one imports and starts nothing."""

import hashlib
import json
import math
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from inference.runs import Run

from .test_scripts import PAIR_FILE, TINY, call

pytestmark = pytest.mark.usefixtures("undrawn")

CANARY = "open({!r}, 'w').close()\n"
MODULE = """
from models import StandardNormal


class Mine(StandardNormal):
    pass
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch, with an evaluation to come."""
    path = tmp_path_factory.mktemp("trust") / "run"
    call("train", *TINY, "--epochs", 1, "--run", path)
    return path


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "run"))


def rewrite(run: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    change(config)
    (run / "config.yaml").write_text(yaml.safe_dump(config))


def part(class_path: str, **init_args: Any) -> dict[str, Any]:
    return {"class_path": class_path, "init_args": init_args}


TOUCH = "touch {canary}"
HOSTILE: dict[str, dict[str, Any]] = {
    "a function with arguments": {"prior": part("subprocess.getoutput", cmd=TOUCH)},
    "a function by its name": {"prior": "os.system"},
    "a class of the library": {"decoder": part("subprocess.Popen", args=["touch", "{canary}"])},
    "another argument": {"optimizer": part("subprocess.run", args=["touch", "{canary}"])},
    "a list of observers": {"watch": [part("subprocess.Popen", args=["touch", "{canary}"])]},
    "inside a part": {
        "encoder": part("guides.MLP", hidden=[part("subprocess.getoutput", cmd=TOUCH)])
    },
    "a path of keys": {"prior.class_path": "subprocess.getoutput", "prior.init_args.cmd": TOUCH},
    "text of YAML": {"prior": "{class_path: subprocess.getoutput, init_args: {cmd: {canary}}}"},
    "text of JSON": {"prior": json.dumps(part("subprocess.getoutput", cmd=TOUCH))},
    "a schedule": {"schedules": {"objective.beta": part("subprocess.getoutput", cmd=TOUCH)}},
    "what a module of ours imports": {"prior": "inference.runs.facts.subprocess.getoutput"},
    "a method of ours": {"prior": part("inference.runs.run.Run.create", path="{canary}")},
    "a private name": {"prior": "inference.runs.run._anything"},
    "torch, outside optim": {"prior": part("torch.load", f="{canary}")},
    "an optimiser as prior": {"prior": part("torch.optim.Adam")},
    "a module that would be imported": {"prior": "canary_module.Mine"},
    "a module inside a part": {"guide": part("guides.DiagonalNormal", x="canary_module.Mine")},
    "another config": {"config": "{canary}"},
    "another run": {"resume": "{canary}"},
    "a builtin": {"prior": "builtins.eval"},
    "a blank before it": {"prior": " canary_module.Mine"},
    "a comment behind it": {"prior": "canary_module.Mine # of ours"},
    "quotes in quotes": {"prior": "'canary_module.Mine'"},
    "quotes in a part": {"prior": part("'canary_module.Mine'")},
    "a function in quotes": {"decoder": part(' "subprocess.getoutput"', cmd=TOUCH)},
    "a path to the data": {"data.source": "{code}"},
    "data of a class": {"data": part("canary_module.Mine", source="digits")},
    "a class path of the data": {"data": {"source": part("canary_module.Mine")}},
    "deep brackets": {"guide": "[" * 20_000},
    "no prior": {"prior": None},
    "a root that is none": {"data_root": 5},
    "a record by its name alone": {"watch": [part("Run", path="{canary}")]},
    "a record of another run": {"watch": [part("inference.runs.Run", path="{canary}")]},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_config_runs_nothing(
    name: str,
    copy: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    canary = tmp_path / "canary"
    (tmp_path / "canary_module.py").write_text(CANARY.format(str(canary)) + MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    (copy / "evil.py").write_text(CANARY.format(str(canary)))
    text = json.dumps(HOSTILE[name]).replace("{canary}", str(canary))
    text = text.replace("{code}", str(copy / "evil.py"))
    rewrite(copy, lambda config: config.update(json.loads(text)))
    commands = [
        ("evaluate", [copy, "--particles", 2]),
        ("sample", [copy]),
        ("train", ["--resume", copy]),
        ("train", ["--config", copy / "config.yaml", "--run", tmp_path / "another"]),
        ("check", [f"--config={copy / 'config.yaml'}"]),
    ]
    for script, words in commands:
        with pytest.raises(SystemExit) as stop:
            call(script, *words)
        assert stop.value.code == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1, said
        assert "config.yaml" in said, said
        assert not canary.exists()


def test_module_of_ones_own_needs_trust(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "owned_module.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    copy = tmp_path / "run"
    call("train", *TINY, "--epochs", 1, "--prior", "owned_module.Mine", "--run", copy)
    words = [copy, "--particles", 2]
    with pytest.raises(SystemExit):
        call("evaluate", *words)
    assert f"--trust {copy}" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        call("evaluate", *words, "--trust", tmp_path)
    assert "is another run than" in capsys.readouterr().err
    call("evaluate", *words, "--trust", copy)
    call("sample", copy, "--trust", copy)
    call("train", "--resume", copy, "--trust", copy)
    assert Run(copy).evaluation is not None


TAGS = ['!!int ""', '!!float ""', "!!bool maybe", "!!timestamp x", '!!int "1\\x3a1"', "!!set {a}"]


@pytest.mark.parametrize(
    "config",
    ["[1, 2]", "word", "a: &a [*a]\nprior: *a", "a: {", "\xff", *(f"epochs: {t}" for t in TAGS)],
)
def test_config_that_is_none(config: str, copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (copy / "config.yaml").write_text(config, "latin-1")
    for script, words in (("evaluate", [copy]), ("train", ["--resume", copy])):
        with pytest.raises(SystemExit) as stop:
            call(script, *words)
        assert stop.value.code == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1, said
        assert "config.yaml" in said, said


def test_pair_file_inside_a_run_is_no_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, run, canary = tmp_path / "mine.py", tmp_path / "run", tmp_path / "canary"
    file.write_text(PAIR_FILE)
    call("train", "--pair", file, "--epochs", 1, "--run", run)
    inside = run / "mine.py"
    inside.write_text(CANARY.format(str(canary)) + PAIR_FILE)
    rewrite(run, lambda config: config.update(pair=str(inside)))
    for script, words in (("evaluate", [run]), ("sample", [run]), ("train", ["--resume", run])):
        with pytest.raises(SystemExit):
            call(script, *words)
        assert "--pair FILE" in capsys.readouterr().err
        assert not canary.exists()
    facts = json.loads((run / "environment.json").read_text())
    rewrite(run, lambda config: config.update(pair=str(file)))
    (run / "environment.json").write_text(json.dumps({**facts, "pair": None}))
    with pytest.raises(SystemExit):
        call("evaluate", run)
    assert "doesn't record what" in capsys.readouterr().err
    call("evaluate", run, "--particles", 2, "--pair", file)
    (run / "environment.json").write_text(json.dumps(facts))
    file.rename(tmp_path / "moved.py")
    with pytest.raises(SystemExit):
        call("evaluate", run)
    assert "is not there: name the pair of" in capsys.readouterr().err
    call("evaluate", run, "--particles", 2, "--pair", tmp_path / "moved.py")
    call("train", "--resume", run, "--pair", tmp_path / "moved.py")


@pytest.mark.parametrize("what", ["pair", "data"])
def test_code_inside_another_run_is_none(
    what: str, copy: Path, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its path and its hash are both the run's own words."""
    canary = tmp_path / "canary"
    code = Path(shutil.copytree(made, tmp_path / "other")) / "evil.py"
    code.write_text(CANARY.format(str(canary)))
    source = {"sha256": hashlib.sha256(code.read_bytes()).hexdigest(), "source": code.read_text()}
    facts = json.loads((copy / "environment.json").read_text())
    facts["pair" if what == "pair" else "data_file"] = source
    (copy / "environment.json").write_text(json.dumps(facts))
    change = {"pair": str(code)} if what == "pair" else {"data": {"source": str(code)}}
    rewrite(copy, lambda config: config.update(change))
    for script, words in (("evaluate", [copy]), ("train", ["--resume", copy])):
        with pytest.raises(SystemExit) as stop:
            call(script, *words)
        assert stop.value.code == 2
        assert "a run, which is data, no code" in capsys.readouterr().err
        assert not canary.exists()


def test_config_below_a_run_is_of_that_run(
    copy: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    canary = tmp_path / "canary"
    (tmp_path / "canary_module.py").write_text(CANARY.format(str(canary)) + MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    rewrite(copy, lambda config: config.update({"prior": "canary_module.Mine"}))
    (copy / "deep" / "er").mkdir(parents=True)
    inner = Path(shutil.copy(copy / "config.yaml", copy / "deep" / "er"))
    outside = Path((copy / "config.yaml").rename(tmp_path / "c.yaml"))
    (copy / "config.yaml").symlink_to(outside)
    (tmp_path / "linked").symlink_to(copy)
    for file in (inner, copy / "config.yaml", tmp_path / "linked" / "config.yaml"):
        with pytest.raises(SystemExit):
            call("train", "--config", file, "--run", tmp_path / "another")
        assert "names 'canary_module.Mine' as prior" in capsys.readouterr().err
        assert not canary.exists()


def test_links_in_a_run_are_not_followed(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing outside a run is written to, and nothing waits for the other end of a pipe."""
    precious = tmp_path / "precious.txt"
    precious.write_text("mine")
    for make in (lambda path: path.symlink_to(precious), os.mkfifo):
        (copy / ".writer").unlink(missing_ok=True)
        make(copy / ".writer")
        call("train", "--resume", copy, "--quiet")
        assert precious.read_text() == "mine"
    for name in ("figures", "checkpoint"):
        run = Path(shutil.copytree(copy, tmp_path / f"linked {name}"))
        shutil.rmtree(run / name)
        (tmp_path / name).mkdir()
        (run / name).symlink_to(tmp_path / name)
        for script, words in (("evaluate", [run]), ("sample", [run]), ("train", ["--resume", run])):
            with pytest.raises(SystemExit) as stop:
                call(script, *words)
            assert stop.value.code == 2
            assert f"{run / name} is a link" in capsys.readouterr().err
        assert not [*(tmp_path / name).iterdir()]


FIELDS: list[tuple[str, dict[str, Any], str]] = [
    ("config.yaml", {"epochs": "abc"}, "epochs is 'abc'"),
    ("config.yaml", {"seed": 2**70}, "a huge number"),
    ("config.yaml", {"x": "1:" * 9_999 + "1"}, "config.yaml"),
    ("environment.json", {"data": []}, "data is []"),
    ("environment.json", {"data": {"name": "d", "hash": "h"}}, "no data.unit"),
    *(
        ("environment.json", {"data": {"name": "d", "hash": "h", "unit": unit}}, "data.unit is no")
        for unit in ("\x1b[31mred", "two\nlines", "\ud800", "x" * 200_000)
    ),
    ("evaluation.json", {"k_hat_share_above_0.7": "x"}, "k_hat_share_above_0.7 is 'x'"),
    ("environment.json", {"data": {"name": 1}}, "name is 1"),
    ("environment.json", {"parameters": "x"}, "parameters is 'x'"),
    ("environment.json", {"segments": 5}, "segments is 5"),
    ("evaluation.json", {"log_px": "x"}, "log_px is 'x'"),
    ("evaluation.json", {"log_px": None}, "log_px is None"),
    ("evaluation.json", {"log_px": float("nan")}, "log_px is nan"),
    ("evaluation.json", {"log_px": 10**400}, "a huge number"),
    ("evaluation.json", {"elbo": "x"}, "elbo is 'x'"),
    ("evaluation.json", {"particles": True}, "particles is True"),
]


@pytest.mark.parametrize(("file", "change", "said"), FIELDS, ids=range(len(FIELDS)))
def test_wrong_kinds_of_values_are_one_line(
    file: str, change: dict[str, Any], said: str, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = {"split": "test", "particles": 2, "log_px": -1.0, "elbo": -2.0}
    (copy / "evaluation.json").write_text(json.dumps(values))
    path = copy / file
    found = yaml.safe_load(path.read_text()) | change
    path.write_text((json.dumps if file.endswith("json") else yaml.safe_dump)(found))
    with pytest.raises(SystemExit) as stop:
        call("compare", copy, "--out", copy / "figures")
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    call("runs", copy.parent)  # the others of a folder are listed all the same
    assert str(copy) in capsys.readouterr().out


def test_what_a_checkpoint_holds_is_looked_at(copy: Path) -> None:
    latest = copy / "checkpoint" / "latest.pt"
    whole = torch.load(latest, weights_only=True)
    changes: list[dict[str, Any]] = [
        {"progress": {**whole["progress"], "step": "x"}},
        {"progress": {**whole["progress"], "rows": "x"}},
        {"progress": {k: v for k, v in whole["progress"].items() if k != "best_weights"}},
        {"progress": {**whole["progress"], "best_weights": [1]}},
        {"arguments": 5},
        {"rng": {}},
        {"extra": [torch.zeros(1).expand(10**10)]},
        {"extra": torch.zeros(2, 2).to_sparse()},
        {"progress": {**whole["progress"], "best_weights": {"a": torch.tensor(math.nan)}}},
    ]
    for file in (copy / "checkpoint").glob("previous.pt"):
        file.unlink()
    for change in changes:
        torch.save({**whole, **change}, latest)
        with pytest.raises(ValueError, match=r"latest.pt can't be read"):
            Run(copy).load()
    torch.save(whole, latest)
    with zipfile.ZipFile(latest, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/zeros", bytes(2**26 + 1))
    with pytest.raises(ValueError, match="holds more than it does"):
        Run(copy).load()


def test_a_trace_is_no_larger_than_one_and_counts_upward(copy: Path) -> None:
    trace = copy / "trace.csv"
    header, first, *_ = trace.read_text().splitlines()
    trace.write_text(f"{header}\n-1{first[first.index(',') :]}\n")
    with pytest.raises(ValueError, match="line 2: expected"):
        _ = Run(copy).trace.rows
    os.truncate(trace, 8 * 2**30)  # of holes: nothing is on the disk
    with pytest.raises(ValueError, match="is no trace: it has 8,589,934,592 bytes"):
        _ = Run(copy).trace.rows


ODD: dict[str, Any] = {
    "steps": np.array(5),  # said of the curve, whose shape it gives
    "by_repeat": np.array(1.0),
    "curve": np.zeros((0, 5)),
    "elbo": np.zeros(3),
    "k_hat": np.zeros((2, 2)),
}


@pytest.mark.parametrize("name", ODD)
def test_shapes_of_an_evaluation_are_looked_at(name: str, copy: Path) -> None:
    values = {k: np.zeros(4) for k in ("log_px", "log_px_mc_se", "elbo")}
    whole = {**values, "curve": np.zeros((2, 4)), "steps": np.array([1, 2])}
    np.savez(copy / "evaluation.npz", **{**whole, name: ODD[name]})
    with pytest.raises(ValueError, match=rf"evaluation.npz can't be read: .*({name}|curve)"):
        _ = Run(copy).evaluation_arrays


def test_values_of_an_evaluation_are_looked_at(copy: Path) -> None:
    path = copy / "evaluation.npz"
    whole = {name: np.zeros(3) for name in ("log_px", "log_px_mc_se", "elbo", "curve", "steps")}
    changes: list[dict[str, Any]] = [
        {"log_px": np.array(["a", "b"])},
        {"log_px": np.zeros(())},
        {"log_px": np.array([0.0, math.nan])},
        {"log_px": np.zeros(3, complex)},
    ]
    for change in changes:
        np.savez_compressed(path, **{**whole, **change})
        with pytest.raises(ValueError, match=r"evaluation.npz can't be read: .* Evaluate the run"):
            _ = Run(copy).evaluation_arrays
    np.savez_compressed(path, log_px=np.zeros(3))
    with pytest.raises(ValueError, match="it has no log_px_mc_se"):
        _ = Run(copy).evaluation_arrays
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("log_px.npy", "hello")
    with pytest.raises(ValueError, match="evaluation.npz can't be read"):
        _ = Run(copy).evaluation_arrays


def test_new_run_of_a_config_is_made_where_this_command_says(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "else" / "where"
    rewrite(copy, lambda config: config.update({"run": str(elsewhere)}))
    monkeypatch.chdir(tmp_path)
    call("train", "--config", copy / "config.yaml", "--quiet")
    assert not elsewhere.exists()
    assert len([*(tmp_path / "runs").iterdir()]) == 1


def test_code_that_the_user_never_ran_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Path and hash are the run's words; a run from elsewhere may come with a file beside it."""
    file, canary = tmp_path / "pair.py", tmp_path / "canary"
    file.write_text(PAIR_FILE)
    words = [*TINY, "--epochs", 1, "--pair", file]
    call("train", *words, "--run", tmp_path / "run")
    call("evaluate", tmp_path / "run", "--particles", 2)  # this user's
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another home"))
    hostile = PAIR_FILE + CANARY.format(str(canary))
    file.write_text(hostile)
    path = tmp_path / "run" / "environment.json"
    facts = json.loads(path.read_text())
    facts["pair"] = {"sha256": hashlib.sha256(hostile.encode()).hexdigest(), "source": ""}
    path.write_text(json.dumps(facts))
    for script, options in (("evaluate", []), ("sample", []), ("train", ["--resume"])):
        with pytest.raises(SystemExit) as stop:
            call(script, *options, tmp_path / "run")
        assert stop.value.code == 2
        assert "was never run by you" in capsys.readouterr().err
    assert not canary.exists()
    file.write_text(PAIR_FILE)
    facts["pair"]["sha256"] = hashlib.sha256(PAIR_FILE.encode()).hexdigest()
    path.write_text(json.dumps(facts))
    call("evaluate", tmp_path / "run", "--particles", 2, "--pair", file)
    call("evaluate", tmp_path / "run", "--particles", 2)  # it has been named once


def test_pair_file_for_a_run_of_parts_is_refused(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "pair.py"
    file.write_text(PAIR_FILE)
    for script, words in (("evaluate", [copy]), ("train", ["--resume", copy, "--epochs", 2])):
        with pytest.raises(SystemExit) as stop:
            call(script, *words, "--pair", file)
        assert stop.value.code == 2
        assert "was made from parts, not from a pair file" in capsys.readouterr().err

"""A run directory is data, never a program: what comes with one imports and starts nothing."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from inference.runs import Run

from .test_scripts import PAIR_FILE, TINY, call

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
    "what a module of ours imports": {"prior": "inference.runs.run.subprocess.getoutput"},
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
    text = json.dumps(HOSTILE[name]).replace("{canary}", str(canary))
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


@pytest.mark.parametrize("config", ["[1, 2]", "word", "a: &a [*a]\nprior: *a", "a: {", "\xff"])
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

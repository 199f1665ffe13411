"""The script of the first half hour on a GPU runs to its end without one."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"
script = importlib.import_module("scripts.gpu_first")
WORDS = ["--data", "digits", "--device", "cpu", "--quick"]


def lines(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    script.main([*WORDS, *words])
    return capsys.readouterr().out.splitlines()


def test_items_say_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    said = lines(capsys, "--items", "tests", "kernels", "two gpus", "failing capture", "evaluation")
    assert "tests: needs CUDA" in said
    assert "kernels: needs CUDA" in said
    assert "two gpus: needs CUDA, two GPUs" in said
    assert sum("draws go on" in line for line in said) == 4
    assert any(line.startswith("evaluation: 16 data, K = 200:") for line in said)
    assert not any("FAILS" in line for line in said)


def test_an_item_that_fails_is_told_and_the_next_one_runs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: object) -> None:
        raise RuntimeError("operation failed due to a previous error during capture")

    monkeypatch.setitem(script.ITEMS, "pairs", broken)
    said = lines(capsys, "--items", "pairs", "kernels")
    assert said[0].startswith("pairs: FAILS: RuntimeError: operation failed")
    assert "kernels: needs CUDA" in said


def test_nothing_is_begun_once_the_time_is_over(capsys: pytest.CaptureFixture[str]) -> None:
    said = lines(capsys, "--items", "pairs", "epochs", "--minutes", "1e-9")
    assert said == [f"{name}: left out: no time is left" for name in ("pairs", "epochs")]


@pytest.mark.slow
def test_whole_script_and_items_apart() -> None:
    for words in ([], ["--apart", "true", "--items", "kernels", "settings"]):
        command = [sys.executable, str(SCRIPTS / "gpu_first.py"), *WORDS, *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
        assert done.returncode == 0, done.stderr
        assert "FAILS" not in done.stdout
        assert "ENDED" not in done.stdout
        assert "settings: bf16: off" in done.stdout

"""The tutorial's blocks in order, in an empty folder, as a reader would copy them."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from .test_scripts import ROOT, call

PAGE = ROOT / "docs" / "tutorial.md"


def blocks() -> list[tuple[str, str]]:
    return re.findall(r"^```(sh|python)\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize(
    "epochs",
    [pytest.param("2", id="two epochs"), pytest.param("", id="as written", marks=pytest.mark.slow)],
)
def test_the_tutorial_runs(
    epochs: str,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if epochs:
        request.getfixturevalue("undrawn")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for kind, text in blocks():
        if epochs:
            text = re.sub("(particles[= ])1000", r"\g<1>50", text)
        if kind == "python":
            exec(compile(text, str(PAGE), "exec"), names)
            continue
        for line in text.replace("\\\n", " ").splitlines():
            if not line.startswith("pip "):
                command, script, *words = shlex.split(line)
                assert command == "lowerbound"
                if epochs and "--epochs" in words:
                    words[words.index("--epochs") + 1] = epochs
                call(script, *words)
    out = capsys.readouterr().out
    assert "No fault found." in out
    assert "likelihood=HeteroscedasticNormal, against likelihood=Normal: " in out
    assert (
        len(list(tmp_path.glob("comparison/*.png"))) == 5
    )  # traces, differences, rate, bounds, KL
    before, after = map(float, re.findall(r"means of the columns (.*), imputed (.*)", out)[0])
    assert after < before
    if not epochs:
        assert after == pytest.approx(0.49, abs=0.03)
        assert "better by" in out

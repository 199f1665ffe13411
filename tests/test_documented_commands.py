"""Every command of README.md and docs/ is one that its script takes, as a reader would type it.

Commands that can look at what they would do (train and sweep by a dry run, check) do so, on data of
the sets' shapes and kinds; the others have their arguments read and brought to life.
"""

import argparse
import functools
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

import inference.data
from inference.data import DATASETS, Dataset, Split
from inference.data.listing import LISTED
from scripts import sweep, train
from scripts._arguments import Parser
from scripts._commands import COMMANDS
from scripts._explain import arguments_of
from scripts._pair import PARTS, parts

from .test_scripts import ROOT, call

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
GALLERY = ROOT / "docs" / "gallery.md"
SCRIPTS = {"bench", "gpu_first", "quickstart"}
"""Scripts that are no commands."""


class Documented(NamedTuple):
    """A command of a page."""

    page: Path
    text: str

    def __str__(self) -> str:
        return f"{self.page.stem}: {self.text}"


def without_python(page: Path) -> str:
    return re.sub(r"```(?:python|pycon)\n.*?```", "", page.read_text(), flags=re.DOTALL)


def lines_of(page: Path) -> Iterator[str]:
    """Yield the lines of indented blocks and of ```sh, each with what continues it."""
    text = re.sub(r"\\\n\s*", "", without_python(page))
    fenced = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL)).splitlines()
    others = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    for line in (*fenced, *re.findall(r"^ {4}(\S.*)$", others, re.MULTILINE)):
        yield from (each.strip() for each in line.partition("  #")[0].split("&&"))


def spans_of(page: Path) -> list[str]:
    """Return what stands in backticks, on one line."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", without_python(page))]


def documented(page: Path) -> Iterator[Documented]:
    spans = [span for span in spans_of(page) if " " in span]
    for text in (*lines_of(page), *spans):
        wrapped = re.search(r"--wrap '([^']*)'", text)  # by a scheduler
        found = wrapped[1] if wrapped else text.partition(" -- ")[2] if "torchrun" in text else text
        found = re.sub(r"^(python )?scripts/(\w+)\.py", _named, found)
        if found.startswith("lowerbound "):
            yield Documented(page, found.removeprefix("lowerbound "))
        elif page == GALLERY and found.startswith("--"):
            yield Documented(page, f"train {found}")


def _named(found: re.Match[str]) -> str:
    return f"lowerbound {found[2]}"


DOCUMENTED = list(
    {each.text.removesuffix(" ..."): each for page in PAGES for each in documented(page)}.values()
)


def stand_in(name: str, _: Path) -> Dataset:
    """Return small data of a named set's kind, without its files."""
    listed = LISTED[name]
    event_shape = (1, 8, 8) if len(listed.event_shape) == 3 else (30,)
    levels = int(getattr(listed.view, "levels", 1))
    stored = torch.randint(levels + 1, (5000, *event_shape), dtype=torch.uint8)
    given = (torch.arange(5000) % 10,) if name.endswith(("labelled", "semi")) else ()
    split = Split(stored, listed.view, given=given)
    return Dataset(name, split, split, split)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make what the pages call mine.csv, big.npy, photographs/, mine.py, priors.yaml and RUN."""
    made = tmp_path_factory.mktemp("reader")
    rows = ["a,b,c", *(f"{n % 7 / 3},{n * n % 11 / 5},{'' if n % 3 else 0.5}" for n in range(300))]
    (made / "mine.csv").write_text("\n".join(rows))
    np.save(made / "big.npy", np.random.default_rng(0).random((300, 4)))
    watching = (ROOT / "docs" / "watching.md").read_text()
    (made / "boards.py").write_text(
        "".join(re.findall(r"```python\n(.*?)```", watching, re.DOTALL))
    )
    (made / "photographs").mkdir()
    for n in range(200):
        image = np.random.default_rng(n).integers(256, size=(9, 8, 3), dtype=np.uint8)
        Image.fromarray(image).save(made / "photographs" / f"{n}.png")
    readme = (ROOT / "README.md").read_text()
    (pair,) = (b for b in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if "def pair" in b)
    (made / "mine.py").write_text(pair)
    (made / "scripts").symlink_to(ROOT / "scripts")
    small = ["--encoder.hidden", "[8]", "--decoder.hidden", "[8]", "--latent_dim", 2]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "draw", lambda *_: None)  # pictures take the longest
        call("train", "--epochs", 1, *small, "--run", made / "RUN", "--quiet", "--compile", "off")
    comparing = (ROOT / "docs" / "comparing.md").read_text()
    (text,) = re.findall(r"^    data: digits\n(?:    .*\n)+", comparing, re.MULTILINE)
    (made / "priors.yaml").write_text(re.sub("^    ", "", text, flags=re.MULTILINE))
    return made


class Read(BaseException):
    """The arguments of a command are read: it would begin now."""


@pytest.fixture
def reader(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Be in the reader's folder, with stand-ins for data that take files."""
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))  # as for a command, which looks where one is
    for name in DATASETS:
        if not name.startswith("digits"):
            monkeypatch.setitem(DATASETS, name, functools.partial(stand_in, name))
    monkeypatch.setattr(sweep, "sweep", lambda *_: True)


def stop_when_read(monkeypatch: pytest.MonkeyPatch) -> None:
    instantiate = Parser.instantiate

    def stop(self: Parser, *words: Any, **named: Any) -> Any:
        found = instantiate(self, *words, **named)
        if set(dict(found)) - {"data", "view", "data_root"}:  # which are opened first
            raise Read
        return found

    monkeypatch.setattr(Parser, "instantiate", stop)


@pytest.mark.parametrize("command", DOCUMENTED, ids=str)
def test_documented_command(
    command: Documented,
    folder: Path,
    reader: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = command.text.replace("KEY: A, B", "latent_dim: 8, 32").replace("[FOLDER]", "FOLDER")
    text = text.replace("--pair FILE", "--pair mine.py")
    text = re.sub(r"\$SLURM_ARRAY_TASK_ID", "3", text).replace("/shared/RUN", "NEW")
    text = re.sub(r"--run RUN\b", "--run NEW", text)  # which is to be made
    name, *words = [word for word in shlex.split(text) if word != "..."]
    if name == "sweep":
        shutil.rmtree(folder / "sweeps", ignore_errors=True)
        if "--resume" in words:
            (folder / "sweeps" / words[0]).mkdir(parents=True)
            (folder / "sweeps" / words[0] / "sweep.yaml").write_text("vary: {}\n")
    elif name == "train" and words and not {"--list", "--prior.help"} & {*words}:
        words += ["--dry_run", "--quiet"]
    elif name != "check":
        stop_when_read(monkeypatch)
    assert name in {*COMMANDS, *SCRIPTS}
    threads = torch.get_num_threads()
    try:
        status = started(name, words) if words or name in SCRIPTS else None
    finally:
        torch.set_num_threads(threads)
    assert not status, capsys.readouterr().err


def started(name: str, words: list[str]) -> object:
    """Return the exit status of a command, None where it would begin."""
    try:
        call(name, *words)
    except Read:
        pass
    except SystemExit as ended:
        return ended.code
    return None


def flags(name: str, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Return the arguments that a command takes."""
    found: set[str] = set()

    def keep(self: argparse.ArgumentParser, *_: Any, **__: Any) -> Any:
        found.update(self._option_string_actions)
        raise Read

    with monkeypatch.context() as patch:
        for kind, method in ((Parser, "parse_args"), (sweep.OneLine, "parse_known_args")):
            patch.setattr(kind, method, keep)
        started(name, [])
    return found


def test_arguments_that_pages_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """In backticks and alone, as `--prior.df 5`: some command takes it, some part its part."""
    known = set().union(*(flags(name, monkeypatch) for name in (*COMMANDS, *SCRIPTS)))
    for flag in PARTS:
        known |= {f"{flag}.{own}" for part in parts(flag).values() for own in arguments_of(part, 0)}
    views = (getattr(inference.data, name) for name in inference.data.__all__)
    known |= {f"--view.{own}" for view in views for own in arguments_of(view, 0)}
    wrong = {
        (page.name, word)
        for page in PAGES
        for span in spans_of(page)
        if span.startswith("--")
        for word in re.findall(r"(?:^| )(--[\w.]+)", span)
        if word.removesuffix(".NAME") not in known
    }
    assert wrong == set()

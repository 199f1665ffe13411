"""The house itself: lint, types, the wheel, what imports what."""

import ast
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from inference import load, load_run
from models import VAE
from scripts import _commands as commands

ROOT = Path(__file__).parent.parent
PACKAGES = ("models", "guides", "inference")

TRAIN_FROM_WHEEL = """
from importlib import metadata
import sys
import torch
from lowerbound import inference
from lowerbound.guides import MLP as Encoder, Amortized, DiagonalNormal
from lowerbound.inference import SVI, Dataset, Split, fit, load_run
from lowerbound.models import MLP, VAE, Bernoulli, StandardNormal
from lowerbound.scripts._commands import main
x = torch.bernoulli(torch.full((60, 1, 3, 3), 0.5))
model = VAE(StandardNormal(2), MLP(2, (1, 3, 3), [8]), Bernoulli((1, 3, 3)))
guide = Amortized(Encoder((1, 3, 3), 4, [8]), DiagonalNormal(2))
trace = fit(SVI(model, guide), Dataset("x", Split(x), Split(x), Split(x)), epochs=2, batch_size=20)
assert len(trace.split("valid")) == 2
for seed in ("0", "1"):
    main(["train", "--prior", "Vamp", "--prior.components", "3", "--epochs", "1", "--seed", seed,
          "--encoder.hidden", "[8]", "--decoder.hidden", "[8]", "--run", "run" + seed])
    main(["evaluate", "run" + seed, "--particles", "3"])
main(["train", "--config", "run0/config.yaml", "--run", "again"])
main(["train", "--resume", "run0", "--epochs", "2"])
main(["compare", "run0", "run1", "--out", "compared", "--html", "page.html"])
run = load_run("run0")
assert run.encode(run.data.test.stored).shape == (200, 50)
for name in ("models", "guides", "inference", "scripts"):
    try:
        __import__(name)
    except ImportError:
        continue
    raise AssertionError(name)
assert inference.__version__ == metadata.version("lowerbound")
print("trained")
"""


def test_ruff() -> None:
    for words in (["check"], ["format", "--check"]):
        command = [sys.executable, "-m", "ruff", *words, "--no-cache", ROOT]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_pyright() -> None:
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_do_not_import_each_other(package: str) -> None:
    others = set(PACKAGES) - {package}
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            assert not {name.split(".")[0] for name in names} & others, path


ROOMS = (
    "references", "", "check", "capture", "objectives", "data", "evaluation", "training", "runs",
)  # fmt: skip
"""Of `inference`, the core without a name: each imports only those before it."""


@pytest.mark.parametrize("place", range(len(ROOMS)), ids=lambda place: ROOMS[place] or "core")
def test_rooms_import_one_way(place: int) -> None:
    room = ROOMS[place]
    depth = 2 if room else 1
    for path in (ROOT / "inference" / room).glob("*.py"):
        if path == ROOT / "inference" / "__init__.py":
            continue  # it exports from all of them
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level == depth:
                names = [node.module] if node.module else [alias.name for alias in node.names]
                firsts = {str(name).split(".")[0] for name in names}
                rooms = firsts & set(ROOMS) | ({""} if room and firsts - set(ROOMS) else set())
                assert rooms <= set(ROOMS[:place]), f"{path} imports {', '.join(sorted(rooms))}"


def test_every_room_has_its_place() -> None:
    folders = {path.parent.name for path in (ROOT / "inference").glob("*/__init__.py")}
    assert folders == set(ROOMS) - {""}


@pytest.mark.parametrize("folder", [*PACKAGES, "scripts"])
def test_files_have_300_lines_at_most(folder: str) -> None:
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text().splitlines())
        for path in (ROOT / folder).rglob("*.py")
    }
    assert not {path: lines for path, lines in lengths.items() if lines > 300}


def test_wheel_trains_elsewhere(tmp_path: Path) -> None:
    """Build the wheel, install it apart from the checkout, train a pair from it."""
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", tmp_path, ROOT]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = tmp_path.glob("lowerbound-*.whl")
    target = tmp_path / "site"
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--target", target, wheel]
    subprocess.run(command, capture_output=True, check=True)
    left = {p.name for p in target.iterdir() if not p.name.endswith(".dist-info")}
    assert left == {"lowerbound", "bin"}
    assert not list(target.rglob("*.toml"))
    assert {p.parent.name for p in target.rglob("py.typed")} == set(PACKAGES)
    assert (target / "lowerbound" / "__main__.py").is_file()
    # -I and -S leave out the editable install of the checkout; its site-packages come in by hand,
    # after the standard library: some packages bring a module of a name that is there.
    site = [p for p in sys.path if p.endswith(("site-packages", "dist-packages"))]
    code = f"import sys; sys.path += {[str(target), *site]!r}\n{TRAIN_FROM_WHEEL}"
    command = [sys.executable, "-I", "-S", "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1:] == ["trained"], done.stderr
    assert load_run(tmp_path / "run1").encode(load("digits").test.stored[:2]).shape == (2, 50)
    alone = f"import sys; sys.path += {[str(target), *site]!r}; sys.argv[1:] = ['--help']\n"
    alone += "import runpy; runpy.run_module('lowerbound', run_name='__main__')"
    command = [sys.executable, "-I", "-S", "-c", alone]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("usage: lowerbound COMMAND")


def test_checkout_has_the_names_of_the_wheel() -> None:
    opened = import_module("lowerbound.inference.runs.opened")
    assert opened is sys.modules["inference.runs.opened"]
    assert getattr(opened.__spec__, "name", None) == "inference.runs.opened"
    assert import_module("lowerbound.models").VAE is VAE
    with pytest.raises(ModuleNotFoundError, match="No module named 'lowerbound.nothing'"):
        import_module("lowerbound.nothing")


def test_commands_by_one_name(capsys: pytest.CaptureFixture[str]) -> None:
    commands.main(["--help"])
    assert re.search("  compare +compare runs", capsys.readouterr().out)
    with pytest.raises(SystemExit) as ended:
        commands.main(["trian"])
    assert ended.value.code == 2
    assert capsys.readouterr().err == "lowerbound: no command 'trian': did you mean train?\n"
    with pytest.raises(SystemExit) as ended:
        commands.main(["train", "--epochs", "0"])
    assert ended.value.code == 2

"""Options, markers and what every test starts from."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyro
import pytest
import torch

from inference.data import data_root

if "PYTEST_XDIST_WORKER" in os.environ:  # a worker a core: more threads would only wait
    torch.set_num_threads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the commands that tests start


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run the tests marked slow")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--slow"):
        slow = [item for item in items if "slow" in item.keywords]
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if "slow" not in item.keywords]
    cuda = pytest.mark.skip(reason="no CUDA device")
    for item in items:
        if "cuda" in item.keywords and not torch.cuda.is_available():
            item.add_marker(cuda)


@pytest.fixture(scope="session", autouse=True)
def _home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Commands note there which files of code the user has run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(autouse=True)
def _fresh_pyro() -> None:
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    pyro.enable_validation(True)


@pytest.fixture(autouse=True)
def _log_level() -> None:
    """Scripts that run in this process set it, also for the fixtures of a whole file."""
    logging.getLogger("inference").setLevel(logging.NOTSET)


@pytest.fixture
def in_doubles() -> Iterator[None]:
    """Densities against exact ones leave no room for the rounding of floats."""
    torch.set_default_dtype(torch.float64)
    pyro.set_rng_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


@contextmanager
def not_drawing() -> Iterator[None]:
    """Figures are made and saved without being drawn, for tests of anything but pictures.

    Matplotlib takes as long over those of a small run as all the rest of it.
    """
    from matplotlib.figure import Figure  # takes a second, and few tests need it
    from PIL import Image

    def save(figure: Figure, file: Path, **_: object) -> None:
        Image.new("L", (1, 1)).save(file, "PNG")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", save)
        yield


@pytest.fixture
def undrawn() -> Iterator[None]:
    with not_drawing():
        yield


@pytest.fixture
def files() -> Path:
    """The folder of the data files, as a run would find it."""
    return data_root()


def needs(root: Path, *relative: str) -> None:
    """Skip where a file is not there, and say which."""
    for name in relative:
        if not (root / name).exists():
            shown = os.environ.get("LOWERBOUND_DATA", "the user's cache folder")
            pytest.skip(f"{name} is not under {shown}")

"""The pages: tables made from docstrings, classes that they name, the site as a whole."""

import re
import sys
from importlib.util import module_from_spec, spec_from_file_location
from inspect import isabstract
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import guides
import inference
import models

from .test_tables import exported

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
GALLERY = (DOCS / "gallery.md").read_text()


@pytest.fixture(scope="module")
def tables() -> Any:
    """Return the hook of the site, docs/parts.py."""
    spec = spec_from_file_location("docs_parts", DOCS / "parts.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


KINDS: dict[str, tuple[ModuleType, type, set[str]]] = {
    "--prior": (models, models.Prior, set()),
    "--likelihood": (models, models.Likelihood, set()),
    "--decoder": (models, models.Decoder, set()),
    "--guide": (guides, guides.Family, set()),
    "--encoder": (guides, guides.Encoder, set()),
    "--amortization": (guides, guides.Amortized, {"Amortized"}),
    "--objective": (inference, inference.Objective, set()),
    "--estimator": (inference, inference.Estimator, set()),
    "--kl_weight": (inference, inference.Schedule, set()),
}
"""Where parts are exported, their kind, and whether that is a part itself."""


@pytest.mark.parametrize("flag", KINDS)
def test_the_gallery_has_every_part(flag: str, tables: Any) -> None:
    package, kind, own = KINDS[flag]
    names = {name for name in exported(package, kind) if not isabstract(getattr(package, name))}
    page = tables.on_page_markdown(GALLERY)
    row = rf"^\| \[`(\w+)`\]\([^)]*\) \| (.+) \| `{flag} (\w+)` \| .*\|$"
    rows = re.findall(row, page, re.MULTILINE)
    assert {name for name, _, _ in rows} == names | own
    assert all(name == argument for name, _, argument in rows)
    assert all(len(said) > 10 for _, said, _ in rows)


def test_the_gallery_has_a_table_of_every_kind(tables: Any) -> None:
    assert set(tables.MARK.findall(GALLERY)) == KINDS.keys() == tables.PARTS.keys()
    assert "<!--" not in tables.on_page_markdown(GALLERY)
    assert "hooks: [docs/parts.py]" in (ROOT / "mkdocs.yml").read_text()


class Snowflakes(models.StandardNormal):
    """Six arms: p(z) = |z|_6 * [half] of :math:`\\mu < 1`, `z` at most.

    No other paragraph.

    Args:
        latent_dim: their number.
        arms: six.
    """

    def __init__(self, latent_dim: int, arms: int = 6) -> None:
        super().__init__(latent_dim)
        self.arms = arms


def test_a_new_part_appears_by_itself(tables: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "Snowflakes", Snowflakes, raising=False)
    monkeypatch.setattr(models, "__all__", [*models.__all__, "Snowflakes"])
    (row,) = (line for line in tables.table("--prior").splitlines() if "Snowflakes" in line)
    assert row == (
        r"| [`Snowflakes`](reference.md#models.Snowflakes) | Six arms: p(z) = \|z\|\_6 \* "
        r"\[half\] of μ &lt; 1, `z` at most. | `--prior Snowflakes` | `arms` |"
    )


def test_classes_that_the_gallery_names_exist() -> None:
    """By hand, in backticks: classes of the three packages, and files of whole pairs."""
    spans = re.findall(r"`([^`]+)`", GALLERY)
    names = {span for span in spans if re.fullmatch(r"[A-Z]\w*[a-z]\w*", span)}
    known = {name for package in (models, guides, inference) for name in package.__all__}
    assert len(names) > 10
    assert names - known == set()
    files = {span for span in spans if re.fullmatch(r"\w+\.py", span)}
    assert files == {path.name for path in (ROOT / "scripts" / "pairs").glob("[a-z]*.py")}


def test_the_site_builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every link and anchor leads somewhere, those of the tables too."""
    build = pytest.importorskip("mkdocs.commands.build", reason="mkdocs is not installed")
    pytest.importorskip("mkdocstrings", reason="mkdocstrings is not installed")
    from mkdocs.config import load_config

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])
    build.build(load_config("mkdocs.yml", site_dir=str(tmp_path), strict=True))
    page = (tmp_path / "gallery" / "index.html").read_text()
    anchors = set(re.findall(r'href="../reference/#([\w.]+)"', page))
    ids = set(re.findall(r'id="([\w.]+)"', (tmp_path / "reference" / "index.html").read_text()))
    assert len(anchors) > 80
    assert anchors - ids == set()

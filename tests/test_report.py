"""The report: one page that asks nobody, not too large, in which what a run says is text."""

import csv
import json
import math
import os
import re
import shutil
import struct
import subprocess
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from inference.runs import Run, compare, report
from inference.runs.frames import write_numbers
from inference.runs.report import in_script, page, write_report
from inference.runs.report_parts import POINTS, numbers, small_png, thin, trace_data
from inference.runs.verdicts import verdicts
from inference.training.trace import Row

from .test_scripts import call

pytest.importorskip("plotly", reason="plotly is not installed")

HOSTILE = (
    "<img src=x onerror=document.title='owned'>",
    "</script><script>document.title='owned'</script>",
    "=cmd|' /C calc'!A0",
    "$\\alpha$ %{x} `${1}` {{x}}",
    "<a href='javascript:alert(1)'>here</a>",
    "<!--<script>",
    '" autofocus onfocus="document.title=1',
    "n" * 200,
    "данные 数据 بيانات",
)
PIXELS = struct.pack(">II", 3, 2)


def png(sides: bytes = PIXELS, more: int = 0) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + sides + bytes(9 + more)


def made(path: Path, seed: int, mean: float, unit: str = "nats", **config: Any) -> Run:
    """Return a run of 20 validations that was evaluated on 50 data with three K."""
    facts = {
        "data": {"name": config.pop("name", "bits"), "hash": "0a1b", "unit": unit},
        "parameters": 1000,
        "versions": {"torch": "2.0"},
        "device": "cpu",
        "git_commit": "c0ffee",
    }
    whole = {"seed": seed, "epochs": 20, "batch_size": 10, "patience": None, "data": "bits"}
    run = Run.create(path, yaml.safe_dump(whole | config, allow_unicode=True), facts)
    for step in range(1, 21):
        elbo = mean - 5 - 10 / step + 0.1 * seed
        run.trace.append(Row(10 * step, step, 0.5 * step, "valid", elbo, elbo + 3, 3.0))
    values = mean + np.sin(np.arange(50)) + 0.05 * seed
    curve = np.stack([values - 2, values - 1, values])
    means = dict(zip(("1", "10", "100"), curve.mean(1).tolist(), strict=True))
    site = {"kl_sorted": [2.0, 1.0], "kl_by_dimension": True, "units": 2, "active_units": 2}
    found = {"split": "test", "count": 50, "particles": 100, "seed": 0, "elbo": means["1"]}
    found |= {"log_px": means["100"], "log_px_se": 0.1, "rate": 3.0, "distortion": 90.0 - mean}
    found |= {"k_hat_share_above_0.7": 0.25, "curve": means}
    found["diagnostics"] = {"sites": {config.get("prior", "z"): site}}
    arrays = {"log_px": values, "log_px_mc_se": 0 * values, "elbo": values - 2, "curve": curve}
    run.write_evaluation(found, arrays | {"steps": np.array([1, 10, 100])})
    for kind in ("samples", "reconstructions"):
        (run.figures / f"{kind}.png").write_bytes(png())
    return run


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    folder = tmp_path_factory.mktemp("two")
    return [
        made(folder / f"{z}-{seed}", seed, -90 + z / 4, latent_dim=z)
        for z in (2, 8)
        for seed in (0, 1, 2)
    ]


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    folder = tmp_path_factory.mktemp("hostile")
    return [
        made(
            folder / text.replace("/", "-") / str(place), 0, -90 + place, unit="nats </script><b>",
            prior=text, name=HOSTILE[1], **{"=<script>": place},
        )
        for place, text in enumerate(HOSTILE)
    ]  # fmt: skip


class Elements(HTMLParser):
    """Every element of a page with its attributes, and the text of the page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.said: list[str] = []
        self.scripts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        inside = self.scripts if self.lasttag == "script" else self.said
        inside.append(data)


def written(runs: list[Run]) -> str:
    groups = compare(runs)
    return page(groups, verdicts(groups))


def bare(text: str) -> str:
    """Return a page without plotly's own text, of which the licences name addresses."""
    from plotly.offline import get_plotlyjs

    assert text.count(get_plotlyjs()) == 1
    return text.replace(get_plotlyjs(), "")


def test_the_page_says_the_verdicts_and_asks_nobody(two: list[Run]) -> None:
    groups = compare(two)
    (found,) = verdicts(groups)
    text = bare(page(groups, [found]))
    elements = Elements(text)
    said = " ".join(elements.said)
    assert "better by 1.5" in found.verdict
    assert said.index(found.verdict) < said.index("final valid ELBO") < said.index("c0ffee")
    assert not re.search(r"https?:|url\(|@import|fetch\(|XMLHttp|WebSocket|\bimport\(", text)
    loads = {"src", "href", "srcset", "action", "data", "poster", "background"}
    for tag, attributes in elements.found:
        assert tag not in {"link", "iframe", "object", "embed", "base"}
        for name in loads & attributes.keys():
            assert (tag, name) == ("img", "src")
            assert str(attributes[name]).startswith("data:image/png;base64,")
    assert [tag for tag, _ in elements.found].count("img") == 4
    (policy,) = (a["content"] for _, a in elements.found if "http-equiv" in a)
    assert str(policy).startswith("default-src 'none';")


def test_the_numbers_of_the_drawings(two: list[Run]) -> None:
    found = json.loads(Elements(bare(written(two))).scripts[0])
    assert found["labels"] == ["latent_dim=2", "latent_dim=8"]
    mean = found["traces"][0]["mean"]
    assert mean["step"] == list(range(10, 201, 10))
    assert mean["elbo"][-1] == pytest.approx(-90 + 0.5 - 5.5 + 0.1)
    assert mean["elbo_low"][-1] < mean["elbo"][-1] < mean["elbo_high"][-1]
    assert found["curves"][0]["k"] == [1, 10, 100]
    assert found["curves"][0]["heavy"] == 0.25
    assert found["forest"][0]["kind"] == "better"
    assert len(found["plane"][1]) == len(found["codes"][1]) == 3
    assert found["codes"][1][0]["kl"] == [2.0, 1.0]


def test_what_comes_from_a_run_is_text(hostile: list[Run]) -> None:
    text = bare(written(hostile))
    elements = Elements(text)
    tags = [tag for tag, _ in elements.found]
    assert tags.count("script") == 3
    assert not {"a", "b"} & {*tags}
    assert not {name for _, a in elements.found for name in a if name.startswith("on")}
    assert {*HOSTILE} <= {*elements.said} | {each[:200] for each in elements.said}
    assert "".join(elements.said).count(HOSTILE[1] + ": 9 runs") == 2  # the title and the head
    assert not {"<", ">", "&"} & {*elements.scripts[0]}
    assert any(HOSTILE[1] in each for each in json.loads(elements.scripts[0])["labels"])


def test_json_in_a_script_is_one_that_no_tag_ends() -> None:
    value = {"<!--": ["</script>", "]]>", "&lt;", "\u2028", "\udc80", None, 1.5]}
    text = in_script(value)
    assert json.loads(text) == value
    assert not {"<", ">", "&", "\u2028"} & {*text}
    with pytest.raises(ValueError, match="JSON"):
        in_script(math.nan)
    assert numbers([math.nan, math.inf, True, "1", None, 10**400, 1.23456789, 7]) == [
        *[None] * 6, 1.234568, 7,
    ]  # fmt: skip


@pytest.mark.parametrize(("length", "points"), [(0, 10), (1, 10), (10, 10), (999, 50), (10_000, 7)])
def test_thinning_keeps_the_extremes_of_every_bin(length: int, points: int) -> None:
    """Of each curve: those of the whole, and of each of equal bins. A stride loses all but some."""
    rng = np.random.default_rng(0)
    values = rng.standard_t(1, (2, length))  # with peaks that are far from all else
    kept = thin(values, points)
    assert len(kept) == length if length <= points else len(kept) <= max(points, 6)
    assert (np.diff(kept) > 0).all()
    for curve in values if length else ():
        assert {0, length - 1, int(curve.argmin()), int(curve.argmax())} <= {*kept.tolist()}
    if length == 999:  # 12 bins, of 83 points or 84
        edges = np.linspace(0, length, 13).astype(int)
        places = [start + values[:, start:end].argmax(1) for start, end in pairwise(edges)]
        assert {*np.concatenate(places).tolist()} <= {*kept.tolist()}
    holes = np.where(rng.random((2, length)) < 0.5, np.nan, values)
    for curve in holes if length > 9 else ():
        assert {int(np.nanargmin(curve)), int(np.nanargmax(curve))} <= {*thin(holes, points)}


def test_a_hundred_runs_of_ten_thousand_points_are_no_large_page(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(size=10_000)
    rows = [
        Row(i, i / 50, i / 9, ("train", "valid")[i % 2], -100 + e, -90 + e, 10 + e)
        for i, e in enumerate(noise.tolist())
    ]
    first = made(tmp_path / "0", 0, -90.0, latent_dim=0)
    runs = [first]
    for z in range(1, 100):
        path = tmp_path / str(z)
        config = yaml.safe_dump({**first.config, "data": "bits", "latent_dim": z, "view": None})
        runs.append(Run.create(path, config, first.environment))
    for run in runs:
        run.trace.rows = rows
    groups = compare(runs)
    assert len(groups) == 100
    write_report(groups, verdicts(groups, baseline="latent_dim=99"), tmp_path / "a" / "report.html")
    assert [each.name for each in (tmp_path / "a").iterdir()] == ["report.html"]  # and no partial
    assert (tmp_path / "a" / "report.html").stat().st_size < 15e6
    points = [
        len(s[n]["step"]) for g in trace_data(groups) for s in g["seeds"] for n in s if n != "name"
    ]
    assert len(points) == 200
    assert sum(points) <= 2 * POINTS  # of two splits
    assert min(points) >= 100


def test_pictures_are_small_and_no_other_file(tmp_path: Path) -> None:
    files = {
        "good": png(), "text": b"secret" * 20, "short": png()[:20], "large": png(more=400_000),
        "wide": png(struct.pack(">II", 2**31, 1)), "none": png(struct.pack(">II", 0, 1)),
    }  # fmt: skip
    for name, value in files.items():
        (tmp_path / f"{name}.png").write_bytes(value)
    (tmp_path / "link.png").symlink_to(tmp_path / "good.png")
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    taken = {p.stem for p in tmp_path.iterdir() if small_png(p) is not None}
    assert taken == {"good"}
    assert small_png(tmp_path / "absent.png") is None


def test_a_run_that_was_not_evaluated_has_a_page(tmp_path: Path) -> None:
    run = made(tmp_path / "a", 0, -90.0)
    (run.path / "evaluation.json").unlink()
    shutil.rmtree(run.path / "figures")
    text = bare(written([Run(run.path)]))
    assert "there is none to compare it with" in text
    assert "<h2>Bound over K</h2>" not in text
    assert "<h2>Samples" not in text


def test_damaged_evaluations_leave_a_part_out(tmp_path: Path) -> None:
    run = made(tmp_path / "a", 0, -90.0)
    found = json.loads((run.path / "evaluation.json").read_text())
    found |= {"curve": {"<b>": 1, "10": "x", "²": 3}, "diagnostics": {"sites": ["z"]}}
    run.write_evaluation(found)
    assert json.loads(Elements(bare(written([Run(run.path)]))).scripts[0])["codes"] == [[]]


def test_compare_writes_it_or_says_what_is_missing(
    two: list[Run],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    undrawn: None,
) -> None:
    words = [str(run.path) for run in two[:1]] + ["--out", str(tmp_path / "c")]
    words += ["--html", str(tmp_path / "new" / "report.html")]
    call("compare", *words)
    assert words[-1] in capsys.readouterr().out.splitlines()
    before = (tmp_path / "new" / "report.html").read_text()
    monkeypatch.setattr(report, "find_spec", lambda _: None)
    with pytest.raises(SystemExit) as stop:
        call("compare", *words)
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert said == (
        "lowerbound compare: A report needs plotly: pip install 'lowerbound[report]'.\n"
    )
    assert (tmp_path / "new" / "report.html").read_text() == before


def test_cells_and_heads_are_no_formulas(hostile: list[Run], tmp_path: Path) -> None:
    run = made(tmp_path / "a", 0, -90.0, shift="-0.5", call="-1+cmd()", line="\uff1d1")
    for runs in ([run], hostile):
        groups = compare(runs)
        for path in write_numbers(groups, verdicts(groups), tmp_path / "out")[1:]:
            with path.open(newline="") as file:
                cells = [cell for row in csv.reader(file) for cell in row]
            texts = [cell for cell in cells if not re.fullmatch(r"-?[\d.]+(e-?\d+)?", cell)]
            assert not [t for t in texts if t.startswith(("=", "+", "-", "@", "\uff1d"))], path
        if runs == [run]:
            assert {"-0.5", "'-1+cmd()", "'\uff1d1"} <= {
                cell
                for row in csv.reader((tmp_path / "out" / "runs.csv").open(newline=""))
                for cell in row
            }


BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)

PRINT = "for (const name of ['beforeprint', 'afterprint']) window.dispatchEvent(new Event(name))"
"""Draws all at once; else a drawing waits until the window comes near it."""


def opened(path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Open a page in a window high enough for all of it, and return the page as it is then."""
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    command += [f"--user-data-dir={path.parent / 'profile'}", "--window-size=1000,9000"]
    command += ["--virtual-time-budget=5000", *words, "--dump-dom", path.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.skipif(not BROWSER, reason="no Chromium on PATH")
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_browser_draws_it_and_asks_nobody(theme: str, hostile: list[Run], tmp_path: Path) -> None:
    """It would say in its log what the page's policy refused, and what its scripts raised."""
    groups = compare(hostile)
    path = write_report(groups, verdicts(groups), tmp_path / "report.html")
    before, _, end = path.read_text().rpartition("</body>")
    path.write_text(f"{before}<script>{PRINT}</script></body>{end}")
    done = opened(path, f"--blink-settings=preferredColorScheme={int(theme == 'light')}")
    assert 'data-ready="yes"' in done.stdout, done.stderr
    assert f'data-theme="{theme}"' in done.stdout
    assert "CONSOLE" not in done.stderr
    elements = Elements(done.stdout)
    titles = {str(a["data-title"]) for _, a in elements.found if "data-title" in a}
    assert titles == {"Download plot as a PNG", "Zoom", "Pan", "Reset axes"}  # none shares it
    drawn = [a for _, a in elements.found if "js-plotly-plot" in str(a.get("class"))]
    assert {a["id"] for a in drawn} == {"traces", "forest", "plane", "curves", "codes"}
    assert not {n for _, a in elements.found for n in a if n in ("onerror", "onfocus")}
    assert "<title>owned" not in done.stdout

"""Traces: columns by name, whatever their order and the version that wrote them."""

import csv
from pathlib import Path
from typing import Any

import pytest

from inference.training import Row, Trace
from inference.training.trace import FIELDS, REQUIRED

KNOWN = Row(1, 0.5, 2.0, "train", -3.0, -2.0, 1.0)
NUMBERS = {"kl_weight": 0.1, "objective.beta": 4}
VALID = Row(2, 1.0, 2.5, "valid", -2.5, -2.0, 0.5, 3, 0.25, extra=NUMBERS)


def test_round_trip_with_numbers(tmp_path: Path) -> None:
    """1/3 comes back as it went; a row without a number has an empty cell."""
    path = tmp_path / "trace.csv"
    third = VALID._replace(extra={"kl_weight": 1 / 3})
    trace = Trace(path)
    for row in (VALID, third):
        trace.append(row)
    assert path.read_text().splitlines()[0].split(",") == [*FIELDS, "kl_weight", "objective.beta"]
    assert Trace(path).rows == [VALID, third]


def test_trace_file(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    trace = Trace(path)
    known: list[tuple[Any, Any]] = [(None, None), (3, 0.25), (0, None), (None, 1.0)]
    rows = [Row(i, i / 3, 0.1 * i, "valid", -1.0, -0.5, 0.25, *known[i]) for i in range(4)]
    for row in rows:
        trace.append(row)
    header = "step,epoch,seconds,split,elbo,reconstruction,kl,active_units,collapsed,objective,"
    header += "relaxed"
    assert path.read_text().splitlines()[0] == header
    assert Trace(path).rows == rows
    path.write_text(path.read_text()[:-9])  # cut off in the last line
    torn = Trace(path)
    assert torn.rows == rows[:3]
    torn.keep(2)
    torn.append(rows[3])
    assert Trace(path).rows == [*rows[:2], rows[3]]
    with pytest.raises(ValueError, match="has 3 rows where the checkpoint counts 9"):
        torn.keep(9)
    path.write_text(path.read_text() + "1,2,3\n")
    with pytest.raises(ValueError, match="line 5: expected step,epoch"):
        Trace(path)
    path.write_text("step,epoch,seconds,split,elbo,reconstruction,kl\n1,0.5,2.0,train,-3,-2,1\n")
    assert Trace(path).rows == [Row(1, 0.5, 2.0, "train", -3.0, -2.0, 1.0)]  # an older file


OLDER = [
    ("step,epoch,seconds,split,elbo,reconstruction,kl", "1,0.5,2.0,train,-3,-2,1", KNOWN),
    (
        "step,epoch,seconds,split,elbo,reconstruction,kl,active_units,collapsed",
        "2,1.0,2.5,valid,-2.5,-2.0,0.5,3,0.25",
        VALID._replace(extra={}),
    ),
    ("kl,split,elbo,reconstruction,seconds,epoch,step", "1,train,-3,-2,2.0,0.5,1", KNOWN),
    (
        "objective.beta,kl,split,collapsed,elbo,reconstruction,seconds,epoch,step,kl_weight",
        "4,0.5,valid,0.25,-2.5,-2.0,2.5,1.0,2,0.1",
        VALID._replace(active_units=None),
    ),
]


@pytest.mark.parametrize(("header", "line", "row"), OLDER)
def test_other_columns_read_and_go_on(header: str, line: str, row: Row, tmp_path: Path) -> None:
    """A row with more columns than the file has brings them in; none lands below another."""
    path = tmp_path / "trace.csv"
    path.write_text(f"{header}\n{line}\n")
    trace = Trace(path)
    assert trace.rows == [row]
    trace.append(VALID)
    trace.append(KNOWN)
    assert Trace(path).rows == [row, VALID, KNOWN]
    with path.open() as file:
        assert len({len(cells) for cells in csv.reader(file)}) == 1
    trace.keep(1)
    assert Trace(path).rows == [row]


@pytest.mark.parametrize("name", REQUIRED)
def test_a_header_without_a_required_name_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(",".join(each for each in FIELDS if each != name) + "\n")
    with pytest.raises(ValueError, match=f"is no trace: .* has no column '{name}'. Expected each"):
        Trace(path)


@pytest.mark.parametrize(
    ("header", "line", "words"),
    [
        (",".join((*FIELDS, "step")), "", "names 'step' twice"),
        ("\n", "", "has no column 'step'"),
        (",".join(REQUIRED), "1,0.5,2.0,train,-3,-2", "line 2: expected step,epoch"),
        (",".join(REQUIRED), "1,0.5,2.0,train,-3,-2,1,7", "line 2: expected step,epoch"),
        (",".join(REQUIRED), "1,0.5,,train,-3,-2,1", "line 2: .*got '1,0.5,,train"),
        (",".join((*REQUIRED, "note")), "1,0.5,2.0,train,-3,-2,1,hello", "line 2: expected"),
    ],
)
def test_what_is_no_trace_is_refused(header: str, line: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(f"{header}\n{line}\n" if line else f"{header}\n")
    with pytest.raises(ValueError, match=words):
        Trace(path)


@pytest.mark.parametrize("text", ["", "step,epo", ",".join(FIELDS), ",".join(FIELDS) + "\n1,0.5,"])
def test_a_file_that_was_cut_off_goes_on(text: str, tmp_path: Path) -> None:
    """A process may die before the header is whole, or in the middle of a row."""
    path = tmp_path / "trace.csv"
    path.write_text(text)
    trace = Trace(path)
    assert trace.rows == []
    trace.append(KNOWN)
    trace.append(VALID)
    assert Trace(path).rows == [KNOWN, VALID]

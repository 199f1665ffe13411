"""Observers: what they are told and when, and what becomes of a run in which one raises."""

import contextlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyro
import pytest
import torch
import yaml

from inference import SVI, Linear, fit
from inference.data import Dataset, Split
from inference.runs import Run
from inference.training import Interrupted, Observer, Plan, Row, Trace
from inference.training.observers import CollapseWarning, InMemory, Observers, ProgressBar

from .pairs import PAIRS, bits
from .test_scripts import TINY, call


def make() -> tuple[SVI, Dataset]:
    pyro.clear_param_store()
    pyro.set_rng_seed(1)
    records = Dataset("bits", Split(bits(30)), Split(bits(10)), Split(bits(10)))
    pair = PAIRS["bernoulli"]()
    svi = SVI(pair.model, pair.guide)
    pyro.set_rng_seed(2)
    return svi, records


def train(
    run: Run | None = None, watch: Sequence[Observer] = (), **options: Any
) -> tuple[Trace, SVI]:
    """Fit three epochs of six steps."""
    svi, records = make()
    options = {"epochs": 3, "batch_size": 5, "log_every": 4, "show_progress": False} | options
    options.setdefault("kl_weight", Linear(2))
    return fit(svi, records, run=run, watch=watch, **options), svi


def new_run(path: Path) -> Run:
    return Run.create(path, yaml.safe_dump({}), {})


def rows(trace: Trace) -> list[Row]:
    return [row._replace(seconds=0) for row in trace.rows]


class Diary(Observer):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def start(self, svi: SVI, plan: Plan) -> None:
        self.told.append(plan)

    def step(self, step: int, svi: SVI) -> None:
        self.told.append(step)

    def row(self, row: Row, svi: SVI) -> None:
        self.told.append(f"{row.split} {row.step}")

    def checkpoint(self, state: Mapping[str, Any], svi: SVI) -> None:
        for name, value in svi.weights().items():
            assert torch.equal(state["svi"]["weights"][name], value)
        self.told.append(f"saved at {state['progress']['step']}")

    def end(self, trace: Trace, svi: SVI, error: BaseException | None) -> None:
        self.told.append((len(trace), error))


def test_what_is_told_and_when() -> None:
    diary = Diary()
    train(watch=[diary], epochs=2)
    assert diary.told == [
        Plan(2, 6), 1, 2, 3, "train 4", 4, 5, 6, "valid 6",
        7, "train 8", 8, 9, 10, 11, "train 12", 12, "valid 12", "saved at 12", (5, None),
    ]  # fmt: skip


def test_an_observer_finds_written_what_it_is_told_of(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    seen = []

    class Reader(Observer):
        def row(self, row: Row, svi: SVI) -> None:
            seen.append(Trace(run.path / "trace.csv").rows[-1] == row)

        def checkpoint(self, state: Mapping[str, Any], svi: SVI) -> None:
            saved = run.load()
            assert saved is not None
            seen.append(saved["progress"]["step"] == state["progress"]["step"])

    train(run, [Reader()], checkpoint_every=0.0)
    assert len(seen) > 10
    assert all(seen)


def test_nothing_is_told_twice_when_a_run_goes_on(tmp_path: Path) -> None:
    run, diary = new_run(tmp_path / "run"), Diary()
    train(run, epochs=1)
    train(Run(run.path), [diary], epochs=2)
    assert diary.told[:3] == [Plan(2, 6, 6), 7, "train 8"]


class Draws(Observer):
    """Draws at random wherever it is asked."""

    def start(self, svi: SVI, plan: Plan) -> None:
        torch.rand(5)

    def row(self, row: Row, svi: SVI) -> None:
        torch.rand(5)

    def checkpoint(self, state: Mapping[str, Any], svi: SVI) -> None:
        torch.rand(5)


def test_what_an_observer_draws_changes_nothing() -> None:
    alone, svi = train(checkpoint_every=0.0)
    watched, other = train(watch=[Draws()], checkpoint_every=0.0)
    assert rows(alone) == rows(watched)
    for name, value in svi.weights().items():
        assert torch.equal(value, other.weights()[name])


class Breaks(Observer):
    """Raises at one moment, the first or a later one of its kind.

    Args:
        when: method that raises.
        count: at which call.
    """

    def __init__(self, when: str, count: int = 1) -> None:
        self.when, self.left = when, count

    def _at(self, when: str) -> None:
        if when == self.when:
            self.left -= 1
            if not self.left:
                raise RuntimeError("the logger is gone")

    def start(self, svi: SVI, plan: Plan) -> None:
        self._at("start")

    def step(self, step: int, svi: SVI) -> None:
        self._at("step")

    def row(self, row: Row, svi: SVI) -> None:
        self._at(row.split)

    def checkpoint(self, state: Mapping[str, Any], svi: SVI) -> None:
        self._at("checkpoint")

    def end(self, trace: Trace, svi: SVI, error: BaseException | None) -> None:
        self._at("end")


MOMENTS = [
    ("start", 1), ("step", 1), ("step", 4), ("step", 6), ("train", 1), ("train", 3), ("valid", 1),
    ("valid", 3), ("checkpoint", 1), ("end", 1),
]  # fmt: skip


@pytest.mark.parametrize(("when", "count"), MOMENTS)
def test_one_that_raises_ends_the_run_with_everything_saved(
    when: str, count: int, tmp_path: Path
) -> None:
    """The run then goes on from that very place, to the same bits as one without it."""
    whole, svi = train()
    run, before, after = new_run(tmp_path / "run"), Diary(), Diary()
    with pytest.raises(RuntimeError, match="the logger is gone") as caught:
        train(run, [before, Breaks(when, count), after])
    assert caught.value.__notes__ == ["(raised by the observer Breaks)"]
    for diary in (before, after):  # the others are told of the end, once, with its cause
        trace_length, error = diary.told[-1]
        assert error is (None if when == "end" else caught.value)
        assert [told for told in diary.told if isinstance(told, tuple)] == [(trace_length, error)]
    saved = run.load()
    assert saved is not None
    steps = [int(str(told).split()[-1]) for told in before.told if isinstance(told, int | str)]
    assert saved["progress"]["step"] == max(steps, default=0)
    assert saved["progress"]["rows"] == len(Run(run.path).trace)
    trace, again = train(Run(run.path))
    assert rows(trace) == rows(whole)
    for name, value in svi.weights().items():
        assert torch.equal(value, again.weights()[name]), name


def test_two_that_raise(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError) as caught:
        train(new_run(tmp_path / "run"), [Breaks("train"), Breaks("end"), Breaks("end")])
    assert caught.value.__notes__ == ["(raised by the observer Breaks)"]


def test_a_record_that_fails_is_not_asked_again(tmp_path: Path) -> None:
    run, diary = new_run(tmp_path / "run"), Diary()

    def full(state: Mapping[str, Any]) -> None:
        raise OSError("No space left on device")

    run.save = full  # type: ignore[method-assign]
    with pytest.raises(OSError, match="No space left") as caught:
        train(run, [diary])
    assert diary.told[-1][1] is caught.value
    assert not hasattr(caught.value, "__notes__")


def test_the_end_is_told_of_whatever_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    def step(*_: Any, **__: Any) -> Any:
        raise reason

    monkeypatch.setattr(SVI, "step", step)
    for reason in (Killed(), ConnectionError(), Interrupted(2, 3)):
        diary = Diary()
        with contextlib.suppress(type(reason)):
            train(watch=[diary])
        assert diary.told == [Plan(3, 6), (0, reason)]


@pytest.mark.parametrize("wrong", [print, Diary, "tensorboard", None])
def test_what_is_no_observer_is_refused(wrong: Any) -> None:
    with pytest.raises(TypeError, match="Expected observers in watch; got .*Subclass"):
        train(watch=[wrong])


def test_progress_bar(capsys: pytest.CaptureFixture[str]) -> None:
    train(show_progress=True)
    shown = capsys.readouterr().err
    for words in ("epoch 1/3", "epoch 3/3", "18/18", "valid ELBO -"):
        assert words in shown
    train(show_progress=False)
    train()
    out, err = capsys.readouterr()
    assert (out, err) == ("", "")


def test_collapse_is_told_of_a_sound_end_alone(caplog: pytest.LogCaptureFixture) -> None:
    svi, _ = make()
    trace = Trace()
    trace.append(Row(1, 1.0, 1.0, "valid", -1.0, -1.0, 0.0, 0, 1.0))
    CollapseWarning().end(trace, svi, RuntimeError())
    assert not caplog.records
    CollapseWarning().end(trace, svi, None)
    assert len(caplog.records) == 1


def test_steps_are_told_to_those_who_listen() -> None:
    observers = Observers(InMemory(), [Breaks("train"), Observer()], [ProgressBar(False)])
    assert [type(each) for each in observers._stepping] == [Breaks, ProgressBar]


def test_an_observer_of_the_folder_where_one_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is found by its name, and again for a run that is trusted; nothing else is looked for."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*sys.path])
    Path("seen.py").write_text(
        "from inference.training import Observer\n\n\nclass Seen(Observer):\n"
        "    def row(self, row, svi):\n        print('seen', row.split)\n"
    )
    call("train", *TINY, "--epochs", 1, "--run", "plain", "--quiet")
    assert str(tmp_path) not in sys.path
    call("train", *TINY, "--epochs", 1, "--watch+=seen.Seen", "--run", "run", "--quiet")
    assert "seen valid" in capsys.readouterr().out
    monkeypatch.delitem(sys.modules, "seen")
    monkeypatch.setattr("sys.path", [p for p in sys.path if p != str(tmp_path)])
    call("train", "--resume", "run", "--trust", "run", "--epochs", 2, "--quiet")
    assert "seen valid" in capsys.readouterr().out

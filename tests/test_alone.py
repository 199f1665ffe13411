"""Two threads with a pair each: the second is refused, the first is as if it were alone."""

import threading
from collections.abc import Callable

import pytest
import torch

import models
from guides import MLP, Amortized, DiagonalNormal
from inference import SVI, Dataset, Observer, Split, fit, rng
from inference.evaluation import evaluate
from inference.training.observers import Plan
from models import VAE, Bernoulli, StandardNormal


def data() -> Dataset:
    x = (torch.rand(100, 8, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    return Dataset("mine", Split(x[:60]), Split(x[60:80]), Split(x[80:]))


def svi() -> SVI:
    with rng.isolated(0):
        model = VAE(StandardNormal(2), models.MLP(2, (8,)), Bernoulli((8,)))
        return SVI(model, Amortized(MLP((8,), 4), DiagonalNormal(2)), compile="off")


def train(made: SVI, *watch: Observer) -> list[float]:
    with rng.isolated(1):
        trace = fit(made, data(), epochs=2, batch_size=20, watch=watch)
    return [row.elbo for row in trace.rows]


CALLS: dict[str, Callable[[SVI], object]] = {
    "fit": train,
    "step": lambda made: made.step(data().train.batch(slice(20))),
    "evaluate": lambda made: evaluate(made.model, made.guide, data().test, particles=2),
    "SVI.evaluate": lambda made: made.evaluate(data().train.batch(slice(20))),
}


class Beside(Observer):
    """Calls something in another thread, and waits for it."""

    def __init__(self, call: Callable[[SVI], object]) -> None:
        self._call = call
        self.error: BaseException | None = None

    def start(self, svi: SVI, plan: Plan) -> None:
        """Do it in the first fit."""
        self.call()

    def call(self) -> None:
        """Do it."""
        thread = threading.Thread(target=self._run)
        thread.start()
        thread.join()

    def _run(self) -> None:
        try:
            self._call(svi())
        except RuntimeError as error:
            self.error = error


@pytest.mark.parametrize("name", CALLS)
def test_the_second_is_refused_and_the_first_goes_on(name: str) -> None:
    beside = Beside(CALLS[name])
    assert train(svi(), beside) == train(svi())
    assert "'MainThread' of this process fits" in str(beside.error)


@pytest.mark.parametrize("name", CALLS)
def test_one_after_another_is_welcome_in_any_thread(name: str) -> None:
    beside = Beside(CALLS[name])
    beside.call()
    assert beside.error is None
    CALLS[name](svi())


def test_an_observer_may_evaluate() -> None:
    class Looks(Observer):
        def row(self, row: object, svi: SVI) -> None:
            CALLS["evaluate"](svi)

    assert train(svi(), Looks()) == train(svi())

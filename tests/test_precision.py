"""Precision of products on CUDA: torch's flags, set and put back; they can be set without one."""

from collections.abc import Iterator
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from inference import SVI, Precision
from inference.data import Split
from inference.evaluation import evaluate
from inference.precision import products_in

from .pairs import PAIRS

FLAGS: dict[str, Any] = {
    "cuDNN, older": lambda: torch.backends.cudnn.allow_tf32,
    "cuBLAS, older": torch.get_float32_matmul_precision,
    "convolutions": lambda: torch.backends.cudnn.conv.fp32_precision,  # type: ignore[attr-defined]
    "recurrences": lambda: torch.backends.cudnn.rnn.fp32_precision,  # type: ignore[attr-defined]
    "products": lambda: torch.backends.cuda.matmul.fp32_precision,
    "sums": lambda: torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction,
}
FULL = ("False", "highest", "ieee", "ieee", "ieee", "False")
FAST = ("True", "high", "tf32", "tf32", "tf32", "False")


def flags() -> tuple[str, ...]:
    def read(name: str) -> str:
        try:
            return str(FLAGS[name]())
        except RuntimeError:
            return "contradicted"

    return tuple(map(read, FLAGS))


DEFAULT = flags()


@pytest.fixture(autouse=True)
def _as_if_on_cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", list)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    yield
    torch.backends.cudnn.allow_tf32 = True
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.conv.fp32_precision = "tf32"  # type: ignore[attr-defined]
    torch.backends.cudnn.rnn.fp32_precision = "tf32"  # type: ignore[attr-defined]
    torch.backends.cuda.matmul.fp32_precision = "none"
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = True
    assert flags() == DEFAULT


def legacy() -> None:
    torch.backends.cudnn.allow_tf32 = False


def medium() -> None:
    torch.set_float32_matmul_precision("medium")


def contradicting() -> None:
    torch.backends.cudnn.conv.fp32_precision = "ieee"  # type: ignore[attr-defined]


@pytest.mark.parametrize("found", [lambda: None, legacy, medium, contradicting])
@pytest.mark.parametrize("precision", get_args(Precision))
def test_flags_are_set_and_put_back(precision: Precision, found: Any) -> None:
    found()
    before = flags()
    with products_in(precision):
        assert flags() == (FAST if precision == "tf32" else FULL)
        with products_in("32"):
            assert flags() == FULL
        assert flags() == (FAST if precision == "tf32" else FULL)
    assert flags() == before


def test_flags_are_put_back_after_an_error() -> None:
    with pytest.raises(KeyError), products_in("tf32"):
        raise KeyError
    assert flags() == DEFAULT


def test_nothing_is_set_where_cuda_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    with products_in("tf32"):
        assert flags() == DEFAULT


@pytest.mark.parametrize("precision", get_args(Precision))
def test_steps_have_theirs_and_evaluations_32_bits(
    precision: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair, seen = PAIRS["bernoulli"](), list[tuple[str, ...]]()

    class Seeing(torch.nn.Module):
        def __init__(self, network: torch.nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: Tensor) -> Tensor:
            seen.append(flags())
            return self.network(x)

    pair.guide.encoder = Seeing(pair.guide.encoder)
    svi = SVI(pair.model, pair.guide, compile="off", precision=precision)
    svi.prepare(pair.x)
    seen.clear()
    svi.step(pair.x)
    assert set(seen) == {FAST if precision == "tf32" else FULL}
    seen.clear()
    svi.evaluate(pair.x)
    evaluate(pair.model, pair.guide, Split(pair.x), particles=3, show_progress=False)
    assert set(seen) == {FULL}
    assert flags() == DEFAULT


def test_tf32_is_32_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    bounds = []
    for precision in ("32", "tf32"):
        torch.manual_seed(0)
        pair = PAIRS["networks residual"]()
        svi = SVI(pair.model, pair.guide, compile="graph", precision=precision)  # type: ignore[arg-type]
        bounds.append(torch.stack([svi.step(pair.x).bound for _ in range(4)]))
    assert torch.equal(*bounds)

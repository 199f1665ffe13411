"""What torch and Pyro do not promise to keep: without it everything works, or says what is gone."""

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pyro
import pytest
import torch
from pyro.nn import PyroModule, PyroParam
from torch import Tensor, nn

from inference import SVI
from inference.capture import Inductor, NotCapturable, capture
from inference.capture import private as of_capture
from inference.capture.products import MatrixProducts
from inference.private import (
    Unavailable,
    changes_arguments,
    listens_to_parameters,
    lives_by_statements,
    may_alias,
)
from inference.programs import run

from .pairs import PAIRS
from .test_capture import needs_compiler, same, train

aten = torch.ops.aten

HIDDEN = """
import sys, types
import pyro, torch, torch._dynamo  # they need it too
mode = "torch.utils._python_dispatch"
kept, sys.modules[mode] = sys.modules[mode], None
torch.ops.mkldnn = types.SimpleNamespace()
from inference import SVI
sys.modules[mode] = kept
for name in ("torch.fx.experimental.proxy_tensor", "torch._inductor.lowering"):
    sys.modules[name] = None
import inference.training.captures as captures
captures.PATIENCE = 2
from tests.pairs import PAIRS
losses = []
for how in ("off", "auto"):
    pyro.set_rng_seed(3)
    pair = PAIRS["bernoulli"]()
    svi = SVI(pair.model, pair.guide, compile=how)
    losses.append([svi.step(pair.x).loss.item() for _ in range(4)])
    assert svi.captured is None
assert losses[0] == losses[1], losses
for options in ({"compile": "graph"}, {"precision": "bf16"}):
    svi = SVI(pair.model, pair.guide, **options)
    try:
        svi.step(pair.x), svi.step(pair.x)
    except (NotImplementedError, ValueError) as error:
        print(error)
"""


def test_training_without_any_of_it() -> None:
    """Eagerly; what is asked for and can't be had is refused, with the reason."""
    command = [sys.executable, "-c", HIDDEN]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "The step can't be captured: torch" in done.stdout
    assert "has no make_fx, by which functions are traced" in done.stdout
    assert "no TorchDispatchMode, which shows tensor operations: take" in done.stdout
    assert "Capture failed (torch" in done.stderr


def test_graph_without_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The BLAS takes the products."""
    wide = lambda: PAIRS["bernoulli"]()  # noqa: E731
    expected = train(wide, "graph")
    monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace())
    assert of_capture.onednn_product() is None
    same(expected, train(wide, "graph"))
    a, w = torch.randn(32, 32), torch.randn(32, 32)
    with MatrixProducts():
        torch.testing.assert_close(a @ w, a.mm(w))


def test_capture_without_make_fx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.fx.experimental.proxy_tensor", None)
    with pytest.raises(NotCapturable, match=r"torch [\d.]+.* has no make_fx"):
        capture(lambda x: [2 * x], [torch.ones(2)], [])


@needs_compiler
def test_compiler_without_its_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the table of kernels, nor the list of options, nor the filter of guards."""

    def function(x: Tensor) -> list[Tensor]:
        with MatrixProducts():
            return [torch.nn.functional.dropout(x @ x, 0.5)]

    monkeypatch.setitem(sys.modules, "torch._inductor.lowering", None)
    of_capture.leave_to_kernel(aten.mm.default)
    monkeypatch.undo()
    monkeypatch.setattr(of_capture, "_known_options", lambda: None)
    monkeypatch.delattr(torch.compiler, "skip_all_guards_unsafe", raising=False)
    x = torch.randn(16, 16)
    compiled = capture(function, [x], [], Inductor())
    torch.manual_seed(0)
    expected = function(x)
    torch.manual_seed(0)
    torch.testing.assert_close(list(compiled(x)), expected)


def test_compiler_options_of_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr(torch, "compile", lambda *_, options, **__: given.update(options))
    graph = of_capture.trace(lambda x: [2 * x], [torch.ones(2)])
    monkeypatch.setattr(of_capture, "_known_options", lambda: {"fallback_random"})
    of_capture.compile_graph(graph, torch.device("cpu"))
    assert set(given) <= {"fallback_random", "guard_filter_fn"}
    monkeypatch.setattr(of_capture, "_known_options", set)
    with pytest.raises(NotImplementedError, match="no option 'fallback_random'"):
        of_capture.compile_graph(graph, torch.device("cpu"))


def test_options_are_known() -> None:
    known = of_capture._known_options()
    assert known is not None
    assert known >= {*of_capture.COMPILER_OPTIONS, "layout_optimization"}


def test_stand_in_for_the_dispatch_mode_says_what_is_missing() -> None:
    with pytest.raises(NotImplementedError, match="no TorchDispatchMode"), Unavailable():
        pass


OPERATIONS = {
    aten.normal_.default: (True, True),
    aten.copy_.default: (True, True),
    aten.index_put_.default: (True, True),
    aten.add.out: (True, True),
    aten.add.Tensor: (False, False),
    aten._to_copy.default: (False, False),
    aten.view.default: (False, True),
    aten.select.int: (False, True),
    aten.native_dropout.default: (False, False),
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_operations_are_known_by_their_names(operation: Any) -> None:
    """With a schema and without; without one any result may be an argument's memory."""
    writes, aliases = OPERATIONS[operation]
    bare = str(operation)
    assert changes_arguments(operation) == changes_arguments(bare) == writes
    assert may_alias(operation) == aliases
    assert may_alias(bare)


class Scaled(PyroModule):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.scale = PyroParam(torch.tensor(1.0))


def test_programs_keep_their_announcements_without_pyros_lists(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A trace is the same with param statements that nobody listens to."""
    pair = PAIRS["bernoulli"]()
    assert not lives_by_statements(pair.model)
    assert not lives_by_statements(nn.Linear(2, 2))
    assert lives_by_statements(Scaled(nn.Linear(2, 2)))
    assert lives_by_statements(SimpleModule())

    def density() -> float:
        pyro.set_rng_seed(0)
        sites = run(pair.model, pair.guide, (pair.x,)).model
        return sum(float(site.log_prob().sum().detach()) for site in sites.values())

    expected = density()
    monkeypatch.setattr("inference.private.runtime", SimpleNamespace())
    assert listens_to_parameters()
    assert density() == expected
    monkeypatch.undo()
    monkeypatch.setattr("inference.private.lives_by_statements", lambda _: True)
    assert density() == expected


class SimpleModule(PyroModule):
    """A PyroModule of a version that keeps no lists."""

    def __getattribute__(self, name: str) -> Any:
        if name in ("_pyro_params", "_pyro_samples"):
            raise AttributeError(name)
        return super().__getattribute__(name)


def test_step_of_a_pair_with_pyro_parameters_is_captured() -> None:
    pair = PAIRS["bernoulli"]()
    svi = SVI(pair.model, pair.guide, compile="graph")
    for _ in range(3):
        svi.step(pair.x)
    assert svi.captured == "graph"

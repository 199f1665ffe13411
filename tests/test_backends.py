"""Backends: what is chosen, what a new one takes, what of a graph is constant, CUDA graphs."""

import logging
from collections.abc import Callable, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn, optim
from torch.fx import GraphModule

from inference import SVI, Elbo, StraightThrough
from inference.capture import (
    Backend,
    CapturedPass,
    Graph,
    Inductor,
    NotCapturable,
    Setting,
    capture,
    choose,
    cuda_graphs,
    private,
    tracing,
)
from inference.capture.choosing import PASSES, STEPS, BreakEven, Kinds
from inference.capture.constants import crossing
from inference.capture.cuda_graphs import record, recorded
from inference.references import Reads
from inference.training import captured_optimizer, captured_update
from inference.training.captured_update import CapturedUpdate

from .pairs import PAIRS, bits

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 1)


class Doubled(Backend):
    """Runs a graph twice, and says how often it was asked to compile."""

    name = "doubled"

    def __init__(self) -> None:
        self.compiled = 0

    def compile(self, graph: GraphModule, device: torch.device) -> Any:
        self.compiled += 1
        return graph.forward


CHOICES: list[tuple[Setting, int | None, torch.device, Kinds, bool, list[str], str]] = [
    ("off", 10**9, CPU, STEPS, True, [], "as asked for"),
    ("graph", 1, CPU, STEPS, True, ["graph"], "as asked for"),
    ("inductor", 1, CUDA, PASSES, False, ["inductor"], "as asked for"),
    (Doubled(), 1, CPU, STEPS, True, ["doubled"], "as asked for"),
    ("auto", None, CPU, STEPS, True, ["graph"], "an unknown number of calls would not pay for a c"),
    ("auto", 29_999, CPU, STEPS, True, ["graph"], "29,999 calls would not pay for a compiler"),
    ("auto", 30_000, CPU, STEPS, True, ["inductor", "graph"], "30,000 calls pay for the compiler"),
    ("auto", 99_999, CUDA, STEPS, True, ["graph"], "99,999 calls would not pay for a compiler"),
    ("auto", 100_000, CUDA, STEPS, True, ["inductor", "graph"], "100,000 calls pay"),
    ("auto", 30_000, torch.device("meta"), STEPS, True, ["inductor", "graph"], "30,000"),
    ("auto", 19, CPU, PASSES, True, [], "19 calls would not pay for a capture"),
    ("auto", 20, CPU, PASSES, True, ["graph"], "20 calls would not pay for a compiler"),
    ("auto", 20, CUDA, PASSES, True, [], "20 calls would not pay for a capture"),
    ("auto", 10**6, CPU, PASSES, False, ["graph"], "would not pay for a compiler"),
]  # fmt: skip


@pytest.mark.parametrize("case", CHOICES, ids=lambda case: f"{case[-1]}, {case[2].type}")
def test_choice(case: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    setting, calls, device, pays, compiler, names, why = case
    monkeypatch.setattr(Inductor, "missing", lambda *_: None)
    found = choose(setting, calls, device, pays, compiler)
    assert [backend.name for backend in found.backends] == names
    assert why in found.why


def test_choice_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    backends, why = choose("auto", 10**6, CPU)
    assert [backend.name for backend in backends] == ["graph"]
    assert why == "no C++ compiler is installed"
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert Inductor().missing(CUDA) == "Triton is not installed"
    monkeypatch.setattr("importlib.util.find_spec", lambda _: True)
    assert Inductor().missing(CUDA) == "no C compiler is installed"


def test_backend_of_ones_own() -> None:
    """One class: steps and passes take it, and say its name."""
    mine = Doubled()
    pair = PAIRS["bernoulli"]()
    svi = SVI(pair.model, pair.guide, compile=mine)
    for _ in range(3):
        svi.step(pair.x)
    assert svi.captured == "doubled"
    assert mine.compiled == 1
    double = CapturedPass(lambda x: [2 * x], mine, 1)
    torch.testing.assert_close(double(torch.ones(3)), [2 * torch.ones(3)])
    assert mine.compiled == 2


def test_backend_that_fails_is_not_capturable() -> None:
    class Broken(Backend):
        name = "broken"

        def compile(self, graph: GraphModule, device: torch.device) -> Any:
            raise RuntimeError("out of order\nand more")

    with pytest.raises(NotCapturable, match="out of order$"):
        capture(lambda x: [2 * x], [torch.ones(3)], [], Broken())


class Topics(PyroModule):
    """One of three kinds, drawn as a one-hot vector, and what it looks like."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(3, 12)

    def forward(self, x: Tensor) -> None:
        p = dist.OneHotCategorical(logits=x.new_zeros(3))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", p)
            bits = dist.Bernoulli(logits=self.net(z)).to_event(1)
            pyro.sample("x", bits, obs=x.flatten(1))


class Labels(PyroModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.OneHotCategorical(logits=self.net(x.flatten(1))))


@pytest.mark.parametrize("particles", [1, 3])
def test_straight_through_one_hot_is_captured(particles: int) -> None:
    found = []
    for how in ("off", "graph"):
        pyro.set_rng_seed(1)
        svi = SVI(Topics(), Labels(), objective=Elbo(particles, StraightThrough()), compile=how)
        found.append(torch.stack([torch.stack(svi.step(bits())) for _ in range(5)]))
        assert svi.captured == (None if how == "off" else "graph")
    torch.testing.assert_close(found[0], found[1])


# Constants. The meta device stands for CUDA: tensors of the two never meet by themselves.

ON = torch.device("meta")
TABLE = torch.eye(3)
"""Somebody's: it may change in place."""

ARRAY = np.ones(3, dtype=np.float32)


def eye(x: Tensor) -> Tensor:
    return x @ torch.eye(3).to(x.device)


def literal(x: Tensor) -> Tensor:
    return x * torch.tensor([1.0, 2.0, 3.0]).to(x.device)


def computed(x: Tensor) -> Tensor:
    return x + (2 * torch.arange(3.0).cumsum(0) + 1).to(x.device, torch.float32)


def two_uses(x: Tensor) -> Tensor:
    steps = torch.arange(3.0)
    return x * steps.to(x.device) + steps.square().to(x.device)


def index(x: Tensor) -> Tensor:
    return x[:, torch.arange(2)]


def zero_dim(x: Tensor) -> Tensor:
    return x * torch.tensor(2.0)


def held_table(x: Tensor) -> Tensor:
    return x @ TABLE.to(x.device)


def held_number(x: Tensor) -> Tensor:
    return x * TABLE[0, 0]


def held_array(x: Tensor) -> Tensor:
    return x * torch.as_tensor(ARRAY).to(x.device)


def changed(x: Tensor) -> Tensor:
    table = torch.zeros(3)
    table[0] += 1
    return x * table.to(x.device)


def changed_by_a_view(x: Tensor) -> Tensor:
    table = torch.zeros(2, 3)
    table.view(6)[:3].fill_(2.0)
    return x * table[0].to(x.device)


def drawn(x: Tensor) -> Tensor:
    return x + torch.randn(3).to(x.device)


FOLDED = [eye, literal, computed, two_uses, index, zero_dim]
LEFT = [held_table, held_number, held_array, changed, changed_by_a_view, drawn]


def traced(function: Callable[[Tensor], Tensor], x: Tensor) -> GraphModule:
    """Return the graph that a backend is given."""
    graphs = []

    class Keep(Graph):
        def compile(self, graph: GraphModule, device: torch.device) -> Any:
            graphs.append(graph)
            return graph.forward

    capture(lambda x: [function(x)], [x], [], Keep())
    return graphs[0]


def on_cpu(graph: GraphModule) -> list[str]:
    """Return the operations whose results are on the CPU."""
    return [
        str(node.target)
        for node in graph.graph.nodes
        if isinstance(value := node.meta.get("val"), Tensor)
        and node.op == "call_function"
        and value.device.type == "cpu"
    ]


@pytest.mark.parametrize("function", FOLDED)
def test_constants_are_moved_once(function: Callable[[Tensor], Tensor]) -> None:
    graph = traced(function, torch.ones(2, 3, device=ON))
    assert on_cpu(graph) == []
    assert not [n for n in graph.graph.nodes if "_to_copy" in str(n.target)]
    captured = capture(lambda x: [function(x)], [torch.ones(2, 3, device=ON)], [])
    assert captured.crossing is None
    assert captured(torch.ones(2, 3, device=ON))[0].device == ON


@pytest.mark.parametrize("function", LEFT)
def test_what_may_change_is_no_constant(function: Callable[[Tensor], Tensor]) -> None:
    captured = capture(lambda x: [function(x)], [torch.ones(2, 3, device=ON)], [])
    assert "is on tensors of cpu and meta" in str(captured.crossing)


@pytest.mark.parametrize("function", FOLDED)
def test_moved_constants_have_their_values(
    function: Callable[[Tensor], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the CPU with every other tensor said to be elsewhere, so that there is a value."""
    x = torch.randn(2, 3)
    graph = private.trace(lambda x: [function(x)], [x])
    elsewhere = {
        n for n in graph.graph.nodes if x.shape[0] in getattr(n.meta.get("val"), "shape", ())
    }
    real = tracing.move_constants.__globals__["_device"]

    def device(graph: GraphModule, node: Any) -> torch.device | None:
        found = real(graph, node)
        return (
            CUDA
            if found is not None and (node in elsewhere or "_to_copy" in str(node.target))
            else found
        )

    monkeypatch.setitem(tracing.move_constants.__globals__, "_device", device)
    monkeypatch.setattr(Tensor, "to", lambda self, *_, **__: self)
    before = len(graph.graph.nodes)
    tracing.move_constants(graph)
    monkeypatch.undo()
    assert len(graph.graph.nodes) <= before
    torch.testing.assert_close(graph(x)[0], function(x))


@pytest.mark.parametrize("function", [*FOLDED, *LEFT])
def test_graph_of_one_device_stays_as_it_is(function: Callable[[Tensor], Tensor]) -> None:
    graph = private.trace(lambda x: [function(x)], [torch.ones(2, 3)])
    before = [str(node) for node in graph.graph.nodes]
    tracing.move_constants(graph)
    assert [str(node) for node in graph.graph.nodes] == before
    assert crossing(graph) is None


# CUDA graphs, on a machine without CUDA: torch's calls are noted, and a "recording" runs once.


class Cuda:
    """What `cuda_graphs` asks of ``torch.cuda``."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.events: list[str] = []
        self.stream, self.device = "main", "cuda:0"
        self.mode: int | str = 0
        self.fails: Exception | None = None
        self.marked = False
        for name in (
            "current_stream", "set_stream", "get_sync_debug_mode", "set_sync_debug_mode",
            "synchronize",
        ):  # fmt: skip
            patch.setattr(torch.cuda, name, getattr(self, name))
        patch.setattr(torch.cuda, "Stream", lambda: SimpleNamespace(wait_stream=lambda _: None))
        patch.setattr(torch.cuda, "stream", lambda _: nullcontext())
        patch.setattr(torch.cuda, "device", self.on)
        patch.setattr(torch.cuda, "graph", self.graph)
        patch.setattr(
            torch.cuda,
            "CUDAGraph",
            lambda: SimpleNamespace(replay=lambda: self.note("replay"), pool=object),
        )
        patch.setattr(cuda_graphs, "end_capture_mode", self.end_capture_mode)
        cuda_graphs._pool.cache_clear()

    def note(self, event: str) -> None:
        self.events.append(f"{event} on {self.device}")

    def current_stream(self) -> Any:
        return SimpleNamespace(wait_stream=lambda _: None, name=self.stream)

    def set_stream(self, stream: Any) -> None:
        self.stream = stream.name

    def get_sync_debug_mode(self) -> int | str:
        return self.mode

    def set_sync_debug_mode(self, mode: int | str) -> None:
        self.mode = mode

    def synchronize(self) -> None:
        pass

    def end_capture_mode(self, device: torch.device) -> bool:
        self.note("mend")
        return not self.marked

    @contextmanager
    def on(self, device: Any) -> Any:
        before, self.device = self.device, str(device)
        try:
            yield
        finally:
            self.device = before

    @contextmanager
    def graph(self, graph: Any, pool: Any = None) -> Any:
        self.stream = "capture"
        self.note("record" if pool else "pool")  # one without a pool makes that of the others
        yield
        if self.fails and pool:
            raise self.fails  # as torch does, which leaves its stream behind
        self.stream = "main"


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    return Cuda(monkeypatch)


def test_recording_replays_in_its_place(cuda: Cuda) -> None:
    seen: list[Tensor] = []

    def function(x: Tensor) -> Sequence[Tensor]:
        seen.append(x)
        return [x]

    replay = record(function, [torch.ones(2)], [])
    assert len(seen) == cuda_graphs.WARM_UPS + 1
    (result,) = replay(torch.full((2,), 3.0))
    assert torch.equal(result, torch.full((2,), 3.0))  # the inputs were copied to where they lie
    assert len(seen) == cuda_graphs.WARM_UPS + 1
    assert cuda.events == ["pool on cpu", "record on cpu", "replay on cpu"]  # its inputs' device
    assert (cuda.mode, cuda.stream, cuda.device) == (0, "main", "cuda:0")
    record(function, [torch.ones(2)], [])
    assert cuda.events.count("pool on cpu") == 1  # they share it


def test_state_is_put_back_by_a_recording(cuda: Cuda) -> None:
    total = torch.zeros(1)
    record(lambda x: [total.add_(x)], [torch.ones(1)], [total])
    assert total == 0


def test_waiting_is_refused_before_recording(cuda: Cuda) -> None:
    modes = []

    def function(x: Tensor) -> Sequence[Tensor]:
        modes.append(cuda.mode)
        if cuda.mode == "error":
            raise RuntimeError("called a synchronizing CUDA operation")
        return [x]

    with pytest.raises(NotCapturable, match="its trial fails: called a synchronizing"):
        record(function, [torch.ones(2)], [])
    assert modes == [0, 0, "error"]
    assert not any("record" in event for event in cuda.events)
    assert (cuda.mode, cuda.stream, cuda.device) == (0, "main", "cuda:0")


def test_trial_that_fails_names_the_operation(cuda: Cuda) -> None:
    weight = torch.ones(3, 2)
    captured = capture(lambda x: [x @ weight], [torch.ones(2, 3)], [])
    with pytest.raises(NotCapturable, match=r"its trial fails: .* \(by aten\.mm\.default\)"):
        record(captured, [torch.ones(2, 4)], [])


def test_failed_recording_leaves_nothing_behind(cuda: Cuda) -> None:
    cuda.fails = RuntimeError("operation failed due to a previous error during capture\nmore")
    total = torch.zeros(1)
    for _ in range(2):
        with pytest.raises(NotCapturable, match="recording fails: operation failed .*capture$"):
            record(lambda x: [total.add_(x)], [torch.ones(1)], [total])
        assert (cuda.mode, cuda.stream, cuda.device) == (0, "main", "cuda:0")
        assert total == 0
    # The pool is held for the recording that failed: the next has another.
    assert [event.split()[0] for event in cuda.events] == ["pool", "record", "mend"] * 2
    cuda.marked = True
    with pytest.raises(RuntimeError, match="random numbers can't be drawn any more .*'off'"):
        record(lambda x: [x], [torch.ones(1)], [])


def test_generator_is_mended_by_a_recording_that_ends_well(monkeypatch: pytest.MonkeyPatch) -> None:
    marked = True

    def draw(self: Tensor) -> Tensor:
        if marked:
            raise RuntimeError("Offset increment outside graph capture encountered unexpectedly")
        return self

    def record_nothing() -> None:
        nonlocal marked
        marked = False

    monkeypatch.setattr(Tensor, "uniform_", draw)
    monkeypatch.setattr(torch.cuda, "device", lambda _: nullcontext())
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(private, "_record_nothing", lambda: None)
    assert not private.end_capture_mode(CPU)
    monkeypatch.setattr(private, "_record_nothing", record_nothing)
    assert private.end_capture_mode(CPU)


class OnCuda:
    """Inputs that say that they are on CUDA."""

    is_cuda = True


def test_what_cannot_be_recorded_runs_kernel_by_kernel(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any) -> None:
        raise NotCapturable("it waits")

    def function(*_: Tensor) -> Sequence[Tensor]:
        return []

    inputs: Any = [OnCuda()]
    monkeypatch.setattr(cuda_graphs, "record", refuse)
    assert recorded(function, [torch.ones(1)], [], []) is function  # on a CPU, without a word
    assert caplog.text == ""
    assert recorded(function, inputs, [], []) is function
    assert "No CUDA graph (it waits); launching kernels one by one." in caplog.text
    part = capture(lambda x: [held_number(x)], [torch.ones(2, 3, device=ON)], [])
    assert recorded(function, inputs, [], [part]) is function
    assert (
        "mul.Tensor is on tensors of cpu and meta (make the one on the CPU a buffer" in caplog.text
    )


def test_recurrence_is_traced_without_cudnn(monkeypatch: pytest.MonkeyPatch) -> None:
    real, enabled = private.trace, []

    def trace(function: Any, inputs: Any) -> GraphModule:
        enabled.append(torch.backends.cudnn.enabled)
        if torch.backends.cudnn.enabled:
            raise RuntimeError("set_ is no operation that can be traced")
        return real(function, inputs)

    monkeypatch.setattr(tracing, "trace", trace)
    with pytest.raises(NotCapturable, match="set_ is no"):
        capture(lambda x: [2 * x], [torch.ones(2)], [])
    monkeypatch.setattr(Tensor, "is_cuda", True)
    found = tracing._trace(lambda x: [2 * x], [torch.ones(2)])
    assert torch.equal(found(torch.ones(2))[0], torch.full((2,), 2.0))
    assert enabled == [True, True, False]
    assert torch.backends.cudnn.enabled


# Which part of a step is recorded, by recordings that can be followed on a CPU.

Record = Callable[..., Any]


def following(into: list[str]) -> Record:
    """Return a stand-in for `recorded` that keeps results in one place, as a CUDA graph does."""

    def fake(function: Any, inputs: Any, state: Any, parts: Any) -> Any:
        into.append(getattr(function, "__name__", "part"))
        results: list[Tensor] = []

        def replay(*tensors: Tensor) -> Sequence[Tensor]:
            new = function(*tensors)
            if not results:
                results.extend(value.clone() for value in new)
            for place, value in zip(results, new, strict=True):
                place.copy_(value)
            return results

        return replay

    return fake


RECORDINGS = {
    "whole": (partial(optim.Adam, lr=0.01, fused=True), 1, ["_both"]),
    "eager update": (partial(optim.SGD, lr=0.01, momentum=0.9), 1, ["part"]),
    "two processes": (partial(optim.Adam, lr=0.01, fused=True), 2, ["part", "part"]),
    "two processes, eager update": (partial(optim.SGD, lr=0.01), 2, ["part"]),
}


@pytest.mark.parametrize("case", RECORDINGS)
def test_parts_of_a_step_that_are_recorded(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The all-reduce of several processes is between two recordings."""
    optimizer, processes, expected = RECORDINGS[case]
    found, made = [], list[str]()
    monkeypatch.setattr(captured_update, "world", lambda: processes)
    for how in ("off", "graph"):
        pyro.set_rng_seed(0)
        pair = PAIRS["bernoulli"]()
        svi = SVI(pair.model, pair.guide, optimizer, compile=how)
        for module in (captured_update, captured_optimizer):
            monkeypatch.setattr(module, "recorded", following(made))
        found.append(torch.stack([torch.stack(svi.step(pair.x)) for _ in range(6)]))
    assert made == expected
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-4)


def test_recorded_step_that_updates_nothing_is_given_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The loss is right; the parameters are not."""

    def still(function: Any, inputs: Any, state: Any, parts: Any) -> Any:
        return lambda *tensors: function.__self__._gradients(*tensors)[:1]

    pair = PAIRS["bernoulli"]()
    svi = SVI(pair.model, pair.guide, compile="graph")
    svi.step(pair.x)
    monkeypatch.setattr(captured_update, "recorded", still)
    with pytest.raises(ValueError, match="the recorded step differs from .* in the change of w"):
        svi.step(pair.x)


def test_pair_is_stepped_by_kernels_where_recording_fails(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any) -> None:
        raise NotCapturable("recording fails: out of memory")

    class Everywhere(list[Tensor]):
        def __getitem__(self, place: Any) -> Any:
            return OnCuda()

    def on_cuda(function: Any, inputs: Any, state: Any, parts: Any) -> Any:
        return recorded(function, Everywhere(inputs), state, parts)

    monkeypatch.setattr(cuda_graphs, "record", refuse)
    monkeypatch.setattr(captured_update, "recorded", on_cuda)
    monkeypatch.setattr("inference.training.captures.PATIENCE", 1)
    pair = PAIRS["bernoulli"]()
    svi = SVI(pair.model, pair.guide)
    with caplog.at_level(logging.WARNING):
        for _ in range(4):
            svi.step(pair.x)
    assert svi.captured == "graph"
    assert caplog.text.count("No CUDA graph (recording fails: out of memory)") == 1


def test_captured_update_takes_a_backend() -> None:
    mine = Doubled()
    pair = PAIRS["bernoulli"]()
    svi = SVI(pair.model, pair.guide)
    svi.step(pair.x)
    assert svi._update is not None
    made = CapturedUpdate(svi._update, [pair.x], None, None, mine, Reads(pair.model, pair.guide))
    made.check([pair.x])
    assert mine.compiled == 1


def test_break_even_is_what_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PASSES, "cpu", BreakEven(3, 10**9))
    runs = 0

    def double(x: Tensor) -> list[Tensor]:
        nonlocal runs
        runs += 1
        return [2 * x]

    for calls, eager in ((2, 9), (3, 5)):
        runs, call = 0, CapturedPass(double, "auto", calls)
        for x in torch.randn(9, 3):
            call(x)
        assert (runs == 9) == (eager == 9)

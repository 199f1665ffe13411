"""Constants that a function makes on the CPU for a device: moved there once, not at each call.

``torch.eye(k).to(x.device)`` copies, and waits, at every call; a CUDA graph can't hold such a copy.
Only what the function itself makes is a constant. What it refers to, a module's tensor or a NumPy
array, may change between calls, wherever it is.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node, map_arg

from ..private import changes_arguments, may_alias
from .graph_passes import is_empty, is_random, refer_to

aten = torch.ops.aten


def move_constants(graph: GraphModule) -> None:
    """Hold what a traced graph makes on one device for another as tensors on that other one.

    A constant that an operation changes in place, or that the graph returns, is still made at each
    call.
    """
    constants = _constants(graph)
    values: dict[Node, Any] = {}
    kept = len(graph.graph.nodes)
    for node in list(graph.graph.nodes):
        if node.op != "call_function" or (place := _device(graph, node)) is None:
            continue
        if node in constants:
            crosses = any(_comes_from_elsewhere(graph, n, place) for n in node.all_input_nodes)
            if crosses and any(user not in constants for user in node.users):
                held = refer_to(graph, _value(graph, node, values).to(place), node)
                node.replace_all_uses_with(held)
            continue
        for each in node.all_input_nodes:
            other = _device(graph, each)
            if each in constants and other not in (None, place):
                held = refer_to(graph, _value(graph, each, values).to(place), node)
                node.replace_input_with(each, held)
    if len(graph.graph.nodes) == kept:
        return
    for node in reversed(list(graph.graph.nodes)):
        if node in constants and not node.users:
            graph.graph.erase_node(node)
    graph.recompile()


def crossing(graph: GraphModule) -> str | None:
    """Return the first operation on tensors of two kinds of device, in words; None without any.

    It waits for the device or, as a number that a kernel is launched with, would be fixed in a
    recording of the kernels.
    """
    for node in graph.graph.nodes:
        if node.op != "call_function":
            continue
        places = {p.type for n in (node, *node.all_input_nodes) if (p := _device(graph, n))}
        if len(places) > 1:
            return f"{node.target} is on tensors of {' and '.join(sorted(places))}"
    return None


def _constants(graph: GraphModule) -> set[Node]:
    """Return the nodes whose values are the same at every call, and belong to the graph alone."""
    changed = _changed(graph)
    found: set[Node] = set()
    for node in graph.graph.nodes:
        if node.op != "call_function" or node in changed or is_random(node) or is_empty(node):
            continue
        if changes_arguments(node.target):
            continue
        if all(n in found for n in node.all_input_nodes) or _is_literal(graph, node):
            found.add(node)
    return found


def _changed(graph: GraphModule) -> set[Node]:
    """Return the nodes whose memory this graph, or whatever gets its results, may write to."""
    writers = [
        node
        for node in graph.graph.nodes
        if node.op == "output" or (node.op == "call_function" and changes_arguments(node.target))
    ]
    rest = [each for node in writers for each in node.all_input_nodes]
    found: set[Node] = set()
    while rest:
        node = rest.pop()
        if node not in found:
            found.add(node)
            if node.op == "call_function" and may_alias(node.target):
                rest += node.all_input_nodes
    return found


def _is_literal(graph: GraphModule, node: Node) -> bool:
    """Whether it is ``torch.tensor([1.0, 2.0])`` of the function, not an array of the user's."""
    if node.target is not aten.lift_fresh_copy.default:
        return False
    (source,) = node.all_input_nodes
    value = getattr(graph, str(source.target), None) if source.op == "get_attr" else None
    # Memory that torch did not allocate can't be resized.
    return isinstance(value, Tensor) and value.untyped_storage().resizable()


def _device(graph: GraphModule, node: Node) -> torch.device | None:
    value = getattr(graph, str(node.target)) if node.op == "get_attr" else node.meta.get("val")
    if isinstance(value, list | tuple):
        value = next((each for each in value if isinstance(each, Tensor)), None)
    return value.device if isinstance(value, Tensor) else None


def _comes_from_elsewhere(graph: GraphModule, node: Node, place: torch.device) -> bool:
    return any(_device(graph, n) not in (None, place) for n in _ancestors(node))


def _ancestors(node: Node) -> Iterator[Node]:
    yield node
    for each in node.all_input_nodes:
        yield from _ancestors(each)


def _value(graph: GraphModule, node: Node, values: dict[Node, Any]) -> Any:
    if node.op == "get_attr":
        return getattr(graph, str(node.target))
    if node not in values:
        args, kwargs = map_arg((node.args, node.kwargs), lambda n: _value(graph, n, values))
        with torch.no_grad():
            values[node] = node.target(*args, **kwargs)  # type: ignore[operator]
    return values[node]

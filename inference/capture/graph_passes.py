"""Passes over a captured graph, before it is replayed or compiled."""

from itertools import count
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

aten = torch.ops.aten

_EMPTY = {aten.empty, aten.empty_like, aten.empty_strided, aten.new_empty, aten.new_empty_strided}


def drop_profiling(graph: GraphModule) -> None:
    """Take out the marks that torch's optimisers make for a profiler; compilers refuse them."""
    for node in reversed(list(graph.graph.nodes)):
        if node.op == "call_function" and "profiler" in str(node.target):
            graph.graph.erase_node(node)
    graph.recompile()


def lift_constants(graph: GraphModule) -> list[Any]:
    """Make the tensors that a graph holds its first arguments, and return them.

    Fetching them from the module again at each call would take longer than a small operation.
    """
    held: dict[str, Any] = {}
    arguments: dict[str, Node] = {}
    first = next(iter(graph.graph.nodes))
    for node in list(graph.graph.nodes):
        if node.op != "get_attr":
            continue
        name = str(node.target)
        if name not in held:
            held[name] = getattr(graph, name)
            with graph.graph.inserting_before(first):
                arguments[name] = graph.graph.placeholder(name)
        _replace(node, arguments[name])
    graph.recompile()
    return list(held.values())


def refer_to(graph: GraphModule, value: Tensor, before: Node) -> Node:
    """Give a graph one more tensor to hold, and return a node that refers to it."""
    taken = {str(node.target) for node in graph.graph.nodes if node.op == "get_attr"}
    name = next(each for each in map("_moved_constant_{}".format, count()) if each not in taken)
    graph.register_buffer(name, value)
    with graph.graph.inserting_before(before):
        node = graph.graph.get_attr(name)
    node.meta["val"] = value
    return node


def take_out_draws(graph: GraphModule) -> GraphModule:
    """Take the random numbers that need no value out of a graph; return what draws them, in order.

    The graph wants them as its first arguments then. A compiler sees no reason not to draw the
    noise of z before the bits of x, and would hand each the other's random numbers. From the first
    draw that does need a value, a Poisson's say, all stay where they are.
    """
    draws = Graph()
    results: list[Node] = []
    first = next(iter(graph.graph.nodes))
    for node in list(graph.graph.nodes):
        if node.op != "call_function" or not is_random(node):
            continue
        filled = node.all_input_nodes
        if not all(is_empty(n) and len(n.users) == 1 for n in filled):
            break
        results.append(draws.node_copy(node, lambda n: _empty_as(draws, n)))
        with graph.graph.inserting_before(first):
            _replace(node, graph.graph.placeholder(f"draw_{len(results)}"))
        for each in filled:
            graph.graph.erase_node(each)
    draws.output(results)
    graph.recompile()
    return GraphModule(torch.nn.Module(), draws)


def is_random(node: Node) -> bool:
    """Whether a node draws random numbers."""
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def is_empty(node: Node) -> bool:
    """Whether a node is memory without values."""
    return getattr(node.target, "overloadpacket", None) in _EMPTY


def _empty_as(graph: Graph, node: Node) -> Node:
    value = node.meta["val"]
    shape = tuple(value.shape), tuple(value.stride())
    kind = {"dtype": value.dtype, "device": value.device}
    return graph.call_function(aten.empty_strided.default, shape, kind)


def _replace(node: Node, other: Node) -> None:
    node.replace_all_uses_with(other)
    node.graph.erase_node(node)

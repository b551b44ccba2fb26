"""What in a module's forward `fuse_batch_norm_relu` may fuse: torch.fx graphs and the patterns in them."""

import itertools
import operator
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

# Exact types: a subclass may do something else in its forward.
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_RELU_CALLS = (F.relu, F.relu_, torch.relu, torch.relu_, "relu", "relu_")
_ADD_IN_PLACE = (operator.iadd, "add_")
_ADDITIONS = (operator.add, torch.add, "add", *_ADD_IN_PLACE)
_IN_PLACE_OPERATORS = ("iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "setitem")


@dataclass(frozen=True)
class Match:
    """A batch norm, the addition after it if there is one, and the ReLU.

    Attributes:
        batch_norm: the call of the batch norm.
        addition: the node that adds the residual, or None.
        relu: the node that applies ReLU.
    """

    batch_norm: fx.Node
    addition: fx.Node | None
    relu: fx.Node


class _Proxy(fx.Proxy):
    """Record `x += y` as what it is: torch.fx's own proxies turn it into `x = x + y`."""

    def __iadd__(self, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", operator.iadd, (self, other), {})


class _Tracer(fx.Tracer):
    """Trace one module's forward only."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return not is_transparent(m)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)


def has_hooks(module: nn.Module) -> bool:
    """Whether someone watches the calls of a module."""
    names = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(getattr(module, name, None) for name in names)


def is_transparent(module: nn.Module) -> bool:
    """Whether a module does nothing but call its children in order."""
    return type(module).forward is nn.Sequential.forward and not has_hooks(module)


def has_no_forward(module: nn.Module) -> bool:
    """Whether a module only holds others, as ModuleList and ModuleDict do."""
    return type(module).forward is nn.Module.forward


def trace(module: nn.Module) -> tuple[list[fx.Graph], str | None]:
    """Return the graphs of a module's forward, and why they must not replace it (None where they may).

    There is one graph; two, for training and evaluation, where they differ; none where tracing fails.
    """
    modes = {m: m.training for m in module.modules()}
    graphs = []
    try:
        for training in (True, False):
            module.train(training)
            graphs.append(_Tracer().trace(module))
    except Exception as error:  # whatever the model's own code raises when it is given proxies
        return [], f"it cannot be traced ({type(error).__name__}: {str(error).splitlines()[0]})"
    finally:
        for m, training in modes.items():
            m.training = training
    listings = [[(n.op, n.target, repr(n.args), repr(n.kwargs)) for n in graph.nodes] for graph in graphs]
    if listings[0] != listings[1]:
        return graphs, "it differs between training and evaluation"
    return graphs[:1], "it has hooks" if has_hooks(module) else None


class Forward:
    """A graph of one module's own forward, and the batch norms that it calls.

    Attributes:
        module: the module.
        graph: of its forward.
        occurrences: how many places of the whole model each module has, by id.
        calls: how often the forward calls each of its modules.
    """

    def __init__(self, module: nn.Module, graph: fx.Graph, occurrences: Counter[int]) -> None:
        self.module, self.graph, self.occurrences = module, graph, occurrences
        self.calls = Counter(str(node.target) for node in graph.nodes if node.op == "call_module")

    def submodule(self, node: fx.Node) -> nn.Module:
        """Return the module that a call_module node calls."""
        return self.module.get_submodule(str(node.target))

    def is_own(self, node: fx.Node) -> bool:
        """Whether no forward but this one is meant to call a node's module."""
        *parents, _ = str(node.target).split(".")
        paths = (".".join(parents[: i + 1]) for i in range(len(parents)))
        holders = [self.module.get_submodule(path) for path in paths]
        unshared = all(self.occurrences[id(m)] == 1 for m in (*holders, self.submodule(node)))
        return unshared and all(is_transparent(m) or has_no_forward(m) for m in holders)

    def is_relu(self, node: fx.Node) -> bool:
        """Whether a node applies ReLU, in any of the ways it is written."""
        if node.op == "call_module":
            return type(self.submodule(node)) is nn.ReLU and not has_hooks(self.submodule(node))
        return node.target in _RELU_CALLS

    def batch_norms(self) -> Iterator[fx.Node]:
        """Yield the calls of batch norms of PyTorch's own types."""
        for node in self.graph.nodes:
            if node.op == "call_module" and type(self.submodule(node)) in BATCH_NORMS:
                yield node

    def match(self, node: fx.Node) -> Match | str:
        """Return the pattern that a batch norm's call begins, or why there is none."""
        if self.calls[str(node.target)] > 1 or not self.is_own(node):
            return "it is called from more than one place"
        if has_hooks(self.submodule(node)):
            return "it has hooks"
        if len(node.args) != 1 or node.kwargs:
            return "it is called with unusual arguments"
        if len(node.users) != 1:
            return f"its output has {len(node.users)} consumers"
        (user,) = node.users
        if self.is_relu(user):
            return Match(node, None, user)
        if user.op not in ("call_function", "call_method") or user.target not in _ADDITIONS:
            return f"it is followed by {self.describe(user)}"
        return self.match_addition(node, user)

    def match_addition(self, node: fx.Node, addition: fx.Node) -> Match | str:
        """Return the pattern batch norm, addition, ReLU, or why there is none."""
        if len(addition.users) != 1 or not self.is_relu(next(iter(addition.users))):
            return "the addition after it is not followed by a ReLU alone"
        if len(addition.args) != 2 or addition.kwargs or not all(isinstance(a, fx.Node) for a in addition.args):
            return "the addition after it is not of two tensors"
        first, second = addition.args
        if first is second:
            return "it is added to itself"
        if addition.target in _ADD_IN_PLACE and first is not node:
            return "the addition after it changes the residual in place"
        (relu,) = addition.users
        residual = second if first is node else first
        if self.changed_between(node.args[0], node, relu) or self.changed_between(residual, addition, relu):
            return "a tensor it needs is changed in place before the ReLU"
        return Match(node, addition, relu)

    def changed_between(self, tensor: Any, start: fx.Node, stop: fx.Node) -> bool:
        """Whether a node strictly between two others changes a tensor: the fused call runs at the later one."""
        following = itertools.dropwhile(lambda n: n is not start, self.graph.nodes)
        between = set(itertools.takewhile(lambda n: n is not stop, following)) - {start}
        return any(self.is_in_place(user) for user in tensor.users if user in between)

    def is_in_place(self, node: fx.Node) -> bool:
        """Whether a node may change its argument."""
        if node.op == "call_module":
            return bool(getattr(self.submodule(node), "inplace", False))
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
        return name.endswith("_") or name in _IN_PLACE_OPERATORS or bool(node.kwargs.get("inplace"))

    def describe(self, node: fx.Node) -> str:
        """Name what a node does, for the report."""
        if node.op == "call_module":
            return type(self.submodule(node)).__name__
        return "the end of the module" if node.op == "output" else str(getattr(node.target, "__name__", node.target))

    def matches(self) -> tuple[list[Match], dict[str, str]]:
        """Return what can be fused, and for every other batch norm of this forward the reason why not, by target."""
        found: list[Match] = []
        reasons: dict[str, str] = {}
        for node in self.batch_norms():
            match = self.match(node)
            if isinstance(match, str):
                reasons[str(node.target)] = match
            elif any(other.relu is match.relu for other in found):
                reasons[str(node.target)] = "it is the residual of another batch norm"
            else:
                found.append(match)
        return found, reasons

    def needs_rewriting(self, matches: list[Match]) -> list[Match]:
        """Return the matches that cannot be fused by swapping modules alone.

        A swap turns the batch norm into the fused module and the ReLU into an Identity, so the ReLU has to be a module
        that serves nobody else.
        """
        plain = Counter(str(m.relu.target) for m in matches if m.addition is None and m.relu.op == "call_module")

        def swappable(match: Match) -> bool:
            target = str(match.relu.target)
            return (
                match.addition is None
                and match.relu.op == "call_module"
                and plain[target] == self.calls[target]
                and self.is_own(match.relu)
            )

        return [match for match in matches if not swappable(match)]

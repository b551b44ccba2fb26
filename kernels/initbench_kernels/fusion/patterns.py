"""What in a module's forward `fuse_batch_norm_relu` may fuse: patterns in torch.fx graphs."""

import itertools
import operator
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from initbench_kernels.batch_norm_relu.module import BatchNormReLU1d, BatchNormReLU2d, BatchNormReLU3d
from initbench_kernels.fusion.joined import is_called_whole
from initbench_kernels.fusion.tracing import (
    IN_PLACE_OPERATORS,
    has_hooks,
    has_no_forward,
    is_plain_sequential,
    is_transparent,
)

# Exact types: a subclass may do something else in its forward.
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_RELU_CALLS = (F.relu, F.relu_, torch.relu, torch.relu_, "relu", "relu_")
_ADD_IN_PLACE = (operator.iadd, "add_")
_ADDITIONS = (operator.add, torch.add, "add", *_ADD_IN_PLACE)
# Layers that change no tensor but their own running statistics, and hand out a new one.
_FRESH = (
    *(nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
    *(*BATCH_NORMS, BatchNormReLU1d, BatchNormReLU2d, BatchNormReLU3d),
)


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

    @property
    def residual(self) -> fx.Node | None:
        """What is added, or None."""
        added = () if self.addition is None else self.addition.all_input_nodes
        return next((node for node in added if node is not self.batch_norm), None)

    @property
    def adds_in_place(self) -> bool:
        """Whether the addition changes the batch norm's output."""
        return self.addition is not None and self.addition.target in _ADD_IN_PLACE


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
        return self.occurrences[id(self.submodule(node))] == 1 and not self.is_inside(str(node.target))

    def is_inside(self, target: str) -> bool:
        """Whether a module that the forward calls is a part of another with a forward of its own."""
        parents = target.split(".")[:-1]
        holders = (self.module.get_submodule(".".join(parents[: i + 1])) for i in range(len(parents)))
        return not all(is_transparent(holder) or has_no_forward(holder) for holder in holders)

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
        first, second = (a for a in addition.args if isinstance(a, fx.Node))
        if first is second:
            return "it is added to itself"
        if addition.target in _ADD_IN_PLACE and first is not node:
            if first in self.batch_norms():
                return f"it is the residual of {first.target}"
            return "the addition after it changes the other tensor in place"
        residual = second if first is node else first
        if residual.op == "placeholder" and residual.args:
            return "the argument that is added to it may be left out"
        (relu,) = addition.users
        if any(n.op == "get_attr" and str(n.target).startswith(f"{node.target}.") for n in self.graph.nodes):
            return "the forward reads what it keeps, too"
        if self.may_change(node.args[0], node, relu) or self.may_change(residual, addition, relu):
            return "a tensor it needs may be changed in place before the ReLU"
        return Match(node, addition, relu)

    def may_change(self, tensor: Any, start: fx.Node, stop: fx.Node) -> bool:
        """Whether a node strictly between two others may change a tensor, if only through a view.

        The fused call runs at the later one. The addition changes nothing but the batch norm's own output.
        """
        following = itertools.dropwhile(lambda n: n is not start, self.graph.nodes)
        between = set(itertools.takewhile(lambda n: n is not stop, following)) - {start, *start.users}
        origins = self.origins(tensor)
        return any(self.is_in_place(n) and origins & self.origins(*n.all_input_nodes) for n in between)

    def origins(self, *tensors: fx.Node) -> set[fx.Node | None]:
        """Return the nodes that may have made the memory of some tensors; None is a place outside of the graph."""
        found: set[fx.Node | None] = set()
        waiting = list(tensors)
        while waiting:
            node = waiting.pop()
            if node in found:
                continue
            found.add(node)
            if node.op == "call_module" and type(self.submodule(node)) in _FRESH:
                continue
            if node.op not in ("call_function", "call_method"):
                # An argument, a tensor of the module's, or what a module hands out of its own.
                found.add(None)
            waiting += node.all_input_nodes
        return found

    def is_in_place(self, node: fx.Node) -> bool:
        """Whether a node may change an argument: its name or arguments say so, or it is a module that is not known."""
        if node.op == "call_module":
            module = self.submodule(node)
            is_layer = type(module).__module__.startswith("torch.nn.modules.") and not any(module.children())
            return not is_layer or bool(getattr(module, "inplace", False))
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
        is_asked_to = node.kwargs.get("inplace") or "out" in node.kwargs or any(arg is True for arg in node.args)
        return bool(is_asked_to) or name.endswith("_") or node.target in IN_PLACE_OPERATORS

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
            elif rival := next((other for other in found if other.relu is match.relu), None):
                reasons[str(node.target)] = f"it is the residual of {rival.batch_norm.target}"
            else:
                found.append(match)
        return found, reasons

    def is_swappable(self, match: Match) -> bool:
        """Whether a match is two neighbours in a Sequential, so that no forward has to change."""
        holder = self.sequential_of(match.batch_norm)
        return (
            match.addition is None
            and holder is not None
            and holder is self.sequential_of(match.relu)
            and self.calls[str(match.relu.target)] == 1
            and (holder is self.module or is_called_whole(type(self.module), str(match.relu.target).partition(".")[0]))
        )

    def sequential_of(self, node: fx.Node) -> nn.Module | None:
        """Return the outermost Sequential that calls a node's module, if one does."""
        if node.op != "call_module":
            return None
        *parents, _ = str(node.target).split(".")
        holders = (self.module.get_submodule(".".join(parents[:i])) for i in range(len(parents) + 1))
        return next((holder for holder in holders if is_plain_sequential(holder)), None)

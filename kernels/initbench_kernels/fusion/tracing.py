"""A module's own forward pass as a torch.fx graph, where the graph may stand for it."""

import operator
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from torch import fx, nn

from initbench_kernels.fusion.source import frozen_attributes

_IN_PLACE = ("iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "imatmul", "iand", "ior", "ixor")
IN_PLACE_OPERATORS = tuple(getattr(operator, name) for name in _IN_PLACE)


@dataclass
class Trace:
    """What is known of a module's forward pass.

    Attributes:
        graph: of the forward, with the modules that it calls as leaves (plain Sequentials apart, which are looked
            into); None where tracing fails.
        obstacle: why the graph may not stand for the forward; None where it may.
        frozen: values of plain attributes that the graph holds for good, by their path from the module.
    """

    graph: fx.Graph | None
    obstacle: str | None
    frozen: dict[str, Any] = field(default_factory=dict)


class _Proxy(fx.Proxy):
    """Records `x += y` as what it is: torch.fx's own proxies turn it into `x = x + y`."""

    def __getattr__(self, k: str) -> fx.proxy.Attribute:
        return _Attribute(self, k)


class _Attribute(_Proxy, fx.proxy.Attribute):
    """Stands in for an attribute of a value."""


def _recorder(function: Any) -> Any:
    def record(self: fx.Proxy, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", function, (self, other), {})

    return record


for _name, _function in zip(_IN_PLACE, IN_PLACE_OPERATORS, strict=True):
    setattr(_Proxy, f"__{_name}__", _recorder(_function))


class _Tracer(fx.Tracer):
    """Traces one module's forward only."""

    # Otherwise a buffer's values of today would be computed with, as constants.
    proxy_buffer_attributes = True

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return not is_transparent(m)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def create_arg(self, a: Any) -> Any:
        # torch.fx would hand back a plain dict.
        if type(a) is OrderedDict:
            return self.create_proxy("call_function", OrderedDict, (list(a.items()),), {}).node
        return super().create_arg(a)


def has_hooks(module: nn.Module) -> bool:
    """Whether someone watches the calls of a module, or has put another forward in its place."""
    names = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return "forward" in vars(module) or any(getattr(module, name, None) for name in names)


def is_plain_sequential(module: nn.Module) -> bool:
    """Whether a module's own forward pass does nothing but call its children in order."""
    usual = (getattr(type(module), name) is getattr(nn.Sequential, name) for name in ("forward", "__iter__"))
    return isinstance(module, nn.Sequential) and all(usual)


def is_transparent(module: nn.Module) -> bool:
    """Whether a module does nothing but call its children in order, and nobody watches it."""
    return is_plain_sequential(module) and not has_hooks(module)


def has_no_forward(module: nn.Module) -> bool:
    """Whether a module only holds others, as ModuleList and ModuleDict do."""
    return type(module).forward is nn.Module.forward


def trace(module: nn.Module) -> Trace:
    """Trace a module's forward in training and in evaluation, and judge the outcome."""
    if "forward" in vars(module):
        return Trace(None, "it was put in the place of its class's")
    frozen = frozen_attributes(module)
    modes = {m: m.training for m in module.modules()}
    graphs = []
    try:
        for training in (True, False):
            # Not by train(), which a class may have made more of.
            for m in modes:
                m.training = training
            graphs.append(_Tracer().trace(module))
    except Exception as error:  # whatever the model's own code raises when it is given proxies
        return Trace(None, f"it cannot be traced ({type(error).__name__}: {str(error).splitlines()[0]})")
    finally:
        for m, training in modes.items():
            m.training = training
    if isinstance(frozen, str):
        return Trace(graphs[0], frozen)
    if _listing(graphs[0]) != _listing(graphs[1]):
        return Trace(graphs[0], "it differs between training and evaluation")
    tensors = {name for name, _ in (*module.named_parameters(), *module.named_buffers())}
    if any(node.op == "get_attr" and node.target not in tensors for node in graphs[0].nodes):
        return Trace(graphs[0], "it makes a tensor that a trace would keep as a constant")
    calls = [node for node in graphs[0].nodes if node.op == "call_module"]
    if any(isinstance(arg, (list, dict)) for node in calls for arg in (*node.args, *node.kwargs.values())):
        return Trace(graphs[0], "it passes a list to a module, which may change it")
    return Trace(graphs[0], None, frozen)


def _listing(graph: fx.Graph) -> list[Any]:
    return [(node.op, node.target, repr(node.args), repr(node.kwargs)) for node in graph.nodes]

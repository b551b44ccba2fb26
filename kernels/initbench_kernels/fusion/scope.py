"""What the names in a function's source mean, as far as the module whose forward calls it decides."""

import ast
import builtins
import copy
import functools
import inspect
import textwrap
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

UNKNOWN = object()
# Types of values that may be known from outside of a function.
TYPES = (torch.dtype, torch.memory_format)
# They hand on what they are given or raise: none of them makes a constant of a stand-in.
WALKS = (zip, enumerate, reversed, range, len)
_CONSTANTS = (bool, int, float, str, type(None), *TYPES)
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_CONTAINER_METHODS = ("items", "keys", "values", "children", "named_children")
_ACCESS = ("__getattr__", "__getattribute__", "__getitem__", "__iter__", "__len__", "__call__", *_CONTAINER_METHODS)


@functools.cache
def parse(function: Callable[..., Any]) -> ast.FunctionDef | None:
    """Return the syntax tree of a function, or None where there is none to be had."""
    try:
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    except (OSError, TypeError, SyntaxError, ValueError):
        return None
    return tree if isinstance(tree, ast.FunctionDef) else None


def has_usual_access(kind: type[nn.Module]) -> bool:
    """Whether getting at a module's parts, and calling it, runs PyTorch's code only."""
    found = (inspect.getattr_static(kind, name, None) for name in _ACCESS)
    return all(f is None or (getattr(f, "__module__", None) or "torch.").startswith("torch.") for f in found)


def is_constant(value: Any) -> bool:
    """Whether a value is a number, a string or the like, or a container of such."""
    if isinstance(value, dict):
        return is_constant([*value.keys(), *value.values()])
    if isinstance(value, (list, tuple, set)):
        return all(is_constant(part) for part in value)
    return type(value) in _CONSTANTS


class Scope:
    """Names in one function.

    Attributes:
        module: what the function's first argument is, or None where it is no method.
        function: the function.
        values: plain attributes of the module that were asked for, by path; scopes may share it.
        own: the name of the first argument of a method.
        bindings: what each local name is given; None stands for what nothing is known of.
    """

    def __init__(
        self, module: nn.Module | None, function: types.FunctionType, tree: ast.FunctionDef, values: dict[str, Any]
    ) -> None:
        self.module, self.function, self.values = module, function, values
        self.own = tree.args.args[0].arg if module is not None and tree.args.args else ""
        self.bindings: dict[str, list[ast.expr | None]] = {}
        for node in ast.walk(tree):
            self._bind(node)
        # The argument itself is not a local name, unless it is given something else.
        if self.own and len(self.bindings[self.own]) == 1:
            del self.bindings[self.own]

    def _bind(self, node: ast.AST) -> None:
        """Note what an argument, an assignment or a loop gives to local names."""
        targets: list[ast.expr] = []
        value = None
        if isinstance(node, ast.arg):
            self.bindings.setdefault(node.arg, []).append(None)
        elif isinstance(node, (ast.For, ast.comprehension)):
            targets, value = [node.target], node.iter
        elif isinstance(node, ast.Assign):
            targets = node.targets
            value = node.value if all(isinstance(target, ast.Name) for target in targets) else None
        elif isinstance(node, (ast.AugAssign, ast.AnnAssign)):
            targets = [node.target]
        for target in targets:
            for name in ast.walk(target):
                if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store):
                    self.bindings.setdefault(name.id, []).append(value)

    def resolve(self, node: ast.AST) -> Any:
        """Return what an expression such as self.blocks[0].conv is in the module, or UNKNOWN."""
        match node:
            case ast.Name(self.own) if self.own not in self.bindings:
                return self.module
            case ast.Attribute(value, name):
                pass
            # As torch.fx writes it for names that are numbers.
            case ast.Call(ast.Name("getattr"), [value, ast.Constant(str(name))], []):
                pass
            case ast.Subscript(value, ast.Constant(key)):
                owner = self.resolve(value)
                return owner._modules.get(str(key), UNKNOWN) if isinstance(owner, _CONTAINERS) else UNKNOWN
            case _:
                return UNKNOWN
        owner = self.resolve(value)
        if not isinstance(owner, nn.Module):
            return UNKNOWN
        for registry in (owner._parameters, owner._buffers, owner._modules):
            if name in registry:
                return registry[name]
        return inspect.getattr_static(owner, name, UNKNOWN)

    def outside(self, node: ast.AST) -> Any:
        """Return what a dotted name is outside of the function, or UNKNOWN."""
        if isinstance(node, ast.Attribute):
            owner = self.outside(node.value)
            return getattr(owner, node.attr, UNKNOWN) if isinstance(owner, types.ModuleType) else UNKNOWN
        inside = (self.own, *self.bindings, *self.function.__code__.co_freevars)
        if not isinstance(node, ast.Name) or node.id in inside:
            return UNKNOWN
        return self.function.__globals__.get(node.id, getattr(builtins, node.id, UNKNOWN))

    def is_structure(self, node: ast.AST, under_way: tuple[str, ...] = ()) -> bool:
        """Whether the module alone decides a value: a submodule, a constant, or a walk over them.

        Args:
            node: the expression.
            under_way: local names that are being looked up, for `x = f(x)` says nothing about x.
        """

        def all_are(*parts: ast.AST) -> bool:
            return all(self.is_structure(part, under_way) for part in parts)

        match node:
            case ast.Constant():
                return True
            case ast.Name(name) if name in self.bindings:
                given = self.bindings[name]
                return name not in under_way and all(
                    value is not None and self.is_structure(value, (*under_way, name)) for value in given
                )
            case ast.Name(name):
                return bool(name == self.own)
            case ast.Tuple(parts):
                return all_are(*parts)
            case ast.Subscript(left, right) | ast.BinOp(left, _, right):
                return all_are(left, right)
            case ast.UnaryOp(_, value):
                return all_are(value)
            case ast.Slice(lower, upper, step):
                return all_are(*(part for part in (lower, upper, step) if part is not None))
            case ast.Call(ast.Attribute(value, method), [], []):
                return method in _CONTAINER_METHODS and all_are(value)
            case ast.Call(ast.Name("getattr")):
                return self._is_module(node) and self.outside(node.func) is getattr
            case ast.Call(function, args, []):
                return self.outside(function) in WALKS and all_are(*args)
            case ast.Attribute():
                return self._is_fixed_attribute(node)
        return False

    def _is_module(self, node: ast.AST) -> bool:
        value = self.resolve(node)
        return isinstance(value, nn.Module) and has_usual_access(type(value))

    def _is_fixed_attribute(self, node: ast.Attribute) -> bool:
        """Whether an attribute is a submodule or a constant of the module; constants are noted."""
        value, path = self.resolve(node), ast.unparse(node).partition(".")[2]
        if isinstance(value, nn.Module):
            return self._is_module(node)
        # The module is traced in both modes, but not with its submodules in other modes than its own.
        if node.attr == "training":
            return path == "training"
        if not is_constant(value) or not all(name.isidentifier() for name in path.split(".")):
            return False
        self.values[path] = copy.deepcopy(value)
        return True

"""Whether a torch.fx trace may stand for a forward pass: judged from the source of what that forward runs.

A trace is one run with stand-ins for the arguments. It keeps what is done to them; it loses context managers, side
effects and anything random, and it freezes every decision. Most decisions about a stand-in end the trace with an error,
but not all: it is never None, of no type, and in no dictionary. So a trace is trusted only where the forward, and every
function that it calls, is made of nothing but

- calls of the module's own submodules, of its own methods and of plain functions that are judged alike, of functions
  and methods of tensors that PyTorch lets be recorded, and of a few builtins that no stand-in passes through;
- local variables, arithmetic, indexing, loops and branches, in which `is` and `in` compare only what the module's
  structure decides: its submodules, and attributes that are numbers, strings and the like.

Those attributes are what a trace freezes then, so they are handed back, for whoever uses the trace to watch.
"""

import ast
import functools
import inspect
import math
import types
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from torch import nn, overrides

from initbench_kernels.fusion.scope import (
    TYPES,
    UNKNOWN,
    WALKS,
    Scope,
    has_usual_access,
    is_constant,
    parse,
)

_LIST_METHODS = ("append", "extend", "insert", "items", "keys", "values")
_TENSOR_NAMES = frozenset(name for name in dir(torch.Tensor) if not name.startswith("_"))
_HARMLESS = (*WALKS, list, tuple, dict, OrderedDict, sum, min, max, abs, int, float, bool)
_SYNTAX = (
    *(ast.Expr, ast.Return, ast.Assign, ast.AugAssign, ast.If, ast.For, ast.Assert, ast.Pass, ast.Break, ast.Continue),
    *(ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.IfExp, ast.Compare, ast.Subscript, ast.Slice, ast.Starred, ast.keyword),
    *(ast.Constant, ast.Tuple, ast.List, ast.Dict, ast.ListComp, ast.GeneratorExp, ast.comprehension),
    *(ast.operator, ast.unaryop, ast.boolop, ast.cmpop, ast.expr_context),
)
_FREEZING = (ast.Is, ast.IsNot, ast.In, ast.NotIn)


class _Doubt(Exception):
    """Why a trace may not stand for the forward."""


def frozen_attributes(module: nn.Module) -> dict[str, Any] | str:
    """Return what a trace of the forward of a module's class freezes, or why such a trace cannot be trusted.

    Args:
        module: any module.

    Returns:
        Values of the plain attributes that the forward reads, by their path from the module; or the reason.
    """
    kind = type(module)
    if not isinstance(kind.forward, types.FunctionType):
        return "its forward is not a plain method of its class"
    if not has_usual_access(kind):
        return "its class makes attributes, items or calls of its own"
    if kind.forward is nn.Sequential.forward:
        return {}
    values: dict[str, Any] = {}
    try:
        _Judge(module, kind.forward, values, set())
    except _Doubt as doubt:
        return str(doubt)
    return values


@functools.cache
def _recorded() -> frozenset[Callable[..., Any]]:
    """Functions that a trace records as they are called."""
    listed = (f for functions in overrides.get_overridable_functions().values() for f in functions)
    return frozenset(listed) | {torch.relu_, F.relu_}


class _Judge(ast.NodeVisitor):
    """Judges one function, and those that it calls; raises `_Doubt`.

    Args:
        module: what the function's first argument is, or None where it is no method.
        function: the function.
        values: where plain attributes that are read are put, by path.
        judged: the functions that are judged already or under way.
    """

    def __init__(
        self, module: nn.Module | None, function: types.FunctionType, values: dict[str, Any], judged: set[Any]
    ) -> None:
        judged.add((function, module is None))
        tree = parse(function)
        if tree is None:
            raise _Doubt(f"the source of {function.__qualname__} is not at hand")
        self.module, self.function, self.values, self.judged = module, function, values, judged
        self.scope = Scope(module, function, tree, values)
        for decorator in tree.decorator_list:
            self.doubt(decorator)
        for statement in tree.body:
            self.visit(statement)

    def doubt(self, node: ast.AST) -> NoReturn:
        """Raise the doubt that a piece of code gives."""
        code = ast.unparse(node).splitlines()[0].rstrip(":")
        raise _Doubt(f"tracing may lose or freeze `{code}` in {self.function.__qualname__}")

    def visit(self, node: ast.AST) -> None:
        """Judge a node; what the structure decides needs no more."""
        is_read = isinstance(getattr(node, "ctx", None), ast.Load | None)
        if not (is_read and self.scope.is_structure(node)):
            super().visit(node)

    def generic_visit(self, node: ast.AST) -> None:
        """Judge the parts of a node that is harmless itself."""
        if not isinstance(node, _SYNTAX):
            self.doubt(node)
        super().generic_visit(node)

    def visit_Name(self, node: ast.Name) -> None:
        """Judge a name: local, or a type from outside, for other globals may change."""
        if node.id not in self.scope.bindings and not isinstance(self.scope.outside(node), TYPES):
            self.doubt(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        """Judge an attribute: a tensor of the module's, or what tensors have."""
        owner = self.scope.resolve(node.value)
        if not isinstance(node.ctx, ast.Load):
            self.doubt(node)
        if isinstance(owner, nn.Module):
            if node.attr not in owner._parameters and node.attr not in owner._buffers:
                self.doubt(node)
        elif not isinstance(self.scope.outside(node), TYPES):
            if node.attr not in _TENSOR_NAMES or self.scope.is_structure(node.value):
                self.doubt(node)
            self.visit(node.value)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        """Judge an index: lists and dictionaries made here may be written to, and no stand-in lets itself be."""
        is_local = isinstance(node.value, ast.Name) and not self.scope.is_structure(node.value)
        if not isinstance(node.ctx, ast.Load) and not is_local:
            self.doubt(node)
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        """Judge a comparison: a stand-in answers `is` and `in` with a constant."""
        if any(isinstance(op, _FREEZING) for op in node.ops):
            for part in (node.left, *node.comparators):
                if not self.scope.is_structure(part):
                    self.doubt(node)
        self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        """Judge an assignment; the annotation of a local name is not evaluated."""
        self.visit(node.target)
        if node.value is not None:
            self.visit(node.value)

    def visit_Raise(self, node: ast.Raise) -> None:
        """Nothing to judge: a trace that comes here has failed."""

    def visit_Call(self, node: ast.Call) -> None:
        """Judge what is called, and its arguments."""
        if not self.is_trusted(node.func) and not self.follow(node):
            self.doubt(node)
        for part in (*node.args, *node.keywords):
            self.visit(part)

    def is_trusted(self, called: ast.expr) -> bool:
        """Whether a call of this survives a trace: a submodule, a function that is known, a method of a tensor."""
        if self.scope.is_structure(called):
            return True
        function = self.scope.outside(called)
        if isinstance(function, Hashable) and function is not UNKNOWN:
            return function in _recorded() or function in _HARMLESS or function in vars(math).values()
        if not isinstance(called, ast.Attribute) or self.scope.is_structure(called.value):
            return False
        self.visit(called.value)
        return called.attr in _TENSOR_NAMES or called.attr in _LIST_METHODS

    def follow(self, node: ast.Call) -> bool:
        """Judge the method or plain function that is called, or say that it is neither."""
        function, module = self.scope.outside(node.func), None
        if isinstance(node.func, ast.Attribute) and self.scope.resolve(node.func.value) is self.module is not None:
            function, module = inspect.getattr_static(type(self.module), node.func.attr, None), self.module
            if node.func.attr in vars(self.module):
                return False
        # What a function does with a module that it is given is not looked at.
        given = [part.value if isinstance(part, ast.keyword) else part for part in (*node.args, *node.keywords)]
        hands_on = any(self.scope.is_structure(part) and not self.is_value(part) for part in given)
        if hands_on or not isinstance(function, types.FunctionType):
            return False
        if (function, module is None) not in self.judged:
            _Judge(module, function, self.values, self.judged)
        return True

    def is_value(self, node: ast.AST) -> bool:
        """Whether an expression is no module for certain."""
        return isinstance(node, ast.Constant) or is_constant(self.scope.resolve(node))

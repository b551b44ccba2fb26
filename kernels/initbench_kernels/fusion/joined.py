"""Batch norms whose class names them and their ReLU in one place only, where it calls the one on the other.

Such a pair may be exchanged in place whatever decides when it runs: no branch and no method of the class can come
between the two.
"""

import ast
import inspect
import itertools
import types
from collections import Counter
from collections.abc import Iterator
from typing import Any

from torch import nn

from initbench_kernels.fusion.scope import parse

# Ways to a submodule that do not name it.
_REFLECTION = frozenset(
    (
        *("children", "modules", "named_children", "named_modules", "get_submodule", "_modules", "__dict__"),
        *("getattr", "vars", "super"),
    )
)


def joined_pairs(kind: type[nn.Module]) -> dict[str, str]:
    """Return the ReLU of each submodule that methods of a class use in a single self.relu(self.norm(x)) only.

    `y = self.norm(x)` directly followed by `y = self.relu(y)` is the same. Constructors do not count.

    Args:
        kind: a module's class.

    Returns:
        Pairs of attribute names, the inner call's first; none where the source is not at hand, or reaches submodules
        in ways that do not name them.
    """
    mentions: Counter[str] = Counter()
    pairs: Counter[tuple[str, str]] = Counter()
    for function in _methods(kind):
        tree = parse(function)
        if tree is None or not tree.args.args:
            return {}
        own = tree.args.args[0].arg
        nodes = list(ast.walk(tree))
        attributes = [node for node in nodes if isinstance(node, ast.Attribute)]
        names = [node for node in nodes if isinstance(node, ast.Name)]
        own_uses = sum(name.id == own for name in names)
        own_attributes = sum(isinstance(a.value, ast.Name) and a.value.id == own for a in attributes)
        if own_uses != own_attributes or _REFLECTION & ({a.attr for a in attributes} | {n.id for n in names}):
            return {}
        mentions.update(a.attr for a in attributes)
        pairs.update(pair for node in nodes for pair in _pairs(node, own))
    once = (pair for pair, times in pairs.items() if times == 1)
    return {norm: relu for norm, relu in once if mentions[norm] == mentions[relu] == 1}


def is_called_whole(kind: type[nn.Module], name: str) -> bool:
    """Whether methods of a class do nothing with an attribute but call it; no where the source is not at hand.

    Args:
        kind: a module's class. Its constructor does not count.
        name: of the attribute.
    """
    for function in _methods(kind):
        tree = parse(function)
        if tree is None:
            return False
        read = [n for n in ast.walk(tree) if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Load)]
        called = [n.func for n in ast.walk(tree) if isinstance(n, ast.Call)]
        if any(node.attr == name and node not in called for node in read):
            return False
    return True


def _methods(kind: type[nn.Module]) -> Iterator[types.FunctionType]:
    """Yield the functions that a class and its bases below PyTorch's make of it, but for its constructor."""
    found: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        if not base.__module__.startswith("torch.") and base is not object:
            found |= vars(base)
    for name, value in found.items():
        function = getattr(value, "fget", None) or getattr(value, "__func__", value)
        if isinstance(function, types.FunctionType) and name != "__init__":
            yield inspect.unwrap(function)


def _called(node: Any, own: str) -> tuple[str, Any] | None:
    """Return (name, x) of self.name(x)."""
    match node:
        case ast.Call(ast.Attribute(ast.Name(base), name), [argument], []) if base == own:
            return name, argument
    return None


def _pairs(node: ast.AST, own: str) -> Iterator[tuple[str, str]]:
    """Yield the pairs that one node writes: nested calls, or neighbouring statements in its bodies."""
    outer = _called(node, own)
    inner = _called(outer[1], own) if outer else None
    if outer and inner:
        yield inner[0], outer[0]
    for body in (getattr(node, field, None) for field in ("body", "orelse", "finalbody")):
        if isinstance(body, list):
            for first, second in itertools.pairwise(body):
                yield from _neighbours(first, second, own)


def _neighbours(first: ast.stmt, second: ast.stmt, own: str) -> Iterator[tuple[str, str]]:
    match first, second:
        case ast.Assign([ast.Name(local)], value), ast.Assign([ast.Name(again)], result):
            inner, outer = _called(value, own), _called(result, own)
            if inner and outer and isinstance(outer[1], ast.Name) and outer[1].id == local == again:
                yield inner[0], outer[0]

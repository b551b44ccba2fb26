"""A model being fused, module by module.

Each module's own forward is traced by torch.fx, with the modules that it calls as leaves (plain nn.Sequential apart,
which is looked into). A batch norm whose only consumer is a ReLU, or an addition whose only consumer is one, is fused:

- neighbours in a Sequential, and pairs that the source of their class calls together and nowhere else
  (`joined`), by exchanging the modules: the forward stays as written;
- others (functional or shared ReLU, residual) by rewriting: the graph becomes the module's forward, where the source
  says that it may stand for it (`source`, `rewriting`).
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from torch import fx, nn

from initbench_kernels.batch_norm_relu.module import BatchNormReLU1d, BatchNormReLU2d, BatchNormReLU3d
from initbench_kernels.fusion.joined import is_called_whole, joined_pairs
from initbench_kernels.fusion.patterns import BATCH_NORMS, Forward, Match
from initbench_kernels.fusion.report import FusionReport
from initbench_kernels.fusion.rewriting import OnRequest1d, OnRequest2d, OnRequest3d, rewrite
from initbench_kernels.fusion.tracing import (
    Trace,
    has_hooks,
    has_no_forward,
    is_plain_sequential,
    is_transparent,
    trace,
)

_FUSED = dict(zip(BATCH_NORMS, (BatchNormReLU1d, BatchNormReLU2d, BatchNormReLU3d), strict=True))
_PAIRS = [[kind, nn.ReLU] for kind in BATCH_NORMS]
_ON_REQUEST = dict(zip(BATCH_NORMS, (OnRequest1d, OnRequest2d, OnRequest3d), strict=True))


class Fusion:
    """One model being fused, in place.

    Args:
        model: the model.
    """

    def __init__(self, model: nn.Module) -> None:
        _unshare(model)
        self.model = model
        self.done = FusionReport()
        # How many places each module has, by id: a batch norm of several is not for one forward to change.
        self.places = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
        self.obstacles: dict[str, str] = {}
        self.visited: set[int] = set()

    def fuse(self, module: nn.Module, path: str) -> None:
        """Fuse what a module's own forward allows, then everything below it."""
        if id(module) in self.visited:
            return
        self.visited.add(id(module))
        traced = trace(module)
        if traced.graph is not None:
            self.swap_joined(module, path)
        if traced.obstacle is None:
            self.follow(module, path, traced)
        else:
            self.obstacles[path] = traced.obstacle
        for name, child in list(module.named_children()):
            # Then pairs of Sequentials are done, or may be taken apart by this forward.
            looked_into = traced.obstacle is None or (is_transparent(child) and not is_called_whole(type(module), name))
            for owner, owner_path in list(_owners(child, _join(path, name), looked_into)):
                self.fuse(owner, owner_path)

    def swap_joined(self, module: nn.Module, path: str) -> None:
        """Exchange the pairs that the module's class keeps together."""
        for name, relu_name in joined_pairs(type(module)).items():
            children = dict(module.named_children())
            pair = [children[key] for key in (name, relu_name) if key in children]
            if [type(m) for m in pair] not in _PAIRS:
                continue
            if all(self.places[id(m)] == 1 and not has_hooks(m) for m in pair):
                _swap(module, name, relu_name)
                self.note(path, name)

    def follow(self, module: nn.Module, path: str, traced: Trace) -> None:
        """Fuse what a graph that stands for the module's forward shows."""
        assert traced.graph is not None
        forward = Forward(module, traced.graph, self.places)
        matches, reasons = forward.matches()
        self.done.left |= {_join(path, target): reason for target, reason in reasons.items()}
        is_rewritten = False
        for match in matches:
            self.note(path, str(match.batch_norm.target), with_residual=match.addition is not None)
            if forward.is_swappable(match):
                _swap(module, str(match.batch_norm.target), str(match.relu.target))
            else:
                _become(forward.submodule(match.batch_norm), _ON_REQUEST)
                _fuse_nodes(traced.graph, match)
                is_rewritten = True
        if is_rewritten:
            rewrite(module, traced.graph, traced.frozen)
        self.places.update(id(module.get_submodule(target)) for target in forward.calls if forward.is_inside(target))

    def note(self, path: str, name: str, *, with_residual: bool = False) -> None:
        """Put a fused batch norm into the report."""
        self.done.fused.append(_join(path, name))
        if with_residual:
            self.done.with_residual.append(_join(path, name))

    def report(self) -> FusionReport:
        """Return what was done, with a reason for every batch norm that is left."""
        for name, module in self.model.named_modules():
            if type(module) in BATCH_NORMS:
                owners = [path for path in self.obstacles if name and (not path or name.startswith(f"{path}."))]
                reason = "no forward calls it"
                if owners:
                    reason = f"the forward that calls it is left as it is: {self.obstacles[max(owners, key=len)]}"
                self.done.left.setdefault(name, reason)
        return self.done


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix and name else prefix + name


def _unshare(model: nn.Module) -> None:
    """Give each place in a Sequential a ReLU of its own: it has no state, and is exchanged place by place."""
    seen: set[int] = set()
    for module in model.modules():
        for name, child in module._modules.items():
            if is_plain_sequential(module) and id(child) in seen and type(child) is nn.ReLU and not has_hooks(child):
                module._modules[name] = nn.ReLU(child.inplace).train(child.training)
            seen.add(id(child))


def _become(batch_norm: nn.Module, kinds: Mapping[Any, type[nn.Module]]) -> None:
    """Turn the object itself into the fused class."""
    # It adds no state: parameters, buffers, flags and its place in the tree stay what they were.
    batch_norm.__class__ = kinds[type(batch_norm)]


def _swap(module: nn.Module, batch_norm: str, relu: str) -> None:
    """Put the fused module for a batch norm and Identity for its ReLU."""
    _become(module.get_submodule(batch_norm), _FUSED)
    parent, _, name = relu.rpartition(".")
    identity = nn.Identity().train(module.get_submodule(relu).training)
    setattr(module.get_submodule(parent), name, identity)


def _fuse_nodes(graph: fx.Graph, match: Match) -> None:
    """Make one call of a match: in the place of its ReLU where it needs a residual."""
    joined: tuple[fx.Node | bool | None, ...] = (None,)
    place = match.batch_norm
    if match.addition is not None:
        joined, place = (match.residual, match.adds_in_place), match.relu
    with graph.inserting_before(place):
        fused = graph.call_module(str(match.batch_norm.target), (match.batch_norm.args[0], *joined))
    match.relu.replace_all_uses_with(fused)
    for node in (match.relu, match.addition, match.batch_norm):
        if node is not None:
            graph.erase_node(node)
    graph.lint()


def _owners(module: nn.Module, path: str, looked_into: bool) -> Iterator[tuple[nn.Module, str]]:
    """Yield (module, path) for a module, or the nearest ones below it, with a forward and modules of its own.

    Args:
        module: where to look.
        path: its qualified name.
        looked_into: whether Sequentials on the way are to be passed by.
    """
    if has_no_forward(module) or (looked_into and is_transparent(module)):
        for name, child in module.named_children():
            yield from _owners(child, _join(path, name), looked_into)
    elif any(True for _ in module.children()):
        yield module, path

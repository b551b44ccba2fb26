"""`fuse_batch_norm_relu(model)`: put the fused operator into an existing model.

Each module's own forward is traced by torch.fx, with the modules that it calls as leaves (plain nn.Sequential apart,
which is looked into). A batch norm whose only consumer is a ReLU, or an addition whose only consumer is one, becomes a
BatchNormReLU. Where swapping modules is enough (batch norm to fused, ReLU to Identity) the forward stays as written;
where it is not (functional or shared ReLU, residual), that one module is replaced by a torch.fx.GraphModule.
"""

import copy
import itertools
import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import fx, nn

from initbench_kernels.batch_norm_relu.fuse_patterns import (
    BATCH_NORMS,
    Forward,
    Match,
    has_no_forward,
    is_transparent,
    trace,
)
from initbench_kernels.batch_norm_relu.module import BatchNormReLU1d, BatchNormReLU2d, BatchNormReLU3d

_LOGGER = logging.getLogger(__name__)

_FUSED: dict[type[nn.Module], type[nn.Module]] = dict(
    zip(BATCH_NORMS, (BatchNormReLU1d, BatchNormReLU2d, BatchNormReLU3d), strict=True)
)


@dataclass
class FusionReport:
    """What `fuse_batch_norm_relu` did, by qualified module name.

    Attributes:
        fused: batch norms fused with their ReLU.
        with_residual: those of them that took a residual addition along.
        left: batch norms left alone, and why.
    """

    fused: list[str] = field(default_factory=list)
    with_residual: list[str] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """Return the counts, and a line for each batch norm left alone."""
        counts = f"{len(self.fused)} fused ({len(self.with_residual)} with a residual), {len(self.left)} left"
        return "\n".join([counts, *(f"  {name}: {reason}" for name, reason in self.left.items())])


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix and name else prefix + name


def _fuse_module(batch_norm: nn.Module) -> None:
    # The object itself turns into the fused class, which adds no state: parameters, buffers, flags and its place in
    # the tree stay what they were.
    batch_norm.__class__ = _FUSED[type(batch_norm)]


def _swap(forward: Forward, matches: list[Match]) -> None:
    """Fuse without touching the forward: fused modules for the batch norms, Identity for their ReLUs."""
    for match in matches:
        _fuse_module(forward.submodule(match.batch_norm))
        parent, _, name = str(match.relu.target).rpartition(".")
        identity = nn.Identity().train(forward.submodule(match.relu).training)
        setattr(forward.module.get_submodule(parent), name, identity)


def _rewrite(forward: Forward, matches: list[Match]) -> nn.Module:
    """Fuse in the graph, and return a module that runs it and owns what the original one owned."""
    graph, module = forward.graph, forward.module
    for match in matches:
        _fuse_module(forward.submodule(match.batch_norm))
        node = match.batch_norm
        if match.addition is not None:
            residual = next(a for a in match.addition.all_input_nodes if a is not match.batch_norm)
            with graph.inserting_before(match.relu):
                node = graph.call_module(str(match.batch_norm.target), (match.batch_norm.args[0], residual))
        match.relu.replace_all_uses_with(node)
        graph.erase_node(match.relu)
        if match.addition is not None:
            graph.erase_node(match.addition)
            graph.erase_node(match.batch_norm)
    graph.lint()
    rewritten = fx.GraphModule(module, graph, type(module).__name__)
    # GraphModule copies what its graph mentions; state_dict has to keep everything, in the old order.
    for registry in ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"):
        setattr(rewritten, registry, getattr(module, registry))
    rewritten.training = module.training
    return rewritten


def _fuse_forward(
    module: nn.Module, graphs: list[fx.Graph], obstacle: str | None, occurrences: Counter[int]
) -> tuple[nn.Module, list[Match], dict[str, str]]:
    """Fuse what one module's own forward allows.

    Args:
        module: changed in place as far as swapping modules goes.
        graphs: of its forward, at least one.
        obstacle: why no graph may replace the forward, or None.
        occurrences: how many places of the whole model each module has, by id.

    Returns:
        The module or the one to put in its place, what was fused, and for each batch norm that was not the reason.
    """
    forwards = [Forward(module, graph, occurrences) for graph in graphs]
    matches, reasons = forwards[0].matches()
    hard = forwards[0].needs_rewriting(matches)
    if obstacle is None and hard:
        return _rewrite(forwards[0], matches), matches, reasons
    # Only what a swap can do, and does in each of the graphs.
    swappable = []
    for forward in forwards:
        found, _ = forward.matches()
        rewriting = forward.needs_rewriting(found)
        swappable.append({(m.batch_norm.target, m.relu.target) for m in found if m not in rewriting})
    kept = [m for m in matches if all((m.batch_norm.target, m.relu.target) in pairs for pairs in swappable)]
    for match in matches:
        if match not in kept:
            reasons[str(match.batch_norm.target)] = f"the forward that calls it cannot be replaced: {obstacle}"
    _swap(forwards[0], kept)
    return module, kept, reasons


def _owners_below(module: nn.Module, path: str, looked_into: bool) -> Iterator[tuple[nn.Module, str, nn.Module, str]]:
    """Yield (parent, name, child, path) for the nearest modules below that have a forward of their own.

    Args:
        module: whose children to look at.
        path: its qualified name.
        looked_into: whether a graph above has already seen through the Sequentials among them.
    """
    for name, child in module.named_children():
        child_path = _join(path, name)
        if has_no_forward(child) or (looked_into and is_transparent(child)):
            yield from _owners_below(child, child_path, looked_into)
        elif any(True for _ in child.children()):
            yield module, name, child, child_path


def _fuse_tree(
    module: nn.Module, path: str, occurrences: Counter[int], report: FusionReport, done: dict[int, nn.Module]
) -> nn.Module:
    """Fuse a module and then everything below it; a module with several places is treated once."""
    if id(module) not in done:
        graphs, obstacle = trace(module)
        result = module
        if graphs:
            result, matches, reasons = _fuse_forward(module, graphs, obstacle, occurrences)
            report.fused += [_join(path, str(m.batch_norm.target)) for m in matches]
            report.with_residual += [_join(path, str(m.batch_norm.target)) for m in matches if m.addition is not None]
            report.left |= {_join(path, target): reason for target, reason in reasons.items()}
        done[id(module)] = result
        for parent, name, child, child_path in list(_owners_below(result, path, bool(graphs))):
            setattr(parent, name, _fuse_tree(child, child_path, occurrences, report, done))
    return done[id(module)]


def fuse_batch_norm_relu(model: nn.Module) -> nn.Module:
    """Return `model` with every batch norm that is followed by ReLU only replaced by the fused module.

    nn.BatchNorm1d/2d/3d followed by nn.ReLU, F.relu, torch.relu or the tensor's method is fused; so is the residual
    block's batch norm, addition and ReLU. Anything that cannot be shown to mean the same is left as it is.

    The returned model shares parameters and buffers with `model`, whose structure does not change: an optimizer made
    for the one trains the other, and an independent model is `fuse_batch_norm_relu(copy.deepcopy(model))`. The keys
    of state_dict are the same. Module hooks on a fused pair keep it from being fused. A Sequential inside a module that
    torch.fx cannot trace is taken to be called as a whole.

    Args:
        model: any module; it may be a batch norm's parent or a whole network.

    Returns:
        The fused model, with a `FusionReport` as its attribute `fusion_report`, which is also logged.
    """
    tensors = itertools.chain(model.parameters(), model.buffers())
    clone = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
    occurrences = Counter(id(module) for _, module in clone.named_modules(remove_duplicate=False))
    report = FusionReport()
    fused = _fuse_tree(clone, "", occurrences, report, {})
    for name, module in fused.named_modules():
        if type(module) in _FUSED:
            report.left.setdefault(name, "no forward that could be traced calls it")
    fused.fusion_report = report  # type: ignore[assignment]
    _LOGGER.info("%s", report)
    return fused

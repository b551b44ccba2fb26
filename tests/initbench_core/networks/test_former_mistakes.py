"""Mistakes of the notebooks that the suite grows from: each shown as it was, and shown not to be here.

Others stand with what they touch: the Xavier bound in test_initializers.py, early stopping in test_train.py.
"""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from initbench_core.networks.batch_norm import HandWrittenBatchNorm
from initbench_core.networks.models import NORM_PLACES, cnn, mlp, residual_mlp


def test_a_state_dict_follows_the_training() -> None:
    """`best = model.state_dict()` is no copy: after the next step it holds the next weights."""
    model = nn.Linear(3, 2)
    aliased, kept = model.state_dict(), copy.deepcopy(model.state_dict())
    with torch.no_grad():
        model.weight += 1
    assert torch.equal(aliased["weight"], model.weight)
    assert not torch.equal(kept["weight"], model.weight)


class LectureBatchNorm(HandWrittenBatchNorm):
    """The lecture's update of its running mean: a plain attribute that keeps the graph of every batch."""

    def __init__(self, num_features: int) -> None:
        super().__init__(num_features)
        del self.running_mean
        self.running_mean = torch.zeros(num_features)

    def _batch_statistics(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, var = x.mean(0), x.var(0, unbiased=False)
        self.running_mean = (1 - self.momentum) * self.running_mean + self.momentum * mean
        return mean, var


def graph_size(tensor: torch.Tensor) -> int:
    """Nodes of the autograd graph that a tensor holds on to."""
    found, waiting = set(), [tensor.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in found:
            found.add(node)
            waiting += [parent for parent, _ in node.next_functions]
    return len(found)


@pytest.mark.parametrize(("make", "grows"), [(LectureBatchNorm, True), (HandWrittenBatchNorm, False)])
def test_running_statistics_stay_out_of_the_graph(make: Callable[[int], HandWrittenBatchNorm], grows: bool) -> None:
    """The lecture's chain grew by every step of an epoch, and its state_dict and `.to` left the statistics out."""
    norm = make(3)
    sizes = []
    for _ in range(4):
        norm(nn.Linear(3, 3)(torch.randn(8, 3)))
        sizes.append(graph_size(norm.running_mean))
    assert (sizes == sorted(set(sizes)) and sizes[0] > 0) if grows else sizes == [0] * 4
    assert ("running_mean" in norm.state_dict()) is not grows


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    **{f"mlp {n}": (lambda n=n: mlp(7, 16, 30, 3, norm=n), (8, 7)) for n in NORM_PLACES},
    **{f"residual {n}": (lambda n=n: residual_mlp(7, 16, 5, 3, norm=n), (8, 7)) for n in NORM_PLACES},
    **{f"cnn {n}": (lambda n=n: cnn(norm=n, implementation="handwritten"), (8, 1, 28, 28)) for n in NORM_PLACES},
}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_layer_is_called_once_and_is_its_own(name: str) -> None:
    """One notebook called `self.bc1` for its `self.bn1` and returned nothing; another applied one layer 50 times."""
    make, shape = NETWORKS[name]
    model = make()
    calls: dict[nn.Module, int] = {m: 0 for m in model.modules() if list(m.parameters(recurse=False))}

    def count(module: nn.Module, *_: object) -> None:
        calls[module] += 1

    for module in calls:
        module.register_forward_hook(count)
    output = model(torch.randn(shape))
    output.square().sum().backward()
    assert set(calls.values()) == {1}
    parameters = list(model.parameters())
    assert all(p.grad is not None for p in parameters)
    assert len({p.data_ptr() for p in parameters}) == len(parameters)

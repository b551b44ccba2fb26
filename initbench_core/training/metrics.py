"""Metrics: one decorated function each, with its unit. The loop and the probes find them in `METRICS`.

A metric sees one of these: a "prediction" beside its target, a "model" whose gradients have just been computed,
an "update" (the parameters before a step of several networks, and what rate times it subtracts), a layer's "tensor"
(activations or their gradients, in float64), or a "bounded" one with its asymptotes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class Metric:
    """A named measurement: `function(...)` returns a number in `unit`, or a 0-d tensor."""

    name: str
    unit: str
    of: str
    function: Callable[..., Any]


METRICS: dict[str, Metric] = {}


def metric(unit: str, *, of: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Enter the decorated function under its own name."""

    def enter(function: Callable[..., Any]) -> Callable[..., Any]:
        METRICS[function.__name__] = Metric(function.__name__, unit, of, function)
        return function

    return enter


def names_of(kind: str, names: Sequence[str]) -> list[str]:
    """Return those of `names` that are metrics of a kind, as "model"."""
    return [name for name in names if METRICS[name].of == kind]


@metric("fraction", of="prediction")
def accuracy(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Fraction of rows of `prediction` [N, K] whose largest entry is at `target` [N]."""
    return (prediction.argmax(dim=1) == target).double().mean()


@metric("1", of="model")
def gradient_norm(model: nn.Module) -> torch.Tensor:
    """Euclidean norm of all gradients together, before clipping."""
    gradients = [p.grad.detach() for p in model.parameters() if p.grad is not None]
    return nn.utils.get_total_norm(gradients)


@metric("1", of="model")
def first_last_gradient_ratio(model: nn.Module) -> torch.Tensor:
    """Root mean square of the first weight's gradient over that of the last: 1 where gradients keep their scale.

    Weights are the parameters of two or more dimensions. In float64: squares of small gradients leave float32.
    """
    gradients = [p.grad.detach().double() for p in model.parameters() if p.dim() > 1 and p.grad is not None]
    first, last = (g.square().mean().sqrt() for g in (gradients[0], gradients[-1]))
    return first / last


@metric("1", of="update")
def update_ratio(parameters: Sequence[torch.Tensor], directions: Sequence[torch.Tensor], rate: float) -> torch.Tensor:
    """Euclidean norm of a step, rate x directions, over that of all parameters before it; each [S, ...], result [S].

    About 0.001 is the rule of thumb (Karpathy, CS231n): far less learns slowly, far more forgets what it has.
    """
    return rate * norms_of(directions) / norms_of(parameters)


def norms_of(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the Euclidean norm of all of each network's entries together, [S]; tensors are [S, ...]."""
    return torch.linalg.vector_norm(
        torch.stack([torch.linalg.vector_norm(t.flatten(1), dim=1) for t in tensors]), dim=0
    )


@metric("1", of="tensor")
def mean(tensor: torch.Tensor) -> torch.Tensor:
    """Mean over all entries."""
    return tensor.mean()


@metric("1", of="tensor")
def variance(tensor: torch.Tensor) -> torch.Tensor:
    """Variance over all entries around their mean."""
    return tensor.var()


@metric("1", of="tensor")
def second_moment(tensor: torch.Tensor) -> torch.Tensor:
    """Mean square over all entries: what variance scaling keeps; for ReLU it is not the variance."""
    return tensor.square().mean()


@metric("fraction", of="tensor")
def dead_fraction(tensor: torch.Tensor) -> torch.Tensor:
    """Fraction of units (columns of [N, units]) that are 0 on the whole batch."""
    return (tensor == 0).all(dim=0).double().mean()


@metric("fraction", of="tensor")
def always_on_fraction(tensor: torch.Tensor) -> torch.Tensor:
    """Fraction of units (columns of [N, units]) that are positive on the whole batch: a ReLU there is linear."""
    return (tensor > 0).all(dim=0).double().mean()


@metric("fraction", of="bounded")
def saturated_fraction(tensor: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """Fraction of entries within 2.5% of the range between the activation's asymptotes: a slope below 10% of its best.

    So it is for sigmoid and tanh, whose slope is a parabola of their value, 0 at both asymptotes.
    """
    margin = 0.025 * (high - low)
    return ((tensor < low + margin) | (tensor > high - margin)).double().mean()


@metric("1", of="tensor")
def mean_cosine(tensor: torch.Tensor) -> torch.Tensor:
    """Mean cosine between the representations of two inputs (rows of [N, units]), over all pairs; rows of 0 give nan.

    Near 1 the network tells its inputs apart no more.
    """
    unit = tensor / tensor.norm(dim=1, keepdim=True)
    samples = len(tensor)
    return (unit.sum(dim=0).square().sum() - samples) / (samples * (samples - 1))

"""Metrics: one decorated function each, with its unit. The loop and the probes find them in `METRICS`.

A metric sees one of three things: a "prediction" beside its target, a "model" whose gradients have just been computed,
or a layer's "tensor" (activations or their gradients, in float64).
"""

from collections.abc import Callable
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


@metric("fraction", of="prediction")
def accuracy(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Fraction of rows of `prediction` [N, K] whose largest entry is at `target` [N]."""
    return (prediction.argmax(dim=1) == target).double().mean()


@metric("1", of="model")
def gradient_norm(model: nn.Module) -> torch.Tensor:
    """Euclidean norm of all gradients together, before clipping."""
    gradients = [p.grad.detach() for p in model.parameters() if p.grad is not None]
    return nn.utils.get_total_norm(gradients)


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

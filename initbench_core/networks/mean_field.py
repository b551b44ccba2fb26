"""What mean-field theory predicts for a plain network of given weights, layer by layer.

Wide layers of independent weights make pre-activations Gaussian: their second moment follows a recursion forward, that
of the loss's gradient one backward (Poole et al. 2016; Schoenholz et al. 2017; with BatchNorm Yang et al. 2019). The
weights enter by their own mean squares, so that the prediction is for the very network that is measured.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import nn

from initbench_core.networks.activations import activation_function
from initbench_core.networks.fans import layer_fans
from initbench_core.networks.theory import derivative, gaussian_mean


class WeightScale(NamedTuple):
    """Mean squares of a layer's weights times their fans, and of its biases."""

    forward: float
    backward: float
    bias: float


def weight_scale(layer: nn.Module) -> WeightScale:
    """Measure the scale of a Linear or Conv layer's weights in float64."""
    fans = layer_fans(layer)
    square = float(layer.get_parameter("weight").detach().double().square().mean())
    bias = 0.0 if layer.bias is None else float(layer.get_parameter("bias").detach().double().square().mean())
    return WeightScale(fans.fan_in * square, fans.fan_out * square, bias)


def second_moments(first: float, scales: Sequence[WeightScale], activation: str, norm: str) -> list[float]:
    """Return the predicted second moment of every layer's pre-activations.

    q' = sigma_w^2 E[phi(sqrt(q) z)^2] + sigma_b^2 for z ~ N(0, 1), sigma_w^2 being the weights' mean square times
    fan_in. BatchNorm in front of the activation makes that q 1, BatchNorm behind it the expectation.

    Args:
        first: of the first layer, which depends on the data.
        scales: of the layers behind it.
        activation: a name of `ACTIVATIONS`.
        norm: BatchNorm "none", "before" or "after" the activation.
    """
    moments = [first]
    for scale in scales:
        if norm == "after":
            signal = 1.0
        else:
            signal = _gaussian(activation_function(activation), 1.0 if norm == "before" else moments[-1])[1]
        moments.append(scale.forward * signal + scale.bias)
    return moments


def gradient_second_moments(
    last: float, moments: Sequence[float], scales: Sequence[WeightScale], activation: str, norm: str
) -> list[float]:
    """Return the predicted second moment of the gradient at every layer's pre-activations.

    Per layer back it is multiplied by sigma^2 E[phi'(sqrt(q) z)^2], sigma^2 being the weights' mean square times
    fan_out; BatchNorm divides that by the variance over the samples of what it normalizes, taken where samples have
    become independent.

    Args:
        last: at the last layer, which depends on the loss.
        moments: of the pre-activations, as `second_moments` returns them.
        scales: of the layers behind the first.
        activation: a name of `ACTIVATIONS`.
        norm: BatchNorm "none", "before" or "after" the activation.
    """
    gradients = [last]
    for layer in range(len(scales) - 1, -1, -1):
        variance = 1.0 if norm == "before" else moments[layer]
        factor = scales[layer].backward * _gaussian(derivative(activation), variance)[1]
        if norm != "none":
            mean, square = _gaussian(activation_function(activation), variance)
            normalized = square - mean**2
            if norm == "before":
                # What is normalized is this layer's own pre-activations.
                normalized = scales[layer - 1].forward * normalized if layer else moments[0]
            factor /= normalized
        gradients.insert(0, gradients[0] * factor)
    return gradients


def _gaussian(function: Callable[[torch.Tensor], torch.Tensor], variance: float) -> tuple[float, float]:
    """Return E[f(sqrt(variance) z)] and E[f(sqrt(variance) z)^2]."""
    scale = math.sqrt(variance)
    return gaussian_mean(lambda z: function(scale * z)), gaussian_mean(lambda z: function(scale * z) ** 2)

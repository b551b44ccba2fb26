"""What theory predicts, as plain numbers: Gaussian moments of activations, gains, growth factors.

Everything here is a one-dimensional integral over a standard normal z, or closed form. Measurements are drawn beside
these values; nothing here is fitted.
"""

import functools
import math
from collections.abc import Callable

import numpy as np
import torch

from initbench_core.networks.activations import ACTIVATIONS


@functools.cache
def _quadrature() -> tuple[torch.Tensor, torch.Tensor]:
    """Nodes and weights [400] of a standard normal expectation, split at 0 where piecewise activations have a kink."""
    nodes, weights = np.polynomial.legendre.leggauss(200)
    half = 6.0 * (nodes + 1.0)  # [0, 12]: beyond 12 sigma the density is below 1e-32
    z = np.concatenate([-half[::-1], half])
    w = np.concatenate([weights[::-1], weights]) * 6.0 * np.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    return torch.from_numpy(z), torch.from_numpy(w)


def gaussian_mean(function: Callable[[torch.Tensor], torch.Tensor]) -> float:
    """Return E[function(z)] for z ~ N(0, 1); `function` maps float64 [400] to float64 [400]."""
    z, w = _quadrature()
    return float((function(z) * w).sum())


def _derivative(activation: str) -> Callable[[torch.Tensor], torch.Tensor]:
    def derivative(z: torch.Tensor) -> torch.Tensor:
        z = z.clone().requires_grad_()
        (slope,) = torch.autograd.grad(ACTIVATIONS[activation](z).sum(), z)
        return slope

    return derivative


def forward_second_moment(activation: str) -> float:
    """Return E[phi(z)^2]: a ReLU halves it, which is why He's gain is sqrt(2) (He et al. 2015, section 2.2)."""
    return gaussian_mean(lambda z: ACTIVATIONS[activation](z) ** 2)


def backward_second_moment(activation: str) -> float:
    """Return E[phi'(z)^2], the factor of a gradient's second moment in passing back through `activation`."""
    slope = _derivative(activation)
    return gaussian_mean(lambda z: slope(z) ** 2)


def activation_variance(activation: str) -> float:
    """Return Var[phi(z)]: for ReLU (1 - 1/pi)/2 = 0.3408, not the 1/2 of the second moment."""
    return forward_second_moment(activation) - gaussian_mean(ACTIVATIONS[activation]) ** 2


def batch_norm_gradient_growth(activation: str) -> float:
    """Return rho = E[phi'(z)^2] / Var[phi(z)], the growth per layer of the gradient's second moment under BatchNorm.

    At initialization, in the limit of wide layers and large batches, whatever the scale of the weights. For ReLU it is
    pi / (pi - 1) = 1.467 (Yang et al. 2019, "A Mean Field Theory of Batch Normalization", whose constant this law
    contains). By Poincare's inequality rho >= 1 with equality for linear networks only: BatchNorm is never critical.
    """
    return backward_second_moment(activation) / activation_variance(activation)


def relu_growth(fan: int, variance: float) -> float:
    """Return fan * variance / 2, the factor per ReLU layer of a second moment.

    Forward with `fan` = fan_in, backward with `fan` = fan_out (Prince 2023, "Understanding Deep Learning",
    equations 7.18 and 7.21).
    """
    return fan * variance / 2


def truncated_normal_variance(bound: float) -> float:
    """Return the variance of a standard normal truncated to [-bound, bound]: 0.7737 for 2."""
    density = math.exp(-bound * bound / 2) / math.sqrt(2 * math.pi)
    mass = math.erf(bound / math.sqrt(2))
    return 1 - 2 * bound * density / mass

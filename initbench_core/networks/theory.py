"""What theory predicts, as plain numbers: Gaussian moments of activations, growth factors, laws of wide networks.

Everything here is a one-dimensional integral over a standard normal z, a sum, or closed form. Measurements are drawn
beside these values; nothing here is fitted.

Mean-field theory of networks without normalization: weights of variance sigma_w2 / fan_in and biases of variance
sigma_b2 take the variance q of a preactivation to sigma_w2 E[phi(sqrt(q) z)^2] + sigma_b2 per layer. At its fixed point
q* a gradient's second moment, and the squared distance of two near inputs, are multiplied by the susceptibility
chi = sigma_w2 E[phi'(sqrt(q*) z)^2] per layer: below 1 the network is ordered and gradients vanish, above 1 it is
chaotic and they explode (Poole et al. 2016; Schoenholz et al. 2017, "Deep Information Propagation").
"""

import functools
import math
from collections.abc import Callable

import numpy as np
import torch

from initbench_core.networks.activations import activation_function

# Mean-field variances outside of these count as 0 and as unbounded.
SMALLEST, LARGEST = 1e-14, 1e9


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


def derivative(activation: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return phi', elementwise on float64 tensors."""

    def slope(z: torch.Tensor) -> torch.Tensor:
        z = z.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(activation_function(activation)(z).sum(), z)
        return gradient

    return slope


def forward_second_moment(activation: str) -> float:
    """Return E[phi(z)^2]: a ReLU halves it, which is why He's gain is sqrt(2) (He et al. 2015, section 2.2)."""
    return gaussian_mean(lambda z: activation_function(activation)(z) ** 2)


def backward_second_moment(activation: str) -> float:
    """Return E[phi'(z)^2], the factor of a gradient's second moment in passing back through `activation`."""
    slope = derivative(activation)
    return gaussian_mean(lambda z: slope(z) ** 2)


def activation_variance(activation: str) -> float:
    """Return Var[phi(z)]: for ReLU (1 - 1/pi)/2 = 0.3408, not the 1/2 of the second moment."""
    return forward_second_moment(activation) - gaussian_mean(activation_function(activation)) ** 2


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


def he_log_law(width: int) -> tuple[float, float]:
    """Return mean and variance of log(||h_l||^2 / ||h_{l-1}||^2) over He's ReLU layers of `width`, exactly.

    With one input the ratio is (2 / width) chi^2_K with K ~ Binomial(width, 1/2) active units, independent from layer
    to layer, so that both add up over depth; given that a unit is active (all are dead with probability 2^-width). The
    ratio's own mean is 1 and its variance 5 / width (Hanin & Nica 2020): the mean of the log is below 0, and the norm
    of a deep narrow network drifts down while its mean over networks stays.
    """
    active = torch.arange(1, width + 1, dtype=torch.float64)
    drawn = torch.distributions.Binomial(width, torch.tensor(0.5, dtype=torch.float64)).log_prob(active).exp()
    probability = drawn / drawn.sum()
    mean = torch.digamma(active / 2) + math.log(4 / width)
    center = probability @ mean
    return float(center), float(probability @ (torch.polygamma(1, active / 2) + (mean - center) ** 2))


def relu_correlation(correlation: float) -> float:
    """Return the correlation of two inputs one He ReLU layer on (Cho & Saul 2009, arc-cosine kernel of degree 1).

    0 goes to 1 / pi, then 0.494; 1 stays: deep ReLU networks see all inputs alike.
    """
    c = correlation
    return (math.sqrt(1 - c * c) + c * (math.pi - math.acos(c))) / math.pi


def linear_batch_norm_gradient_growth(batch: int) -> float:
    """Return (B - 2) / (B - 3), what a batch of B samples makes of rho = 1 in a wide linear network.

    B samples leave each feature B - 1 degrees of freedom, of which normalization takes one; the growth is the mean of
    an inverse chi-squared variable.
    """
    return (batch - 2) / (batch - 3)


def truncated_normal_variance(bound: float) -> float:
    """Return the variance of a standard normal truncated to [-bound, bound]: 0.7737 for 2."""
    density = math.exp(-bound * bound / 2) / math.sqrt(2 * math.pi)
    mass = math.erf(bound / math.sqrt(2))
    return 1 - 2 * bound * density / mass


def next_variance(variance: float, sigma_w2: float, sigma_b2: float, activation: str = "tanh") -> float:
    """Return the variance of the preactivations one layer on."""
    scale = math.sqrt(variance)
    return sigma_w2 * gaussian_mean(lambda z: activation_function(activation)(scale * z) ** 2) + sigma_b2


def gradient_factor(variance: float, sigma_w2: float, activation: str = "tanh") -> float:
    """Return what a layer whose preactivations have this variance multiplies a gradient's second moment by."""
    scale = math.sqrt(variance)
    slope = derivative(activation)
    return sigma_w2 * gaussian_mean(lambda z: slope(scale * z) ** 2)


def plain_gradient_growth(depth: int, sigma_w2: float, activation: str) -> np.ndarray:
    """Return `gradient_factor` of layers 1 to `depth`, for inputs of unit second moment and no biases, [depth].

    The variance drifts from layer to layer where its fixed point is not stable, as GELU's and SiLU's at the gain that
    keeps a variance of 1; ReLU's factor does not depend on it.
    """
    variance, factors = sigma_w2, []
    for _ in range(depth):
        factors.append(gradient_factor(variance, sigma_w2, activation))
        variance = next_variance(variance, sigma_w2, 0.0, activation)
    return np.array(factors)


def fixed_point_variance(sigma_w2: float, sigma_b2: float, activation: str = "tanh") -> float:
    """Return q*, the variance that a layer leaves as it is; 0 where everything shrinks to nothing.

    Args:
        sigma_w2: variance of a weight times fan_in.
        sigma_b2: variance of a bias.
        activation: a saturating one; where none keeps a scale of its own (ReLU at sigma_w2 = 2) there is no such point.

    Raises:
        ValueError: the variance grows without bound.
    """

    def growth(variance: float) -> float:
        return next_variance(variance, sigma_w2, sigma_b2, activation) - variance

    if growth(SMALLEST) <= 0:
        return 0.0
    upper = 1.0
    while growth(upper) > 0:
        upper *= 2
        if upper > LARGEST:
            raise ValueError(f"{activation} at sigma_w2 = {sigma_w2}: the variance grows without bound")
    return _root(growth, SMALLEST, upper)


def susceptibility(sigma_w2: float, sigma_b2: float, activation: str = "tanh") -> float:
    """Return chi at the fixed point, the factor per layer of a gradient's second moment; 1 at the edge of chaos."""
    return gradient_factor(fixed_point_variance(sigma_w2, sigma_b2, activation), sigma_w2, activation)


def depth_scale(sigma_w2: float, sigma_b2: float, activation: str = "tanh") -> float:
    """Return xi = 1 / |ln chi|, the layers over which gradients change by a factor of e; inf at the edge of chaos.

    Networks of up to about 6 xi layers were found trainable (Schoenholz et al. 2017).
    """
    logarithm = abs(math.log(susceptibility(sigma_w2, sigma_b2, activation)))
    return 1 / logarithm if logarithm else math.inf


def critical_weight_variance(sigma_b2: float, activation: str = "tanh") -> float:
    """Return the sigma_w2 of the edge of chaos, where chi = 1, for a bias variance: 1.7610 for 0.05 and tanh."""
    return _root(lambda sigma_w2: susceptibility(sigma_w2, sigma_b2, activation) - 1, 0.1, 20.0)


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    # scipy takes long to import, and every initializer comes through this module.
    from scipy.optimize import brentq

    return float(brentq(function, low, high, xtol=1e-14))

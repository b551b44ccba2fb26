"""Theory: quadrature against closed forms, and the table of rho."""

import math

import pytest

from initbench_core.networks import theory
from initbench_core.networks.activations import ACTIVATIONS
from tests import tolerances


def test_relu_moments_are_closed_form() -> None:
    assert theory.forward_second_moment("relu") == pytest.approx(1 / 2, abs=tolerances.QUADRATURE)
    assert theory.backward_second_moment("relu") == pytest.approx(1 / 2, abs=tolerances.QUADRATURE)
    assert theory.activation_variance("relu") == pytest.approx((1 - 1 / math.pi) / 2, abs=tolerances.QUADRATURE)
    assert theory.batch_norm_gradient_growth("relu") == pytest.approx(math.pi / (math.pi - 1), abs=1e-8)


@pytest.mark.parametrize(
    ("activation", "rho"),
    [("gelu", 1.3189), ("silu", 1.2121), ("tanh", 1.1778), ("elu", 1.0791), ("selu", 1.0716), ("sigmoid", 1.0336)],
)
def test_rho(activation: str, rho: float) -> None:
    assert theory.batch_norm_gradient_growth(activation) == pytest.approx(rho, abs=2e-4)


def test_rho_is_one_only_for_linear() -> None:
    """Poincare's inequality: BatchNorm is never critical."""
    assert theory.batch_norm_gradient_growth("linear") == pytest.approx(1, abs=tolerances.QUADRATURE)
    assert all(theory.batch_norm_gradient_growth(a) > 1.03 for a in ACTIVATIONS if a != "linear")


def test_truncated_normal_variance() -> None:
    assert theory.truncated_normal_variance(2) == pytest.approx(0.7737413)
    assert theory.truncated_normal_variance(30) == pytest.approx(1)


def test_relu_growth_is_one_at_he() -> None:
    assert theory.relu_growth(100, 2 / 100) == 1


@pytest.mark.parametrize(
    ("activation", "forward", "backward"),
    [
        ("linear", 1, 1),
        ("relu", math.sqrt(2), math.sqrt(2)),
        ("leaky_relu", math.sqrt(2 / 1.0001), math.sqrt(2 / 1.0001)),
        ("tanh", 1.5925, 1.4674),
        ("softsign", 2.3375, 2.0958),
        ("sigmoid", 1.8462, 4.7226),
        ("selu", 1.0000, 0.9660),
        ("elu", 1.2452, 1.2234),
        ("gelu", 1.5335, 1.4811),
        ("silu", 1.6765, 1.6233),
    ],
)
def test_only_piecewise_linear_gains_are_exact_both_ways(activation: str, forward: float, backward: float) -> None:
    """What would keep a unit second moment forward is not what would keep a gradient's, but for these three."""
    found = [theory.forward_second_moment(activation) ** -0.5, theory.backward_second_moment(activation) ** -0.5]
    assert found == pytest.approx([forward, backward], abs=2 * tolerances.PRINTED_FOUR)
    assert (forward == backward) is (activation in ("linear", "relu", "leaky_relu"))


@pytest.mark.parametrize(
    ("width", "mean", "variance"),
    # 40 million draws of log((2 / n) chi^2_K), K ~ Bin(n, 1/2), for each width.
    [(16, -0.17638, 0.41977), (100, -0.02546, 0.05194), (512, -0.004891, 0.009838)],
)
def test_he_log_law_is_the_mixtures(width: int, mean: float, variance: float) -> None:
    found = theory.he_log_law(width)
    standard_error = math.sqrt(variance / 4e7)
    assert found[0] == pytest.approx(mean, abs=tolerances.SIGMAS * standard_error)
    assert found[1] == pytest.approx(variance, rel=tolerances.SIGMAS * math.sqrt(8 / 4e7))
    # Leading order (Hanin & Nica 2020): a mean of -5 / 2n and a variance of 5 / n.
    assert found[0] * width == pytest.approx(-2.5, rel=3 / width)


def test_relu_correlation_map() -> None:
    """Orthogonal inputs, by depth; equal ones stay."""
    correlations = [0.0]
    for _ in range(50):
        correlations.append(theory.relu_correlation(correlations[-1]))
    found = [correlations[depth] for depth in (1, 2, 5, 10, 20, 50)]
    assert found[0] == pytest.approx(1 / math.pi)
    assert found == pytest.approx([0.3183, 0.4937, 0.7359, 0.8715, 0.9484, 0.9879], abs=tolerances.PRINTED_FOUR)
    assert theory.relu_correlation(1.0) == 1


def test_tanh_phases() -> None:
    """Schoenholz et al. 2017: without biases the edge of chaos is at 1; xavier's gain of 5/3 lies beyond it."""
    assert theory.critical_weight_variance(0.05) == pytest.approx(1.7610, abs=1e-4)
    assert theory.fixed_point_variance(1.0, 0.0) == 0
    assert theory.fixed_point_variance(0.9, 0.0) == 0
    assert theory.fixed_point_variance((5 / 3) ** 2, 0.0) == pytest.approx(1.1785, abs=1e-4)
    assert theory.susceptibility((5 / 3) ** 2, 0.0) == pytest.approx(1.2098, abs=1e-4)
    scales = [theory.depth_scale(sigma_w2, 0.05) for sigma_w2 in (1.0, 1.3, 2.0, 2.5, 4.0)]
    assert scales == pytest.approx([3.6, 7.8, 21.5, 8.0, 3.4], abs=0.05)
    assert theory.depth_scale(1.7610, 0.05) > 1e3
    with pytest.raises(ValueError, match="without bound"):
        theory.fixed_point_variance(3.0, 0.1, "relu")


def test_variances_drift_where_the_fixed_point_is_not_stable() -> None:
    """SiLU at the gain that keeps a variance of 1 leaves it; its gradients go by half of the gain's square, 1.405."""
    silu = theory.plain_gradient_growth(60, 1.6765**2, "silu")
    assert silu[-1] == pytest.approx(1.6765**2 / 2, rel=0.01)
    assert theory.gradient_factor(1.0, 1.6765**2, "silu") == pytest.approx(1.0666, abs=1e-3)
    assert theory.plain_gradient_growth(60, 2.0, "relu") == pytest.approx(1, abs=tolerances.QUADRATURE)
    tanh = theory.plain_gradient_growth(60, (5 / 3) ** 2, "tanh")
    assert tanh[-1] == pytest.approx(theory.susceptibility((5 / 3) ** 2, 0.0))


def test_the_fixed_point_is_where_iteration_ends() -> None:
    variance = 5.0
    for _ in range(200):
        variance = theory.next_variance(variance, 1.3, 0.05)
    assert theory.fixed_point_variance(1.3, 0.05) == pytest.approx(variance, rel=1e-10)

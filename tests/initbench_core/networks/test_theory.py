"""Theory: quadrature against closed forms, and the table of rho."""

import math

import pytest

from initbench_core.networks import theory
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
    assert all(theory.batch_norm_gradient_growth(a) > 1.03 for a in theory.ACTIVATIONS if a != "linear")


def test_truncated_normal_variance() -> None:
    assert theory.truncated_normal_variance(2) == pytest.approx(0.7737413)
    assert theory.truncated_normal_variance(30) == pytest.approx(1)


def test_relu_growth_is_one_at_he() -> None:
    assert theory.relu_growth(100, 2 / 100) == 1

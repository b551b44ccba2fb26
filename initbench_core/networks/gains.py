"""Gains: the factor on a weight's standard deviation that makes up for the activation behind it.

torch's `nn.init.calculate_gain` mixes exact values with conventions and refuses ELU, GELU and SiLU. Here its values
hold where it has one, so that results stay comparable, and the exact forward gain 1 / sqrt(E[phi(z)^2]) elsewhere.
`exact_gain` gives that value for every activation: for linear, ReLU and leaky ReLU the two agree; for tanh (5/3
against 1.5925), sigmoid (1 against 1.8462) and SELU (3/4 against 1) torch's is a convention.
"""

import math

from torch import nn

from initbench_core.errors import check_choice
from initbench_core.networks import theory
from initbench_core.networks.activations import ACTIVATIONS, LEAKY_SLOPE


def exact_gain(nonlinearity: str) -> float:
    """Return 1 / sqrt(E[phi(z)^2]), z ~ N(0, 1): keeps a unit second moment, forward, at unit scale."""
    return 1 / math.sqrt(theory.forward_second_moment(nonlinearity))


def gain(nonlinearity: str) -> float:
    """Return torch's gain where torch has one, the exact forward gain otherwise.

    Raises:
        ConfigError: `nonlinearity` is not in the table of activations.
    """
    check_choice("nonlinearity", nonlinearity, ACTIVATIONS)
    if nonlinearity == "leaky_relu":
        return float(nn.init.calculate_gain("leaky_relu", LEAKY_SLOPE))
    if nonlinearity in ("linear", "relu", "tanh", "sigmoid", "selu"):
        return float(nn.init.calculate_gain(nonlinearity))  # type: ignore[arg-type]
    return exact_gain(nonlinearity)

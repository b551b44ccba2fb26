"""Fans: how many inputs feed one output of a layer, and how many outputs one input feeds.

`nn.init` derives both from the weight's shape alone and is wrong in two cases: it ignores the groups of a convolution
in fan_out, and it swaps the fans of a transposed convolution, whose weight is stored [in, out / groups, ...].
"""

import math
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from initbench_core.errors import ConfigError

# Every Conv1d..3d and ConvTranspose1d..3d is a _ConvNd.
WEIGHT_LAYERS = (nn.Linear, _ConvNd)


class Fans(NamedTuple):
    """Connections per output (`fan_in`) and per input (`fan_out`)."""

    fan_in: int
    fan_out: int


def torch_fans(weight: torch.Tensor) -> Fans:
    """Return the fans that `torch.nn.init` takes for a weight of 2 to 5 dimensions, right or wrong.

    Raises:
        ConfigError: it has fewer.
    """
    if weight.dim() < 2:
        raise ConfigError(f"a weight of shape {tuple(weight.shape)} has no fans: it needs at least 2 dimensions")
    receptive_field = math.prod(weight.shape[2:])
    return Fans(weight.shape[1] * receptive_field, weight.shape[0] * receptive_field)


def layer_fans(layer: nn.Module) -> Fans:
    """Return the true fans of a Linear, Conv or ConvTranspose layer, groups and transposition included.

    Strides are left out, as everywhere in the literature: with stride s a convolution's input feeds fan_out / s^d
    outputs on average.

    Raises:
        ConfigError: `layer` is none of these.
    """
    if isinstance(layer, nn.Linear):
        return Fans(layer.in_features, layer.out_features)
    if isinstance(layer, _ConvNd):
        receptive_field = math.prod(layer.kernel_size)
        return Fans(
            layer.in_channels // layer.groups * receptive_field, layer.out_channels // layer.groups * receptive_field
        )
    raise ConfigError(f"{type(layer).__name__} has no fans: expected a Linear, Conv or ConvTranspose layer")

"""The activations of the suite, one table: a name and a function."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from initbench_core.errors import check_choice

LEAKY_SLOPE = 0.01  # nn.LeakyReLU's default

# What bounded activations approach: there they are saturated, and their slope is gone.
ASYMPTOTES = {"tanh": (-1.0, 1.0), "softsign": (-1.0, 1.0), "sigmoid": (0.0, 1.0)}

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "linear": lambda z: z,
    "relu": torch.relu,
    "leaky_relu": lambda z: F.leaky_relu(z, LEAKY_SLOPE),
    "tanh": torch.tanh,
    "softsign": F.softsign,
    "sigmoid": torch.sigmoid,
    "selu": torch.selu,
    "elu": F.elu,
    "gelu": F.gelu,
    "silu": F.silu,
}


def activation_function(name: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the activation of this name.

    Raises:
        ConfigError: the table has none.
    """
    check_choice("activation", name, ACTIVATIONS)
    return ACTIVATIONS[name]


class Activation(nn.Module):
    """An activation of the table as a layer."""

    works_on_any_shape = True

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.function = activation_function(name)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Apply the activation elementwise; the shape and dtype of `z` stay."""
        return self.function(z)

    def extra_repr(self) -> str:
        """Show the activation's name in the module's representation."""
        return self.name


def is_relu(layer: nn.Module) -> bool:
    """Tell whether a layer is a ReLU, ours or torch's."""
    return type(layer) is nn.ReLU or (isinstance(layer, Activation) and layer.name == "relu")

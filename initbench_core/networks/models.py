"""The networks of the suite: MLP, CNNs and residual MLP, with normalization none, before or after the activation."""

import itertools
from collections.abc import Callable

import torch
from torch import nn

from initbench_core.errors import check_choice
from initbench_core.networks.activations import Activation
from initbench_core.networks.batch_norm import HandWrittenBatchNorm

NORM_PLACES = ("none", "before", "after")
NormFactory = Callable[[int], nn.Module]

# Implementations of batch normalization for images that the suite compares.
NORMS_2D: dict[str, NormFactory] = {"native": nn.BatchNorm2d, "handwritten": HandWrittenBatchNorm}


def _activate(width: int, activation: str, norm: str, factory: NormFactory) -> list[nn.Module]:
    """The layers behind a weight layer: the activation with the normalization in its place."""
    check_choice("place of normalization", norm, NORM_PLACES)
    layers: list[nn.Module] = [Activation(activation)]
    if norm == "before":
        layers.insert(0, factory(width))
    elif norm == "after":
        layers.append(factory(width))
    return layers


def mlp(
    inputs: int,
    width: int,
    depth: int,
    outputs: int,
    *,
    activation: str = "relu",
    norm: str = "none",
    bias: bool = True,
) -> nn.Sequential:
    """Build inputs -> depth x [Linear(width), activation] -> Linear(outputs), on [N, inputs].

    Args:
        inputs: features of a sample; images are flattened by the caller.
        width: units of every hidden layer.
        depth: hidden layers.
        outputs: features of the result; the last layer is never normalized.
        activation: a name of `ACTIVATIONS`.
        norm: BatchNorm1d "none", "before" or "after" the activation.
        bias: whether hidden layers have a bias (before BatchNorm its gradient is exactly 0).
    """
    layers: list[nn.Module] = []
    for i in range(depth):
        layers.append(nn.Linear(width if i else inputs, width, bias=bias))
        layers += _activate(width, activation, norm, nn.BatchNorm1d)
    return nn.Sequential(*layers, nn.Linear(width if depth else inputs, outputs))


def mlp_weights(inputs: int, width: int, depth: int, outputs: int, *, norm: str = "none") -> int:
    """Return how many parameters `mlp` has, without building it."""
    sizes = [inputs, *[width] * depth, outputs]
    linear = sum((fan_in + 1) * fan_out for fan_in, fan_out in itertools.pairwise(sizes))
    return linear + (2 * width * depth if norm != "none" else 0)


def cnn(*, norm: str = "after", implementation: str = "native", dropout: float = 0.5) -> nn.Sequential:
    """Build the lecture's CNN for digits: conv5-10, pool, ReLU, conv5-20, pool, ReLU, 320-50-10, logits.

    Args:
        norm: batch normalization "none", "before" the ReLU (as the lecture's text says) or "after" it (as its code
            does).
        implementation: a name of `NORMS_2D`.
        dropout: probability behind each convolution block.

    Returns:
        A network [N, 1, 28, 28] -> [N, 10].
    """
    check_choice("implementation of batch normalization", implementation, NORMS_2D)
    layers: list[nn.Module] = []
    for channels_in, channels in ((1, 10), (10, 20)):
        layers += [nn.Conv2d(channels_in, channels, kernel_size=5), nn.MaxPool2d(2)]
        layers += _activate(channels, "relu", norm, NORMS_2D[implementation])
        layers.append(nn.Dropout(dropout))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(320, 50), Activation("relu"), nn.Linear(50, 10))


def plain_cnn(channels: int, depth: int, outputs: int, *, norm: str = "none") -> nn.Sequential:
    """Build a plain deep CNN: `depth` x [conv3(channels), ReLU], global average pool, Linear(outputs).

    The first two convolutions have stride 2, so that the rest works on a quarter of the resolution.

    Args:
        channels: of every convolution.
        depth: convolutions.
        outputs: features of the result.
        norm: BatchNorm2d "none", "before" or "after" the ReLU.

    Returns:
        A network [N, 1, H, W] -> [N, outputs].
    """
    layers: list[nn.Module] = []
    for i in range(depth):
        stride = 2 if i < 2 else 1
        layers.append(nn.Conv2d(channels if i else 1, channels, kernel_size=3, stride=stride, padding=1))
        layers += _activate(channels, "relu", norm, nn.BatchNorm2d)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, outputs))


class ResidualBlock(nn.Module):
    """x + branch(x) with branch = [norm,] activation, Linear, [norm,] activation, Linear (He et al. 2016, identity).

    The branch ends in a linear layer: with He weights the second moment doubles per block. With batch normalization in
    front of each activation it grows linearly with depth instead.
    """

    works_on_any_shape = True

    def __init__(self, width: int, activation: str, norm: str) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(2):
            layers += [*_activate(width, activation, norm, nn.BatchNorm1d), nn.Linear(width, width)]
        self.branch = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Add the branch to `x` [N, width]."""
        return x + self.branch(x)


def residual_mlp(
    inputs: int, width: int, blocks: int, outputs: int, *, activation: str = "relu", norm: str = "none"
) -> nn.Sequential:
    """Build Linear(inputs, width) -> blocks x ResidualBlock -> activation -> Linear(outputs), on [N, inputs]."""
    body = [ResidualBlock(width, activation, norm) for _ in range(blocks)]
    head = [*_activate(width, activation, norm, nn.BatchNorm1d), nn.Linear(width, outputs)]
    return nn.Sequential(nn.Linear(inputs, width), *body, *head)

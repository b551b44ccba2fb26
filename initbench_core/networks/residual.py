"""Residual networks that train without normalization: Fixup and SkipInit, beside none and BatchNorm.

Each keeps the block x + branch(x) of two linear layers and differs in what the branch adds at the start: He's weights
double the second moment per block, BatchNorm in front of the activations adds a constant, Fixup and SkipInit add
nothing.
"""

import math
from collections.abc import Callable

import torch
from torch import nn

from initbench_core.errors import check_choice
from initbench_core.networks.activations import Activation
from initbench_core.networks.initialize import initialize_
from initbench_core.networks.models import ResidualBlock, residual_mlp

# The variants, with the place of the normalization in those that `residual_mlp` builds.
VARIANTS = ("none", "batch_norm", "fixup", "skip_init")
NORM_OF = {"none": "none", "batch_norm": "before"}

# What a block with BatchNorm adds to the variance between samples: 2 Var[relu(z)].
BATCH_NORM_VARIANCE_PER_BLOCK = (math.pi - 1) / math.pi

# Linear layers in a branch: Fixup's m.
BRANCH_LAYERS = 2


class SkipInitBlock(ResidualBlock):
    """x + factor * branch(x) with a learned factor that starts at 0 (De & Smith 2020, section 3)."""

    def __init__(self, width: int) -> None:
        super().__init__(width, "relu", "none")
        self.factor = nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Add the scaled branch to `x` [N, width]."""
        return x + self.factor * self.branch(x)


class Shift(nn.Module):
    """x + bias, one learned number for all units, 0 at first."""

    works_on_any_shape = True

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Shift `x` of any shape."""
        return x + self.bias


class FixupBlock(nn.Module):
    """x + factor * branch(x), a scalar bias before each activation and linear layer (Zhang et al. 2019, section 3).

    The linear layers have no biases of their own. The rule for their weights is `fixup_`.
    """

    works_on_any_shape = True

    def __init__(self, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(BRANCH_LAYERS):
            layers += [Shift(), Activation("relu"), Shift(), nn.Linear(width, width, bias=False)]
        self.branch = nn.Sequential(*layers)
        self.factor = nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Add the branch to `x` [N, width]."""
        return x + self.factor * self.branch(x)


@torch.no_grad()
def fixup_(model: nn.Sequential) -> None:
    """Apply Fixup's rules to a network of `FixupBlock`s that has He's weights.

    The last layer of each branch and the classifier become 0; the layers in front of it in the branch are scaled by
    L^(-1/(2m - 2)) for L blocks of m layers, so that one step of SGD changes the function by as much at any depth.
    """
    blocks = [block for block in model if isinstance(block, FixupBlock)]
    for block in blocks:
        *inner, last = [layer for layer in block.branch if isinstance(layer, nn.Linear)]
        for layer in inner:
            layer.weight.mul_(len(blocks) ** (-1 / (2 * BRANCH_LAYERS - 2)))
        last.weight.zero_()
    classifier = model[-1]
    assert isinstance(classifier, nn.Linear)
    classifier.weight.zero_()


def residual_network(variant: str, inputs: int, width: int, blocks: int, outputs: int, *, seed: int) -> nn.Sequential:
    """Build a residual ReLU network [N, inputs] -> [N, outputs] with the variant's own initial weights.

    Args:
        variant: one of `VARIANTS`.
        inputs: features of a sample.
        width: of every block.
        blocks: residual blocks, two linear layers each.
        outputs: features of the result.
        seed: of the weights, He's in all variants.

    Raises:
        ConfigError: an unknown variant.
    """
    check_choice("residual variant", variant, VARIANTS)
    if variant in NORM_OF:
        model = residual_mlp(inputs, width, blocks, outputs, norm=NORM_OF[variant])
    else:
        block: Callable[[int], nn.Module] = FixupBlock if variant == "fixup" else SkipInitBlock
        body = [block(width) for _ in range(blocks)]
        model = nn.Sequential(nn.Linear(inputs, width), *body, Activation("relu"), nn.Linear(width, outputs))
    initialize_(model, "kaiming_normal", seed=seed, others="keep")
    if variant == "fixup":
        fixup_(model)
    return model


def second_moment(variant: str, block: int, start: float) -> float:
    """Return the second moment behind block number `block` (from 1) at the start; `start`: of the first one's input.

    He's weights alone double it with every block. With BatchNorm each block adds 1: normalized values have a second
    moment of 1/2 behind the ReLU, and He's weights make it 1; `BATCH_NORM_VARIANCE_PER_BLOCK` of it differs between
    samples. Fixup and SkipInit leave it as it is.
    """
    return {"none": start * 2.0**block, "batch_norm": start + block}.get(variant, start)

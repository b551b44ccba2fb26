"""Looking into a network: what every layer puts out, and the gradient that comes back to it."""

from collections.abc import Sequence

import torch
from torch import nn


def layer_signals(
    model: nn.Module, layers: Sequence[nn.Module], x: torch.Tensor, gradient: torch.Tensor
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Run `model` forward and backward once and return each layer's output and the gradient at it.

    Args:
        model: in the mode (training or evaluation) to be looked at; its parameters' gradients are left alone.
        layers: modules of `model`, each called once in a forward pass.
        x: input batch [N, ...].
        gradient: what to send back from the model's output, of its shape.

    Returns:
        Outputs and their gradients, in the order of `layers`, detached.
    """
    captured: dict[nn.Module, torch.Tensor] = {}

    def capture(layer: nn.Module, _: object, output: torch.Tensor) -> None:
        captured[layer] = output

    handles = [layer.register_forward_hook(capture) for layer in layers]
    try:
        output = model(x)
    finally:
        for handle in handles:
            handle.remove()
    outputs = [captured[layer] for layer in layers]
    gradients = torch.autograd.grad(output, outputs, gradient)
    return [o.detach() for o in outputs], [g.detach() for g in gradients]

"""Batch normalization written by hand, as a correct module: the textbook's formula, with buffers.

The lecture code that it grows from kept the running statistics as plain attributes. They did not move with
`.to(device)`, were missing from the state_dict, stayed in the autograd graph (which grew by every step), and the
running variance was the biased one. Here they are buffers, detached, and unbiased as in torch.
"""

import torch
from torch import nn


class HandWrittenBatchNorm(nn.Module):
    """y = weight * (x - mean) / sqrt(var + eps) + bias over all dimensions but the second.

    Training takes the batch's statistics (biased variance) and updates the running ones by
    running = (1 - momentum) * running + momentum * batch (unbiased variance); evaluation takes the running ones
    (Ioffe & Szegedy 2015, Algorithms 1 and 2). Input and output [N, C, ...], floating point.
    """

    running_mean: torch.Tensor
    running_var: torch.Tensor

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.eps = eps
        self.momentum = momentum
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalize `x`; in training mode update the running statistics."""
        mean, var = self._batch_statistics(x) if self.training else (self.running_mean, self.running_var)
        per_channel = (1, -1) + (1,) * (x.dim() - 2)
        x_hat = (x - mean.view(per_channel)) / torch.sqrt(var.view(per_channel) + self.eps)
        return self.weight.view(per_channel) * x_hat + self.bias.view(per_channel)

    def _batch_statistics(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        reduced = [d for d in range(x.dim()) if d != 1]
        count = x.numel() // x.shape[1]
        if count < 2:
            raise ValueError(f"expected more than 1 value per channel when training, got input size {tuple(x.shape)}")
        mean, var = x.mean(reduced), x.var(reduced, unbiased=False)
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * (count / (count - 1)), self.momentum)
        return mean, var

"""Networks of one architecture stacked into one: their activations are [S networks, features, samples].

A linear layer becomes one batched matrix product. BatchNorm's statistics are per channel, so S networks of C channels
are one layer of S * C channels over contiguous memory: exact, and no copy. What works alike on any shape (activations,
residual sums, scalar factors) runs as it is written.
"""

import copy
from collections.abc import Sequence

import torch
from torch import nn

from initbench_core.networks.activations import is_relu
from initbench_kernels import batch_norm_relu

# Layers of torch whose forward is the same on activations of any shape; our own say so by `works_on_any_shape`.
ANY_SHAPE = (nn.Sequential, nn.Identity, nn.ReLU, nn.Tanh, nn.Sigmoid)


class StackedLinear(nn.Module):
    """S layers nn.Linear: weight [S, out, in], bias [S, out]."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.weight = _stack_parameters(layers, "weight")
        self.bias = None if layers[0].bias is None else _stack_parameters(layers, "bias")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [S, in, N] to [S, out, N]."""
        if self.bias is None:
            return torch.bmm(self.weight, x)
        return torch.baddbmm(self.bias.unsqueeze(2), self.weight, x)


class StackedBatchNorm(nn.Module):
    """S layers nn.BatchNorm1d, on request with the ReLU behind them; parameters and statistics [S, C].

    Attributes:
        relu: whether a ReLU follows.
        backend: of `batch_norm_relu`, where one does.
    """

    running_mean: torch.Tensor
    running_var: torch.Tensor
    num_batches_tracked: torch.Tensor

    def __init__(self, layers: Sequence[nn.Module], backend: str) -> None:
        super().__init__()
        first = layers[0]
        assert isinstance(first, nn.BatchNorm1d)
        if first.momentum is None or not first.track_running_stats:
            raise ValueError("cannot stack a BatchNorm1d without running averages of a fixed momentum")
        self.momentum, self.eps = first.momentum, first.eps
        self.weight, self.bias = (
            _stack_parameters(layers, name) if first.affine else None for name in ("weight", "bias")
        )
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            self.register_buffer(name, torch.stack([getattr(layer, name) for layer in layers]))
        self.relu = False
        self.backend = backend

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalize [S, C, N] over the samples of each network."""
        channels = x.reshape(1, -1, x.shape[2])
        weight, bias = (p if p is None else p.view(-1) for p in (self.weight, self.bias))
        running = self.running_mean.view(-1), self.running_var.view(-1)
        if self.training:
            self.num_batches_tracked.add_(1)
        args = (channels, *running, weight, bias, self.training, self.momentum, self.eps)
        y = batch_norm_relu(*args, backend=self.backend) if self.relu else nn.functional.batch_norm(*args)
        return y.view(x.shape)


class StackedNetwork(nn.Module):
    """S networks of one architecture as one, with copies of their weights.

    Its parameters and buffers carry the names of the single network's, with S as their first dimension; a single
    number becomes [S, 1, 1].
    """

    def __init__(self, models: Sequence[nn.Module], *, backend: str = "eager") -> None:
        """Stack `models`.

        Args:
            models: at least one, of equal architecture, all in the same mode; they are left as they are.
            backend: of the fused BatchNorm and ReLU: "triton" or "eager".

        Raises:
            ValueError: they differ, they share parameters among their layers, or a layer of theirs is none of
                Sequential, Flatten, Linear, BatchNorm1d, and those that say `works_on_any_shape`.
        """
        super().__init__()
        if len({repr(model) for model in models}) > 1:
            raise ValueError("cannot stack networks of different architecture")
        named = list(models[0].named_parameters(remove_duplicate=False))
        if len(named) > len(list(models[0].parameters())):
            raise ValueError("cannot stack networks whose layers share parameters")
        self.flattens = any(type(layer) is nn.Flatten for layer in models[0].modules())
        self.body = _stack(models, backend)
        self.train(models[0].training)

    def __len__(self) -> int:
        """Return the number of networks."""
        return len(next(self.parameters()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map samples [S, N, ...] (or [1, N, ...], the same for all) to predictions [S, outputs, N]."""
        if x.dim() > 3 and not self.flattens:
            raise ValueError(f"a network without Flatten takes samples [features], got {tuple(x.shape[2:])}")
        result: torch.Tensor = self.body(x.flatten(2).transpose(1, 2).expand(len(self), -1, -1))
        return result

    def trained_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that want a gradient, in the single network's order."""
        return [p for p in self.parameters() if p.requires_grad]

    @torch.no_grad()
    def keep(self, chosen: torch.Tensor) -> None:
        """Drop all networks but those at the positions `chosen` (int64), in place."""
        for layer in self.modules():
            for name, parameter in list(layer.named_parameters(recurse=False)):
                setattr(layer, name, nn.Parameter(parameter[chosen], requires_grad=parameter.requires_grad))
            for name, buffer in list(layer.named_buffers(recurse=False)):
                setattr(layer, name, buffer[chosen])

    @torch.no_grad()
    def store(self, position: int, model: nn.Module, gradients: Sequence[torch.Tensor] | None = None) -> None:
        """Copy the weights and statistics of one network, and its part of the parameters' gradients, into `model`."""
        state = model.state_dict()
        for name, tensor in self.body.state_dict().items():
            state[name].copy_(tensor[position].view_as(state[name]))
        if gradients is not None:
            trained = [p for p in model.parameters() if p.requires_grad]
            for parameter, gradient in zip(trained, gradients, strict=True):
                parameter.grad = gradient[position].view_as(parameter)


def _stack(layers: Sequence[nn.Module], backend: str) -> nn.Module:
    """Stack one layer of every network, with all that is in it."""
    first = layers[0]
    if type(first) is nn.Linear:
        return StackedLinear(layers)
    if type(first) is nn.BatchNorm1d:
        return StackedBatchNorm(layers, backend)
    if type(first) is nn.Flatten and (first.start_dim, first.end_dim) == (1, -1):
        return nn.Identity()
    if not (isinstance(first, ANY_SHAPE) or getattr(first, "works_on_any_shape", False)):
        raise ValueError(f"cannot stack networks with a {type(first).__name__}")
    stacked = copy.deepcopy(first)
    for name, parameter in first.named_parameters(recurse=False):
        if parameter.numel() > 1:
            raise ValueError(f"cannot stack networks with a {type(first).__name__} of tensor {name!r}")
        factor = _stack_parameters(layers, name)
        factor.data = factor.data.view(-1, 1, 1)
        setattr(stacked, name, factor)
    for name, _ in first.named_children():
        setattr(stacked, name, _stack([layer.get_submodule(name) for layer in layers], backend))
    if isinstance(stacked, nn.Sequential):
        _fuse_relus(stacked)
    return stacked


def _stack_parameters(layers: Sequence[nn.Module], name: str) -> nn.Parameter:
    parameters = [layer.get_parameter(name) for layer in layers]
    return nn.Parameter(torch.stack([p.detach() for p in parameters]), requires_grad=parameters[0].requires_grad)


def _fuse_relus(layers: nn.Sequential) -> None:
    """Leave each ReLU behind a BatchNorm to that BatchNorm."""
    for i in range(len(layers) - 1):
        norm, activation = layers[i], layers[i + 1]
        if isinstance(norm, StackedBatchNorm) and is_relu(activation):
            norm.relu = True
            layers[i + 1] = nn.Identity()

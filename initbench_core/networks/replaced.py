"""A whole model with one implementation of BatchNorm+ReLU in every place that has both."""

import copy
from typing import cast

import torch
from torch import Tensor, nn

from initbench_core.networks.implementations import Implementation, compile_mode
from initbench_kernels import BatchNormReLU1d, BatchNormReLU2d, BatchNormReLU3d, fuse_batch_norm_relu

FUSED = (BatchNormReLU1d, BatchNormReLU2d, BatchNormReLU3d)


def replaced(model: nn.Module, implementation: Implementation) -> nn.Module:
    """Return an independent copy of `model` that computes BatchNorm+ReLU by an implementation.

    The eager ones are the model itself with its nn.ReLU out of or in place; torch.compile takes the whole model; this
    project's backends come through `fuse_batch_norm_relu`, residual additions included; every other implementation is
    put where there is no residual, for it takes none.

    Args:
        model: on the device it is to run on.
        implementation: one that is not missing there; what it refuses it refuses when it is called.
    """
    model = copy.deepcopy(model)
    if implementation.name in ("eager", "eager_inplace"):
        for module in model.modules():
            if isinstance(module, nn.ReLU):
                module.inplace = implementation.name == "eager_inplace"
        return model
    if implementation.compiled:
        compiled = cast(nn.Module, torch.compile(model, dynamic=False, mode=compile_mode(implementation)))
        return compiled
    fused = fuse_batch_norm_relu(model)
    for path, module in list(fused.named_modules()):
        if not isinstance(module, FUSED):
            continue
        if implementation.name in ("fused_eager", "fused_triton"):
            module.backend = implementation.name.removeprefix("fused_")
        else:
            parent, _, name = path.rpartition(".")
            setattr(fused.get_submodule(parent), name, _Through(module, implementation))
    return fused


class _Through(nn.Module):
    """A fused layer whose call, where it has no residual, goes to a function in the place of its own."""

    def __init__(self, layer: BatchNormReLU1d | BatchNormReLU2d | BatchNormReLU3d, by: Implementation) -> None:
        super().__init__()
        self.layer, self.function = layer, by.function

    def forward(self, x: Tensor, residual: Tensor | None = None, *how: bool) -> Tensor:
        """Normalize `x`, add `residual`, apply ReLU; `how` is for the layer."""
        layer = self.layer
        if residual is not None:
            return layer(x, residual, *how)
        if self.training and layer.num_batches_tracked is not None:
            layer.num_batches_tracked.add_(1)
        running = (layer.running_mean, layer.running_var)
        y: Tensor = self.function(x, *running, layer.weight, layer.bias, self.training, layer.momentum, layer.eps)
        return y

"""The kernels' operators in a network: BatchNorm and the ReLU behind it as one."""

import copy
import itertools

from torch import nn

from initbench_core.networks.activations import is_relu
from initbench_kernels import BatchNormReLU1d, BatchNormReLU2d, BatchNormReLU3d, fuse_batch_norm_relu

FUSED = (BatchNormReLU1d, BatchNormReLU2d, BatchNormReLU3d)


def with_kernels(model: nn.Module, backend: str) -> nn.Module:
    """Return `model` with each BatchNorm and the ReLU behind it as one operator, on a backend.

    The result shares parameters and buffers with `model`, whose structure stays; for "eager" it is `model` itself,
    since PyTorch's own layers are the eager backend.
    """
    if backend == "eager":
        return model
    tensors = itertools.chain(model.parameters(), model.buffers())
    clone = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
    for parent in list(clone.modules()):
        for name, child in parent.named_children():
            if is_relu(child):
                # What the fusion knows as a ReLU.
                setattr(parent, name, nn.ReLU())
    fused = fuse_batch_norm_relu(clone)
    for layer in fused.modules():
        if isinstance(layer, FUSED):
            layer.backend = backend
    return fused

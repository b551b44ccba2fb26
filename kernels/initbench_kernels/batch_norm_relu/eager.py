"""The eager backend: PyTorch's batch norm, then the residual and the ReLU in place; `narrow` takes narrow matrices."""

import torch
from torch import Tensor
from torch.autograd import forward_ad

from initbench_kernels.batch_norm_relu.operators import in_transform

# With more channels PyTorch's kernels fill a vector register; with fewer rows the small operations between the large
# ones cost what those save: on one thread bfloat16 of 2**15 x 4 takes 1.1 times as long as the pair.
NARROW_CHANNELS, NARROW_ROWS = 8, 2**16


def is_narrow(x: Tensor) -> bool:
    """Whether a training pass over `x` is a matter for `narrow`, as far as `x` tells."""
    return (
        x.ndim == 2
        # A compiler makes kernels of its own.
        and not torch.compiler.is_compiling()
        and x.shape[0] >= NARROW_ROWS
        and 0 < x.shape[1] < NARROW_CHANNELS
        and x.device.type == "cpu"
        and x.is_contiguous()
        # Subclasses, transforms, forward-mode derivatives and TorchScript have PyTorch's rules for PyTorch's call.
        and type(x) in (Tensor, torch.nn.Parameter)
        and not in_transform()
        and forward_ad._current_level < 0
        and torch._C._get_tracing_state() is None
    )


def finish(y: Tensor, residual: Tensor | None) -> Tensor:
    """Add the residual and apply ReLU to a batch norm's fresh output, in place.

    Neither the batch norm's backward nor the addition's needs that output, and the ReLU's needs its own result only.
    """
    if residual is not None:
        # Expanded, for out of place a sum could grow beyond the output.
        y = y.add_(residual) if residual.dtype == y.dtype else y + residual.expand_as(y)
    return y.relu_()

"""The eager backend: PyTorch's batch norm, then the residual and the ReLU in place; `narrow` takes narrow matrices."""

import torch
from torch import Tensor

from initbench_kernels.batch_norm_relu.operators import in_transform

# With more channels PyTorch's kernels fill a vector register; with shorter columns the small operations between the
# large ones cost what those save. On one thread of AVX-512 float32 of 2**15 x 1 to 7 is 1.4 to 1.9 times as fast as the
# pair, bfloat16 of 2**16 x 1 to 7 1.1 to 1.5 times, bfloat16 of 2**15 x 1 to 7 0.9 times.
NARROW_CHANNELS, NARROW_COLUMN_BYTES = 8, 2**17


def is_narrow(x: Tensor) -> bool:
    """Whether a training pass over `x` is a matter for `narrow`, as far as `x` tells."""
    return (
        x.ndim == 2
        # A compiler makes kernels of its own.
        and not torch.compiler.is_compiling()
        and x.shape[0] * x.element_size() >= NARROW_COLUMN_BYTES
        and 0 < x.shape[1] < NARROW_CHANNELS
        and x.device.type == "cpu"
        and x.is_contiguous()
        # Subclasses and transforms have PyTorch's rules for PyTorch's call.
        and type(x) in (Tensor, torch.nn.Parameter)
        and not in_transform()
    )


def finish(y: Tensor, residual: Tensor | None) -> Tensor:
    """Add the residual and apply ReLU to a batch norm's fresh output, in place.

    Neither the batch norm's backward nor the addition's needs that output, and the ReLU's needs its own result only.
    """
    if residual is not None:
        # In place there is no room for the samples of a residual that vmap maps over; a compiler needs no such hint.
        in_place = residual.dtype == y.dtype and not torch.compiler.is_compiling() and not in_transform()
        # Expanded, for out of place a sum could grow beyond the output.
        y = y.add_(residual) if in_place else y + residual.expand_as(y)
    return y.relu_()

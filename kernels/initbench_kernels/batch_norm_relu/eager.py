"""The eager backend: PyTorch's batch norm, then the residual and the ReLU in place.

PyTorch's kernels walk a [rows, channels] matrix row by row. Where a row is shorter than a vector register, they compute
its values one at a time, and a long column is summed in one float32: at 880,802 x 3 forward and backward take five
times as long as column by column, and gradients are off by 3e-4 where 6e-7 is possible. So a narrow matrix is
normalized as its transpose, [1, channels, rows], whose sums PyTorch takes in float64. The transpose is kept for the
backward pass, one tensor of the input's size more than otherwise: narrow matrices are small.
"""

import torch
from torch import Tensor

from initbench_kernels.batch_norm_relu.operators import in_transform

# With longer rows or fewer of them the two copies cost what they save, measured with AVX2 and with AVX-512.
NARROW_BYTES, NARROW_ROWS = 32, 2**14

# Bytes of a value as PyTorch computes with it: half precision is widened.
_COMPUTED = 4


def is_narrow(x: Tensor) -> bool:
    """Whether a training pass over `x` is faster by columns."""
    return (
        x.ndim == 2
        and x.shape[0] >= NARROW_ROWS
        and 0 < x.shape[1] * max(x.element_size(), _COMPUTED) < NARROW_BYTES
        and x.device.type == "cpu"
        and x.is_contiguous()
        # A compiler makes kernels of its own, and a transform has PyTorch's rules for PyTorch's call.
        and not torch.compiler.is_compiling()
        and not in_transform()
    )


def transpose(x: Tensor) -> Tensor:
    """Return a narrow matrix [R, C] as the input [1, C, R] of a batch norm."""
    return torch.stack(x.unbind(1)).unsqueeze(0)


def finish(y: Tensor, residual: Tensor | None, *, transposed: bool) -> Tensor:
    """Add the residual and apply ReLU to a batch norm's fresh output, in place; `transposed` undoes `transpose` first.

    Neither the batch norm's backward nor the addition's needs that output, and the ReLU's needs its own result only.
    """
    if transposed:
        y = torch.stack(y.squeeze(0).unbind(), dim=1)
    if residual is not None:
        y = y.add_(residual) if residual.dtype == y.dtype else y + residual
    return y.relu_()

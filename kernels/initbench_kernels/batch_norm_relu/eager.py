"""The eager backend: PyTorch's batch norm, then the residual and the ReLU in place; `narrow` takes narrow matrices."""

import torch
from torch import Tensor

from initbench_kernels.batch_norm_relu.operators import in_transform

# PyTorch's kernels walk a row by vector registers, and value by value what these leave over: all of a short row, a part
# of one that is no multiple of 8. `narrow` has no such rest, but with more channels, or with shorter columns, the small
# operations between its large ones cost what that saves. Times as fast as the pair, AVX-512 and AVX2, 2**15 to 2**19
# rows: float32 of 1 to 15 channels 1.1 to 4, of 17 to 23 1.3 to 2.9 on two threads and 0.9 to 1.5 on one; float16 and
# bfloat16 of 1 to 15 channels 0.9 to 2.8; multiples of 8, and half precision beyond 16, lose.
NARROW_CHANNELS = {torch.float32: 23, torch.float16: 15, torch.bfloat16: 15}
NARROW_COLUMN_BYTES = 2**17


def is_narrow(x: Tensor) -> bool:
    """Whether a training pass over `x` is a matter for `narrow`, as far as `x` tells."""
    return (
        x.ndim == 2
        # A compiler makes kernels of its own.
        and not torch.compiler.is_compiling()
        and x.shape[0] * x.element_size() >= NARROW_COLUMN_BYTES
        and x.shape[1] % 8 != 0
        and x.shape[1] <= NARROW_CHANNELS.get(x.dtype, 0)
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

"""The mask of a ReLU that a residual took part in: one bit per element, from the forward pass to the backward pass.

Without it the backward pass would read the whole output for its sign, and keep it alive. Bits lie in the tensor's
memory order, the first of a byte lowest, and start a new byte where the tiles of the kernels start a new block. The
formulas here say where that is without cutting any tiles, so that they hold for the symbolic sizes of torch.compile.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from initbench_kernels.batch_norm_relu.layout import Layout, layout_of
from initbench_kernels.batch_norm_relu.tiling import MAX_GROUP, MIN_ELEMENTS, MIN_PLANE, group_step


class Runs(NamedTuple):
    """How the bits are cut into bytes.

    Attributes:
        rows: rows of the matrix that the tensor is; each starts a new byte.
        row: elements per row.
        run: elements of a row that share bytes; the next one starts a new byte.
    """

    rows: int
    row: int
    run: int

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.row // self.run * _bytes(self.run) + _bytes(self.row % self.run)


def _bytes(bits: int) -> int:
    return (bits + 7) // 8


def runs_of(layout: Layout) -> Runs:
    """Say where bytes start in a tensor of this layout; its sizes may be symbolic."""
    outer, channels, inner = layout
    if inner == 1:
        return Runs(outer, channels, channels) if channels > MAX_GROUP else Runs(1, outer * channels, outer * channels)
    row = channels * inner
    if inner >= MIN_PLANE:
        return Runs(outer, row, inner)
    if group_step(channels, inner):
        return Runs(outer, row, row)
    return Runs(outer, row, MIN_ELEMENTS // inner * inner)


def num_bytes(x: Tensor) -> int:
    """Return the bytes that hold the signs of a dense `x`: an eighth of its elements, and what starting anew costs."""
    layout = layout_of(x)
    assert layout is not None
    runs = runs_of(layout)
    return runs.rows * runs.row_bytes


def unpack(signs: Tensor, x: Tensor) -> Tensor:
    """Return the bits as booleans, with the shape and strides of the dense `x` that they were saved for."""
    layout = layout_of(x)
    assert layout is not None
    runs = runs_of(layout)
    bits = signs.view(runs.rows, -1, 1) >> torch.arange(8, dtype=torch.uint8, device=signs.device) & 1
    position = torch.arange(runs.row, device=signs.device)
    column = position // runs.run * (8 * _bytes(runs.run)) + position % runs.run
    return bits.flatten(1)[:, column].bool().as_strided(x.shape, x.stride())

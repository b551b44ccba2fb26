"""Where tiles of tensors of more than 2^31 elements lie: the kernels' own arithmetic, without the memory."""

import math

import pytest
import torch
import triton
import triton.language as tl

from initbench_kernels.batch_norm_relu import launch
from initbench_kernels.batch_norm_relu.layout import Layout
from initbench_kernels.batch_norm_relu.tile_kernels import SIZES, signs_at, tile_at, tile_count
from initbench_kernels.batch_norm_relu.tiling import Tiling

# Beyond 2^31 in rows, in a plane, in planes of one sample, in the elements alone; odd sizes have no alignment.
LAYOUTS = {
    "one channel": Layout(1, 1, 2**31 + 4096),
    "one channel, unaligned": Layout(1, 1, 2**32 + 12_345),
    "channels first": Layout(1, 5, 2**31 + 77),
    "large planes": Layout(3, 2, 2**31 + 512),
    "small planes": Layout(2**27 + 1, 20, 7),
    "pairs, almost 2^31 rows": Layout(2**31 - 1, 1, 2),
    "pairs, 2^31 rows": Layout(2**31 + 5, 1, 2),
    "folded": Layout(2**31 + 3, 3, 1),
    "rows": Layout(2**24 + 3, 257, 1),
}


@triton.jit(do_not_specialize=["tile", "block", *SIZES])
def probe(
    out_ptr, tile, block,
    rows, channels, row_units, width_units, tail_units, block_channels, splits, tiles_per_program,
    ALIGN: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_L: tl.constexpr, BLOCK_CH: tl.constexpr,
    CHANNEL_OF: tl.constexpr,
):  # fmt: skip
    """Write the tile count; of one tile first offset, last valid offset and valid lanes; the same of its signs."""
    tl.store(out_ptr, tile_count(rows, width_units, ALIGN, BLOCK_N, BLOCK_L))
    offsets, mask = tile_at(tile, block, rows, row_units, width_units, tail_units, ALIGN, BLOCK_N, BLOCK_L, CHANNEL_OF)
    tl.store(out_ptr + 1, tl.min(tl.min(offsets, 1), 0))
    tl.store(out_ptr + 2, tl.max(tl.max(tl.where(mask, offsets, -1), 1), 0))
    tl.store(out_ptr + 3, tl.sum(tl.sum(mask.to(tl.int64), 1), 0))
    offsets, mask = signs_at(tile, block, rows, row_units, width_units, tail_units, ALIGN, BLOCK_N, BLOCK_L, CHANNEL_OF)
    tl.store(out_ptr + 4, tl.min(tl.min(offsets, 1), 0))
    tl.store(out_ptr + 5, tl.max(tl.max(tl.where(mask, offsets, -1), 1), 0))


def expected(tiling: Tiling, tile: int, block: int) -> list[int]:
    """The same in Python's integers, which have no end."""
    t = tiling
    row_tiles = -(-t.rows // t.block_n)
    row, column = tile % row_tiles * t.block_n, tile // row_tiles * t.block_l
    start = block * t.width
    limit = min(t.width, t.row_stride - start)
    last_row = min(row + t.block_n, t.rows) - 1
    lanes = min(limit - column, t.block_l)
    last_lanes = min(lanes, t.tail) if last_row == t.rows - 1 else lanes
    assert lanes > 0
    block_bytes = -(-t.width // 8)
    row_bytes = t.row_stride // t.width * block_bytes + -(-(t.row_stride % t.width) // 8)
    at = row * row_bytes + block * block_bytes + column // 8
    return [
        t.tiles,
        row * t.row_stride + start + column,
        last_row * t.row_stride + start + column + last_lanes - 1,
        (last_row - row) * lanes + last_lanes,
        at,
        at + (last_row - row) * row_bytes + -(-last_lanes // 8) - 1,
    ]


@pytest.mark.parametrize("itemsize", [2, 4])
@pytest.mark.parametrize("name", LAYOUTS)
def test_tiles_of_tensors_beyond_2_31_elements(name: str, itemsize: int) -> None:
    layout = LAYOUTS[name]
    assert math.prod(layout) > 2**31
    _, tiling = launch.choose("fwd_normalize", layout, itemsize)
    for block in {0, tiling.blocks - 1}:
        for tile in {0, tiling.tiles // 2, tiling.tiles - 2, tiling.tiles - 1}:
            out = torch.full((6,), -7, dtype=torch.int64)
            probe[(1,)](out, tile, block, *launch.sizes_of(tiling, 1, 1), **launch.constants_of(tiling))
            assert out.tolist() == expected(tiling, tile, block), (block, tile, tiling)

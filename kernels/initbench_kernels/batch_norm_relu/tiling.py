"""How the work of a pass is cut: blocks of channels, tiles of rows and columns, splits of the tiles.

The tensor is a matrix [rows, row_stride]. A *block* is the `width` neighbouring columns that hold `block_channels`
whole channels; blocks share nothing. A block is covered by tiles [BLOCK_N rows, BLOCK_L columns], and its tiles are
shared out among `splits` programs, so that 3 channels keep as many programs busy as 2048 do.

`channel_of` says which of the block's channels a column ("lane") belongs to:

- "same": lane l is channel l (channels last, many channels);
- "mod": lane l is channel l % C (channels last, few channels: several rows are folded into one row of the matrix, so
  that the lanes are full and the accesses wide; its last row may be short);
- "div": lane l is channel l // S (planes smaller than a tile: a block holds several channels);
- "one": every lane is the block's one channel (large planes).
"""

import math
from dataclasses import dataclass

from initbench_kernels.batch_norm_relu.layout import Layout

# 8 elements are 128 bits of a 2-byte type; more alignment buys nothing.
MAX_ALIGN = 8
# Columns of a folded or grouped block are matched to channels through a [BLOCK_L, BLOCK_CH] comparison.
MAX_MATCH = 8192
MAX_GROUP = 32
# The smallest tile: a block of several small planes may be that wide.
MIN_ELEMENTS = 1024
# Planes of so many elements are blocks of their own.
MIN_PLANE = 512
# Programs of the second launch each read every partial of their channels: this many channels x splits at most.
MAX_PARTIALS = 4096
MIN_SPLITS = 128


@dataclass(frozen=True)
class Tiling:
    """One way to cut a matrix; every field is an argument of the kernels.

    Attributes:
        rows: rows of the matrix.
        channels: C of the tensor.
        row_stride: elements from one row to the next.
        width: columns per block.
        tail: valid columns of the last row (the others are full).
        block_channels: channels per block.
        align: power of two that divides row_stride, width and tail.
        block_n, block_l, block_ch: tile rows, tile columns, padded channels per block (powers of two).
        channel_of: "same", "mod", "div" or "one".
    """

    rows: int
    channels: int
    row_stride: int
    width: int
    tail: int
    block_channels: int
    align: int
    block_n: int
    block_l: int
    block_ch: int
    channel_of: str

    @property
    def blocks(self) -> int:
        """Number of channel blocks."""
        return -(-self.channels // self.block_channels)

    @property
    def tiles(self) -> int:
        """Number of tiles per block."""
        return -(-self.rows // self.block_n) * -(-self.width // self.block_l)

    @property
    def sign_bytes(self) -> int:
        """Bytes of the signs of all elements, as the kernels lay them out (`tile_kernels.signs_at`)."""
        block_bytes = -(-self.width // 8)
        row_bytes = self.row_stride // self.width * block_bytes + -(-(self.row_stride % self.width) // 8)
        last_row = -(-self.tail // 8) if self.tail < self.row_stride else row_bytes
        return (self.rows - 1) * row_bytes + last_row

    def split(self, programs: int, *, merged: bool) -> tuple[int, int]:
        """Share the tiles of each block out.

        Args:
            programs: about how many programs fill the device.
            merged: whether programs of a later launch read one partial per split, which bounds their number.

        Returns:
            splits per block and tiles per program; no program is without a tile.
        """
        splits = max(1, min(programs // self.blocks, self.tiles))
        if merged:
            splits = min(splits, max(MIN_SPLITS, MAX_PARTIALS // self.block_channels))
        tiles_per_program = -(-self.tiles // splits)
        return -(-self.tiles // tiles_per_program), tiles_per_program


def _power_of_two(n: int) -> int:
    return 1 << max(0, n - 1).bit_length()


def _align(*sizes: int) -> int:
    return math.gcd(MAX_ALIGN, *sizes)


def _rows(layout: Layout, elements: int) -> Tiling:
    """Channels last, more channels than are worth folding."""
    rows, channels, _ = layout
    # Fewer columns per block where channels are few: more blocks, hence fewer splits to merge per block.
    block_l = 64 if channels >= 256 else 32
    return Tiling(
        rows, channels, channels, block_l, channels, block_l, _align(channels),
        max(1, elements // block_l), block_l, block_l, "same",
    )  # fmt: skip


def _folded(layout: Layout, elements: int) -> Tiling:
    """Channels last, few channels: fold the most rows that fit into 128 or 256 lanes, in multiples of 8 elements."""
    rows, channels, _ = layout
    total = rows * channels
    # Fewer rows than that are folded into one.
    step = min(rows, MAX_ALIGN // _align(channels))
    options = [
        (fold * channels / lanes, -lanes, fold)
        for lanes in (128, 256)
        for fold in range(step, min(rows, lanes // channels) + 1, step)
    ]
    _, negative_lanes, fold = max(options)
    block_l = -negative_lanes
    width = fold * channels
    folded_rows = -(-total // width)
    tail = total - (folded_rows - 1) * width
    return Tiling(
        folded_rows, channels, width, width, tail, channels, _align(width, tail),
        max(1, elements // block_l), block_l, _power_of_two(channels), "mod",
    )  # fmt: skip


def group_step(channels: int, inner: int) -> int:
    """Return the fewest channels whose planes together are a multiple of 8 elements, or all channels; may be symbolic.

    0 where they do not fit the smallest tile.
    """
    # 8 / gcd(8, inner). A branch would make torch.compile, given symbolic sizes, compile again for each remainder.
    step = 1 + sum(8 // m * ((inner % m + m - 1) // m) for m in (2, 4, 8))
    step = min(step, channels)
    return step if step * inner <= MIN_ELEMENTS else 0


def _grouped(layout: Layout, elements: int) -> Tiling:
    """Planes smaller than a tile: the group of channels with the widest accesses, then the fullest lanes.

    A group is a multiple of 8 elements, or all channels; where neither fits, as many channels as do.
    """
    rows, channels, inner = layout
    row_stride = channels * inner

    def rate(group: int) -> tuple[int, float, int]:
        width = group * inner
        return _align(width, row_stride), width / max(128, _power_of_two(width)), -group

    def fits(group: int) -> bool:
        lanes = max(128, _power_of_two(group * inner))
        return lanes <= MIN_ELEMENTS and lanes * _power_of_two(group) <= MAX_MATCH

    def whole(group: int) -> bool:
        return group * inner % MAX_ALIGN == 0 or group == channels

    groups = range(1, min(channels, MAX_GROUP) + 1)
    group = max(filter(whole, filter(fits, groups)), key=rate) if group_step(channels, inner) else MIN_ELEMENTS // inner
    width = group * inner
    block_l = max(128, _power_of_two(width))
    return Tiling(
        rows, channels, row_stride, width, row_stride, group, _align(width, row_stride),
        max(1, elements // block_l), block_l, _power_of_two(group), "div" if group > 1 else "one",
    )  # fmt: skip


def _planes(layout: Layout, elements: int) -> Tiling:
    """Large planes, cut into several tiles: the shape that wastes the fewest lanes."""
    rows, channels, inner = layout

    def block_n(block_l: int) -> int:
        # Where a plane needs several tiles, the kernels rely on every tile being full along the rows: see valid_steps.
        return math.gcd(elements // block_l, rows)

    def useful(block_l: int) -> float:
        return block_n(block_l) * inner / -(-inner // block_l)

    block_l = max((lanes for lanes in (512, 1024, 2048, 4096) if lanes <= elements), key=useful)
    return Tiling(
        rows, channels, channels * inner, inner, channels * inner, 1, _align(inner),
        block_n(block_l), block_l, 1, "one",
    )  # fmt: skip


def tiling_of(layout: Layout, elements: int) -> Tiling:
    """Cut a layout into tiles of about `elements` (a power of two, at least MIN_ELEMENTS) elements."""
    if layout.inner == 1:
        return (_folded if layout.channels <= MAX_GROUP else _rows)(layout, elements)
    return (_grouped if layout.inner < MIN_PLANE else _planes)(layout, elements)

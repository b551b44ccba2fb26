"""Device functions that the four kernels share: where a tile lies, and lanes to channels and back.

The terms (row, block, tile, lane, split) and the arguments are those of `tiling.Tiling`. Sizes that Triton would have
to know to be multiples arrive divided by ALIGN, a compile-time power of two: multiplied back inside the kernel they
carry their alignment, so that accesses are as wide as it permits, and no run-time integer is specialized on.
"""

import triton
import triton.language as tl

# Sizes differ with every batch: a binary depends on the constexprs and on pointer alignment only.
SIZES = ["rows", "channels", "row_units", "width_units", "tail_units", "block_channels", "splits", "tiles_per_program"]


@triton.jit
def program_of(channels, block_channels):
    """Return (block, split) of this program: neighbouring programs read neighbouring blocks of the same rows."""
    blocks = tl.cdiv(channels, block_channels)
    pid = tl.program_id(0)
    return pid % blocks, pid // blocks


@triton.jit
def row_tiles_of(rows, BLOCK_N: tl.constexpr):
    """Return how many tiles cover the rows; `tl.cdiv` would leave int32 just below 2^31 rows."""
    return (rows - 1) // BLOCK_N + 1


@triton.jit
def tile_count(rows, width_units, ALIGN: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_L: tl.constexpr):
    """Return the number of tiles of one block."""
    width = width_units.to(tl.int64) * ALIGN
    return (row_tiles_of(rows, BLOCK_N) * tl.cdiv(width, BLOCK_L)).to(tl.int32)


@triton.jit
def corner_of(tile, rows, BLOCK_N: tl.constexpr, BLOCK_L: tl.constexpr):
    """Return row and column (int64) of the tile's first element in its block: tiles run along the rows first.

    A plane of one channel may have more than 2^31 columns.
    """
    row_tiles = row_tiles_of(rows, BLOCK_N)
    return (tile % row_tiles) * BLOCK_N, (tile // row_tiles).to(tl.int64) * BLOCK_L


@triton.jit
def tile_at(
    tile, block, rows, row_units, width_units, tail_units,
    ALIGN: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_L: tl.constexpr, CHANNEL_OF: tl.constexpr,
):  # fmt: skip
    """Return element offsets (int64) and validity of a block's tile, each [BLOCK_N, BLOCK_L].

    Either a plane fits one tile or every tile is full along the rows, so a lane once
    invalid stays invalid: `valid_steps` and the Welford update count on it.
    """
    row_stride = row_units.to(tl.int64) * ALIGN
    width = width_units.to(tl.int64) * ALIGN
    row, column = corner_of(tile, rows, BLOCK_N, BLOCK_L)
    start = block.to(tl.int64) * width
    limit = tl.minimum(width, row_stride - start)
    lane_n = tl.arange(0, BLOCK_N)[:, None]
    lane_l = tl.arange(0, BLOCK_L)[None, :]
    offsets = (row * row_stride + start + column) + lane_n * row_stride + lane_l
    mask = (lane_n < rows - row) & (lane_l < limit - column)
    if CHANNEL_OF == "mod":
        mask = mask & ((lane_n < rows - row - 1) | (lane_l < tail_units * ALIGN))
    return offsets, mask


@triton.jit
def signs_at(
    tile, block, rows, row_units, width_units, tail_units,
    ALIGN: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_L: tl.constexpr, CHANNEL_OF: tl.constexpr,
):  # fmt: skip
    """Return offsets (int64) and validity of the bytes with the signs of a block's tile, each [BLOCK_N, BLOCK_L // 8].

    Each block starts a new byte in each row: no two programs share one. `signs` says the same without tiles.
    """
    width = width_units.to(tl.int64) * ALIGN
    whole_blocks = row_units // width_units
    rest = (row_units - whole_blocks * width_units) * ALIGN
    block_bytes = tl.cdiv(width, 8)
    row_bytes = whole_blocks * block_bytes + tl.cdiv(rest, 8)
    row, column = corner_of(tile, rows, BLOCK_N, BLOCK_L)
    limit = tl.minimum(width, row_units.to(tl.int64) * ALIGN - block * width)
    lane_n = tl.arange(0, BLOCK_N)[:, None]
    lane_byte = tl.arange(0, BLOCK_L // 8)[None, :]
    offsets = (row * row_bytes + block * block_bytes + column // 8) + lane_n * row_bytes + lane_byte
    mask = (lane_n < rows - row) & (lane_byte * 8 < limit - column)
    if CHANNEL_OF == "mod":
        mask = mask & ((lane_n < rows - row - 1) | (lane_byte * 8 < tail_units * ALIGN))
    return offsets, mask


@triton.jit
def pack_signs(passes, BLOCK_N: tl.constexpr, BLOCK_L: tl.constexpr):
    """Return a tile of booleans [BLOCK_N, BLOCK_L] as bytes [BLOCK_N, BLOCK_L // 8], the first lane lowest."""
    bits = tl.reshape(passes.to(tl.int32), [BLOCK_N, BLOCK_L // 8, 8])
    return tl.sum(bits << tl.arange(0, 8)[None, None, :], 2).to(tl.uint8)


@triton.jit
def unpack_signs(signs, BLOCK_N: tl.constexpr, BLOCK_L: tl.constexpr):
    """Return what `pack_signs` packed, as booleans [BLOCK_N, BLOCK_L]."""
    bits = (signs.to(tl.int32)[:, :, None] >> tl.arange(0, 8)[None, None, :]) & 1
    return tl.reshape(bits, [BLOCK_N, BLOCK_L]) != 0


@triton.jit
def valid_steps(
    first, last, block, rows, row_units, width_units, tail_units,
    ALIGN: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_L: tl.constexpr, CHANNEL_OF: tl.constexpr,
):  # fmt: skip
    """Return in how many of the tiles first..last each lane is valid, as float32 [BLOCK_N, BLOCK_L].

    All tiles but those of a plane's last column are full; in the last column's tiles, up to the very last, a lane is
    valid if it is valid in the first of them.
    """
    row_tiles = row_tiles_of(rows, BLOCK_N)
    last_column = tile_count(rows, width_units, ALIGN, BLOCK_N, BLOCK_L) - row_tiles
    full = tl.minimum(tl.maximum(last_column - first, 0), last - first)
    _, in_last_column = tile_at(
        last_column, block, rows, row_units, width_units, tail_units, ALIGN, BLOCK_N, BLOCK_L, CHANNEL_OF
    )
    _, in_last_tile = tile_at(
        last, block, rows, row_units, width_units, tail_units, ALIGN, BLOCK_N, BLOCK_L, CHANNEL_OF
    )
    partial = (last - first - full).to(tl.float32)
    return full.to(tl.float32) + tl.where(in_last_column, partial, 0.0) + tl.where(in_last_tile, 1.0, 0.0)


@triton.jit
def local_channels(
    channels, width_units, block_channels,
    ALIGN: tl.constexpr, BLOCK_L: tl.constexpr, CHANNEL_OF: tl.constexpr,
):  # fmt: skip
    """Return which of the block's channels each lane belongs to, [BLOCK_L], or [1] where they share one."""
    if CHANNEL_OF == "one":
        local = tl.arange(0, 1)
    elif CHANNEL_OF == "same":
        local = tl.arange(0, BLOCK_L)
    elif CHANNEL_OF == "mod":
        local = tl.arange(0, BLOCK_L) % channels
    else:
        local = tl.arange(0, BLOCK_L) // (width_units * ALIGN // block_channels)
    return local


@triton.jit
def channels_of_lanes(
    block, channels, width_units, block_channels,
    ALIGN: tl.constexpr, BLOCK_L: tl.constexpr, CHANNEL_OF: tl.constexpr,
):  # fmt: skip
    """Return the tensor's channel that each lane belongs to and whether it exists, broadcastable against a tile."""
    local = local_channels(channels, width_units, block_channels, ALIGN, BLOCK_L, CHANNEL_OF)[None, :]
    channel = block * block_channels + local
    return channel, (local < block_channels) & (channel < channels)


@triton.jit
def lane_matches(
    channels, width_units, block_channels,
    ALIGN: tl.constexpr, BLOCK_L: tl.constexpr, BLOCK_CH: tl.constexpr, CHANNEL_OF: tl.constexpr,
):  # fmt: skip
    """Return whether a lane belongs to a channel of the block, [BLOCK_L, BLOCK_CH]."""
    local = local_channels(channels, width_units, block_channels, ALIGN, BLOCK_L, CHANNEL_OF)
    return local[:, None] == tl.arange(0, BLOCK_CH)[None, :]


@triton.jit
def sum_to_channels(
    values, channels, width_units, block_channels,
    ALIGN: tl.constexpr, BLOCK_L: tl.constexpr, BLOCK_CH: tl.constexpr, CHANNEL_OF: tl.constexpr,
):  # fmt: skip
    """Sum a tile [BLOCK_N, BLOCK_L] over the lanes of each channel, to [BLOCK_CH]."""
    if CHANNEL_OF == "one":
        sums = tl.sum(tl.sum(values, 1)[:, None], 0)
    elif CHANNEL_OF == "same":
        sums = tl.sum(values, 0)
    else:
        matches = lane_matches(channels, width_units, block_channels, ALIGN, BLOCK_L, BLOCK_CH, CHANNEL_OF)
        # Selected, not multiplied: a NaN stays in its own channel.
        sums = tl.sum(tl.where(matches, tl.sum(values, 0)[:, None], 0.0), 0)
    return sums


@triton.jit
def spread_to_lanes(
    values, channels, width_units, block_channels,
    ALIGN: tl.constexpr, BLOCK_L: tl.constexpr, BLOCK_CH: tl.constexpr, CHANNEL_OF: tl.constexpr,
):  # fmt: skip
    """Give each lane its channel's value: [BLOCK_CH] to what broadcasts against a tile."""
    if CHANNEL_OF == "one" or CHANNEL_OF == "same":
        lanes = values[None, :]
    else:
        matches = lane_matches(channels, width_units, block_channels, ALIGN, BLOCK_L, BLOCK_CH, CHANNEL_OF)
        lanes = tl.sum(tl.where(matches, values[None, :], 0.0), 1)[None, :]
    return lanes


@triton.jit
def channels_of(block, channels, block_channels, BLOCK_CH: tl.constexpr):
    """Return the block's channel numbers [BLOCK_CH] and which of them exist."""
    lane = tl.arange(0, BLOCK_CH)
    channel = block * block_channels + lane
    return channel, (lane < block_channels) & (channel < channels)


@triton.jit
def affine_of(weight_ptr, bias_ptr, channel, exists):
    """Return weight and bias of the channels in float32, 1 and 0 where a pointer is None."""
    weight = tl.full(channel.shape, 1.0, tl.float32)
    bias = tl.full(channel.shape, 0.0, tl.float32)
    if weight_ptr is not None:
        weight = tl.load(weight_ptr + channel, mask=exists, other=1.0).to(tl.float32)
    if bias_ptr is not None:
        bias = tl.load(bias_ptr + channel, mask=exists, other=0.0).to(tl.float32)
    return weight, bias

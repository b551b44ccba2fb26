"""Backward kernels: sums over each split, then merge and the gradient of the input."""

import triton
import triton.language as tl

from initbench_kernels.batch_norm_relu.tile_kernels import (
    SIZES,
    affine_of,
    channels_of,
    channels_of_lanes,
    program_of,
    signs_at,
    spread_to_lanes,
    sum_to_channels,
    tile_at,
    tile_count,
    unpack_signs,
)


@triton.jit(do_not_specialize=SIZES)
def batch_norm_relu_bwd_reduce_kernel(
    x_ptr, signs_ptr, dy_ptr, g_ptr, dx_ptr, weight_ptr, bias_ptr, stats_ptr, partials_ptr,
    rows, channels, row_units, width_units, tail_units, block_channels, splits, tiles_per_program,
    ALIGN: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_L: tl.constexpr, BLOCK_CH: tl.constexpr,
    CHANNEL_OF: tl.constexpr,
):  # fmt: skip
    """Write sum g and sum g * (x - mean) of one split of one block's channels to partials [2, splits, C].

    g is dy where the pre-activation is not <= 0. The pre-activation is computed again from x, or, where a residual
    took part in it, the forward pass has saved where: one bit per element. Then g_ptr takes g, the residual's gradient.
    In evaluation the statistics do not depend on x: dx_ptr takes dx = weight * rstd * g at once.
    Any of signs_ptr, g_ptr, dx_ptr and partials_ptr may be None. Traffic: 2R, with a residual the signs and 1W more;
    dx adds 1W.
    """
    block, split = program_of(channels, block_channels)
    # Nothing has to be merged before the loop, so each lane loads the numbers of its channel directly.
    lane_channel, lane_exists = channels_of_lanes(
        block, channels, width_units, block_channels, ALIGN, BLOCK_L, CHANNEL_OF
    )
    mean = tl.load(stats_ptr + lane_channel, mask=lane_exists, other=0.0)
    rstd = tl.load(stats_ptr + channels + lane_channel, mask=lane_exists, other=0.0)
    weight, bias = affine_of(weight_ptr, bias_ptr, lane_channel, lane_exists)
    scale = rstd * weight

    lane_g = tl.zeros([BLOCK_N, BLOCK_L], dtype=tl.float32)
    lane_gx = tl.zeros([BLOCK_N, BLOCK_L], dtype=tl.float32)
    first = split * tiles_per_program
    stop = tl.minimum(first + tiles_per_program, tile_count(rows, width_units, ALIGN, BLOCK_N, BLOCK_L))
    for tile in range(first, stop):
        offsets, mask = tile_at(
            tile, block, rows, row_units, width_units, tail_units, ALIGN, BLOCK_N, BLOCK_L, CHANNEL_OF
        )
        # A lane without an element has dy = 0 and adds nothing.
        dy = tl.load(dy_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
        x = tl.load(x_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
        if signs_ptr is not None:
            bytes_at, exist = signs_at(
                tile, block, rows, row_units, width_units, tail_units, ALIGN, BLOCK_N, BLOCK_L, CHANNEL_OF
            )
            signs = tl.load(signs_ptr + bytes_at, mask=exist, other=0)
            g = tl.where(unpack_signs(signs, BLOCK_N, BLOCK_L), dy, 0.0)
        else:
            g = tl.where((x - mean) * scale + bias <= 0, 0.0, dy)
        if g_ptr is not None:
            tl.store(g_ptr + offsets, g, mask=mask)
        if dx_ptr is not None:
            tl.store(dx_ptr + offsets, scale * g, mask=mask)
        if partials_ptr is not None:
            lane_g += g
            lane_gx += g * (x - mean)

    if partials_ptr is not None:
        sum_g = sum_to_channels(lane_g, channels, width_units, block_channels, ALIGN, BLOCK_L, BLOCK_CH, CHANNEL_OF)
        sum_gx = sum_to_channels(lane_gx, channels, width_units, block_channels, ALIGN, BLOCK_L, BLOCK_CH, CHANNEL_OF)
        channel, exists = channels_of(block, channels, block_channels, BLOCK_CH)
        out = partials_ptr + split.to(tl.int64) * channels + channel
        tl.store(out, sum_g, mask=exists)
        tl.store(out + splits.to(tl.int64) * channels, sum_gx, mask=exists)


@triton.jit
def merge_sums(partials_ptr, splits, channels, channel, exists, BLOCK_K: tl.constexpr, BLOCK_CH: tl.constexpr):
    """Add up the two partial sums of all splits, always in the same order; return them per channel [BLOCK_CH]."""
    plane = splits.to(tl.int64) * channels
    sum_g = tl.zeros([BLOCK_K, BLOCK_CH], dtype=tl.float32)
    sum_gx = tl.zeros([BLOCK_K, BLOCK_CH], dtype=tl.float32)
    for start in range(0, splits, BLOCK_K):
        split = start + tl.arange(0, BLOCK_K)
        mask = (split < splits)[:, None] & exists[None, :]
        at = partials_ptr + split.to(tl.int64)[:, None] * channels + channel[None, :]
        sum_g += tl.load(at, mask=mask, other=0.0)
        sum_gx += tl.load(at + plane, mask=mask, other=0.0)
    return tl.sum(sum_g, 0), tl.sum(sum_gx, 0)


@triton.jit(do_not_specialize=SIZES)
def batch_norm_relu_bwd_dx_kernel(
    x_ptr, dy_ptr, dx_ptr, weight_ptr, bias_ptr, stats_ptr, partials_ptr, dweight_ptr, dbias_ptr,
    inverse_count,
    rows, channels, row_units, width_units, tail_units, block_channels, splits, tiles_per_program,
    ALIGN: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_L: tl.constexpr, BLOCK_CH: tl.constexpr,
    CHANNEL_OF: tl.constexpr, BLOCK_K: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Write dx = weight * rstd * (g - dbias / M - x_hat * dweight / M) of one split of one block.

    Every program merges the partials of its channels; the first of a block writes dweight and dbias. dx_ptr None asks
    for these alone. MASKED says that dy_ptr already holds g; inverse_count is 1 / M.
    Traffic: 2R + 1W.
    """
    block, split = program_of(channels, block_channels)
    channel, exists = channels_of(block, channels, block_channels, BLOCK_CH)
    dbias, sum_gx = merge_sums(partials_ptr, splits, channels, channel, exists, BLOCK_K, BLOCK_CH)
    dweight = sum_gx * tl.load(stats_ptr + channels + channel, mask=exists, other=0.0)
    if split == 0:
        if dweight_ptr is not None:
            tl.store(dweight_ptr + channel, dweight, mask=exists)
        if dbias_ptr is not None:
            tl.store(dbias_ptr + channel, dbias, mask=exists)

    if dx_ptr is not None:
        lane_channel, lane_exists = channels_of_lanes(
            block, channels, width_units, block_channels, ALIGN, BLOCK_L, CHANNEL_OF
        )
        mean = tl.load(stats_ptr + lane_channel, mask=lane_exists, other=0.0)
        rstd = tl.load(stats_ptr + channels + lane_channel, mask=lane_exists, other=0.0)
        weight, bias = affine_of(weight_ptr, bias_ptr, lane_channel, lane_exists)
        scale = rstd * weight
        mean_g = spread_to_lanes(
            dbias * inverse_count, channels, width_units, block_channels, ALIGN, BLOCK_L, BLOCK_CH, CHANNEL_OF
        )
        slope = rstd * spread_to_lanes(
            dweight * inverse_count, channels, width_units, block_channels, ALIGN, BLOCK_L, BLOCK_CH, CHANNEL_OF
        )
        first = split * tiles_per_program
        stop = tl.minimum(first + tiles_per_program, tile_count(rows, width_units, ALIGN, BLOCK_N, BLOCK_L))
        for tile in range(first, stop):
            offsets, mask = tile_at(
                tile, block, rows, row_units, width_units, tail_units, ALIGN, BLOCK_N, BLOCK_L, CHANNEL_OF
            )
            x = tl.load(x_ptr + offsets, mask=mask).to(tl.float32)
            g = tl.load(dy_ptr + offsets, mask=mask).to(tl.float32)
            centred = x - mean
            if not MASKED:
                g = tl.where(centred * scale + bias <= 0, 0.0, g)
            tl.store(dx_ptr + offsets, scale * (g - mean_g - centred * slope), mask=mask)

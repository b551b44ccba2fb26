"""Forward kernels: statistics of each split, then merge, normalize and ReLU."""

import triton
import triton.language as tl

from initbench_kernels.batch_norm_relu.tile_kernels import (
    SIZES,
    affine_of,
    channels_of,
    pack_signs,
    program_of,
    signs_at,
    spread_to_lanes,
    sum_to_channels,
    tile_at,
    tile_count,
    valid_steps,
)


@triton.jit(do_not_specialize=SIZES)
def batch_norm_relu_fwd_stats_kernel(
    x_ptr, partials_ptr, num_batches_tracked_ptr,
    rows, channels, row_units, width_units, tail_units, block_channels, splits, tiles_per_program,
    ALIGN: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_L: tl.constexpr, BLOCK_CH: tl.constexpr,
    CHANNEL_OF: tl.constexpr,
):  # fmt: skip
    """Write (count, mean, M2) of one split of one block's channels to partials [3, splits, C].

    Each lane runs Welford's update over the program's tiles; the lanes of a channel are merged at the end.
    Traffic: 1R. Program 0 also adds 1 to num_batches_tracked, which the next launch reads.
    """
    block, split = program_of(channels, block_channels)
    if num_batches_tracked_ptr is not None:
        first_program = tl.program_id(0) == 0
        batches = tl.load(num_batches_tracked_ptr, mask=first_program, other=0)
        tl.store(num_batches_tracked_ptr, batches + 1, mask=first_program)

    first = split * tiles_per_program
    stop = tl.minimum(first + tiles_per_program, tile_count(rows, width_units, ALIGN, BLOCK_N, BLOCK_L))
    lane_mean = tl.zeros([BLOCK_N, BLOCK_L], dtype=tl.float32)
    lane_m2 = tl.zeros([BLOCK_N, BLOCK_L], dtype=tl.float32)
    for tile in range(first, stop):
        offsets, mask = tile_at(
            tile, block, rows, row_units, width_units, tail_units, ALIGN, BLOCK_N, BLOCK_L, CHANNEL_OF
        )
        x = tl.load(x_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
        # A valid lane has been valid in every step so far, so the number of steps is its count.
        delta = tl.where(mask, x - lane_mean, 0.0)
        lane_mean += delta * (1.0 / (tile - first + 1).to(tl.float32))
        lane_m2 += delta * (x - lane_mean)

    lane_count = valid_steps(
        first, stop - 1, block, rows, row_units, width_units, tail_units, ALIGN, BLOCK_N, BLOCK_L, CHANNEL_OF
    )
    count = sum_to_channels(lane_count, channels, width_units, block_channels, ALIGN, BLOCK_L, BLOCK_CH, CHANNEL_OF)
    share = 1.0 / tl.maximum(count, 1.0)
    mean = share * sum_to_channels(
        lane_count * lane_mean, channels, width_units, block_channels, ALIGN, BLOCK_L, BLOCK_CH, CHANNEL_OF
    )
    # The sum above rounds at the size of the mean; the sum of what is left over rounds at the size of the spread.
    off = lane_mean - spread_to_lanes(mean, channels, width_units, block_channels, ALIGN, BLOCK_L, BLOCK_CH, CHANNEL_OF)
    mean += share * sum_to_channels(
        lane_count * off, channels, width_units, block_channels, ALIGN, BLOCK_L, BLOCK_CH, CHANNEL_OF
    )
    off = lane_mean - spread_to_lanes(mean, channels, width_units, block_channels, ALIGN, BLOCK_L, BLOCK_CH, CHANNEL_OF)
    m2 = sum_to_channels(
        tl.where(lane_count > 0, lane_m2 + lane_count * off * off, 0.0),
        channels, width_units, block_channels, ALIGN, BLOCK_L, BLOCK_CH, CHANNEL_OF,
    )  # fmt: skip

    channel, exists = channels_of(block, channels, block_channels, BLOCK_CH)
    plane = splits.to(tl.int64) * channels
    out = partials_ptr + split.to(tl.int64) * channels + channel
    tl.store(out, count, mask=exists)
    tl.store(out + plane, mean, mask=exists)
    tl.store(out + 2 * plane, m2, mask=exists)


@triton.jit
def merge_statistics(partials_ptr, splits, channels, channel, exists, BLOCK_K: tl.constexpr, BLOCK_CH: tl.constexpr):
    """Merge the (count, mean, M2) of all splits, by Chan's formula; return them for each channel [BLOCK_CH].

    Source: Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances", 1979.
    """
    plane = splits.to(tl.int64) * channels
    count = tl.zeros([BLOCK_K, BLOCK_CH], dtype=tl.float32)
    mean = tl.zeros([BLOCK_K, BLOCK_CH], dtype=tl.float32)
    m2 = tl.zeros([BLOCK_K, BLOCK_CH], dtype=tl.float32)
    for start in range(0, splits, BLOCK_K):
        split = start + tl.arange(0, BLOCK_K)
        mask = (split < splits)[:, None] & exists[None, :]
        at = partials_ptr + split.to(tl.int64)[:, None] * channels + channel[None, :]
        new_count = tl.load(at, mask=mask, other=0.0)
        new_mean = tl.load(at + plane, mask=mask, other=0.0)
        new_m2 = tl.load(at + 2 * plane, mask=mask, other=0.0)
        share = new_count / tl.maximum(count + new_count, 1.0)
        delta = new_mean - mean
        mean += delta * share
        m2 += new_m2 + delta * delta * count * share
        count += new_count
    total = tl.maximum(tl.sum(count, 0), 1.0)
    weight = count / total[None, :]
    merged = tl.sum(weight * mean, 0)
    # As in the first kernel: the correction is exact to the size of the spread.
    merged += tl.sum(weight * (mean - merged[None, :]), 0)
    off = mean - merged[None, :]
    return total, merged, tl.sum(m2 + count * off * off, 0)


@triton.jit(do_not_specialize=SIZES)
def batch_norm_relu_fwd_normalize_kernel(
    x_ptr, residual_ptr, y_ptr, signs_ptr, weight_ptr, bias_ptr,
    partials_ptr, fixed_mean_ptr, fixed_var_ptr, running_mean_ptr, running_var_ptr, num_batches_tracked_ptr, stats_ptr,
    momentum, eps,
    rows, channels, row_units, width_units, tail_units, block_channels, splits, tiles_per_program,
    ALIGN: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_L: tl.constexpr, BLOCK_CH: tl.constexpr,
    CHANNEL_OF: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Write y = relu((x - mean) * rstd * weight + bias + residual) of one split of one block.

    partials_ptr None means evaluation: mean and variance are the fixed ones. Otherwise every program merges the
    partials of its channels, and the first program of a block updates the running statistics (where given) with
    momentum, or with 1 / num_batches_tracked (the cumulative average) where that pointer is given. The first program
    of a block also writes stats [2, C] = mean, rstd in float32.
    signs_ptr, where given, takes one bit per element: whether its y lets a gradient pass.
    Traffic: 1R (2R with a residual) + 1W, and the signs.
    """
    block, split = program_of(channels, block_channels)
    channel, exists = channels_of(block, channels, block_channels, BLOCK_CH)
    if partials_ptr is not None:
        count, mean, m2 = merge_statistics(partials_ptr, splits, channels, channel, exists, BLOCK_K, BLOCK_CH)
        var = m2 / count
        if split == 0:
            factor = momentum
            if num_batches_tracked_ptr is not None:
                factor = 1.0 / tl.load(num_batches_tracked_ptr).to(tl.float32)
            if running_mean_ptr is not None:
                old = tl.load(running_mean_ptr + channel, mask=exists).to(tl.float32)
                tl.store(running_mean_ptr + channel, (1.0 - factor) * old + factor * mean, mask=exists)
            if running_var_ptr is not None:
                old = tl.load(running_var_ptr + channel, mask=exists).to(tl.float32)
                unbiased = m2 / tl.maximum(count - 1.0, 1.0)
                tl.store(running_var_ptr + channel, (1.0 - factor) * old + factor * unbiased, mask=exists)
    else:
        mean = tl.load(fixed_mean_ptr + channel, mask=exists, other=0.0).to(tl.float32)
        var = tl.load(fixed_var_ptr + channel, mask=exists, other=0.0).to(tl.float32)
    rstd = 1.0 / tl.sqrt_rn(var + eps)
    if split == 0:
        tl.store(stats_ptr + channel, mean, mask=exists)
        tl.store(stats_ptr + channels + channel, rstd, mask=exists)

    weight, bias = affine_of(weight_ptr, bias_ptr, channel, exists)
    mean = spread_to_lanes(mean, channels, width_units, block_channels, ALIGN, BLOCK_L, BLOCK_CH, CHANNEL_OF)
    scale = spread_to_lanes(rstd * weight, channels, width_units, block_channels, ALIGN, BLOCK_L, BLOCK_CH, CHANNEL_OF)
    bias = spread_to_lanes(bias, channels, width_units, block_channels, ALIGN, BLOCK_L, BLOCK_CH, CHANNEL_OF)
    first = split * tiles_per_program
    stop = tl.minimum(first + tiles_per_program, tile_count(rows, width_units, ALIGN, BLOCK_N, BLOCK_L))
    for tile in range(first, stop):
        offsets, mask = tile_at(
            tile, block, rows, row_units, width_units, tail_units, ALIGN, BLOCK_N, BLOCK_L, CHANNEL_OF
        )
        x = tl.load(x_ptr + offsets, mask=mask).to(tl.float32)
        z = (x - mean) * scale + bias
        if residual_ptr is not None:
            z += tl.load(residual_ptr + offsets, mask=mask).to(tl.float32)
        y = tl.maximum(z, 0.0, propagate_nan=tl.PropagateNan.ALL).to(y_ptr.dtype.element_ty)
        tl.store(y_ptr + offsets, y, mask=mask)
        if signs_ptr is not None:
            # Of y as it is stored: as in PyTorch, what rounds to 0 passes nothing, and NaN passes.
            passes = mask & ~(y.to(tl.float32) <= 0)
            bytes_at, exist = signs_at(
                tile, block, rows, row_units, width_units, tail_units, ALIGN, BLOCK_N, BLOCK_L, CHANNEL_OF
            )
            tl.store(signs_ptr + bytes_at, pack_signs(passes, BLOCK_N, BLOCK_L), mask=exist)

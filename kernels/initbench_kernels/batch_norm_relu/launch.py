"""Launches of the kernels: tuning tables, grids, output buffers.

Importing this module imports Triton. Its functions take inputs that `function.py` has checked and made dense.
"""

import contextlib
import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor

from initbench_kernels.batch_norm_relu.bwd_kernels import (
    batch_norm_relu_bwd_dx_kernel,
    batch_norm_relu_bwd_reduce_kernel,
)
from initbench_kernels.batch_norm_relu.fwd_kernels import (
    batch_norm_relu_fwd_normalize_kernel,
    batch_norm_relu_fwd_stats_kernel,
)
from initbench_kernels.batch_norm_relu.layout import Layout, layout_of
from initbench_kernels.batch_norm_relu.signs import num_bytes
from initbench_kernels.batch_norm_relu.tiling import MIN_ELEMENTS, Tiling, tiling_of
from initbench_kernels.builds import warp_size


class Tile(NamedTuple):
    """One row of the tuning table.

    Attributes:
        num_bytes: size of a tile of the input.
        threads: per program; warps follow from the device, whose warps are of 32 (NVIDIA) or 64 threads (AMD).
        programs: programs per multiprocessor that a grid aims at.
    """

    num_bytes: int
    threads: int
    programs: int


# Static, so that no shape is ever re-tuned and no kernel that updates running statistics is run twice. Chosen from
# register counts of offline builds (sm_80 to sm_100, 2026-11); not yet timed on any device. "wide" serves tensors
# whose rows and channel blocks are multiples of 4 elements; elsewhere every element has an address in registers.
# To be timed first: registers let 2 to 6 programs live on a multiprocessor of sm_90, so that a grid of 4 may end in a
# wave that is partly empty; and a program has one tile in flight, for the next one is not fetched ahead.
TILES = {
    ("fwd_stats", "wide"): Tile(num_bytes=8192, threads=256, programs=4),
    ("fwd_stats", "narrow"): Tile(num_bytes=2048, threads=256, programs=4),
    ("fwd_normalize", "wide"): Tile(num_bytes=8192, threads=256, programs=4),
    ("fwd_normalize", "narrow"): Tile(num_bytes=4096, threads=256, programs=4),
    ("bwd_reduce", "wide"): Tile(num_bytes=4096, threads=256, programs=4),
    ("bwd_reduce", "narrow"): Tile(num_bytes=2048, threads=256, programs=4),
    ("bwd_dx", "wide"): Tile(num_bytes=8192, threads=256, programs=4),
    ("bwd_dx", "narrow"): Tile(num_bytes=4096, threads=256, programs=4),
}

# What the interpreter pretends to run on: enough for several splits of small tensors.
INTERPRETED_MULTIPROCESSORS = 2


@functools.cache
def _multiprocessors(device: torch.device) -> int:
    if device.type != "cuda":
        return INTERPRETED_MULTIPROCESSORS
    return torch.cuda.get_device_properties(device).multi_processor_count


def _guard(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Make `device` the current one, where Triton launches: a tensor may lie on a second GPU."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def sizes_of(tiling: Tiling, splits: int, tiles_per_program: int) -> tuple[int, ...]:
    """Return the run-time integers that end every kernel's argument list (`tile_kernels.SIZES`)."""
    align = tiling.align
    return (
        tiling.rows,
        tiling.channels,
        tiling.row_stride // align,
        tiling.width // align,
        tiling.tail // align,
        tiling.block_channels,
        splits,
        tiles_per_program,
    )


def constants_of(tiling: Tiling) -> dict[str, int | str]:
    """Return the constexprs that every kernel takes."""
    return {
        "ALIGN": tiling.align,
        "BLOCK_N": tiling.block_n,
        "BLOCK_L": tiling.block_l,
        "BLOCK_CH": tiling.block_ch,
        "CHANNEL_OF": tiling.channel_of,
    }


def merge_rows(tiling: Tiling) -> int:
    """Return BLOCK_K, the partials per channel that a merging program reads at a time."""
    return min(128, 2048 // tiling.block_ch)


class _Plan(NamedTuple):
    tiling: Tiling
    splits: int
    tiles_per_program: int
    num_warps: int

    def launch(self, kernel: Any, *args: Any, merge_splits: int | None = None, **constants: Any) -> None:
        """Launch over all blocks and splits; `merge_splits` is the number of partials, where that is another."""
        grid = (self.tiling.blocks * self.splits,)
        sizes = sizes_of(self.tiling, merge_splits or self.splits, self.tiles_per_program)
        # Fusion of multiply and add is the default; Triton 3.9 warns where it is left to that.
        options = {"num_warps": self.num_warps, "enable_fp_fusion": True}
        kernel[grid](*args, *sizes, **constants_of(self.tiling), **constants, **options)


def choose(name: str, layout: Layout, itemsize: int) -> tuple[Tile, Tiling]:
    """Return the row of the tuning table that serves a pass over a tensor, and the tiles it cuts."""
    for width in ("wide", "narrow"):
        tile = TILES[name, width]
        tiling = tiling_of(layout, max(MIN_ELEMENTS, tile.num_bytes // itemsize))
        if tiling.align >= 4:
            break
    return tile, tiling


@functools.lru_cache(maxsize=4096)
def _plan(name: str, layout: Layout, itemsize: int, device: torch.device, merged: bool) -> _Plan:
    tile, tiling = choose(name, layout, itemsize)
    splits, tiles_per_program = tiling.split(tile.programs * _multiprocessors(device), merged=merged)
    return _Plan(tiling, splits, tiles_per_program, tile.threads // warp_size())


def forward(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    fixed_mean: Tensor | None,
    fixed_var: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    num_batches_tracked: Tensor | None,
    momentum: float | None,
    eps: float,
    save_signs: bool,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Run the forward pass: one launch in evaluation, two in training.

    Args:
        x: [N, C, ...] dense, not empty.
        residual: with the strides of `x`, or None.
        weight: contiguous [C] or None.
        bias: contiguous [C] or None.
        fixed_mean: contiguous [C] mean to normalize with (evaluation); None means the batch's own statistics.
        fixed_var: contiguous [C] variance to normalize with, where `fixed_mean` is given.
        running_mean: contiguous [C] to update, or None.
        running_var: contiguous [C] to update, or None.
        num_batches_tracked: int64 scalar to increment, or None.
        momentum: of the update; None means the cumulative average, 1 / num_batches_tracked.
        eps: added to the variance.
        save_signs: whether the backward pass will need the signs of y, as it does after a residual.

    Returns:
        y as `x`; stats [2, C] = mean, rstd in float32; the signs of y, uint8, one bit per element (see `signs`), or
        None.
    """
    layout = layout_of(x)
    assert layout is not None
    training = fixed_mean is None
    channels = x.shape[1]
    with _guard(x.device):
        y = torch.empty_like(x)
        stats = torch.empty(2, channels, dtype=torch.float32, device=x.device)
        signs = torch.empty(num_bytes(x), dtype=torch.uint8, device=x.device) if save_signs else None
        normalize = _plan("fwd_normalize", layout, x.itemsize, x.device, training)
        partials = None
        merge_splits = normalize.splits
        if training:
            plan = _plan("fwd_stats", layout, x.itemsize, x.device, True)
            merge_splits = plan.splits
            partials = torch.empty(3, merge_splits, channels, dtype=torch.float32, device=x.device)
            plan.launch(batch_norm_relu_fwd_stats_kernel, x, partials, num_batches_tracked)
        normalize.launch(
            batch_norm_relu_fwd_normalize_kernel,
            x, residual, y, signs, weight, bias,
            partials, fixed_mean, fixed_var, running_mean, running_var,
            num_batches_tracked if momentum is None else None, stats,
            # An integer would be compiled in as another type.
            0.0 if momentum is None else float(momentum), float(eps),
            merge_splits=merge_splits, BLOCK_K=merge_rows(normalize.tiling),
        )  # fmt: skip
    return y, stats, signs


def backward(
    dy: Tensor,
    x: Tensor,
    signs: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    stats: Tensor,
    training: bool,
    need_dx: bool,
    need_dparams: bool,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Run the backward pass: two launches, one where evaluation needs no parameter gradient.

    Args:
        dy: with the strides of `x`.
        x: as in `forward`.
        signs: what `forward` returned, where a residual took part; else None.
        weight: as in `forward`.
        bias: as in `forward`.
        stats: what `forward` returned.
        training: whether the statistics were the batch's own.
        need_dx: whether to compute dx.
        need_dparams: whether to compute dweight and dbias.

    Returns:
        dx as `x`; dparams [2, C] = dweight, dbias in the parameters' dtype; dresidual as `x`. None where not needed.
    """
    layout = layout_of(x)
    assert layout is not None
    channels = x.shape[1]
    dx = torch.empty_like(x) if need_dx else None
    g = torch.empty_like(x) if signs is not None else None
    dparams = None
    if need_dparams:
        dtype = next((p.dtype for p in (weight, bias) if p is not None), torch.float32)
        dparams = torch.empty(2, channels, dtype=dtype, device=x.device)
    merged = need_dparams or (training and need_dx)
    with _guard(x.device):
        reduce = _plan("bwd_reduce", layout, x.itemsize, x.device, merged)
        partials = None
        if merged:
            partials = torch.empty(2, reduce.splits, channels, dtype=torch.float32, device=x.device)
        reduce.launch(
            batch_norm_relu_bwd_reduce_kernel,
            x, signs, dy, g, None if training else dx, weight, bias, stats, partials,
        )  # fmt: skip
        if merged:
            second = _plan("bwd_dx", layout, x.itemsize, x.device, True)
            dx_out = dx if training else None
            if dx_out is None:
                second = second._replace(splits=1)
            second.launch(
                batch_norm_relu_bwd_dx_kernel,
                x, dy if g is None else g, dx_out, weight, bias, stats, partials,
                *((None, None) if dparams is None else dparams.unbind()),
                channels / x.numel(),
                merge_splits=reduce.splits, BLOCK_K=merge_rows(second.tiling), MASKED=g is not None,
            )  # fmt: skip
    return dx, dparams, g

"""Builds of the kernels for every row of the tuning tables: what `static_cost` compiles. Imports Triton."""

from collections.abc import Iterator, Mapping
from typing import Any

from initbench_kernels.batch_norm_relu import launch
from initbench_kernels.batch_norm_relu.bwd_kernels import (
    batch_norm_relu_bwd_dx_kernel,
    batch_norm_relu_bwd_reduce_kernel,
)
from initbench_kernels.batch_norm_relu.fwd_kernels import (
    batch_norm_relu_fwd_normalize_kernel,
    batch_norm_relu_fwd_stats_kernel,
)
from initbench_kernels.batch_norm_relu.layout import Layout
from initbench_kernels.batch_norm_relu.tile_kernels import SIZES
from initbench_kernels.batch_norm_relu.tiling import Tiling
from initbench_kernels.builds import Build

# One layout for each way to cut a tensor, and for each alignment that real shapes have.
LAYOUTS = {
    "rows_64": Layout(65536, 64, 1),
    "rows_1024": Layout(65536, 1024, 1),
    "rows_411_unaligned": Layout(65536, 411, 1),
    "rows_3_folded": Layout(65536, 3, 1),
    "rows_18_folded": Layout(65536, 18, 1),
    "rows_32_folded": Layout(65536, 32, 1),
    "planes_7x7": Layout(32, 512, 49),
    "planes_14x14": Layout(32, 256, 196),
    "planes_28x28": Layout(32, 128, 784),
    "planes_56x56": Layout(32, 64, 3136),
    "planes_112x112": Layout(32, 64, 12544),
    "planes_17x17_unaligned": Layout(31, 33, 289),
    "one_sample_large": Layout(1, 8, 65536),
}
BITS = {"bf16": 16, "fp32": 32}


def _build(label: str, kernel: Any, choice: tuple[launch.Tile, Tiling], dtype: str, pointers: Mapping[str, str | None],
           scalars: dict[str, str], constants: dict[str, Any], tensors: tuple[int, int]) -> Build:  # fmt: skip
    """Assemble a build; `tensors` is how many full tensors it loads and stores."""
    tile, tiling = choice
    tile_bits = tiling.block_n * tiling.block_l * BITS[dtype]
    arguments = {pointer: f"*{kind}" for pointer, kind in pointers.items() if kind is not None}
    arguments |= scalars | dict.fromkeys(SIZES, "i32")
    absent = {pointer: None for pointer, kind in pointers.items() if kind is None}
    return Build(
        kernel=kernel,
        name=f"{label}-{dtype}",
        arguments=arguments,
        constants=launch.constants_of(tiling) | absent | constants,
        num_warps=tile.num_warps,
        tile_bits={"load": tensors[0] * tile_bits, "store": tensors[1] * tile_bits},
        access_bits=min(128, tiling.align * BITS[dtype]),
    )


def _builds_of(label: str, layout: Layout, dtype: str) -> Iterator[Build]:
    stats, normalize, reduce, dx = (
        launch.choose(name, layout, BITS[dtype] // 8) for name in ("fwd_stats", "fwd_normalize", "bwd_reduce", "bwd_dx")
    )
    yield _build(
        f"stats-{label}", batch_norm_relu_fwd_stats_kernel, stats, dtype,
        {"x_ptr": dtype, "partials_ptr": "fp32", "num_batches_tracked_ptr": "i64"}, {}, {}, (1, 0),
    )  # fmt: skip
    affine: dict[str, str | None] = {"weight_ptr": "fp32", "bias_ptr": "fp32"}
    for mode in ("train", "eval", "residual"):
        batch, fixed = (None, "fp32") if mode == "eval" else ("fp32", None)
        statistics: dict[str, str | None] = {"partials_ptr": batch, "running_mean_ptr": batch, "running_var_ptr": batch,
                      "fixed_mean_ptr": fixed, "fixed_var_ptr": fixed, "num_batches_tracked_ptr": None}  # fmt: skip
        residual = dtype if mode == "residual" else None
        yield _build(
            f"normalize_{mode}-{label}", batch_norm_relu_fwd_normalize_kernel, normalize, dtype,
            {"x_ptr": dtype, "residual_ptr": residual, "y_ptr": dtype, "stats_ptr": "fp32"} | statistics | affine,
            {"momentum": "fp32", "eps": "fp32"}, {"BLOCK_K": launch.merge_rows(normalize[1])},
            (2 if residual else 1, 1),
        )  # fmt: skip
        g, early_dx = residual, dtype if mode == "eval" else None
        yield _build(
            f"reduce_{mode}-{label}", batch_norm_relu_bwd_reduce_kernel, reduce, dtype,
            {"x_ptr": dtype, "y_ptr": residual, "dy_ptr": dtype, "g_ptr": g, "dx_ptr": early_dx, "stats_ptr": "fp32",
             "partials_ptr": "fp32"} | affine,
            {}, {}, (3 if residual else 2, 0 if g is None and early_dx is None else 1),
        )  # fmt: skip
    for masked in (False, True):
        yield _build(
            f"dx{'_masked' if masked else ''}-{label}", batch_norm_relu_bwd_dx_kernel, dx, dtype,
            {"x_ptr": dtype, "dy_ptr": dtype, "dx_ptr": dtype, "stats_ptr": "fp32", "partials_ptr": "fp32",
             "dweight_ptr": "fp32", "dbias_ptr": "fp32"} | affine,
            {"inverse_count": "fp32"}, {"BLOCK_K": launch.merge_rows(dx[1]), "MASKED": masked}, (2, 1),
        )  # fmt: skip


def builds() -> Iterator[Build]:
    """Yield every kernel, for each layout and each width of element."""
    for label, layout in LAYOUTS.items():
        for dtype in BITS:
            yield from _builds_of(label, layout, dtype)

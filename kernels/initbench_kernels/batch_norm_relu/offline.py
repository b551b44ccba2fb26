"""What `static_cost` compiles and interprets: every row of the tuning tables, every pass. Imports Triton."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from initbench_kernels.batch_norm_relu import launch
from initbench_kernels.batch_norm_relu.bwd_kernels import (
    batch_norm_relu_bwd_dx_kernel,
    batch_norm_relu_bwd_reduce_kernel,
)
from initbench_kernels.batch_norm_relu.function import batch_norm_relu
from initbench_kernels.batch_norm_relu.fwd_kernels import (
    batch_norm_relu_fwd_normalize_kernel,
    batch_norm_relu_fwd_stats_kernel,
)
from initbench_kernels.batch_norm_relu.layout import Layout
from initbench_kernels.batch_norm_relu.tile_kernels import SIZES
from initbench_kernels.batch_norm_relu.tiling import Tiling
from initbench_kernels.builds import Build, Run

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
    "planes_56x56": Layout(32, 64, 3136),
    "planes_17x17_unaligned": Layout(31, 33, 289),
    "one_sample_large": Layout(1, 8, 65536),
}
BITS = {"bf16": 16, "fp32": 32}


def _build(label: str, kernel: Any, choice: tuple[launch.Tile, Tiling], dtype: str, pointers: Mapping[str, str | None],
           scalars: dict[str, str], constants: dict[str, Any], tensors: tuple[int, int]) -> Build:  # fmt: skip
    """Assemble a build; `tensors` is how many full tensors it loads and stores."""
    tile, tiling = choice
    arguments = {pointer: f"*{kind}" for pointer, kind in pointers.items() if kind is not None}
    arguments |= scalars | dict.fromkeys(SIZES, "i32")
    absent = {pointer: None for pointer, kind in pointers.items() if kind is None}
    return Build(
        kernel=kernel,
        name=f"{label}-{dtype}",
        arguments=arguments,
        constants=launch.constants_of(tiling) | absent | constants,
        threads=tile.threads,
        tile_bits=tiling.block_n * tiling.block_l * BITS[dtype],
        tile_loads=tensors[0],
        tile_stores=tensors[1],
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
        residual, signs = (dtype, "u8") if mode == "residual" else (None, None)
        yield _build(
            f"normalize_{mode}-{label}", batch_norm_relu_fwd_normalize_kernel, normalize, dtype,
            {"x_ptr": dtype, "residual_ptr": residual, "y_ptr": dtype, "signs_ptr": signs, "stats_ptr": "fp32"}
            | statistics | affine,
            {"momentum": "fp32", "eps": "fp32"}, {"BLOCK_K": launch.merge_rows(normalize[1])},
            (2 if residual else 1, 1),
        )  # fmt: skip
        g, early_dx = residual, dtype if mode == "eval" else None
        yield _build(
            f"reduce_{mode}-{label}", batch_norm_relu_bwd_reduce_kernel, reduce, dtype,
            {"x_ptr": dtype, "signs_ptr": signs, "dy_ptr": dtype, "g_ptr": g, "dx_ptr": early_dx, "stats_ptr": "fp32",
             "partials_ptr": "fp32"} | affine,
            {}, {}, (2, 0 if g is None and early_dx is None else 1),
        )  # fmt: skip
    for masked in (False, True):
        yield _build(
            f"dx{'_masked' if masked else ''}-{label}", batch_norm_relu_bwd_dx_kernel, dx, dtype,
            {"x_ptr": dtype, "dy_ptr": dtype, "dx_ptr": dtype, "stats_ptr": "fp32", "partials_ptr": "fp32",
             "dweight_ptr": "fp32", "dbias_ptr": "fp32"} | affine,
            {"inverse_count": "fp32"}, {"BLOCK_K": launch.merge_rows(dx[1]), "MASKED": masked}, (2, 1),
        )  # fmt: skip


def _optional_arguments(label: str, layout: Layout, dtype: str) -> Iterator[Build]:
    """Yield what the passes leave out or add: no parameters, half-precision ones, the cumulative average, no dx."""
    normalize, reduce, dx = (
        launch.choose(name, layout, BITS[dtype] // 8) for name in ("fwd_normalize", "bwd_reduce", "bwd_dx")
    )
    absent = dict.fromkeys(("weight_ptr", "bias_ptr", "residual_ptr", "signs_ptr", "fixed_mean_ptr", "fixed_var_ptr"))
    yield _build(
        f"normalize_cumulative-{label}", batch_norm_relu_fwd_normalize_kernel, normalize, dtype,
        absent | {"x_ptr": dtype, "y_ptr": dtype, "stats_ptr": "fp32", "partials_ptr": "fp32",
                  "running_mean_ptr": dtype, "running_var_ptr": dtype, "num_batches_tracked_ptr": "i64"},
        {"momentum": "fp32", "eps": "fp32"}, {"BLOCK_K": launch.merge_rows(normalize[1])}, (1, 1),
    )  # fmt: skip
    yield _build(
        f"reduce_input_only-{label}", batch_norm_relu_bwd_reduce_kernel, reduce, dtype,
        {"x_ptr": dtype, "signs_ptr": None, "dy_ptr": dtype, "g_ptr": None, "dx_ptr": dtype, "stats_ptr": "fp32",
         "partials_ptr": None, "weight_ptr": dtype, "bias_ptr": dtype},
        {}, {}, (2, 1),
    )  # fmt: skip
    yield _build(
        f"dx_parameters_only-{label}", batch_norm_relu_bwd_dx_kernel, dx, dtype,
        {"x_ptr": dtype, "dy_ptr": dtype, "dx_ptr": None, "stats_ptr": "fp32", "partials_ptr": "fp32",
         "dweight_ptr": dtype, "dbias_ptr": dtype, "weight_ptr": dtype, "bias_ptr": dtype},
        {"inverse_count": "fp32"}, {"BLOCK_K": launch.merge_rows(dx[1]), "MASKED": False}, (0, 0),
    )  # fmt: skip


def builds() -> Iterator[Build]:
    """Yield every kernel, for each layout and each width of element."""
    for label, layout in LAYOUTS.items():
        for dtype in BITS:
            yield from _builds_of(label, layout, dtype)
    yield from _optional_arguments("planes_7x7", LAYOUTS["planes_7x7"], "bf16")


def runs() -> Iterator[Run]:
    """Yield each pass over a tensor of each way to be cut, in bfloat16."""
    for label, shape in {"rows_3": (30000, 3), "rows_64": (2048, 64), "planes_7x7": (64, 32, 7, 7)}.items():
        for mode in ("train", "eval", "residual"):
            yield from _runs_of(label, shape, mode)


def _runs_of(label: str, shape: tuple[int, ...], mode: str) -> Iterator[Run]:
    def forward() -> tuple[torch.Tensor, list[torch.Tensor]]:
        x = torch.randn(shape, dtype=torch.bfloat16, requires_grad=True)
        residual = torch.randn_like(x).requires_grad_() if mode == "residual" else None
        weight, bias = (torch.ones(shape[1], requires_grad=True) for _ in range(2))
        running = torch.zeros(shape[1]), torch.ones(shape[1])
        y = batch_norm_relu(x, *running, weight, bias, mode != "eval", residual=residual, backend="triton")
        return y, [t for t in (x, residual, weight, bias) if t is not None]

    def backward() -> Callable[[], object]:
        y, leaves = forward()
        return lambda: torch.autograd.grad(y, leaves, torch.ones_like(y))

    elements = math.prod(shape)
    yield Run(f"forward_{mode}-{label}", elements, lambda: forward)
    yield Run(f"backward_{mode}-{label}", elements, backward)

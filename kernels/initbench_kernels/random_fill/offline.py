"""What `static_cost` compiles and interprets of the fills. Imports Triton."""

import functools
from collections.abc import Callable, Iterator

import torch

from initbench_kernels.builds import Build, Run
from initbench_kernels.random_fill.kernels import random_fill_kernel
from initbench_kernels.random_fill.launch import BLOCK, OPTIONS, THREADS
from initbench_kernels.random_fill.plan import fill_
from initbench_kernels.random_fill.rows import Fill


def builds() -> Iterator[Build]:
    """Yield the one kernel: distribution and dtype are data to it. Its widest store is of float32."""
    yield Build(
        kernel=random_fill_kernel,
        name="random_fill",
        arguments={"table_ptr": "*i64", "row_of_block_ptr": "*i32", "seed_low": "i32", "seed_high": "i32"},
        constants={"BLOCK": BLOCK},
        threads=THREADS,
        tile_bits=BLOCK * 32,
        tile_loads=0,
        tile_stores=1,
        access_bits=128,
        options=OPTIONS,
    )


def runs() -> Iterator[Run]:
    """Yield a fill of one tensor and one of many, in float32."""
    for label, sizes in {"one_tensor": [65536], "many_tensors": [4096, 64] * 8}.items():
        yield Run(f"random_fill-{label}", sum(sizes), functools.partial(_fill_of, sizes))


def _fill_of(sizes: list[int]) -> Callable[[], object]:
    rows = [Fill(torch.empty(size), "normal", i) for i, size in enumerate(sizes)]
    return functools.partial(fill_, rows, seed=0, backend="triton")

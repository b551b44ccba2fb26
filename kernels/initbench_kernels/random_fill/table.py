"""The table that the kernel reads: one line of int64 a region, the same numbers on every machine.

Kernel and launcher share these column numbers; nothing here needs Triton.
"""

import functools
import struct

import torch

from initbench_kernels.random_fill.bits import _signed
from initbench_kernels.random_fill.layout import Region
from initbench_kernels.random_fill.parameters import Parameters
from initbench_kernels.random_fill.reference import key_hash

# Dimensions that the kernel can walk; merged ones count once.
MAX_DIMENSIONS = 4

KINDS = ("constant", "uniform", "normal", "truncated_normal")
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)

# The float32 columns, in the order of the kernel's constants.
NUMBERS = (
    "scale",
    "shift",
    "floor",
    "ceiling",
    "mass",
    "tail_low",
    "tail_high",
    "q_low",
    "q_high",
    "log_scale",
    "split",
)
POINTER, KIND, DTYPE, SIZE, FIRST_BLOCK, BASE, KEY, IS_BOX, VALUE, FIRST_NUMBER = range(10)
FIRST_DIMENSION = FIRST_NUMBER + len(NUMBERS)
COLUMNS = FIRST_DIMENSION + 3 * MAX_DIMENSIONS


def _bits(x: float, form: str) -> int:
    return int.from_bytes(struct.pack(form, x), "little", signed=True)


@functools.lru_cache(maxsize=4096)
def _number_bits(row: Parameters) -> list[int]:
    """Return VALUE and the float32 columns; a model has few different ones."""
    return [_bits(row.value, "<d")] + [_bits(getattr(row, name), "<f") for name in NUMBERS]


def needs_copy(region: Region) -> bool:
    """Whether the kernel cannot walk the region and fills a contiguous stand-in instead."""
    return len(region.dimensions()) > MAX_DIMENSIONS


def blocks(region: Region, block: int) -> int:
    """Return how many blocks of `block` values cover the region, from the start of its first group of four."""
    return -(-(region.tensor.numel() + region.base % 4) // block)


def line(region: Region, first_block: int) -> list[int]:
    """Return the table's line for one region."""
    dims = region.dimensions()
    is_box = dims != ((region.tensor.numel(), 1, 1),)
    padded = [*[(1, 0, 0)] * (MAX_DIMENSIONS - len(dims)), *dims]
    return [
        region.tensor.data_ptr(),
        KINDS.index(region.row.kind),
        DTYPES.index(region.row.dtype),
        region.tensor.numel(),
        first_block,
        region.base,
        _signed(key_hash(region.key)),
        int(is_box),
        *_number_bits(region.row),
        *[dim[i] for i in range(3) for dim in padded],
    ]

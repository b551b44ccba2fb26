"""Rows of a fill: what a caller asks for, checked before anything is written."""

import math
from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass
from numbers import Integral

import torch
from torch.nn.parameter import is_lazy

from initbench_kernels.random_fill.layout import PLAIN, Region, boxes
from initbench_kernels.random_fill.overlap import check_memory
from initbench_kernels.random_fill.parameters import (
    Parameters,
    as_float,
    constant_parameters,
    normal_parameters,
    truncated_normal_parameters,
    uniform_parameters,
)

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
DISTRIBUTIONS = ("uniform", "normal", "truncated_normal", "constant")

# Positions stay far from the end of int64, so that no sum of them can wrap.
LAST_POSITION = 1 << 62


@dataclass(eq=False, slots=True)
class Fill:
    """One tensor to fill.

    Attributes:
        tensor: float32, float16, bfloat16 or float64, any shape and strides, on a CPU or a GPU; or a DTensor, of which
            each process fills its own shard.
        distribution: "uniform", "normal", "truncated_normal" or "constant".
        key: string, or integer in [0, 2^64): names the stream of values, as a parameter's qualified name does.
        low: lower bound of a uniform, included.
        high: upper bound of a uniform, never returned.
        mean: of a normal, or of a truncated normal before truncation.
        std: its standard deviation.
        a: lower bound of a truncated normal, in units of the values; may be -inf.
        b: upper bound of a truncated normal; may be inf.
        value: of a constant.
        offset: position of the tensor's first value in the larger flat tensor of which it is a slice.

    The numbers are rounded to float32, except a constant's in a float64 tensor. A constant may be infinite or NaN, and
    keeps its zero's sign.
    """

    # Not frozen: a frozen row takes three times as long to make, and a model has thousands.
    tensor: torch.Tensor
    distribution: str
    key: str | int
    _: KW_ONLY
    low: float = 0.0
    high: float = 1.0
    mean: float = 0.0
    std: float = 1.0
    a: float = -2.0
    b: float = 2.0
    value: float = 0.0
    offset: int = 0


def check_seed(seed: int) -> int:
    """Return the seed as an integer.

    Raises:
        ValueError: not an integer in [0, 2^64).
    """
    return _unsigned(seed, 64, "seed")


def _unsigned(number: object, width: int, name: str) -> int:
    if type(number) is int and 0 <= number < 1 << width:
        return number
    # Python's and NumPy's: equal ones hash alike, which those of tensors do not.
    if not isinstance(number, Integral) or isinstance(number, bool) or not 0 <= int(number) < 1 << width:
        raise ValueError(f"{name} must be an integer in [0, 2^{width}), got {number!r}")
    return int(number)


def check_rows(rows: Iterable[Fill]) -> list[Region]:
    """Check every row and return the boxes of memory to fill.

    Raises:
        ValueError: a bad row; the message starts with its key.
    """
    rows = list(rows)
    regions: list[Region] = []
    for row in rows:
        try:
            regions.extend(_regions(row))
        except ValueError as error:
            raise ValueError(f"{row.key!r}: {error}") from None
    # A set tells in a moment that nothing is there twice, as in every model.
    if len({row.key for row in rows}) < len(rows):
        _check_keys(rows)
    check_memory(regions)
    return regions


def _regions(row: Fill) -> list[Region]:
    tensor = row.tensor
    key = row.key if isinstance(row.key, str) else _unsigned(row.key, 64, "key")
    offset = _unsigned(row.offset, 62, "offset")
    if type(tensor) not in PLAIN:
        if not isinstance(tensor, torch.Tensor):
            raise ValueError(f"expected a tensor, got {type(tensor).__name__}")
        if is_lazy(tensor):
            raise ValueError("is not materialized yet: run the lazy module once")
    if tensor.dtype not in DTYPES:
        raise ValueError(f"expected a tensor of float32, float16, bfloat16 or float64, got {tensor.dtype}")
    if tensor.layout is not torch.strided or tensor.is_nested:
        raise ValueError(f"expected a strided tensor, got {'a nested one' if tensor.is_nested else tensor.layout}")
    if tensor.is_meta:
        raise ValueError("is on the meta device and has no memory: materialize it with to_empty() first")
    if tensor.is_inference() and not torch.is_inference_mode_enabled():
        raise ValueError("is an inference tensor: it can be filled in inference mode only")
    if offset + tensor.numel() > LAST_POSITION:
        raise ValueError(f"offset + size = {offset + tensor.numel()} exceeds 2^62")
    numbers = _parameters(row)
    regions = []
    for memory, base, strides in boxes(tensor):
        if not memory.numel():
            continue
        if memory.is_neg():
            raise ValueError("is a lazily negated view: fill the tensor behind it")
        regions.append(Region(key, numbers, memory, offset + base, strides))
    return regions


def _parameters(row: Fill) -> Parameters:
    dtype = row.tensor.dtype
    if row.distribution == "uniform":
        return uniform_parameters(dtype, as_float(row.low, "low"), as_float(row.high, "high"))
    if row.distribution == "normal":
        return normal_parameters(dtype, as_float(row.mean, "mean"), as_float(row.std, "std"))
    if row.distribution == "truncated_normal":
        mean, std = as_float(row.mean, "mean"), as_float(row.std, "std")
        return truncated_normal_parameters(dtype, mean, std, as_float(row.a, "a"), as_float(row.b, "b"))
    if row.distribution == "constant":
        return constant_parameters(dtype, as_float(row.value, "value"))
    raise ValueError(f"unknown distribution {row.distribution!r}: choose from {', '.join(DISTRIBUTIONS)}")


def _check_keys(rows: list[Fill]) -> None:
    """Two tensors of one key and two shapes want the same values in two places, unless they are disjoint slices."""
    seen: dict[str | int, list[tuple[tuple[int, ...], int, int]]] = {}
    for row in rows:
        # NumPy's small integers would overflow in the sum.
        shape, start = tuple(row.tensor.shape), int(row.offset)
        stop = start + math.prod(shape)
        known = seen.setdefault(row.key, [])
        for other, other_start, other_stop in known:
            if other != shape and max(start, other_start) < min(stop, other_stop):
                raise ValueError(f"{row.key!r}: key used twice, for shapes {other} and {shape}")
        known.append((shape, start, stop))

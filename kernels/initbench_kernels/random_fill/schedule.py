"""What an eager fill draws together: large regions cut, small ones alike gathered, into loads of one transform.

Thousands of small tensors then cost a few calls a load, not a few each. Nothing here depends on the seed, so a plan
does it once.
"""

import functools
import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch

from initbench_kernels.random_fill.layout import Region, outer_dimensions

# Regions of one row, one shape and one place in their first group of four: a call draws, or stores, all of them.
Batch = list[Region]

# Batches that one transform serves, in buffers of one chunk.
Load = list[Batch]

# Values per chunk. CPU: threads here take chunks of their own, with one intra-op thread each (`in_parallel`). They
# pass Python's lock on at every operation, and who sleeps on it wakes some 50 us later: operations must be long, though
# a chunk then leaves the second-level cache. Normals on two threads: 50 M/s at 2^15, 140 at 2^17, 150 at 2^18; where
# torch splits every operation instead, 117 and 129 (x86-64 of two cores, torch 2.15, 2026-11-22). Uniforms: 500 M/s and
# more from 2^17 on, 400 to 500 at 2^15.
# Elsewhere: enough to keep a GPU busy within 140 MB of buffers.
CPU_CHUNK, OTHER_CHUNK = 1 << 18, 1 << 22

# Runs from this length on lose little to the groups of four that they share with others.
LONG_RUN = 64

# From so many values on a uniform is drawn where it belongs: operations of its own cost less than a copy.
IN_PLACE = 1 << 14


def _chunk_size(device: torch.device) -> int:
    return CPU_CHUNK if device.type == "cpu" else OTHER_CHUNK


def alike(regions: Iterable[Region]) -> list[Batch]:
    """Gather regions into batches, in the order in which each first occurs."""
    batches: dict[object, Batch] = {}
    for region in regions:
        # Rows are cached by their arguments, so that equal ones are one object.
        place = (id(region.row), region.tensor.shape, region.strides, region.base % 4)
        batches.setdefault(place, []).append(region)
    return list(batches.values())


def schedule(batches: Iterable[Batch], threads: int) -> list[Load]:
    """Sort batches, all on one device, into loads; `threads` of them at a time are about equal."""
    transforms: dict[object, list[Batch]] = {}
    for batch in batches:
        row = batch[0].row
        transforms.setdefault(row if row.kind == "truncated_normal" else row.kind, []).append(batch)
    loads: list[Load] = []
    for members in transforms.values():
        total = sum(len(batch) * form(batch[0]).size for batch in members)
        rounds = math.ceil(total / (threads * _chunk_size(members[0][0].tensor.device)))
        limit = 4 * math.ceil(total / (4 * threads * rounds))
        loads.extend(_pack(_cut(members, limit), limit))
    return loads


class Form(NamedTuple):
    """How a region is drawn: the same for all of one shape, one step of positions and one place in the first group.

    Attributes:
        outer: leading dimensions, which step from run to run of consecutive positions.
        runs: how many runs there are.
        run: how many values each has.
        in_groups: whether the runs are drawn as whole groups of four that begin alike; else values are gathered.
        size: elements of a chunk that the region takes: whole groups where it is drawn as such.
    """

    outer: int
    runs: int
    run: int
    in_groups: bool
    size: int


def form(region: Region) -> Form:
    """Return how a region is drawn."""
    return _form(region.tensor.shape, region.strides, region.base % 4)


@functools.lru_cache(maxsize=4096)
def _form(shape: tuple[int, ...], strides: tuple[int, ...], start: int) -> Form:
    outer = outer_dimensions(shape, strides)
    runs, run = math.prod(shape[:outer]), math.prod(shape[outer:])
    in_groups = outer == 0 or (run >= LONG_RUN and all(stride % 4 == 0 for stride in strides[:outer]))
    return Form(outer, runs, run, in_groups, runs * (4 * ((start + run + 3) // 4) if in_groups else run))


def is_whole(region: Region) -> bool:
    """Whether the region is a load of its own: a long uniform that torch can draw right into its memory."""
    return (
        region.row.kind == "uniform"
        and region.row.dtype == torch.float32
        and region.base % 4 == 0
        and region.tensor.numel() >= IN_PLACE
        and region.tensor.is_contiguous()
        and form(region).outer == 0
    )


def _cut(batches: list[Batch], limit: int) -> Iterator[Batch]:
    """Yield the batches with every region cut into pieces of at most `limit` values."""
    for batch in batches:
        if batch[0].tensor.numel() <= limit:
            yield batch
        else:
            yield from alike(piece for region in batch for piece in _pieces(region, limit))


def _pieces(region: Region, limit: int) -> Iterator[Region]:
    """Cut along the first dimension, and slices that are still too large along their own."""
    key, row, tensor, base, strides = region
    if tensor.numel() <= limit:
        yield region
    elif len(tensor) == 1:
        yield from _pieces(Region(key, row, tensor[0], base, strides[1:]), limit)
    elif tensor.is_contiguous() and form(region).outer == 0:
        for i, piece in enumerate(tensor.view(-1).split(limit)):
            yield Region(key, row, piece, base + i * limit, (1,))
    else:
        step = max(1, limit // tensor[0].numel())
        for i, piece in enumerate(tensor.split(step)):
            yield from _pieces(Region(key, row, piece, base + i * step * strides[0], strides), limit)


def _pack(batches: Iterable[Batch], limit: int) -> Iterator[Load]:
    """Yield loads of about `limit` values, a batch split where one is full."""
    load: Load = []
    free = limit
    for batch in batches:
        if is_whole(batch[0]):
            yield from ([[region]] for region in batch)
            continue
        size, first = form(batch[0]).size, 0
        while first < len(batch):
            if free <= 0:
                yield load
                load, free = [], limit
            # One region too many rather than one load too many, which a thread would wait for.
            count = min(math.ceil(free / size), len(batch) - first)
            load.append(batch[first : first + count])
            free -= count * size
            first += count
    if load:
        yield load

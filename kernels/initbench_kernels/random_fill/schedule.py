"""What an eager fill draws together: large regions cut, small ones alike gathered, into loads of one transform.

Thousands of small tensors then cost a few calls a load, not a few each. Nothing here depends on the seed, so a plan
does it once.
"""

import math
from collections.abc import Iterable, Iterator

import torch

from initbench_kernels.random_fill.layout import Region

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


def _chunk_size(device: torch.device) -> int:
    return CPU_CHUNK if device.type == "cpu" else OTHER_CHUNK


def schedule(regions: Iterable[Region], threads: int) -> list[Load]:
    """Sort regions that are drawn, all on one device, into loads; `threads` of them at a time are about equal."""
    transforms: dict[object, list[Batch]] = {}
    for batch in _alike(regions):
        row = batch[0].row
        transforms.setdefault(row if row.kind == "truncated_normal" else row.kind, []).append(batch)
    loads: list[Load] = []
    for batches in transforms.values():
        total = sum(len(batch) * buffer_size(batch[0]) for batch in batches)
        rounds = math.ceil(total / (threads * _chunk_size(batches[0][0].tensor.device)))
        limit = 4 * math.ceil(total / (4 * threads * rounds))
        loads.extend(_pack(_cut(batches, limit), limit))
    return loads


def in_groups(region: Region) -> bool:
    """Whether the region is drawn as runs of whole groups that begin alike; else its values are gathered from such."""
    outer = region.outer_dimensions()
    run = math.prod(region.tensor.shape[outer:])
    return outer == 0 or (run >= LONG_RUN and all(stride % 4 == 0 for stride in region.strides[:outer]))


def buffer_size(region: Region) -> int:
    """Return how many elements of a chunk the region takes: whole groups of four where it is drawn as such."""
    size = region.tensor.numel()
    if not in_groups(region):
        return size
    run = math.prod(region.tensor.shape[region.outer_dimensions() :])
    return size // run * 4 * ((region.base % 4 + run + 3) // 4)


def _alike(regions: Iterable[Region]) -> list[Batch]:
    batches: dict[object, Batch] = {}
    for region in regions:
        # Rows are cached by their arguments, so that equal ones are one object.
        form = (id(region.row), region.tensor.shape, region.strides, region.base % 4)
        if form in batches:
            batches[form].append(region)
        else:
            batches[form] = [region]
    return list(batches.values())


def _cut(batches: list[Batch], limit: int) -> Iterator[Batch]:
    """Yield the batches with every region cut into pieces of at most `limit` values."""
    for batch in batches:
        if batch[0].tensor.numel() <= limit:
            yield batch
        else:
            yield from _alike(piece for region in batch for piece in _pieces(region, limit))


def _pieces(region: Region, limit: int) -> Iterator[Region]:
    """Cut along the first dimension, and slices that are still too large along their own."""
    key, row, tensor, base, strides = region
    if tensor.numel() <= limit:
        yield region
    elif len(tensor) == 1:
        yield from _pieces(Region(key, row, tensor[0], base, strides[1:]), limit)
    elif tensor.is_contiguous() and region.outer_dimensions() == 0:
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
        size, first = buffer_size(batch[0]), 0
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

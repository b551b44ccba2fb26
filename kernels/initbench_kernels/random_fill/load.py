"""One load of an eager fill: drawn, transformed, scaled and stored."""

import functools
import itertools
import math
from collections.abc import Callable, Sequence

import torch

from initbench_kernels.random_fill.bits import runs, stateless_uniform_
from initbench_kernels.random_fill.parameters import Parameters
from initbench_kernels.random_fill.schedule import Batch, Load, form, is_whole
from initbench_kernels.random_fill.transforms import Chunk

# Fills a tensor with the words of given runs, as `bits.plain_words_` does, or with uniforms right away.
Source = Callable[[torch.Tensor, torch.Tensor], None]


class Buffers:
    """What one thread draws into, one load after the other.

    Args:
        size: values of the largest load.
        device: where they lie.
    """

    def __init__(self, size: int, device: torch.device) -> None:
        self._size, self._device = size, device

    @functools.cached_property
    def unit(self) -> torch.Tensor:
        """Float32 [size]: for uniforms that torch draws itself."""
        return torch.empty(self._size, dtype=torch.float32, device=self._device)

    @functools.cached_property
    def chunk(self) -> Chunk:
        """Words, and all that their transforms need."""
        return Chunk(self._size, self._device)


def fill_load_(load: Load, tables: Sequence[torch.Tensor], source: Source, buffers: Buffers) -> None:
    """Fill every region of a load.

    Args:
        load: what to fill.
        tables: key and first group of the regions of each batch, as `bits.runs` returns them.
        source: `bits.stateless_uniform_` draws uniforms, any other words.
        buffers: of this thread.
    """
    region = load[0][0]
    if source is stateless_uniform_ and is_whole(region):
        values = region.tensor.view(1, -1)
        source(values, tables[0])
        _scale_(values, region.row)
        return
    sizes = batch_sizes(load)
    if source is stateless_uniform_:
        unit = drawn = buffers.unit[: sum(sizes)]
    else:
        chunk = buffers.chunk.head(sum(sizes))
        unit, drawn = chunk.unit, chunk.words
    units = unit.split(sizes)
    outs = units if drawn is unit else drawn.split(sizes)
    for batch, table, out in zip(load, tables, outs, strict=True):
        _draw(batch, table, out, source)
    if source is not stateless_uniform_:
        chunk.transform(region.row)
    _scale_load_(unit, load, sizes)
    parts = map(_values, load, units)
    torch._foreach_copy_(
        [region.tensor for batch in load for region in batch],
        [values for part in parts for values in part.unbind()],
    )


def batch_sizes(load: Load) -> list[int]:
    """Return how many elements of a buffer each batch takes."""
    return [len(batch) * form(batch[0]).size for batch in load]


def _draw(batch: Batch, table: torch.Tensor, out: torch.Tensor, source: Source) -> None:
    """Draw what the values of a batch are made of, region by region, in the layout of `_values`."""
    region = batch[0]
    outer, n, run, in_groups, _ = form(region)
    if outer == 0:
        source(out.view(len(batch), -1), table)
        return
    device = out.device
    starts = torch.tensor([region.base for region in batch], dtype=torch.int64, device=device)
    for size, stride in zip(region.tensor.shape[:outer], region.strides[:outer], strict=True):
        starts = starts[..., None] + torch.arange(size, dtype=torch.int64, device=device) * stride
    starts = starts.flatten()
    own = runs(table.view(torch.int64)[:, 0, 0].repeat_interleave(n), starts >> 2)
    if in_groups:
        source(out.view(len(starts), -1), own)
        return
    # A run may start at any word of its first group.
    drawn = torch.empty((len(starts), (run + 6) // 4 * 4), dtype=out.dtype, device=device)
    source(drawn, own)
    lanes = torch.arange(run, dtype=torch.int64, device=device)
    torch.gather(drawn, 1, (starts & 3)[:, None] + lanes, out=out.view(-1, run))


def _scale_load_(unit: torch.Tensor, load: Load, sizes: Sequence[int]) -> None:
    """Scale the unit values of every batch; neighbours of one row are scaled at once."""
    first = 0
    for _, alike in itertools.groupby(zip(load, sizes, strict=True), key=lambda pair: id(pair[0][0].row)):
        batches = list(alike)
        size = sum(size for _, size in batches)
        _scale_(unit[first : first + size], batches[0][0][0].row)
        first += size


def _scale_(values: torch.Tensor, row: Parameters) -> None:
    """Scale, shift and bound unit values, in float32."""
    values.mul_(row.scale).add_(row.shift)
    if row.kind != "normal":
        values.clamp_(row.floor, row.ceiling)


def _values(batch: Batch, unit: torch.Tensor) -> torch.Tensor:
    """Return a batch's part of a buffer as [regions, sizes], without what completes its groups."""
    region = batch[0]
    _, n, run, _, _ = form(region)
    shape = (len(batch), *region.tensor.shape)
    if len(unit) == math.prod(shape):
        return unit.view(shape)
    start = region.base % 4
    return unit.view(len(batch) * n, -1)[:, start : start + run].view(shape)

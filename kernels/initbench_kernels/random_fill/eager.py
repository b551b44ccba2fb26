"""The fills in eager PyTorch, load by load: the CPU's path, and the fallback of every other device."""

import functools
import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch

from initbench_kernels.random_fill.bits import _signed, has_stateless_uniform, runs, stateless_uniform_, words_
from initbench_kernels.random_fill.layout import Region
from initbench_kernels.random_fill.parallel import MAX_THREADS, in_parallel
from initbench_kernels.random_fill.reference import key_hash, philox_keys
from initbench_kernels.random_fill.schedule import Batch, Load, buffer_size, in_groups, schedule
from initbench_kernels.random_fill.transforms import Chunk

# Fills a tensor with the words of given runs, as `bits.plain_words_` does.
WordSource = Callable[[torch.Tensor, torch.Tensor], None]

# A thread of its own pays from so many values on.
THREAD_SHARE = 1 << 17


class Loads:
    """Regions of one device, sorted into what is drawn together.

    Args:
        regions: from `check_rows`, all on one device.
    """

    def __init__(self, regions: Iterable[Region]) -> None:
        constants: dict[object, list[Region]] = {}
        drawn: list[Region] = []
        for region in regions:
            if region.row.kind != "constant":
                drawn.append(region)
            elif id(region.row) in constants:
                constants[id(region.row)].append(region)
            else:
                constants[id(region.row)] = [region]
        self._constants = [
            (
                [region.tensor for region in alike],
                torch.full((), alike[0].row.value, dtype=alike[0].row.dtype, device="cpu"),
            )
            for alike in constants.values()
        ]
        self._threads = _threads(drawn)
        self._loads = schedule(drawn, self._threads)
        self._counts = [sum(map(len, load)) for load in self._loads]
        table = [(_signed(key_hash(region.key)), region.base) for region in _regions(self._loads)]
        self._hashes, self._bases = torch.tensor(table, dtype=torch.int64, device="cpu").view(-1, 2).unbind(1)

    @torch.no_grad()
    def fill_(self, seed: int, *, words: WordSource = words_) -> None:
        """Write every region.

        Args:
            seed: in [0, 2^64).
            words: where the raw words come from; every source gives the same.
        """
        for tensors, value in self._constants:
            torch._foreach_copy_(tensors, [value] * len(tensors))
        if not self._loads:
            return
        device = self._loads[0][0][0].tensor.device
        table = runs(philox_keys(seed, self._hashes), self._bases >> 2).to(device).split(self._counts)
        bases = self._bases.to(device).split(self._counts)
        # A uniform needs no words where torch draws it itself.
        draws_units = words is words_ and has_stateless_uniform(device)
        # What threads do is prepared here, to the last view: each passes Python's lock on at every operation, however
        # short, and may wait 50 us to get it back.
        chunks = [_Chunks(self._loads[part :: self._threads], device) for part in range(self._threads)]
        tasks = [
            _Task(load, chunks[i % self._threads], own, base, draws_units and load[0][0].row.kind == "uniform")
            for i, (load, own, base) in enumerate(zip(self._loads, table, bases, strict=True))
        ]

        def fill(part: int) -> None:
            for task in tasks[part :: self._threads]:
                task.run(words)

        in_parallel(self._threads, fill)


def _threads(regions: list[Region]) -> int:
    """Return how many threads to use: none beside this one where their start would cost more than they save."""
    if not regions or regions[0].tensor.device.type != "cpu":
        return 1
    total = sum(region.tensor.numel() for region in regions)
    return max(1, min(torch.get_num_threads(), MAX_THREADS, total // THREAD_SHARE))


def _regions(loads: list[Load]) -> Iterable[Region]:
    return (region for load in loads for batch in load for region in batch)


class _Chunks:
    """The buffers of one thread, for loads that are transformed and for those that are drawn as units."""

    def __init__(self, loads: list[Load], device: torch.device) -> None:
        self._size = max((sum(_sizes(load)) for load in loads), default=0)
        self._device = device

    @functools.cached_property
    def units(self) -> torch.Tensor:
        return torch.empty(self._size, dtype=torch.float32, device=self._device)

    @functools.cached_property
    def transformed(self) -> Chunk:
        return Chunk(self._size, self._device)


class _Part(NamedTuple):
    """One batch of a load.

    Attributes:
        batch: what is filled.
        out: words or uniforms to draw: [runs, whole groups of four], or as many numbers as the batch has values.
        runs: key and group of each region, of `bits.runs`.
        bases: int64 [regions].
        values: float32 [regions, sizes], the unit values.
        last: where the last operation writes: `values`, or a single tensor of their dtype itself.
    """

    batch: Batch
    out: torch.Tensor
    runs: torch.Tensor
    bases: torch.Tensor
    values: torch.Tensor
    last: torch.Tensor


class _Task:
    """One load with its buffers: to draw, to transform and to store."""

    def __init__(
        self, load: Load, chunks: _Chunks, table: torch.Tensor, bases: torch.Tensor, draws_units: bool
    ) -> None:
        counts, sizes = [len(batch) for batch in load], _sizes(load)
        self._chunk = None if draws_units else chunks.transformed.head(sum(sizes))
        unit = chunks.units if self._chunk is None else self._chunk.unit
        units = unit[: sum(sizes)].split(sizes)
        drawn = units if self._chunk is None else self._chunk.words.split(sizes)
        self._parts = []
        for batch, out, unit, own, base in zip(
            load, drawn, units, table.split(counts), bases.split(counts), strict=True
        ):
            values = _values(batch, unit)
            single = len(batch) == 1 and batch[0].row.dtype == torch.float32
            last = batch[0].tensor[None] if single else values
            if draws_units and single and _is_whole(batch[0]):
                out, values = last.view(1, -1), last
            elif in_groups(batch[0]):
                out = out.view(_runs(batch), -1)
            self._parts.append(_Part(batch, out, own, base, values, last))

    def run(self, words: WordSource) -> None:
        """Fill the load, its words from `words` unless torch draws the uniforms."""
        for part in self._parts:
            _draw(part, stateless_uniform_ if self._chunk is None else words)
        if self._chunk is not None:
            self._chunk.transform(self._parts[0].batch[0].row)
        for part in self._parts:
            _finish(part)


def _sizes(load: Load) -> list[int]:
    """Return how many elements of a chunk each batch takes."""
    return [len(batch) * buffer_size(batch[0]) for batch in load]


def _runs(batch: Batch) -> int:
    return len(batch) * math.prod(batch[0].tensor.shape[: batch[0].outer_dimensions()])


def _is_whole(region: Region) -> bool:
    """Whether the region begins with a group and memory has its values one after the other."""
    return region.tensor.is_contiguous() and region.outer_dimensions() == 0 and region.base % 4 == 0


def _draw(part: _Part, source: WordSource) -> None:
    """Draw what the values of a batch are made of, region by region, in the layout of `_values`."""
    region = part.batch[0]
    outer = region.outer_dimensions()
    if outer == 0:
        source(part.out, part.runs)
        return
    shape, strides, device = region.tensor.shape, region.strides, part.out.device
    starts = part.bases
    for size, stride in zip(shape[:outer], strides[:outer], strict=True):
        starts = starts[..., None] + torch.arange(size, dtype=torch.int64, device=device) * stride
    starts = starts.flatten()
    keys = part.runs.view(torch.int64)[:, 0, 0].repeat_interleave(len(starts) // len(part.batch))
    own = runs(keys, starts >> 2)
    if in_groups(region):
        source(part.out, own)
        return
    # A run may start at any word of its first group.
    run = math.prod(shape[outer:])
    drawn = torch.empty((len(starts), (run + 6) // 4 * 4), dtype=part.out.dtype, device=device)
    source(drawn, own)
    lanes = torch.arange(run, dtype=torch.int64, device=device)
    torch.gather(drawn, 1, (starts & 3)[:, None] + lanes, out=part.out.view(-1, run))


def _values(batch: Batch, unit: torch.Tensor) -> torch.Tensor:
    """Return a batch's part of a buffer as [regions, sizes], without what completes its groups."""
    region = batch[0]
    shape = (len(batch), *region.tensor.shape)
    if not in_groups(region):
        return unit.view(shape)
    run = math.prod(region.tensor.shape[region.outer_dimensions() :])
    return unit.view(_runs(batch), -1)[:, region.base % 4 : region.base % 4 + run].view(shape)


def _finish(part: _Part) -> None:
    """Scale, shift and bound unit values, in float32, and store them in the dtype of the tensors."""
    row, values = part.batch[0].row, part.values
    values.mul_(row.scale)
    if row.kind == "normal":
        torch.add(values, row.shift, out=part.last)
    else:
        torch.clamp(values.add_(row.shift), row.floor, row.ceiling, out=part.last)
    if len(part.batch) > 1 or row.dtype != torch.float32:
        torch._foreach_copy_([region.tensor for region in part.batch], values.unbind())

"""The fills in eager PyTorch, load by load: the CPU's path, and the fallback of every other device."""

import math
from collections.abc import Callable, Iterable

import torch

from initbench_kernels.random_fill.bits import _signed, has_stateless_uniform, stateless_uniform_, words_
from initbench_kernels.random_fill.layout import Region
from initbench_kernels.random_fill.parallel import MAX_THREADS, in_parallel
from initbench_kernels.random_fill.reference import key_hash, philox_keys
from initbench_kernels.random_fill.schedule import Batch, Load, buffer_size, in_groups, schedule
from initbench_kernels.random_fill.transforms import Chunk

# Fills a tensor with the words of given keys and groups, as `bits.plain_words_` does.
WordSource = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], None]

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
            ([region.tensor for region in alike], torch.full((), alike[0].row.value, dtype=alike[0].row.dtype))
            for alike in constants.values()
        ]
        self._threads = _threads(drawn)
        self._loads = schedule(drawn, self._threads)
        self._counts = [sum(map(len, load)) for load in self._loads]
        table = [(_signed(key_hash(region.key)), region.base) for region in _regions(self._loads)]
        self._hashes, self._bases = torch.tensor(table, dtype=torch.int64).view(-1, 2).unbind(1)

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
        keys = philox_keys(seed, self._hashes).to(device).split(self._counts)
        bases = self._bases.to(device).split(self._counts)
        sizes = [sum(len(batch) * buffer_size(batch[0]) for batch in load) for load in self._loads]

        def fill(part: int) -> None:
            chunk = Chunk(max(sizes[part :: self._threads], default=0), device)
            for i in range(part, len(sizes), self._threads):
                _fill_load(self._loads[i], chunk.head(sizes[i]), keys[i], bases[i], words)

        in_parallel(self._threads, fill)


def _threads(regions: list[Region]) -> int:
    """Return how many threads to use: none beside this one where their start would cost more than they save."""
    if not regions or regions[0].tensor.device.type != "cpu":
        return 1
    total = sum(region.tensor.numel() for region in regions)
    return max(1, min(torch.get_num_threads(), MAX_THREADS, total // THREAD_SHARE))


def _regions(loads: list[Load]) -> Iterable[Region]:
    return (region for load in loads for batch in load for region in batch)


def _fill_load(load: Load, chunk: Chunk, keys: torch.Tensor, bases: torch.Tensor, words: WordSource) -> None:
    """Draw, transform and store the batches of one transform; one key and one base a region."""
    row = load[0][0].row
    counts = [len(batch) for batch in load]
    sizes = [len(batch) * buffer_size(batch[0]) for batch in load]
    # A uniform needs no words where torch draws it itself.
    is_unit = row.kind == "uniform" and words is words_ and has_stateless_uniform(keys.device)
    units = chunk.unit.split(sizes)
    for batch, out, key, base in zip(
        load, units if is_unit else chunk.words.split(sizes), keys.split(counts), bases.split(counts), strict=True
    ):
        if is_unit and _is_drawn_in_place(batch):
            stateless_uniform_(batch[0].tensor.view(-1), key, base >> 2)
        else:
            _draw(batch, out, key, base, stateless_uniform_ if is_unit else words)
    if not is_unit:
        chunk.transform(row)
    for batch, unit in zip(load, units, strict=True):
        in_place = is_unit and _is_drawn_in_place(batch)
        _finish(batch, batch[0].tensor[None] if in_place else _values(batch, unit))


def _is_drawn_in_place(batch: Batch) -> bool:
    """Whether a uniform of torch's own needs no buffer."""
    region = batch[0]
    return (
        len(batch) == 1
        and region.tensor.dtype == torch.float32
        and region.tensor.is_contiguous()
        and region.outer_dimensions() == 0
        and region.base % 4 == 0
    )


def _draw(batch: Batch, out: torch.Tensor, keys: torch.Tensor, bases: torch.Tensor, source: WordSource) -> None:
    """Draw into `out` what the values of a batch are made of, region by region, in the layout of `_values`."""
    region = batch[0]
    outer = region.outer_dimensions()
    shape, strides = region.tensor.shape, region.strides
    starts = bases
    for size, stride in zip(shape[:outer], strides[:outer], strict=True):
        starts = starts[..., None] + torch.arange(size, dtype=torch.int64, device=out.device) * stride
    starts = starts.flatten()
    keys = keys.repeat_interleave(len(starts) // len(batch)) if outer else keys
    if in_groups(region):
        source(out, keys, starts >> 2)
        return
    # A run may start at any word of its first group.
    run = math.prod(shape[outer:])
    drawn = torch.empty((len(starts), (run + 6) // 4 * 4), dtype=out.dtype, device=out.device)
    source(drawn, keys, starts >> 2)
    lanes = torch.arange(run, dtype=torch.int64, device=out.device)
    torch.gather(drawn, 1, (starts & 3)[:, None] + lanes, out=out.view(-1, run))


def _values(batch: Batch, unit: torch.Tensor) -> torch.Tensor:
    """Return a batch's part of a buffer as [regions, sizes], without what completes its groups."""
    region = batch[0]
    shape = (len(batch), *region.tensor.shape)
    if not in_groups(region):
        return unit.view(shape)
    run = math.prod(region.tensor.shape[region.outer_dimensions() :])
    rows = unit.view(len(batch) * region.tensor.numel() // run, -1)
    return rows[:, region.base % 4 : region.base % 4 + run].view(shape)


def _finish(batch: Batch, values: torch.Tensor) -> None:
    """Scale, shift and bound unit values [regions, sizes], in float32, and store them in the dtype of the tensors."""
    row = batch[0].row
    # The last operation of a single tensor writes straight into it.
    direct = len(batch) == 1 and row.dtype == torch.float32
    out = batch[0].tensor[None] if direct else values
    values.mul_(row.scale)
    if row.kind == "normal":
        torch.add(values, row.shift, out=out)
    else:
        torch.clamp(values.add_(row.shift), row.floor, row.ceiling, out=out)
    if not direct:
        torch._foreach_copy_([region.tensor for region in batch], values.unbind())

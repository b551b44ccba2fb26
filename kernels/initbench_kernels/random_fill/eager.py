"""The fills in eager PyTorch, load by load: the CPU's path, and the fallback of every other device."""

import itertools
from collections.abc import Iterable

import torch

from initbench_kernels.random_fill.bits import _signed, has_stateless_uniform, runs, stateless_uniform_, words_
from initbench_kernels.random_fill.layout import Region
from initbench_kernels.random_fill.load import Buffers, Source, batch_sizes, fill_load_
from initbench_kernels.random_fill.parallel import MAX_THREADS, in_parallel
from initbench_kernels.random_fill.reference import key_hash, philox_keys
from initbench_kernels.random_fill.schedule import Batch, alike, schedule

# A thread of its own pays from so many values on.
THREAD_SHARE = 1 << 17

# Threads that draw fewer values at a time wait for each other longer than they work: ours for Python's lock (1,000
# tensors of 1,800 uniforms each: 24 ms on two, 17 on one), torch's at the end of every operation.
LONG_DRAW = 1 << 14


class Loads:
    """Regions of one device, sorted into what is drawn together.

    Args:
        regions: from `check_rows`, all on one device.
    """

    def __init__(self, regions: Iterable[Region]) -> None:
        constants: dict[int, list[Region]] = {}
        drawn: list[Region] = []
        for region in regions:
            if region.row.kind == "constant":
                constants.setdefault(id(region.row), []).append(region)
            else:
                drawn.append(region)
        self._constants = [
            (
                [region.tensor for region in same],
                torch.full((), same[0].row.value, dtype=same[0].row.dtype, device="cpu"),
            )
            for same in constants.values()
        ]
        self._device = drawn[0].tensor.device if drawn else torch.device("cpu")
        batches = alike(drawn)
        self._threads = _threads(batches)
        self._loads = schedule(batches, max(1, self._threads))
        self._size = max((sum(batch_sizes(load)) for load in self._loads), default=0)
        self._counts = [len(batch) for load in self._loads for batch in load]
        scheduled = [region for load in self._loads for batch in load for region in batch]
        table = [[_signed(key_hash(region.key)) for region in scheduled], [region.base >> 2 for region in scheduled]]
        self._hashes, self._groups = torch.tensor(table, dtype=torch.int64, device="cpu")

    @torch.no_grad()
    def fill_(self, seed: int, *, words: Source = words_) -> None:
        """Write every region.

        Args:
            seed: in [0, 2^64).
            words: where the raw words come from; every source gives the same.
        """
        table = runs(philox_keys(seed, self._hashes), self._groups).to(self._device)
        tables = iter(table.split(self._counts))
        loads = iter([(load, list(itertools.islice(tables, len(load)))) for load in self._loads])
        constants = iter(self._constants)
        buffers = [Buffers(self._size, self._device) for _ in range(max(1, self._threads))]
        # A uniform needs no words where torch draws it itself.
        draws_units = words is words_ and has_stateless_uniform(self._device)

        def work(part: int) -> None:
            # The iterators are all threads': whoever is free takes the next load, for a shared machine's cores differ.
            for tensors, value in constants:
                torch._foreach_copy_(tensors, [value] * len(tensors))
            for load, own in loads:
                source = stateless_uniform_ if draws_units and load[0][0].row.kind == "uniform" else words
                fill_load_(load, own, source, buffers[part])

        if self._threads:
            in_parallel(self._threads, work)
        else:
            work(0)


def _threads(batches: list[Batch]) -> int:
    """Return how many threads to use, each without torch's own; 0 leaves all to torch."""
    if not batches or batches[0][0].tensor.device.type != "cpu":
        return 0
    total = sum(len(batch) * batch[0].tensor.numel() for batch in batches)
    threads = min(torch.get_num_threads(), MAX_THREADS, total // THREAD_SHARE)
    if threads < 2:
        return 0
    return threads if total >= len(batches) * LONG_DRAW else 1

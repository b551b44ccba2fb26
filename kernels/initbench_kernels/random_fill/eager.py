"""The fills in eager PyTorch, chunk by chunk: the CPU's path, and the fallback of every other device.

Small tensors of one distribution share a chunk, so that thousands of them do not cost thousands of transforms.
"""

import functools
import itertools
import math
import os
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import NamedTuple

import torch

from initbench_kernels.random_fill.bits import (
    _signed,
    has_stateless_uniform,
    stateless_pairs,
    stateless_uniform_,
    words_,
)
from initbench_kernels.random_fill.layout import Region, contiguous_strides
from initbench_kernels.random_fill.parameters import Parameters
from initbench_kernels.random_fill.reference import philox_keys
from initbench_kernels.random_fill.transforms import Chunk

# Fills an int32 tensor with the words of given keys and groups, as `bits.plain_words_` does.
WordSource = Callable[[torch.Tensor, int | torch.Tensor, int | torch.Tensor], None]

# Values per chunk. CPU: threads here take chunks of their own, with one intra-op thread each (`_in_parallel`). They
# pass Python's lock on at every operation, and who sleeps on it wakes some 50 us later: operations must be long, though
# a chunk then leaves the second-level cache. Normals on two threads: 50 M/s at 2^15, 140 at 2^17, 150 at 2^18; where
# torch splits every operation instead, 117 and 129 (x86-64 of two cores, torch 2.15, 2026-11-22).
# Elsewhere: enough to keep a GPU busy within 140 MB of buffers.
CPU_CHUNK, OTHER_CHUNK = 1 << 18, 1 << 22

# A thread of its own pays from so many values on; a tensor is split among threads if each gets at least a run.
THREAD_SHARE, THREAD_RUN = 1 << 17, 1 << 15

# A uniform needs no buffers where torch draws it in place. Its operator is serial at any length, so a thread here may
# take more of it at a time: 500 to 800 M/s on two threads from 2^17 on, 400 to 500 at 2^15 (as above).
UNIFORM_CHUNK = 1 << 17

# Shorter runs than this share a call where they can: one of their own would cost more than their values.
SHORT_RUN = 1024

# More threads than this wait for Python's lock, which each passes on at every operation; not measured beyond two.
MAX_THREADS = 8

# Runs of positions from this length on are pieces of their own; shorter ones are gathered from one block of words.
LONG_RUN = 4096


@dataclass(frozen=True, slots=True)
class _Piece:
    """Consecutive positions that land in consecutive elements of `out` (1-D, float32 or narrower or wider)."""

    out: torch.Tensor
    row: Parameters
    key: int
    position: int

    @property
    def groups(self) -> int:
        return (self.position % 4 + self.out.numel() + 3) // 4


class _Keyed(NamedTuple):
    """A region and the 64-bit Philox key under which its values are drawn."""

    region: Region
    key: int


def _chunk_size(device: torch.device) -> int:
    return CPU_CHUNK if device.type == "cpu" else OTHER_CHUNK


def _threads(device: torch.device, total: int) -> int:
    """Return how many threads to use: none beside this one where their start would cost more than they save."""
    if device.type != "cpu":
        return 1
    return max(1, min(torch.get_num_threads(), MAX_THREADS, total // THREAD_SHARE))


@torch.no_grad()
def fill_regions(regions: Iterable[Region], seed: int, *, words: WordSource = words_) -> None:
    """Fill checked regions of one device.

    Args:
        regions: from `check_rows`, all on one device.
        seed: in [0, 2^64).
        words: where the raw words come from; every source gives the same.
    """
    by_transform: dict[Parameters | str, list[_Keyed]] = {}
    in_place: list[_Piece] = []
    regions = list(regions)
    for region, key in zip(regions, philox_keys(seed, [region.key for region in regions]), strict=True):
        if region.row.kind == "constant":
            region.tensor.fill_(region.row.value)
        elif words is words_ and _is_drawn_in_place(region):
            in_place.append(_Piece(region.tensor.view(-1), region.row, key, region.base))
        else:
            shared = region.row if region.row.kind == "truncated_normal" else region.row.kind
            by_transform.setdefault(shared, []).append(_Keyed(region, key))
    if in_place:
        _draw_uniforms(in_place)
    for group in by_transform.values():
        total = sum(region.tensor.numel() + 8 for region, _ in group)
        threads = _threads(group[0].region.tensor.device, total)
        _in_parallel(threads, functools.partial(_fill_group, group, words, total, threads))


@functools.cache
def _pool() -> ThreadPoolExecutor:
    # Kept: to start its threads for every call would take 0.2 ms, as long as a hundred thousand uniforms.
    return ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="initbench-fill")


if hasattr(os, "register_at_fork"):
    # A forked process has none of its parent's threads, and would wait for them.
    os.register_at_fork(after_in_child=_pool.cache_clear)


def _in_parallel(threads: int, work: Callable[[int], None]) -> None:
    """Run work(0) to work(threads - 1): the first here, the others on threads of their own."""
    if threads == 1:
        work(0)
        return
    inference = torch.is_inference_mode_enabled()

    def elsewhere(part: int) -> None:
        # Both modes belong to a thread, and a new one has neither.
        with torch.no_grad(), torch.inference_mode(inference):
            work(part)

    # torch would split every long operation of each thread once more: more threads than cores, waiting at barriers.
    # The number belongs to the calling thread, and to threads that run their first operation while it stands.
    intra_op_threads = torch.get_num_threads()
    others: list[Future[None]] = []
    try:
        torch.set_num_threads(1)
        others.extend(_pool().submit(elsewhere, part) for part in range(1, threads))
        work(0)
    finally:
        # Also where this part failed: nothing may be written once the call is over.
        wait(others)
        torch.set_num_threads(intra_op_threads)
    for other in others:
        other.result()


def _is_drawn_in_place(region: Region) -> bool:
    tensor = region.tensor
    return (
        region.row.kind == "uniform"
        and tensor.dtype == torch.float32
        and tensor.numel() >= SHORT_RUN
        and region.base % 4 == 0
        and tensor.is_contiguous()
        and region.strides == contiguous_strides(tensor.shape)
        and has_stateless_uniform(tensor.device)
    )


def _draw_uniforms(pieces: list[_Piece]) -> None:
    """Fill runs of uniforms without a buffer."""
    device = pieces[0].out.device
    threads = _threads(device, sum(piece.out.numel() for piece in pieces))
    parts = [
        (out, piece.row, piece.key, (piece.position + i * UNIFORM_CHUNK) // 4)
        for piece in pieces
        for i, out in enumerate(piece.out.split(UNIFORM_CHUNK) if piece.out.numel() > UNIFORM_CHUNK else [piece.out])
    ]
    pairs = stateless_pairs([(key, group) for _, _, key, group in parts], device).unbind()

    batches: list[list[int]] = []
    room = 0
    for i, (out, row, _, _) in enumerate(parts):
        if out.numel() > room or row is not parts[i - 1][1]:
            batches.append([])
            room = UNIFORM_CHUNK
        batches[-1].append(i)
        room -= out.numel()

    def draw(part: int) -> None:
        for batch in batches[part::threads]:
            for i in batch:
                stateless_uniform_(parts[i][0], pairs[i])
            _finish_uniforms([parts[i][0] for i in batch], parts[batch[0]][1])

    _in_parallel(threads, draw)


def _finish_uniforms(units: list[torch.Tensor], row: Parameters) -> None:
    """As `_finish` in place, with a call an operation for all tensors instead of for each."""
    torch._foreach_mul_(units, row.scale)
    torch._foreach_add_(units, row.shift)
    torch._foreach_clamp_min_(units, row.floor)
    torch._foreach_clamp_max_(units, row.ceiling)


def _fill_group(group: list[_Keyed], words: WordSource, total: int, threads: int, part: int) -> None:
    """Fill what thread `part` of `threads` does of regions that share a transform."""
    packer = _Packer(words, group[0].region.tensor.device, total)
    for i, keyed in enumerate(group):
        _fill_region(keyed, packer, i, part, threads)
    packer.flush()


def _fill_region(keyed: _Keyed, packer: "_Packer", index: int, part: int, threads: int) -> None:
    """Do one thread's part of region `index`: its share of a large one; all or nothing of a small one."""
    region, key = keyed
    tensor = region.tensor
    is_run = region.strides == contiguous_strides(tensor.shape)
    is_shared = is_run and tensor.is_contiguous() and tensor.numel() >= threads * THREAD_RUN
    if not is_shared and index % threads != part:
        return
    if is_shared:
        first, last = (tensor.numel() * i // threads for i in (part, part + 1))
        packer.add(_Piece(tensor.view(-1)[first:last], region.row, key, region.base + first))
        return
    direct = tensor.is_contiguous()
    flat = tensor.view(-1) if direct else torch.empty(tensor.numel(), dtype=tensor.dtype, device=tensor.device)
    if is_run:
        packer.add(_Piece(flat, region.row, key, region.base))
    else:
        _fill_box(region, flat, key, packer)
    if not direct:
        packer.flush()
        tensor.copy_(flat.view(tensor.shape))


def _fill_box(region: Region, flat: torch.Tensor, key: int, packer: "_Packer") -> None:
    """Fill the shard of a tensor whose positions are many runs: those of the dimensions that are whole."""
    shape, strides = tuple(region.tensor.shape), region.strides
    run, outer = 1, len(shape)
    while outer and (strides[outer - 1] == run or shape[outer - 1] == 1):
        run *= shape[outer - 1]
        outer -= 1
    device = flat.device
    starts = torch.full((), region.base, dtype=torch.int64, device=device)
    for size, stride in zip(shape[:outer], strides[:outer], strict=True):
        starts = starts[..., None] + torch.arange(size, dtype=torch.int64, device=device) * stride
    starts = starts.flatten()
    if run >= LONG_RUN:
        for i, start in enumerate(starts.tolist()):
            packer.add(_Piece(flat[i * run : (i + 1) * run], region.row, key, start))
        return
    # A run may start at any word of its first group.
    groups = (run + 6) // 4
    lanes = torch.arange(run, dtype=torch.int64, device=device)
    for block, out in zip(
        starts.split(max(1, packer.size // (4 * groups))),
        flat.split(run * max(1, packer.size // (4 * groups))),
        strict=True,
    ):
        words = torch.empty(len(block) * groups * 4, dtype=torch.int32, device=device)
        group = (block >> 2)[:, None] + torch.arange(groups, dtype=torch.int64, device=device)
        packer.words(words, torch.full_like(group, _signed(key)).flatten(), group.flatten())
        packer.flush()
        chunk = packer.chunk.head(len(block) * run)
        torch.gather(words.view(len(block), -1), 1, (block & 3)[:, None] + lanes, out=chunk.words.view(-1, run))
        _finish(chunk.transform(region.row), region.row, out)


class _Packer:
    """Collects pieces of one transform until a chunk is full, then draws, transforms and stores them together."""

    def __init__(self, words: WordSource, device: torch.device, total: int) -> None:
        self.words = words
        self.size = min(_chunk_size(device), max(64, 4 * math.ceil(total / 4)))
        self.chunk = Chunk(self.size, device)
        self._pieces: list[_Piece] = []
        self._free = self.size

    def add(self, piece: _Piece) -> None:
        """Take a piece of any length."""
        while piece.groups * 4 > self._free:
            if self._free >= self.size // 2:
                fits = self._free - piece.position % 4
                self._pieces.append(_Piece(piece.out[:fits], piece.row, piece.key, piece.position))
                piece = _Piece(piece.out[fits:], piece.row, piece.key, piece.position + fits)
            self.flush()
        if piece.out.numel():
            self._pieces.append(piece)
            self._free -= piece.groups * 4

    def flush(self) -> None:
        """Draw and store what was collected."""
        pieces, self._pieces, self._free = self._pieces, [], self.size
        if not pieces:
            return
        counts = [piece.groups for piece in pieces]
        chunk = self.chunk.head(4 * sum(counts))
        if 4 * sum(counts) >= SHORT_RUN * len(pieces):
            for piece, words in zip(pieces, chunk.words.split([4 * count for count in counts]), strict=True):
                self.words(words, piece.key, piece.position // 4)
        else:
            self.words(chunk.words, *self._batched(pieces, counts))
        row = pieces[0].row
        unit = chunk.transform(row)
        starts = itertools.accumulate((4 * count for count in counts[:-1]), initial=0)
        firsts = [start + piece.position % 4 for start, piece in zip(starts, pieces, strict=True)]
        units = [unit[first : first + piece.out.numel()] for first, piece in zip(firsts, pieces, strict=True)]
        if len(pieces) > 1 and all(piece.row is row for piece in pieces):
            # Layers of one shape share their numbers: one call for all of them, then one for all copies.
            _finish(unit, row, unit)
            torch._foreach_copy_([piece.out for piece in pieces], units)
            return
        for piece, part in zip(pieces, units, strict=True):
            _finish(part, piece.row, piece.out)

    def _batched(self, pieces: list[_Piece], counts: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return key and index of every group of the pieces."""
        device = self.chunk.words.device
        table = torch.tensor([(_signed(p.key), p.position // 4) for p in pieces], dtype=torch.int64, device=device)
        repeats = torch.tensor(counts, dtype=torch.int64, device=device)
        keys, groups = table.repeat_interleave(repeats, dim=0, output_size=sum(counts)).unbind(1)
        first = (repeats.cumsum(0) - repeats).repeat_interleave(repeats, output_size=sum(counts))
        return keys.contiguous(), groups + torch.arange(sum(counts), dtype=torch.int64, device=device) - first


def _finish(unit: torch.Tensor, row: Parameters, out: torch.Tensor) -> None:
    """Scale, shift and bound unit values, in float32, and store them in the dtype of `out`."""
    bounded = row.kind != "normal"
    value = unit.mul_(row.scale)
    direct = out.dtype == torch.float32
    value = torch.add(value, row.shift, out=out if direct and not bounded else value)
    if bounded:
        value = torch.clamp(value, row.floor, row.ceiling, out=out if direct else value)
    if not direct:
        out.copy_(value)

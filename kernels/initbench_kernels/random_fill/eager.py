"""The fills in eager PyTorch, chunk by chunk: the CPU's path, and the fallback of every other device.

Small tensors of one distribution share a chunk, so that thousands of them do not cost thousands of transforms.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

from initbench_kernels.random_fill.bits import _signed, words_
from initbench_kernels.random_fill.layout import Region, contiguous_strides
from initbench_kernels.random_fill.parameters import Parameters
from initbench_kernels.random_fill.reference import philox_key
from initbench_kernels.random_fill.transforms import Chunk

# Fills an int32 tensor with the words of given keys and groups, as `bits.plain_words_` does.
WordSource = Callable[[torch.Tensor, int | torch.Tensor, int | torch.Tensor], None]

# Values per chunk. CPU: its buffers stay in the second-level cache, and every thread gets torch's grain of 32,768
# (on 2 threads 210 M normals/s at 131,072 against 110 at 32,768 and 175 at 262,144; x86-64, torch 2.15, 2026-11-22).
# Elsewhere: enough to keep a GPU busy within 120 MB of buffers.
CPU_GRAIN, CPU_CHUNK, OTHER_CHUNK = 1 << 15, 1 << 17, 1 << 22

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


def _chunk_size(device: torch.device) -> int:
    return max(CPU_CHUNK, CPU_GRAIN * torch.get_num_threads()) if device.type == "cpu" else OTHER_CHUNK


@torch.no_grad()
def fill_regions(regions: Iterable[Region], seed: int, *, words: WordSource = words_) -> None:
    """Fill checked regions of one device.

    Args:
        regions: from `check_rows`, all on one device.
        seed: in [0, 2^64).
        words: where the raw words come from; every source gives the same.
    """
    by_transform: dict[Parameters | str, list[Region]] = {}
    for region in regions:
        if region.row.kind == "constant":
            region.tensor.fill_(region.row.value)
        else:
            shared = region.row if region.row.kind == "truncated_normal" else region.row.kind
            by_transform.setdefault(shared, []).append(region)
    for group in by_transform.values():
        packer = _Packer(words, group[0].tensor.device, sum(region.tensor.numel() + 8 for region in group))
        for region in group:
            _fill_region(region, seed, packer)
        packer.flush()


def _fill_region(region: Region, seed: int, packer: "_Packer") -> None:
    k0, k1 = philox_key(seed, region.key)
    key = k1 << 32 | k0
    tensor = region.tensor
    flat = (
        tensor.view(-1)
        if tensor.is_contiguous()
        else torch.empty(tensor.numel(), dtype=tensor.dtype, device=tensor.device)
    )
    if region.strides == contiguous_strides(tensor.shape):
        packer.add(_Piece(flat, region.row, key, region.base))
    else:
        _fill_box(region, flat, key, packer)
    if flat.data_ptr() != tensor.data_ptr():
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
        if len(pieces) == 1:
            self.words(chunk.words, pieces[0].key, pieces[0].position // 4)
        else:
            self.words(chunk.words, *self._batched(pieces, counts))
        unit = chunk.transform(pieces[0].row)
        start = 0
        for piece, count in zip(pieces, counts, strict=True):
            first = start + piece.position % 4
            _finish(unit[first : first + piece.out.numel()], piece.row, piece.out)
            start += 4 * count

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

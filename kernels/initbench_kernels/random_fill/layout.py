"""Where the values of a row lie: in memory, and in the unsharded tensor.

A region is a box of elements. Each of its dimensions steps through memory by one stride and through the positions of
the unsharded tensor by another: a plain tensor, a strided view and a shard of a DTensor differ in these numbers only.
"""

import functools
import itertools
import math
import sys
from typing import NamedTuple

import torch

from initbench_kernels.random_fill.parameters import Parameters

# What nearly every row has: a model has thousands, and other types cost them a question each.
PLAIN = (torch.Tensor, torch.nn.Parameter)


class Dimension(NamedTuple):
    """One dimension of a region: its size, and its steps in memory and in positions (elements)."""

    size: int
    memory: int
    position: int


class Region(NamedTuple):
    """A box of one row.

    Attributes:
        key: of the row.
        row: the numbers of its distribution.
        tensor: the memory, not empty: [sizes].
        base: position of the first element in the unsharded tensor.
        strides: step in positions of each dimension of `tensor`.
    """

    key: str | int
    row: Parameters
    tensor: torch.Tensor
    base: int
    strides: tuple[int, ...]

    def dimensions(self) -> tuple[Dimension, ...]:
        """Return the dimensions, outermost first, with those merged that one loop can run over."""
        if self.tensor.is_contiguous() and self.strides == contiguous_strides(self.tensor.shape):
            return (Dimension(self.tensor.numel(), 1, 1),)
        merged: list[Dimension] = []
        for dim in map(Dimension, self.tensor.shape, self.tensor.stride(), self.strides):
            if dim.size == 1:
                continue
            if merged and merged[-1][1:] == (dim.memory * dim.size, dim.position * dim.size):
                merged[-1] = Dimension(merged[-1].size * dim.size, dim.memory, dim.position)
            else:
                merged.append(dim)
        return tuple(merged) or (Dimension(1, 1, 1),)


def outer_dimensions(shape: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """Return how many leading dimensions step from run to run, the others being runs of consecutive positions."""
    run, outer = 1, len(shape)
    while outer and (strides[outer - 1] == run or shape[outer - 1] == 1):
        run *= shape[outer - 1]
        outer -= 1
    return outer


@functools.lru_cache(maxsize=4096)
def contiguous_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the row-major strides of `shape`."""
    return (
        tuple(itertools.accumulate(reversed(shape[1:]), lambda step, size: step * size, initial=1))[::-1]
        if shape
        else ()
    )


def is_dtensor(tensor: torch.Tensor) -> bool:
    """Whether `tensor` is a DTensor; nobody has one who did not import the module."""
    if type(tensor) in PLAIN:
        return False
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


# What a process holds of a tensor, box by box: memory, position of its first element, and position strides.
Box = tuple[torch.Tensor, int, tuple[int, ...]]


def boxes(tensor: torch.Tensor) -> list[Box]:
    """Return what this process holds of `tensor`.

    Without communication: a DTensor's placements say which indices of each dimension this rank holds. The placement
    itself splits a range of indices, so that its own rule for uneven shards holds, whatever the torch version.

    Raises:
        ValueError: a placement that holds no values of its own (partial sums).
    """
    return _shards(tensor) if is_dtensor(tensor) else [(tensor, 0, contiguous_strides(tensor.shape))]


def _shards(tensor: torch.Tensor) -> list[Box]:
    shape, mesh = tuple(tensor.shape), tensor.device_mesh  # type: ignore[attr-defined]
    coordinate = mesh.get_coordinate()
    if coordinate is None:
        return []
    held = [torch.arange(size, device="cpu") for size in shape]
    for axis, placement in enumerate(tensor.placements):  # type: ignore[attr-defined]
        if placement.is_replicate():
            continue
        dim = getattr(placement, "dim", None)
        if dim is None or not hasattr(placement, "_split_tensor"):
            raise ValueError(f"the placement {placement} holds no values of the unsharded tensor")
        indices = held[dim].view([-1 if i == dim else 1 for i in range(len(shape))])
        pieces, _ = placement._split_tensor(indices, mesh.size(axis), with_padding=False, contiguous=True)
        held[dim] = pieces[coordinate[axis]].flatten()
    with torch.no_grad():
        local = tensor.to_local().detach()  # type: ignore[attr-defined]
    lengths = tuple(len(indices) for indices in held)
    if math.prod(lengths) == 0:
        return []
    if tuple(local.shape) != lengths:
        raise ValueError(f"the local shard has shape {tuple(local.shape)}, its placements say {lengths}")
    strides = contiguous_strides(shape)
    found: list[Box] = []
    for runs in itertools.product(*map(_runs, held)):
        view, base = local, 0
        for dim, (start, length, first) in enumerate(runs):
            view = view.narrow(dim, start, length)
            base += first * strides[dim]
        found.append((view, base, strides))
    return found


def store_whole_(tensor: torch.Tensor, whole: torch.Tensor) -> None:
    """Copy into `tensor` what this process holds of it, without communication.

    Args:
        tensor: a plain tensor or a DTensor.
        whole: all values of the unsharded tensor, of the same shape, any dtype and device.
    """
    flat = whole.detach().contiguous()
    with torch.no_grad():
        for memory, base, strides in boxes(tensor):
            memory.copy_(flat.as_strided(memory.shape, strides, base))


def _runs(indices: torch.Tensor) -> list[tuple[int, int, int]]:
    """Split increasing indices into runs of neighbours: (start, length, first index)."""
    breaks = (torch.nonzero(indices.diff() != 1).flatten() + 1).tolist()
    starts = [0, *breaks]
    return [(i, j - i, int(indices[i])) for i, j in zip(starts, [*breaks, len(indices)], strict=True)]

"""No place in memory may be written twice: one launch has no order, so it would hold either value.

Strided memory can interleave without overlapping, as the columns of a matrix do. Sorted first and last addresses settle
nearly every call; what they leave open is marked place by place.
"""

import math
from collections.abc import Iterator
from operator import gt

import torch

from initbench_kernels.random_fill.layout import Region


def check_memory(regions: list[Region]) -> None:
    """Refuse regions without memory, and those that share a place of it with another or among their own elements.

    Raises:
        ValueError: the message starts with the key.
    """
    starts, ends = [], []
    for region in regions:
        tensor = region.tensor
        try:
            start = tensor.data_ptr()
        except RuntimeError:
            raise _no_memory(region) from None
        starts.append(start)
        if tensor.is_contiguous():
            ends.append(start + tensor.nbytes)
        else:
            ends.append(start + _span(tensor) * tensor.itemsize)
            if _overlaps_itself(tensor):
                raise ValueError(
                    f"{region.key!r}: is an expanded or overlapping view: several of its elements share one place in "
                    "memory"
                )
    starts.sort()
    ends.sort()
    if starts and not starts[0]:
        raise _no_memory(next(region for region in regions if not region.tensor.data_ptr()))
    # Sorted apart: where the next range starts, as many have ended as have started, so none is still open.
    if any(map(gt, ends, starts[1:])):
        for group in _meeting(regions):
            _check_places(group)


def _no_memory(region: Region) -> ValueError:
    """What stands for other tensors (in a transform, a trace, a wrapper) has none; and no kernel may write to 0."""
    return ValueError(f"{region.key!r}: is a {type(region.tensor).__name__} without memory of its own")


def _span(tensor: torch.Tensor) -> int:
    """Return how many elements lie between the first and the last of a tensor that is not empty, both included."""
    return 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))


def _overlaps_itself(tensor: torch.Tensor) -> bool:
    """Whether two elements share a place."""
    steps = sorted((stride, size) for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if size > 1)
    reach = 0
    for stride, size in steps:
        if stride == 0:
            return True
        if stride <= reach:
            break
        reach += stride * (size - 1)
    else:
        # Each dimension steps over all that the smaller ones reach.
        return False
    marks = torch.zeros(_span(tensor), dtype=torch.bool, device="cpu")
    marks.as_strided(tensor.shape, tensor.stride()).fill_(True)
    return int(marks.sum()) < tensor.numel()


def _meeting(regions: list[Region]) -> Iterator[list[Region]]:
    """Yield groups of regions, each in the order of the rows, whose ranges of addresses form one on their device."""
    order = sorted(range(len(regions)), key=lambda i: (str(regions[i].tensor.device), regions[i].tensor.data_ptr()))
    group: list[int] = []
    device, end = None, 0
    for i in order:
        tensor = regions[i].tensor
        if group and (tensor.device != device or tensor.data_ptr() >= end):
            yield [regions[j] for j in sorted(group)]
            group, end = [], 0
        group.append(i)
        device, end = tensor.device, max(end, tensor.data_ptr() + _span(tensor) * tensor.itemsize)
    yield [regions[j] for j in sorted(group)]


def _check_places(group: list[Region]) -> None:
    """Mark every place of a group of regions, in the largest unit of bytes that all are made of."""
    first = min(region.tensor.data_ptr() for region in group)
    tensors = [region.tensor for region in group]
    unit = math.gcd(*(t.itemsize for t in tensors), *(t.data_ptr() - first for t in tensors))
    last = max(t.data_ptr() + _span(t) * t.itemsize for t in tensors)
    marks = torch.zeros((last - first) // unit, dtype=torch.bool, device="cpu")

    def places(tensor: torch.Tensor) -> torch.Tensor:
        width = tensor.itemsize // unit
        strides = [stride * width for stride in tensor.stride()]
        return marks.as_strided((*tensor.shape, width), (*strides, 1), (tensor.data_ptr() - first) // unit)

    for i, region in enumerate(group):
        if places(region.tensor).any():
            marks.zero_()
            places(region.tensor).fill_(True)
            other = next(other for other in group[:i] if places(other.tensor).any())
            raise ValueError(f"{region.key!r}: its memory is also filled by the row of key {other.key!r}")
        places(region.tensor).fill_(True)

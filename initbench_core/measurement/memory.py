"""Memory that a call holds: at its peak, and for the backward pass."""

import itertools
from collections.abc import Callable

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def _storages(tree: object) -> list[tuple[StorageWeakRef, int]]:
    """Return the storage of each tensor of nested containers, without keeping it alive, and its bytes."""
    storages = [leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
    return [(StorageWeakRef(storage), storage.nbytes()) for storage in storages]


class _PeakMemory(TorchDispatchMode):
    """Track the storage that operations create, until it is freed."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        # A view of what the caller holds, and what is written in place, is no new storage.
        given = {storage.cdata for storage, _ in _storages((args, kwargs))}
        result = func(*args, **(kwargs or {}))
        new = [(storage, size) for storage, size in _storages(result) if storage.cdata not in given]
        self.alive |= {storage.cdata: (storage, size) for storage, size in new}
        self.alive = {key: entry for key, entry in self.alive.items() if not entry[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self.alive.values()))
        return result


def peak_bytes(call: Callable[[], object], device: torch.device | str) -> int:
    """Return the most bytes that `call` holds at a time, beside what was there before it.

    On CUDA the allocator counts. On the CPU the operators that PyTorch dispatches are watched, so what a compiled graph
    holds inside is not seen: do not ask for one.
    """
    if torch.device(device).type == "cuda":
        call()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with _PeakMemory() as memory:
        call()
    return memory.peak


def saved_bytes(forward: Callable[[], Tensor], inputs: tuple[Tensor, ...]) -> int:
    """Return the bytes that autograd keeps alive between the passes: the output and what is saved for backward.

    Storage shared by several tensors counts once; that of `inputs`, which the caller holds anyhow, does not count.
    """
    saved: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = forward()
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in itertools.chain(saved, [y])}
    for tensor in inputs:
        storages.pop(tensor.untyped_storage().data_ptr(), None)
    return sum(storages.values())

"""Bytes that Triton kernels read and write, and their launches, counted under Triton's interpreter.

These are the logical bytes that a kernel asks for, once for each element and access: what it would move to and from
memory if nothing were cached. They need no GPU, but a process with TRITON_INTERPRET=1 set before Triton is imported.
"""

import argparse
import importlib
import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
from torch import Tensor


class Access(NamedTuple):
    """One load or store of one tile.

    Attributes:
        store: whether it writes.
        address: the lowest address it touches, which tells whose memory it is.
        num_bytes: bytes of the elements that its mask lets through.
    """

    store: bool
    address: int
    num_bytes: int


@dataclass
class Traffic:
    """What was counted.

    Attributes:
        launches: names of the kernels, in order.
        accesses: every load and store.
    """

    launches: list[str] = field(default_factory=list)
    accesses: list[Access] = field(default_factory=list)

    def passes(self, tensor: Tensor) -> tuple[float, float]:
        """Return how many times the whole of `tensor` was read and written: its bytes moved over its size."""
        size = tensor.numel() * tensor.itemsize
        moved = [0, 0]
        for store, address, num_bytes in self.accesses:
            if tensor.data_ptr() <= address < tensor.data_ptr() + size:
                moved[store] += num_bytes
        return moved[0] / size, moved[1] / size

    def total_bytes(self) -> int:
        """Return all bytes moved, those of parameters and partial sums included."""
        return sum(access.num_bytes for access in self.accesses)


@contextmanager
def count_traffic() -> Iterator[Traffic]:
    """Count what the kernels launched inside the block move.

    Raises:
        RuntimeError: Triton does not interpret in this process.
    """
    import triton
    from triton.runtime import interpreter

    if not triton.knobs.runtime.interpret:
        raise RuntimeError("traffic is counted under the interpreter: set TRITON_INTERPRET=1 before Triton is imported")
    traffic = Traffic()
    builder, executor = interpreter.InterpreterBuilder, interpreter.GridExecutor
    load, store, launch = builder.create_masked_load, builder.create_masked_store, executor.__call__

    def note(is_store: bool, pointers: Any, mask: Any) -> None:
        addresses = np.broadcast_to(pointers.data, np.shape(mask.data))[np.asarray(mask.data, dtype=bool)]
        if addresses.size:
            itemsize = pointers.get_element_ty().primitive_bitwidth // 8
            traffic.accesses.append(Access(is_store, int(addresses.min()), addresses.size * itemsize))

    def counted_load(self: Any, pointers: Any, mask: Any, *args: Any, **kwargs: Any) -> Any:
        note(False, pointers, mask)
        return load(self, pointers, mask, *args, **kwargs)

    def counted_store(self: Any, pointers: Any, value: Any, mask: Any, *args: Any, **kwargs: Any) -> Any:
        note(True, pointers, mask)
        return store(self, pointers, value, mask, *args, **kwargs)

    def counted_launch(self: Any, *args: Any, **kwargs: Any) -> Any:
        traffic.launches.append(self.fn.__name__)
        return launch(self, *args, **kwargs)

    with (
        mock.patch.object(builder, "create_masked_load", counted_load),
        mock.patch.object(builder, "create_masked_store", counted_store),
        mock.patch.object(executor, "__call__", counted_launch),
    ):
        yield traffic


def main() -> int:
    """Print one JSON line per run of the operators' `offline` modules."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("operators", nargs="+", help="modules with a generator `runs`")
    parser.add_argument("--match", default="", help="regular expression on names of runs")
    options = parser.parse_args()
    for name in options.operators:
        for run in importlib.import_module(name).runs():
            if not re.search(options.match, run.name):
                continue
            call = run.prepare()
            with count_traffic() as traffic:
                call()
            record = {
                "name": run.name,
                "elements": run.elements,
                "launches": len(traffic.launches),
                "bytes_per_element": traffic.total_bytes() / run.elements,
            }
            print(json.dumps(record, allow_nan=False), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

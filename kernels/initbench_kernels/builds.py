"""What an operator tells the tools that judge kernels without a GPU: builds to compile, runs to interpret.

Each operator package has a module `offline` with two generators, `builds()` and `runs()`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass(frozen=True)
class Build:
    """A kernel specialized to one set of arguments, to be compiled for a device that is not there.

    Attributes:
        kernel: the `triton.jit` function.
        name: what the row stands for, for tables and test ids.
        arguments: run-time arguments and their Triton types ("*bf16", "i32", "fp32"), in any order. Pointers are taken
            to be 16-byte aligned, as the allocator's are.
        constants: compile-time arguments; a pointer that is None belongs here.
        threads: per program.
        tile_bits: bits of one tensor that one program moves in one step of its loop.
        tile_loads: how many tensors it loads so.
        tile_stores: how many tensors it stores so.
        access_bits: width of access that the tensors' alignment permits, at most 128.
        options: further compiler options.
    """

    kernel: Any
    name: str
    arguments: dict[str, str]
    constants: dict[str, Any]
    threads: int
    tile_bits: int
    tile_loads: int
    tile_stores: int
    access_bits: int
    options: dict[str, Any] = field(default_factory=dict)


def warp_size() -> int:
    """Return the threads of a warp on the devices that this PyTorch is built for."""
    return 64 if torch.version.hip else 32


@dataclass(frozen=True)
class Run:
    """A call to count launches and bytes of, under the interpreter.

    Attributes:
        name: what is called, and on what.
        elements: elements of the tensor that the operator works on.
        prepare: makes the inputs and returns the call; only the call's kernels are counted.
    """

    name: str
    elements: int
    prepare: Callable[[], Callable[[], object]]

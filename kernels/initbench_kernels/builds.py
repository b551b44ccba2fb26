"""What an operator tells the offline compiler: one build is one kernel with the arguments of one tuning-table row."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Build:
    """A kernel specialized to one set of arguments, to be compiled without a GPU.

    Attributes:
        kernel: the `triton.jit` function.
        name: what the row stands for, for tables and test ids.
        arguments: run-time arguments and their Triton types ("*bf16", "i32", "fp32"), in any order. Pointers are taken
            to be 16-byte aligned, as the allocator's are.
        constants: compile-time arguments; a pointer that is None belongs here.
        num_warps: warps per program.
        tile_bits: bits that one program moves through its tiles in one loop step, keyed by "load" and "store".
        access_bits: width that alignment permits for each of these accesses, at most 128.
        options: further compiler options.
    """

    kernel: Any
    name: str
    arguments: dict[str, str]
    constants: dict[str, Any]
    num_warps: int
    tile_bits: dict[str, int]
    access_bits: int
    options: dict[str, Any] = field(default_factory=dict)

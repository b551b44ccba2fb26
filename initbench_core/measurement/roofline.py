"""The memory floor: how often a pass must read and write a whole tensor, and how long a copy takes to do as much.

Batch normalization and ReLU do a handful of operations per element, so memory alone bounds them. The bound is not a
data sheet's bandwidth but a copy of the same bytes, measured in the same run.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

# The name under which the copy is timed beside implementations.
COPY = "copy"


class Passes(NamedTuple):
    """Full-tensor passes over memory.

    Attributes:
        reads: times every element is read.
        writes: times every element is written.
    """

    reads: int
    writes: int

    @property
    def copies(self) -> float:
        """How many copies (one read, one write) move as many bytes."""
        return (self.reads + self.writes) / 2

    def gbps(self, num_bytes: int, time_ms: float) -> float:
        """Return the bandwidth (1e9 bytes per second) at which they went over a tensor of `num_bytes`."""
        return (self.reads + self.writes) * num_bytes / time_ms / 1e6


# What fused BatchNorm+ReLU moves in two launches each way. Training statistics have to be complete before anything can
# be normalized, hence the second read of x; likewise for the two sums of the backward pass.
FUSED_PASSES = {
    "eval": Passes(1, 1),
    "fwd_train": Passes(2, 1),
    "bwd": Passes(4, 1),
    "fwd_bwd": Passes(6, 2),
}

# A fill from a counter reads nothing.
FILL_PASSES = Passes(0, 1)


def copy_of(source: Tensor) -> Callable[[], object]:
    """Return the call that bounds every pass: a copy of a tensor into memory that is there."""
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def floor_ms(pass_name: str, copy_ms: float) -> float:
    """Return the time of the copies that move what a fused pass moves; `copy_ms` is one copy of its tensor."""
    return FUSED_PASSES[pass_name].copies * copy_ms


def bandwidth_gbps(pass_name: str, num_bytes: int, time_ms: float) -> float:
    """Return the bandwidth (1e9 bytes per second) at which a fused pass over a tensor of `num_bytes` ran."""
    return FUSED_PASSES[pass_name].gbps(num_bytes, time_ms)

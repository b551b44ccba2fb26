"""Where the tests of the GPU run: on one, or, as a rehearsal for the day there is one, on the CPU and interpreted."""

import math
import os

import pytest
import torch

REHEARSING = os.environ.get("TRITON_INTERPRET") == "1" and not torch.cuda.is_available()
DEVICE = "cpu" if REHEARSING else "cuda"
# Without a name CPU tensors are served by PyTorch.
BACKEND = "triton" if REHEARSING else None

needs_hardware = pytest.mark.skipif(REHEARSING, reason="needs a CUDA device")


def sized(samples: int, *others: int) -> tuple[int, ...]:
    """Return the shape, in a rehearsal cut to as many samples and channels as an interpreter has time for."""
    if not REHEARSING:
        return (samples, *others)
    others = (*(min(130, channels) for channels in others[:1]), *others[1:])
    return (min(samples, max(2, 20_000 // math.prod(others))), *others)

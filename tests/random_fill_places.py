"""Places of every kind for property tests of the fills, and what the specification says of each."""

from operator import mul
from typing import NamedTuple

import torch
from hypothesis import strategies as st
from random_fill_cases import DTYPES, ROWS

from initbench_kernels.random_fill import Fill, reference
from initbench_kernels.random_fill.layout import Region, contiguous_strides
from initbench_kernels.random_fill.rows import _parameters

GUARD = 77.0
# Among them ends of 31 and 32 bits, and where the second counter word begins.
OFFSETS = (0, 1, 2, 2**31 - 3, 2**32 - 6, 2**34 - 150, 2**40 + 3)
SEEDS = st.integers(0, 2**64 - 1)
KEYS = st.one_of(st.text(max_size=8), st.integers(0, 2**64 - 1))


class Place(NamedTuple):
    """A region, and the buffer in which guard values surround it."""

    region: Region
    buffer: torch.Tensor

    def check(self, seed: int) -> None:
        """Assert that the region holds the specification's values, and the buffer guards elsewhere."""
        tensor = self.region.tensor
        positions = torch.full((), self.region.base)
        for size, stride in zip(tensor.shape, self.region.strides, strict=True):
            positions = positions[..., None] + torch.arange(size) * stride
        wanted = reference.fill(reference.bits_at(seed, self.region.key, positions), self.region.row)
        assert torch.equal(tensor, wanted)
        tensor.fill_(GUARD)
        assert (self.buffer == GUARD).all()


@st.composite
def places(draw: st.DrawFn) -> Place:
    """A box of any dtype and distribution: a run of any start; or strided, permuted, cut from a larger tensor."""
    dtype, distribution = draw(st.sampled_from(DTYPES)), draw(st.sampled_from(sorted(ROWS)))
    if draw(st.booleans()):
        shape, start = [draw(st.integers(1, 700))], draw(st.integers(0, 5))
        buffer = torch.full((start + shape[0] + 3,), GUARD, dtype=dtype)
        view = buffer[start : start + shape[0]]
    else:
        shape = draw(st.lists(st.integers(1, 6), max_size=5))
        steps = [draw(st.integers(1, 3)) for _ in shape]
        buffer = torch.full([size * step + 2 for size, step in zip(shape, steps, strict=True)], GUARD, dtype=dtype)
        slices = [slice(1, 1 + size * step, step) for size, step in zip(shape, steps, strict=True)]
        view = buffer[tuple(slices)].permute(draw(st.permutations(range(len(shape)))))
    # The kernel walks four dimensions, and copies what lies in memory along more; nobody cuts along more.
    margin = st.integers(0, 3) if len(shape) < 5 else st.just(0)
    before, after = ([draw(margin) for _ in shape] for _ in range(2))
    strides = contiguous_strides(tuple(map(sum, zip(before, view.shape, after, strict=True))))
    base = draw(st.sampled_from(OFFSETS)) + sum(map(mul, before, strides))
    row = _parameters(Fill(view, distribution, "", **ROWS[distribution]))
    return Place(Region(draw(KEYS), row, view, base, strides), buffer)

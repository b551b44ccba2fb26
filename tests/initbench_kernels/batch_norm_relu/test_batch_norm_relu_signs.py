"""The layout of the saved signs, in plain integers: the formula without tiles against the tiles."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from initbench_kernels.batch_norm_relu.layout import Layout
from initbench_kernels.batch_norm_relu.signs import num_bytes, runs_of, unpack
from initbench_kernels.batch_norm_relu.tiling import tiling_of

layouts = st.one_of(
    st.builds(Layout, st.integers(1, 10**7), st.integers(2, 5000), st.just(1)),
    st.builds(Layout, st.integers(1, 10), st.integers(2, 40), st.just(1)),
    st.builds(Layout, st.integers(1, 10**4), st.integers(1, 5000), st.integers(2, 10**6)),
    st.builds(Layout, st.integers(1, 100), st.integers(1, 100), st.integers(2, 600)),
)


@settings(max_examples=1000, deadline=None)
@given(layout=layouts)
def test_agrees_with_every_tiling(layout: Layout) -> None:
    """Forward and backward passes, whose tiles may differ in size, cut the same blocks and so the same bytes."""
    runs = runs_of(layout)
    assert runs.rows * runs.row == layout.outer * layout.channels * layout.inner
    tilings = [tiling_of(layout, elements) for elements in (1024, 2048, 4096)]
    assert len({t.width for t in tilings}) == 1
    for t in tilings:
        assert t.sign_bytes == runs.rows * runs.row_bytes
        # No byte is shared: a block, or what folded rows there are, ends where a byte does.
        assert t.width % 8 == 0 or t.blocks == 1 or t.width == runs.run
        # The kernels find a row's bytes and a tile's as multiples of 8 lanes.
        assert t.block_l % 8 == 0
        if t.channel_of == "mod":
            assert t.width % 8 == 0 or t.rows == 1


@settings(max_examples=400, deadline=None)
@given(layout=layouts)
def test_size(layout: Layout) -> None:
    """An eighth of a byte per element, where sizes are multiples of 8; nowhere more than a byte per plane or row more.

    Rows of 32 channels and fewer share bytes, and so do planes of up to 128 elements.
    """
    runs = runs_of(layout)
    size, elements = runs.rows * runs.row_bytes, runs.rows * runs.row
    assert size >= elements / 8
    if layout.inner % 8 == 0 or (layout.inner <= 128 and layout.channels % 8 == 0):
        assert size == elements // 8
    assert size <= elements / 8 + layout.outer * (layout.channels if layout.inner > 1 else 1)


def test_unpack() -> None:
    """Bits lie in memory order, the first lowest; rows of more than 32 channels start new bytes."""
    x = torch.empty(2, 3, 2).transpose(1, 2)
    assert num_bytes(x) == 2
    signs = torch.tensor([0b1000_0101, 0b0010], dtype=torch.uint8)
    wanted = torch.tensor([1, 0, 1, 0, 0, 0, 0, 1, 0, 1, 0, 0]).bool().view(2, 3, 2).transpose(1, 2)
    assert torch.equal(unpack(signs, x), wanted)
    assert unpack(signs, x).stride() == x.stride()
    x = torch.empty(3, 33)
    assert num_bytes(x) == 15
    signs = torch.zeros(3, 5, dtype=torch.uint8)
    signs[1, 4], signs[2, 0] = 1, 2
    assert unpack(signs.flatten(), x).nonzero().tolist() == [[1, 32], [2, 1]]

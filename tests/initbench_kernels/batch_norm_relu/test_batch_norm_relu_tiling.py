"""How tensors are classified and cut, in plain integers: what the kernels take for granted."""

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from initbench_kernels.batch_norm_relu.layout import Layout, dense, layout_of, like
from initbench_kernels.batch_norm_relu.tiling import MAX_MATCH, Tiling, tiling_of


def is_power_of_two(n: int) -> bool:
    return n > 0 and n & (n - 1) == 0


layouts = st.one_of(
    st.builds(Layout, st.integers(1, 10**7), st.integers(2, 5000), st.just(1)),
    st.builds(Layout, st.integers(1, 10**4), st.integers(1, 5000), st.integers(2, 10**6)),
)


def channel_of(tiling: Tiling, block: int, column: int) -> int:
    """Return the channel of a block's column, by the rule that `channel_of` names."""
    inner = tiling.width // tiling.block_channels
    first = block * tiling.block_channels
    rules = {"same": column, "mod": column % tiling.channels, "div": column // inner, "one": 0}
    return first + rules[tiling.channel_of]


@settings(max_examples=400, deadline=None)
@given(layout=layouts, elements=st.sampled_from([1024, 2048, 4096]))
def test_invariants(layout: Layout, elements: int) -> None:
    """Blocks cover the channels, tiles cover the blocks, alignment is true, and lanes never become valid again."""
    t = tiling_of(layout, elements)
    assert t.channels == layout.channels
    assert (t.rows - 1) * t.row_stride + t.tail == layout.outer * layout.channels * layout.inner
    assert 0 < t.tail <= t.row_stride
    assert all(is_power_of_two(n) for n in (t.block_n, t.block_l, t.block_ch, t.align))
    assert all(n % t.align == 0 for n in (t.row_stride, t.width, t.tail))
    assert t.block_channels <= t.block_ch
    assert t.block_n * t.block_l <= max(elements, t.block_l)
    if t.channel_of in ("mod", "div"):
        assert t.block_l * t.block_ch <= MAX_MATCH
    if t.channel_of != "mod":
        assert t.tail == t.row_stride
    if t.width > t.block_l:
        assert t.channel_of == "one"
        assert t.rows % t.block_n == 0


@settings(max_examples=200, deadline=None)
@given(layout=layouts, elements=st.sampled_from([1024, 4096]), data=st.data())
def test_channels(layout: Layout, elements: int, data: st.DataObject) -> None:
    """Any element of the tensor lies in the block and lane of its own channel."""
    t = tiling_of(layout, elements)
    total = layout.outer * layout.channels * layout.inner
    index = data.draw(st.integers(0, total - 1))
    _, position = divmod(index, t.row_stride)
    block, column = divmod(position, t.width)
    assert block < t.blocks
    assert channel_of(t, block, column) == index // layout.inner % layout.channels


@settings(max_examples=400, deadline=None)
@given(layout=layouts, programs=st.integers(1, 2000), merged=st.booleans())
def test_splits(layout: Layout, programs: int, merged: bool) -> None:
    """Every tile has a program and every program a tile."""
    t = tiling_of(layout, 4096)
    splits, tiles_per_program = t.split(programs, merged=merged)
    assert splits * tiles_per_program >= t.tiles > (splits - 1) * tiles_per_program


def test_few_channels_fill_a_large_device() -> None:
    """3 channels give as many programs as 256, at equal bytes."""
    for layout in (Layout(2**22, 3, 1), Layout(2**15, 256, 1), Layout(32, 3, 2**17), Layout(32, 256, 1568)):
        t = tiling_of(layout, 4096)
        splits, _ = t.split(132 * 4, merged=True)
        assert 132 * 3 <= splits * t.blocks <= 132 * 4


def test_accesses_are_wide_where_planes_are_not_aligned() -> None:
    """7x7 planes are grouped until 8 channels make a multiple of 16 bytes; 3 channels are folded until rows do."""
    assert tiling_of(Layout(32, 512, 49), 4096).align == 8
    assert tiling_of(Layout(4096, 3, 1), 4096).align == 8
    assert tiling_of(Layout(4096, 18, 1), 4096).align == 8


def test_layouts() -> None:
    """Dense memory orders are taken as they are; others are copied once, channels last staying so."""
    x = torch.randn(2, 3, 4, 5)
    last = x.contiguous(memory_format=torch.channels_last)
    assert layout_of(x) == Layout(2, 3, 20)
    assert layout_of(last) == Layout(40, 3, 1)
    assert layout_of(torch.randn(6, 4)) == Layout(6, 4, 1)
    assert layout_of(torch.randn(6, 1)) == Layout(1, 1, 6)
    assert layout_of(torch.randn(6, 4).t()) == Layout(1, 6, 4)
    assert layout_of(torch.randn(2, 5, 3).transpose(1, 2)) == Layout(10, 3, 1)
    assert layout_of(x[:, :, 1:]) is None
    assert dense(x) is x
    assert dense(last[:, :, 1:]).is_contiguous(memory_format=torch.channels_last)
    assert dense(x[:, :, 1:]).is_contiguous()
    assert dense(x.permute(3, 1, 0, 2)).is_contiguous()


def test_like() -> None:
    """A tensor in the right order is passed on as it is, strides of size-1 dimensions aside."""
    x = torch.randn(4, 3, 1, 1)
    odd = torch.randn(4, 3).as_strided((4, 3, 1, 1), (3, 1, 7, 7))
    assert like(odd, x) is odd
    t = torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    assert like(t, torch.empty(2, 3, 4, 4)).is_contiguous()
    assert torch.equal(like(t, torch.empty(2, 3, 4, 4)), t)


def test_tile_sizes_of_common_planes() -> None:
    """Lanes of the usual image planes are at least three quarters full."""
    for side in (7, 14, 28, 56, 112, 224):
        for batch in (32, 128):
            t = tiling_of(Layout(batch, 256, side * side), 4096)
            columns = math.ceil(t.width / t.block_l) * t.block_l
            assert t.width / columns >= 0.75, side

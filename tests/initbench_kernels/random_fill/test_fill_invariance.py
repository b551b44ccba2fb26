"""What the values do not depend on: slicing, order, grouping, chunk size, dtype, strides, threads."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_fill_places import KEYS, SEEDS, Place, places

from initbench_kernels import Fill, fill_
from initbench_kernels.random_fill import bits, eager, schedule

DISTRIBUTIONS = ["uniform", "normal", "truncated_normal"]
quick = settings(max_examples=40, deadline=None, derandomize=True)


def filled(shape, distribution, key, seed, *, dtype=torch.float32, offset=0):
    tensor = torch.full(shape, math.nan, dtype=dtype)
    fill_([Fill(tensor, distribution, key, offset=offset)], seed=seed)
    return tensor


@quick
@given(
    seed=SEEDS,
    key=KEYS,
    distribution=st.sampled_from(DISTRIBUTIONS),
    start=st.integers(0, 300),
    length=st.integers(0, 300),
    far=st.sampled_from([0, 1, 2**34 - 150, 2**40 + 3]),
)
def test_slice_holds_what_the_whole_holds_there(seed, key, distribution, start, length, far):
    whole = filled((600,), distribution, key, seed, offset=far)
    part = filled((length,), distribution, key, seed, offset=far + start)
    assert torch.equal(part, whole[start : start + length])


@quick
@given(data=st.data(), seed=SEEDS)
def test_order_and_grouping_of_rows_do_not_matter(data, seed):
    sizes = data.draw(st.lists(st.integers(0, 200), min_size=1, max_size=8))
    kinds = [data.draw(st.sampled_from(DISTRIBUTIONS)) for _ in sizes]
    order = data.draw(st.permutations(range(len(sizes))))
    tensors = [torch.full((n,), math.nan) for n in sizes]
    fill_([Fill(tensors[i], kinds[i], i) for i in order], seed=seed)
    for i, tensor in enumerate(tensors):
        assert torch.equal(tensor, filled((sizes[i],), kinds[i], i, seed))


@quick
@given(
    size=st.integers(1, 3000), chunk=st.sampled_from([64, 68, 256, 1000]), distribution=st.sampled_from(DISTRIBUTIONS)
)
def test_chunk_size_does_not_matter(size, chunk, distribution):
    shapes = [(size,), (3,), (size // 2 + 1,)]
    expected = [filled(shape, distribution, i, 5, offset=i) for i, shape in enumerate(shapes)]
    tensors = [torch.full(shape, math.nan) for shape in shapes]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schedule, "_chunk_size", lambda device: chunk)
        fill_([Fill(t, distribution, i, offset=i) for i, t in enumerate(tensors)], seed=5)
    for tensor, wanted in zip(tensors, expected, strict=True):
        assert torch.equal(tensor, wanted)


@quick
@given(seed=SEEDS, distribution=st.sampled_from(DISTRIBUTIONS), n=st.integers(1, 2000))
def test_half_precision_is_float32_rounded(seed, distribution, n):
    wide = filled((n,), distribution, "w", seed)
    assert torch.equal(filled((n,), distribution, "w", seed, dtype=torch.float64), wide.double())
    for dtype in (torch.bfloat16, torch.float16):
        rounded = wide.to(dtype)
        if distribution == "uniform":
            below_one = {torch.bfloat16: 1 - 2**-8, torch.float16: 1 - 2**-11}[dtype]
            rounded = torch.where(rounded == 1, torch.tensor(below_one, dtype=dtype), rounded)
        assert torch.equal(filled((n,), distribution, "w", seed, dtype=dtype), rounded)


@st.composite
def views(draw):
    """A buffer of guard values, and a strided view of it."""
    shape = draw(st.lists(st.integers(0, 5), min_size=1, max_size=5))
    steps = [draw(st.integers(1, 3)) for _ in shape]
    buffer = torch.full([n * step + 2 for n, step in zip(shape, steps, strict=True)], 77.0, dtype=torch.float32)
    view = buffer[tuple(slice(1, 1 + n * step, step) for n, step in zip(shape, steps, strict=True))]
    return buffer, view.permute(draw(st.permutations(range(len(shape)))))


@quick
@given(pair=views(), distribution=st.sampled_from([*DISTRIBUTIONS, "constant"]))
def test_strided_views_get_the_same_values_and_their_neighbours_none(pair, distribution):
    buffer, view = pair
    fill_([Fill(view, distribution, "w", value=3.0)], seed=11)
    contiguous = torch.full(view.shape, math.nan)
    fill_([Fill(contiguous, distribution, "w", value=3.0)], seed=11)
    assert torch.equal(view, contiguous)
    view.fill_(77.0)
    assert (buffer == 77.0).all()


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_thread_count_does_not_matter(distribution):
    threads = torch.get_num_threads()
    wanted = filled((400_001,), distribution, "w", 3)
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            assert torch.equal(filled((400_001,), distribution, "w", 3), wanted)
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    places=st.lists(places(), min_size=1, max_size=6),
    seed=SEEDS,
    chunk=st.sampled_from([64, 68, 1000, schedule.CPU_CHUNK]),
    threads=st.integers(1, 4),
    words=st.sampled_from([bits.words_, bits.plain_words_]),
)
def test_values_depend_on_seed_key_and_position_alone(places: list[Place], seed, chunk, threads, words):
    """Not on anything of the above, all varied at once, nor on where the words come from."""
    before = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schedule, "_chunk_size", lambda device: chunk)
        # Threads of their own for a handful of values, too.
        patch.setattr(eager, "THREAD_SHARE", 1)
        patch.setattr(eager, "LONG_DRAW", 1)
        try:
            torch.set_num_threads(threads)
            eager.Loads([place.region for place in places]).fill_(seed, words=words)
        finally:
            torch.set_num_threads(before)
    for place in places:
        place.check(seed)

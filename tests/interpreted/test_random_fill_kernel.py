"""The fill kernel under Triton's interpreter: the bits of the eager path, whatever the block."""

import math
import os

import pytest

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs TRITON_INTERPRET=1 from the start", allow_module_level=True)

import torch
import triton
import triton.language as tl
from hypothesis import given, settings
from hypothesis import strategies as st
from random_fill_cases import CASES, DTYPES, SEED

from initbench_kernels import Fill, FillPlan, fill_
from initbench_kernels.random_fill import kernels, launch, reference, rows


def both(make, distribution, **numbers):
    """Fill two equal tensors, one by each backend."""
    found, expected = make(), make()
    fill_([Fill(found, distribution, "w", **numbers)], seed=SEED, backend="triton")
    fill_([Fill(expected, distribution, "w", **numbers)], seed=SEED, backend="eager")
    return found, expected


@triton.jit
def philox_kernel(group_ptr, out_ptr, key, N: tl.constexpr):
    lanes = tl.arange(0, N)
    words = kernels._words_of_groups(key.to(tl.uint64), tl.load(group_ptr + lanes))
    for i in tl.static_range(4):
        tl.store(out_ptr + i * N + lanes, words[i].to(tl.int64))


@pytest.mark.parametrize("key", [0, 1, 0x123456789ABCDEF, 2**63 - 1])
def test_philox_words_are_the_references(key):
    groups = torch.cat([torch.arange(60), torch.tensor([2**32 - 1, 2**32, 2**40 + 3, 2**60])])
    out = torch.zeros(4, 64, dtype=torch.int64)
    philox_kernel[(1,)](groups, out, key, N=64)
    zero = torch.zeros_like(groups)
    words = reference.philox4x32(
        groups & 0xFFFFFFFF, groups >> 32, zero, zero, zero + (key & 0xFFFFFFFF), zero + (key >> 32)
    )
    assert torch.equal(out, torch.stack(words))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_kernel_writes_the_eager_bits(case, dtype):
    distribution, numbers = CASES[case]
    for n in (4096, 3001):
        found, expected = both(lambda n=n: torch.full((n,), math.nan, dtype=dtype), distribution, **numbers)
        assert torch.equal(found, expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_kernel_writes_every_constant(dtype):
    for value in (0.0, -0.0, 0.0, -1.5, math.inf, -math.inf, math.nan):
        for n in (5, 3000):
            found, expected = both(lambda n=n: torch.full((n,), 7.0, dtype=dtype), "constant", value=value)
            assert torch.equal(found.view(torch.uint8), expected.view(torch.uint8))
            assert torch.equal(torch.signbit(found), torch.signbit(torch.full((n,), value)))


def test_the_default_device_does_not_matter():
    found, expected = torch.empty(2, 3, 4, 3, 3, 8)[:, ::2, ::2, ::2, ::2, ::2], torch.empty(2, 2, 2, 2, 2, 4)
    fill_([Fill(expected, "normal", "w")], seed=SEED, backend="eager")
    with torch.device("meta"):
        fill_([Fill(found, "normal", "w")], seed=SEED, backend="triton")
    assert torch.equal(found, expected)


BUFFER = torch.full((20,), 7.0)
REFUSED = {
    "overlap": ([Fill(BUFFER[:12], "normal", "good"), Fill(BUFFER[5:17], "normal", "bad")], "row of key 'good'"),
    "windows": ([Fill(BUFFER.unfold(0, 4, 1), "normal", "bad")], "overlapping"),
    "constant": ([Fill(BUFFER, "constant", "bad", value=1e39)], "float32"),
    "std": ([Fill(BUFFER, "normal", "bad", std="1")], "std"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_rows_reach_no_kernel(case):
    rows, message = REFUSED[case]
    with pytest.raises(ValueError, match=f"'bad': .*{message}"):
        fill_(rows, seed=0, backend="triton")
    assert (BUFFER == 7.0).all()


@pytest.mark.parametrize("case", ["uniform", "normal", "tail"])
def test_kernel_agrees_on_65536_values(case):
    distribution, numbers = CASES[case]
    found, expected = both(lambda: torch.full((65_536,), math.nan), distribution, **numbers)
    assert torch.equal(found, expected)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(block=st.sampled_from([256, 1024, 4096]), offset=st.integers(0, 9), size=st.integers(0, 3000))
def test_block_size_and_offset_do_not_matter(block, offset, size):
    whole = torch.full((offset + size,), math.nan)
    fill_([Fill(whole, "normal", "w")], seed=SEED, backend="eager")
    part = torch.full((size + 8,), 77.0)
    if size:
        launch.Table(rows.check_rows([Fill(part[3 : 3 + size], "normal", "w", offset=offset)]), block=block).fill_(SEED)
    assert torch.equal(part[3 : 3 + size], whole[offset:])
    assert (part[:3] == 77.0).all()
    assert (part[3 + size :] == 77.0).all()


VIEWS = {
    "channels_last": lambda t: t.view(6, 8, 4, 9).contiguous(memory_format=torch.channels_last),
    "columns": lambda t: t.view(48, 36)[:, 1::2],
    "transposed": lambda t: t.view(48, 36).t(),
    "flipped order of five": lambda t: t.view(4, 4, 4, 9, 3).permute(4, 2, 0, 3, 1),
    "six strides": lambda t: t.view(2, 3, 4, 3, 3, 8)[:, ::2, ::2, ::2, ::2, ::2],
    "unaligned": lambda t: t[1:],
    "scalar": lambda t: t[5],
    "empty": lambda t: t[:0],
}


@pytest.mark.parametrize("view", VIEWS)
def test_views_get_the_same_values_and_their_neighbours_none(view):
    buffer, other = torch.full((1728,), 77.0), torch.full((1728,), 77.0)
    one, two = VIEWS[view](buffer), VIEWS[view](other)
    fill_([Fill(one, "normal", "w")], seed=SEED, backend="triton")
    fill_([Fill(two, "normal", "w")], seed=SEED, backend="eager")
    assert torch.equal(one, two)
    assert torch.equal(buffer, other)


def test_one_launch_fills_rows_of_every_kind(monkeypatch):
    launches = []
    run = launch.random_fill_kernel.run

    def counted(*args, **kwargs):
        launches.append(kwargs["grid"])
        return run(*args, **kwargs)

    monkeypatch.setattr(launch.random_fill_kernel, "run", counted)
    results = []
    for backend in ("triton", "eager"):
        tensors = [torch.full((1 + 37 * i % 401,), math.nan, dtype=DTYPES[i % 4]) for i in range(30)]
        fills = []
        for i, tensor in enumerate(tensors):
            distribution, numbers = list(CASES.values())[i % 6]
            fills.append(Fill(tensor, distribution, f"layer.{i}", offset=i, **numbers))
        fill_(fills, seed=SEED, backend=backend)
        results.append(tensors)
    assert len(launches) == 1
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1])
def test_every_word_of_the_seed_reaches_the_kernel(seed):
    found, expected = torch.empty(64), torch.empty(64)
    FillPlan([Fill(found, "uniform", 5)], backend="triton").fill_(seed)
    FillPlan([Fill(expected, "uniform", 5)], backend="eager").fill_(seed)
    assert torch.equal(found, expected)


def test_autograd_notices_what_the_kernel_wrote():
    weight = torch.nn.Parameter(torch.zeros(3))
    loss = (weight * weight).sum()
    fill_([Fill(weight, "normal", "w")], seed=0, backend="triton")
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()

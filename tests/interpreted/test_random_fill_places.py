"""The fill kernel, wherever values lie in memory and in the unsharded tensor."""

import os

import pytest

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs TRITON_INTERPRET=1 from the start", allow_module_level=True)

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_fill_cases import DTYPES, ROWS
from random_fill_places import SEEDS, Place, places

from initbench_kernels import Fill
from initbench_kernels.random_fill import launch, reference, rows, table


@settings(max_examples=80, deadline=None, derandomize=True)
@given(places=st.lists(places(), min_size=1, max_size=4), block=st.sampled_from([64, 256, 1024]), seed=SEEDS)
def test_values_depend_on_seed_key_and_position_alone(places: list[Place], block: int, seed: int) -> None:
    """Not on dtype, strides, permutation, offset, cut, order and number of rows, or the block."""
    launch.Table([place.region for place in places], block=block).fill_(seed)
    for place in places:
        place.check(seed)


@pytest.mark.parametrize("is_box", [False, True], ids=["run", "box"])
@pytest.mark.parametrize("distribution", ["normal", "constant"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("first", [2**31 - 1024, 2**32 + 1024, 2**40])
def test_blocks_far_inside_a_tensor(first: int, dtype: torch.dtype, distribution: str, is_box: bool) -> None:
    """The last blocks of tensors of more than 2^31 values, without the memory: the table says where they begin."""
    tensor = torch.full((1100,), 7.0, dtype=dtype)
    fills = launch.Table(rows.check_rows([Fill(tensor, distribution, "w", **ROWS[distribution])]), block=1024)
    line = fills._table
    line[table.POINTER] -= first * tensor.itemsize
    line[table.SIZE] += first
    line[table.FIRST_BLOCK] -= first // 1024
    line[table.IS_BOX] = int(is_box)
    line[table.FIRST_DIMENSION + table.MAX_DIMENSIONS - 1] += first
    fills.fill_(seed=3)
    row = rows._parameters(Fill(tensor, distribution, "w", **ROWS[distribution]))
    assert torch.equal(tensor, reference.fill(reference.bits_at(3, "w", first + torch.arange(1100)), row))

"""Bad input: a ValueError that names the key, and nothing written to any tensor of the call."""

import math

import pytest
import torch

from initbench_kernels import Fill, fill_


def normal(tensor=None, key="bad", **numbers):
    return Fill(torch.full((4,), 7.0) if tensor is None else tensor, "normal", key, **numbers)


def make(distribution, tensor=None, key="bad", **numbers):
    return Fill(torch.full((4,), 7.0) if tensor is None else tensor, distribution, key, **numbers)


SHARED = torch.full((4,), 7.0)
BAD = {
    "integers": ([normal(torch.full((4,), 7))], "got torch.int64"),
    "booleans": ([normal(torch.ones(4, dtype=torch.bool))], "got torch.bool"),
    "complex": ([normal(torch.full((4,), 7 + 0j))], "got torch.complex64"),
    "sparse": ([normal(torch.eye(3).to_sparse())], "strided tensor"),
    "meta": ([normal(torch.empty(4, device="meta"))], "to_empty"),
    "lazy": ([normal(torch.nn.LazyLinear(3).weight)], "materialized"),
    "expanded": ([normal(torch.full((1,), 7.0).expand(4))], "expanded"),
    "inference": ([normal(torch.inference_mode()(torch.ones)(3))], "inference"),
    "unknown distribution": ([make("cauchy")], "unknown distribution 'cauchy'"),
    "low equals high": ([make("uniform", low=1.0, high=1.0)], "low"),
    "low above high": ([make("uniform", low=2.0, high=1.0)], "low"),
    "low NaN": ([make("uniform", low=math.nan)], "low"),
    "high infinite": ([make("uniform", high=math.inf)], "high"),
    "width beyond float32": ([make("uniform", low=-3e38, high=3e38)], "high - low"),
    "no half between": ([make("uniform", torch.ones(3).bfloat16(), low=1.001, high=1.002)], "bfloat16"),
    "negative std": ([normal(std=-1.0)], "std"),
    "std NaN": ([normal(std=math.nan)], "std"),
    "std infinite": ([normal(std=math.inf)], "std"),
    "mean infinite": ([normal(mean=-math.inf)], "mean"),
    "bounds reversed": ([make("truncated_normal", a=1.0, b=-1.0)], "no mass"),
    "bounds equal": ([make("truncated_normal", a=1.0, b=1.0)], "no mass"),
    "bounds NaN": ([make("truncated_normal", a=math.nan)], "no mass"),
    "bounds too far": ([make("truncated_normal", a=40.0, b=50.0)], "no mass"),
    "bounds beside the mean": ([make("truncated_normal", std=0.0, a=1.0, b=2.0)], "no mass"),
    "offset negative": ([normal(offset=-1)], "offset"),
    "offset fractional": ([normal(offset=1.5)], "offset"),
    "offset too large": ([normal(offset=2**62 - 2)], "2\\^62"),
    "key used twice": ([normal(), normal(torch.ones(2, 2))], "shapes \\(4,\\) and \\(2, 2\\)"),
    "overlapping slices": ([normal(), normal(torch.ones(3), offset=3)], "used twice"),
    "memory used twice": ([normal(SHARED, "good"), normal(SHARED)], "memory"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_row_is_named_and_nothing_is_written(case):
    rows, message = BAD[case]
    before = torch.full((3,), 7.0)
    with pytest.raises(ValueError, match=message) as error:
        fill_([Fill(before, "normal", "first"), *rows, Fill(torch.ones(2), "normal", "last")], seed=0)
    assert str(error.value).startswith("'bad': ")
    assert (before == 7.0).all()
    for row in rows:
        if case not in ("meta", "lazy", "sparse", "integers", "booleans", "complex"):
            assert ((row.tensor == 7.0) | (row.tensor == 1.0)).all()


@pytest.mark.parametrize("seed", [-1, 2**64, 1.5, "1", None, True])
def test_bad_seed_writes_nothing(seed):
    tensor = torch.full((4,), 7.0)
    with pytest.raises(ValueError, match="seed"):
        fill_([Fill(tensor, "normal", "w")], seed=seed)
    assert (tensor == 7.0).all()


@pytest.mark.parametrize("key", [-1, 2**64, 1.5, None, True])
def test_bad_key_writes_nothing(key):
    tensor = torch.full((4,), 7.0)
    with pytest.raises(ValueError, match="key must be an integer"):
        fill_([Fill(tensor, "normal", key)], seed=0)
    assert (tensor == 7.0).all()


def test_one_key_may_name_equal_shapes_and_disjoint_slices():
    one, other = torch.empty(4), torch.empty(4)
    rest = torch.empty(2, 3)
    fill_([Fill(one, "normal", "w"), Fill(other, "normal", "w"), Fill(rest, "normal", "w", offset=4)], seed=0)
    assert torch.equal(one, other)


def test_named_backend_is_never_replaced():
    with pytest.raises(ValueError, match="unknown backend"):
        fill_([Fill(torch.empty(3), "normal", "w")], seed=0, backend="cuda")
    tensor = torch.full((3,), 7.0)
    with pytest.raises(RuntimeError, match="TRITON_INTERPRET"):
        fill_([Fill(tensor, "normal", "w")], seed=0, backend="triton")
    assert (tensor == 7.0).all()

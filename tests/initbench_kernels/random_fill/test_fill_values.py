"""What `fill_` writes: the specification's values, on any layout; torch's own uniform and normal as oracles."""

import math
import os
import subprocess
import sys

import pytest
import scipy.stats
import torch
from random_fill_cases import DTYPES, ROWS, SEED
from tolerances import CHANCE

from initbench_kernels import Fill, FillPlan, fill_
from initbench_kernels.random_fill import bits, eager, layout, parameters, reference, rows, schedule


def expected(shape, distribution, key="w", *, seed=SEED, dtype=torch.float32, offset=0, **numbers):
    """The values by the specification alone."""
    row = rows._parameters(Fill(torch.empty(0, dtype=dtype), distribution, key, **numbers))
    positions = offset + torch.arange(math.prod(shape))
    return reference.fill(reference.bits_at(seed, key, positions), row).view(shape)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("distribution", ROWS)
@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 5, 7), (70_001,)], ids=str)
def test_fill_writes_the_values_of_the_specification(shape, distribution, dtype):
    tensor = torch.full(shape, math.nan, dtype=dtype)
    fill_([Fill(tensor, distribution, "w", **ROWS[distribution])], seed=SEED)
    assert torch.equal(tensor, expected(shape, distribution, dtype=dtype, **ROWS[distribution]))


@pytest.mark.parametrize("distribution", ["uniform", "normal", "truncated_normal"])
def test_plain_integer_words_give_the_same_tensors(distribution):
    tensors = [torch.empty(n) for n in (5, 150_000, 9)]
    regions = rows.check_rows(Fill(t, distribution, i, offset=i) for i, t in enumerate(tensors))
    eager.Loads(regions).fill_(SEED, words=bits.plain_words_)
    for i, tensor in enumerate(tensors):
        assert torch.equal(tensor, expected(tensor.shape, distribution, i, offset=i))


# SHA-256 of 200,001 float32 values, seen alike with torch 2.11 and 2.15, with stateless and with plain words, with
# AVX-512, AVX2 and no vector instructions: whoever changes these changes what every seed stands for.
FINGERPRINTS = {
    "uniform": "f7ca08c2fb692c7e",
    "normal": "d97cb4637c1ec524",
    "truncated_normal": "58f705fafd898c4f",
}


@pytest.mark.parametrize("capability", ["", "default", "avx2"])
def test_values_are_those_of_every_machine(capability):
    code = (
        "import hashlib, torch\nfrom initbench_kernels import Fill, fill_\n"
        f"for distribution in {list(FINGERPRINTS)}:\n"
        "    t = torch.empty(200_001); fill_([Fill(t, distribution, 'layer.weight')], seed=2026)\n"
        "    print(hashlib.sha256(bytes(t.view(torch.uint8).tolist())).hexdigest()[:16])"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    if capability:
        environment["ATEN_CPU_CAPABILITY"] = capability
    done = subprocess.run([sys.executable, "-c", code], check=True, env=environment, stdout=subprocess.PIPE, text=True)
    assert done.stdout.split() == list(FINGERPRINTS.values())


def test_uniform_is_torchs_own_stateless_uniform():
    if not bits.has_stateless_words(torch.device("cpu")):
        pytest.skip("this torch has no stateless Philox operators for the CPU")
    k0, k1 = reference.philox_key(7, "w")
    key = torch.tensor([[k0 | k1 << 32, 0]], dtype=torch.uint64)[0]
    for low, high in [(0.0, 1.0), (-0.3, 0.1), (-1.7, 0.31), (-1e-3, 1e-3), (-math.sqrt(6 / 100), math.sqrt(6 / 100))]:
        theirs = torch.ops.aten._philox_uniform_(torch.empty(200_000), key, low, high)
        ours = torch.empty(200_000)
        fill_([Fill(ours, "uniform", "w", low=low, high=high)], seed=7)
        assert torch.equal(ours, theirs)


def test_normal_and_torchs_own_normal_are_one_distribution():
    ours, theirs = torch.empty(1_000_000), torch.empty(1_000_000)
    fill_([Fill(ours, "normal", "w", mean=1.0, std=0.5)], seed=7)
    theirs.normal_(1.0, 0.5, generator=torch.Generator().manual_seed(7))
    assert scipy.stats.ks_2samp(ours.numpy(), theirs.numpy()).pvalue > CHANCE


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("low", "high"), [(2.0, 3.0), (-0.1, 0.1), (0.0, 1e-6), (-3.0, -2.0), (100.0, 101.0)])
def test_uniform_stays_in_its_half_open_interval(low, high, dtype):
    tensor = torch.empty(300_000, dtype=dtype)
    fill_([Fill(tensor, "uniform", "w", low=low, high=high)], seed=1)
    assert (tensor.double() < high).all()
    lowest = low if dtype == torch.float64 else torch.tensor(low, dtype=torch.float64).to(dtype).double().item()
    assert (tensor.double() >= lowest).all()


def test_uniform_rounding_up_to_high_is_what_the_clamp_prevents():
    words = torch.tensor([0xFFFFFF])
    unclamped = reference.uniform(words) * 1.0 + 2.0
    assert unclamped.item() == 3.0
    for dtype in DTYPES:
        row = rows._parameters(Fill(torch.empty(0, dtype=dtype), "uniform", "w", low=2.0, high=3.0))
        assert reference.fill(words, row).item() < 3.0


def test_constants_take_every_value_and_keep_float64():
    for value in (0.0, -1.5, math.inf, 0.1):
        tensor = torch.full((5,), math.nan, dtype=torch.float64)
        fill_([Fill(tensor, "constant", "w", value=value)], seed=0)
        assert tensor.tolist() == [value] * 5


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_constants_keep_the_sign_of_zero_whichever_came_first(dtype):
    for value in (0.0, -0.0, 0.0, -0.0):
        tensor = torch.ones(5, dtype=dtype)
        fill_([Fill(tensor, "constant", "w", value=value)], seed=0)
        assert (torch.signbit(tensor) == (math.copysign(1.0, value) < 0)).all()
        assert (tensor == 0).all()


def test_a_zero_mean_of_either_sign_gives_the_same_bits():
    """Not so where a cache takes one for the other, and keeps the sign of whichever came first."""
    parameters.normal_parameters.cache_clear()
    for numbers in ({"mean": -0.0, "std": 0.0}, {"mean": 0.0, "std": 0.0}):
        tensor = torch.empty(100)
        fill_([Fill(tensor, "normal", "w", **numbers)], seed=0)
        assert not torch.signbit(tensor).any()


def test_numbers_may_be_tensors_and_change_between_calls():
    std, once, twice = torch.tensor(1.0), torch.empty(100), torch.empty(100)
    fill_([Fill(once, "normal", "w", std=std)], seed=0)
    std.fill_(2.0)
    fill_([Fill(twice, "normal", "w", std=std)], seed=0)
    assert torch.equal(twice, 2 * once)


@pytest.mark.parametrize("distribution", ROWS)
def test_the_default_device_does_not_matter(distribution):
    """Not even the meta device, on which a helper tensor would have no values."""
    tensors = [torch.empty(5), torch.empty(300_000), torch.empty(3, 4).t(), torch.empty(7).half()]
    tensors += torch.empty(24).view(4, 6).split(2, dim=1)
    with torch.device("meta"):
        fill_([Fill(t, distribution, i, **ROWS[distribution]) for i, t in enumerate(tensors)], seed=SEED)
    for i, t in enumerate(tensors):
        assert torch.equal(t, expected(t.shape, distribution, i, dtype=t.dtype, **ROWS[distribution]))


@pytest.mark.parametrize("default", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("distribution", ROWS)
def test_the_default_dtype_does_not_matter(distribution, default):
    tensor, halves = torch.empty(300_000), torch.empty(3, 5, dtype=torch.float16).t()
    torch.set_default_dtype(default)
    try:
        fill_([Fill(t, distribution, t.dim(), **ROWS[distribution]) for t in (tensor, halves)], seed=SEED)
    finally:
        torch.set_default_dtype(torch.float32)
    for t in (tensor, halves):
        assert torch.equal(t, expected(t.shape, distribution, t.dim(), dtype=t.dtype, **ROWS[distribution]))


def test_degenerate_spreads_give_the_mean():
    for distribution in ("normal", "truncated_normal"):
        tensor = torch.full((100,), math.nan)
        fill_([Fill(tensor, distribution, "w", mean=0.5, std=0.0)], seed=0)
        assert (tensor == 0.5).all()


def test_plan_runs_again_with_another_seed():
    tensor = torch.empty(100)
    plan = FillPlan([Fill(tensor, "normal", "w")])
    for seed in (3, 4, 3):
        plan.fill_(seed)
        assert torch.equal(tensor, expected((100,), "normal", seed=seed))


def test_plan_keeps_the_memory_it_was_made_for():
    weight = torch.nn.Parameter(torch.zeros(100))
    memory, plan = weight.detach(), FillPlan([Fill(weight, "normal", "w")])
    weight.data = torch.zeros(7)
    plan.fill_(SEED)
    assert torch.equal(memory, expected((100,), "normal"))
    assert (weight == 0).all()


@pytest.mark.parametrize("sizes", [range(100, 200), [150] * 100, [4] * 3700], ids=["unlike", "alike", "tiny"])
def test_small_tensors_share_loads(sizes):
    """A load is one transform: it is full before the next begins, whatever the shapes."""
    regions = rows.check_rows(Fill(torch.empty(n), "normal", i) for i, n in enumerate(sizes))
    loads = schedule.schedule(schedule.alike(regions), threads=1)
    assert len(loads) == 1
    assert sum(len(batch) for batch in loads[0]) == len(sizes)


@pytest.mark.parametrize("chunk", [64, 1 << 18])
@pytest.mark.parametrize("distribution", ROWS)
def test_tensors_that_are_alike_are_filled_each_with_its_own_values(distribution, chunk, monkeypatch):
    """Drawn and stored by shared calls: of one shape or another, one dtype or another, in any memory, cut or whole."""
    monkeypatch.setattr(schedule, "_chunk_size", lambda device: chunk)
    tensors = [torch.full((5, 3, 2, 4), math.nan, dtype=DTYPES[i % 2]) for i in range(20)]
    tensors += [torch.full((5, 3, 2, 4), math.nan).to(memory_format=torch.channels_last) for _ in range(7)]
    tensors += [torch.full((90, 7), math.nan).t() for _ in range(3)]
    offsets = [i % 3 for i in range(len(tensors))]
    numbers = ROWS[distribution]
    fill_([Fill(t, distribution, i, offset=offsets[i], **numbers) for i, t in enumerate(tensors)], seed=SEED)
    for i, t in enumerate(tensors):
        assert torch.equal(t, expected(t.shape, distribution, i, dtype=t.dtype, offset=offsets[i], **numbers)), i


@pytest.mark.parametrize("chunk", [128, 1 << 18])
@pytest.mark.parametrize("distribution", ["uniform", "normal", "truncated_normal"])
@pytest.mark.parametrize(
    ("shape", "strides", "bases"),
    [
        pytest.param((6, 5), (11, 1), (3, 8), id="short runs"),
        pytest.param((3, 2, 100), (1000, 200, 1), (7, 11), id="long runs, whole groups apart"),
        pytest.param((3, 100), (201, 1), (0, 4), id="long runs, not whole groups apart"),
        pytest.param((4, 3, 2, 5), (300, 60, 5, 1), (2, 2), id="cut in two dimensions"),
        pytest.param((30, 1), (9, 1), (0, 5), id="runs of one"),
    ],
)
def test_shards_hold_the_values_of_their_positions(shape, strides, bases, distribution, chunk, monkeypatch):
    monkeypatch.setattr(schedule, "_chunk_size", lambda device: chunk)
    row = rows._parameters(Fill(torch.empty(0), distribution, "w", **ROWS[distribution]))
    regions = [layout.Region(key, row, torch.full(shape, math.nan), base, strides) for key in "vw" for base in bases]
    eager.Loads(regions).fill_(SEED)
    steps = sum(
        torch.arange(size).view([-1 if i == dim else 1 for i in range(len(shape))]) * stride
        for dim, (size, stride) in enumerate(zip(shape, strides, strict=True))
    )
    for region in regions:
        wanted = reference.fill(reference.bits_at(SEED, region.key, region.base + steps), row)
        assert torch.equal(region.tensor, wanted)


def test_parameters_that_require_grad_are_filled_and_autograd_notices():
    weight = torch.nn.Parameter(torch.zeros(3))
    loss = (weight * weight).sum()
    fill_([Fill(weight, "normal", "w")], seed=0)
    assert weight.requires_grad
    assert weight.is_leaf
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_thousands_of_tiny_tensors_of_many_kinds():
    sizes = [1 + i % 13 for i in range(3000)]
    tensors = [torch.full((n,), math.nan, dtype=DTYPES[i % 4]) for i, n in enumerate(sizes)]
    kinds = [list(ROWS)[i % 5 % 4] for i in range(3000)]
    fill_([Fill(t, kind, f"layer.{i}") for i, (t, kind) in enumerate(zip(tensors, kinds, strict=True))], seed=SEED)
    for i in (0, 1, 2, 3, 4, 17, 1003, 2998, 2999):
        assert torch.equal(tensors[i], expected((sizes[i],), kinds[i], f"layer.{i}", dtype=tensors[i].dtype))
    assert all(t.isfinite().all() for t in tensors)


def test_importing_the_package_does_not_import_triton():
    code = "import sys, initbench_kernels; initbench_kernels.fill_; sys.exit('triton' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], check=False, env=environment).returncode == 0

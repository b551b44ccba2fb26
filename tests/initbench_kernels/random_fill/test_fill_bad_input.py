"""Bad input: a ValueError that names the key, and nothing written to any tensor of the call."""

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from initbench_kernels import Fill, FillPlan, fill_


def normal(tensor=None, key="bad", **numbers):
    return Fill(torch.full((4,), 7.0) if tensor is None else tensor, "normal", key, **numbers)


def make(distribution, tensor=None, key="bad", **numbers):
    return Fill(torch.full((4,), 7.0) if tensor is None else tensor, distribution, key, **numbers)


SHARED = torch.full((4,), 7.0)
BUFFER = torch.full((20,), 7.0)
BAD = {
    "integers": ([normal(torch.full((4,), 7))], "got torch.int64"),
    "booleans": ([normal(torch.ones(4, dtype=torch.bool))], "got torch.bool"),
    "complex": ([normal(torch.full((4,), 7 + 0j))], "got torch.complex64"),
    "sparse": ([normal(torch.eye(3).to_sparse())], "strided tensor"),
    "meta": ([normal(torch.empty(4, device="meta"))], "to_empty"),
    "lazy": ([normal(torch.nn.LazyLinear(3).weight)], "materialized"),
    "expanded": ([normal(torch.full((1,), 7.0).expand(4))], "expanded"),
    "inference": ([normal(torch.inference_mode()(torch.ones)(3))], "inference"),
    "windows that overlap": ([normal(torch.full((7,), 7.0).unfold(0, 4, 1))], "overlapping"),
    "no tensor": ([Fill([7.0], "normal", "bad")], "expected a tensor, got list"),
    "std None": ([normal(std=None)], "std must be a number, got None"),
    "std a string": ([normal(std="1")], "std must be a number, got '1'"),
    "std of two": ([normal(std=torch.ones(2))], "std must be a number"),
    "mean complex": ([normal(mean=1j)], "mean must be a number"),
    "mean without end": ([normal(mean=10**400)], "mean must be a number"),
    "low a list": ([make("uniform", low=[0])], "low must be a number"),
    "bound None": ([make("truncated_normal", b=None)], "b must be a number"),
    "value a string": ([make("constant", value="0")], "value must be a number"),
    "value beyond float32": ([make("constant", value=1e39)], "value must be a torch.float32 number"),
    "value beyond float16": ([make("constant", torch.full((4,), 7.0).half(), value=-1e5)], "a torch.float16 number"),
    "value beyond bfloat16": ([make("constant", torch.ones(3).bfloat16(), value=3.4e38)], "a torch.bfloat16 number"),
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
    "overlapping slices, the offset in 8 bits": (
        [normal(torch.ones(100), offset=np.uint8(200)), normal(torch.ones(9), offset=250)],
        "used twice",
    ),
    "memory used twice": ([normal(SHARED, "good"), normal(SHARED)], "also filled by the row of key 'good'"),
    "memory shared in part": ([normal(BUFFER[:12], "good"), normal(BUFFER[5:17])], "row of key 'good'"),
    "memory shared in part, later row first": ([normal(BUFFER[5:17], "good"), normal(BUFFER[:12])], "of key 'good'"),
    "one place of two combs": ([normal(BUFFER[::2], "good"), normal(BUFFER[1::3])], "row of key 'good'"),
    "half of a float32": ([normal(BUFFER[:4], "good"), normal(BUFFER.view(torch.float16)[7:9])], "row of key 'good'"),
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
        if case not in ("meta", "lazy", "sparse", "integers", "booleans", "complex", "no tensor", "half of a float32"):
            assert ((row.tensor == 7.0) | (row.tensor == 1.0)).all()
    assert (BUFFER == 7.0).all()


@pytest.mark.parametrize("seed", [-1, 2**64, 1.5, "1", None, True, np.True_, torch.tensor(True)])
def test_bad_seed_writes_nothing(seed):
    tensor = torch.full((4,), 7.0)
    with pytest.raises(ValueError, match="seed"):
        fill_([Fill(tensor, "normal", "w")], seed=seed)
    assert (tensor == 7.0).all()


@pytest.mark.parametrize("key", [-1, 2**64, 1.5, None, True, [1], np.array(1), torch.tensor(1)])
def test_bad_key_writes_nothing(key):
    tensor = torch.full((4,), 7.0)
    with pytest.raises(ValueError, match="key must be an integer"):
        fill_([Fill(tensor, "normal", key)], seed=0)
    assert (tensor == 7.0).all()


class Wrapper(torch.Tensor):
    """Has others' memory, if any; what a fill asks of it fails."""

    __torch_dispatch__ = None


def stand_in(kind):
    """A tensor that stands for others, as a transform, a trace or a wrapper has it."""
    if kind == "fake":
        from torch._subclasses.fake_tensor import FakeTensorMode

        with FakeTensorMode():
            return torch.empty(4)
    if kind == "wrapper":
        return torch.Tensor._make_wrapper_subclass(Wrapper, (4,))
    found = []
    torch.vmap(lambda x: found.append(x) or x)(torch.empty(2, 4))
    return found[0]


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor:UserWarning")
@pytest.mark.parametrize("kind", ["fake", "wrapper", "batched"])
def test_a_tensor_without_memory_of_its_own_is_named_and_nothing_is_written(kind):
    before = torch.full((300_000,), 7.0)
    with pytest.raises(ValueError, match=r"^'bad': is a .* without memory of its own"):
        fill_([Fill(before, "uniform", "first"), normal(stand_in(kind))], seed=0)
    assert (before == 7.0).all()


@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
def test_a_nested_tensor_is_named_and_nothing_is_written(layout):
    before = torch.full((3,), 7.0)
    with warnings.catch_warnings(action="ignore"):
        nested = torch.nested.nested_tensor([torch.full((2,), 7.0), torch.full((3,), 7.0)], layout=layout)
    with pytest.raises(ValueError, match=r"^'bad': expected a strided tensor, got a nested one"):
        fill_([Fill(before, "normal", "first"), normal(nested)], seed=0)
    assert (before == 7.0).all()
    assert all((part == 7.0).all() for part in nested.unbind())


def test_one_key_may_name_equal_shapes_and_disjoint_slices():
    one, other = torch.empty(4), torch.empty(4)
    rest = torch.empty(2, 3)
    fill_([Fill(one, "normal", "w"), Fill(other, "normal", "w"), Fill(rest, "normal", "w", offset=4)], seed=0)
    assert torch.equal(one, other)


INTERLEAVED = {
    "columns": lambda t: [t.view(4, 6)[:, :2], t.view(4, 6)[:, 2:5], t.view(4, 6)[:, 5]],
    "chunks of a fused parameter": lambda t: t.view(2, 6, 2).chunk(3, dim=1),
    "combs": lambda t: [t[::2], t[1::2]],
    "diagonal and corner": lambda t: [t[:16].view(4, 4).diagonal(), t[1:4], t[8:9]],
    "one beside the other": lambda t: [t[12:], t[:12]],
    "unlike dtypes": lambda t: [t[:5], t.view(torch.bfloat16)[10:13], t.view(torch.float64)[7:]],
    "a view whose strides step over nothing": lambda t: [t.as_strided((2, 3), (3, 2)), t[9:]],
}


@pytest.mark.parametrize("views", INTERLEAVED)
def test_views_that_share_no_element_are_filled_each_with_its_own_values(views):
    buffer = torch.full((24,), 7.0)
    tensors = INTERLEAVED[views](buffer)
    fill_([Fill(t, "normal", i) for i, t in enumerate(tensors)], seed=0)
    for i, t in enumerate(tensors):
        alone = torch.empty(t.shape, dtype=t.dtype)
        fill_([Fill(alone, "normal", i)], seed=0)
        assert torch.equal(t, alone)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    st.lists(
        st.tuples(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 7)), max_size=3), st.integers(0, 30)),
        min_size=1,
        max_size=3,
    )
)
def test_memory_is_refused_exactly_where_elements_share_a_place(views):
    buffer = torch.zeros(75)
    tensors = [buffer.as_strided([n for n, _ in box], [s for _, s in box], first) for box, first in views]
    places = [
        int(i) for t in tensors for i in torch.arange(75).as_strided(t.shape, t.stride(), t.storage_offset()).flatten()
    ]
    rows = [Fill(t, "normal", i) for i, t in enumerate(tensors)]
    if len(set(places)) == len(places):
        fill_(rows, seed=0)
        assert int((buffer != 0).sum()) == len(places)
    else:
        with pytest.raises(ValueError, match=r"share one place|also filled by the row"):
            fill_(rows, seed=0)
        assert (buffer == 0).all()


def test_named_backend_is_never_replaced():
    with pytest.raises(ValueError, match="unknown backend"):
        fill_([Fill(torch.empty(3), "normal", "w")], seed=0, backend="cuda")
    tensor = torch.full((3,), 7.0)
    with pytest.raises(RuntimeError, match="TRITON_INTERPRET"):
        fill_([Fill(tensor, "normal", "w")], seed=0, backend="triton")
    assert (tensor == 7.0).all()


@pytest.mark.parametrize("rows", [[], [Fill(torch.empty(0), "normal", "w")]], ids=["no row", "an empty tensor"])
def test_named_backend_is_judged_where_there_is_nothing_to_fill(rows, monkeypatch):
    for make in (lambda backend: fill_(rows, seed=0, backend=backend), lambda backend: FillPlan(rows, backend=backend)):
        for backend in ("bogus", ""):
            with pytest.raises(ValueError, match="unknown backend"):
                make(backend)
        make("eager")
        make(None)
        if rows:
            with pytest.raises(RuntimeError, match="TRITON_INTERPRET"):
                make("triton")
    monkeypatch.setenv("INITBENCH_BACKEND", "bogus")
    with pytest.raises(ValueError, match="unknown backend"):
        fill_(rows, seed=0)

"""The eager backend against relu(nn.BatchNormXd(x)): any shape, strides, dtype and flags."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import EXACT
from torch import Tensor, nn

import initbench_kernels
from initbench_kernels.batch_norm_relu.eager import NARROW_COLUMN_BYTES

PLAIN = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
FUSED = {
    2: initbench_kernels.BatchNormReLU1d,
    3: initbench_kernels.BatchNormReLU1d,
    4: initbench_kernels.BatchNormReLU2d,
    5: initbench_kernels.BatchNormReLU3d,
}
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


@st.composite
def inputs(draw: st.DrawFn) -> Tensor:
    """Draw an input of 2 to 5 dimensions, possibly permuted, sliced or expanded, and with at least two values."""
    sizes = draw(st.lists(st.integers(1, 5), min_size=2, max_size=5))
    sizes[0] = max(2, sizes[0])
    dtype = draw(st.sampled_from(DTYPES))
    x = torch.randn(sizes, generator=torch.Generator().manual_seed(draw(st.integers(0, 1000)))).to(dtype)
    how = draw(st.sampled_from(["contiguous", "permuted", "sliced", "expanded"]))
    if how == "permuted":
        order = draw(st.permutations(range(x.ndim)))
        x = x.permute(order).contiguous().permute([order.index(d) for d in range(x.ndim)])
    elif how == "sliced":
        x = torch.cat([x, x], dim=-1)[..., ::2]
    elif how == "expanded":
        x = x[..., :1].expand(sizes)
    return x


def strides(t: Tensor) -> list[int]:
    """Those that say where a value lies: of a dimension of one value the addition in place keeps another."""
    return [stride for stride, size in zip(t.stride(), t.shape, strict=True) if size > 1]


@settings(max_examples=150, deadline=None)
@given(
    x=inputs(),
    affine=st.booleans(),
    track=st.booleans(),
    momentum=st.sampled_from([0.1, 0.0, 1.0, None]),
    training=st.booleans(),
    residual=st.booleans(),
    wide_parameters=st.booleans(),
)
def test_equals_the_pair(
    x: Tensor,
    affine: bool,
    track: bool,
    momentum: float | None,
    training: bool,
    residual: bool,
    wide_parameters: bool,
) -> None:
    """Same bits, strides and buffers as the two modules in a row, and the same gradients."""
    half = x.dtype in (torch.float16, torch.bfloat16)
    dtype = torch.float32 if half and wide_parameters else x.dtype
    options = {"affine": affine, "track_running_stats": track, "momentum": momentum, "dtype": dtype}
    plain, fused = PLAIN[x.ndim](x.shape[1], **options), FUSED[x.ndim](x.shape[1], **options)
    for module in (plain, fused):
        module.train(training)
        if affine:
            nn.init.uniform_(module.weight, -1, 1, generator=torch.Generator().manual_seed(1))
    shift = torch.ones_like(x) if residual else None
    results = []
    for module in (plain, fused):
        leaf = x.detach().requires_grad_()
        if module is plain:
            y = module(leaf)
            if shift is not None:
                # In place, for a sum of its own may lie in memory as the residual does where batch norm's does not.
                y.add_(shift)
            y = y.relu()
        else:
            y = module(leaf, shift)
        grads = torch.autograd.grad(y.square().sum(), [leaf, *module.parameters()])
        results.append([y, *grads, *module.buffers()])
    for wanted, actual in zip(*results, strict=True):
        assert strides(actual) == strides(wanted)
        torch.testing.assert_close(actual, wanted, equal_nan=True, **EXACT)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_function_equals_functional(training: bool) -> None:
    """Positional arguments as F.batch_norm; running statistics are updated in place."""
    x, weight, bias = torch.randn(6, 4, 3), torch.randn(4), torch.randn(4)
    results = []
    for function in (F.batch_norm, initbench_kernels.batch_norm_relu):
        mean, var = torch.zeros(4), torch.ones(4)
        y = function(x, mean, var, weight, bias, training, 0.3, 1e-3)
        results.append([y.relu(), mean, var])
    for wanted, actual in zip(*results, strict=True):
        torch.testing.assert_close(actual, wanted, **EXACT)


def test_no_python_autograd_function_and_one_activation_saved() -> None:
    """The graph is PyTorch's own, and what it keeps for backward is x and y."""
    x = torch.randn(64, 8, requires_grad=True)
    module = initbench_kernels.BatchNormReLU1d(8)
    large: set[int] = set()
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: large.add(t.data_ptr()) or t if t.numel() == x.numel() else t, lambda t: t
    ):
        y = module(x)
    assert y.grad_fn.name() == "ReluBackward0"
    assert y.grad_fn.next_functions[0][0].name() == "NativeBatchNormBackward0"
    assert large == {x.data_ptr(), y.data_ptr()}


def test_empty_batch() -> None:
    """No rows: PyTorch's answer, the running statistics included."""
    for training in (True, False):
        plain, fused = nn.BatchNorm1d(3).train(training), initbench_kernels.BatchNormReLU1d(3).train(training)
        assert fused(torch.empty(0, 3)).shape == plain(torch.empty(0, 3)).shape
        for wanted, actual in zip(plain.buffers(), fused.buffers(), strict=True):
            torch.testing.assert_close(actual, wanted, equal_nan=True)


@pytest.mark.parametrize("momentum", [0.1, None], ids=["moving", "cumulative"])
def test_compile_fullgraph(momentum: float | None) -> None:
    """The eager backend compiles in one graph, buffers updated; PyTorch's own cumulative average would break it."""
    plain, module = nn.BatchNorm2d(4, momentum=momentum), initbench_kernels.BatchNormReLU2d(4, momentum=momentum)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    for x in torch.randn(3, 3, 4, 5, 5):
        torch.testing.assert_close(compiled(x, x), (plain(x) + x).relu())
    for wanted, actual in zip(plain.buffers(), module.buffers(), strict=True):
        torch.testing.assert_close(actual, wanted)


def test_residual_of_wider_dtype_promotes() -> None:
    """bfloat16 + float32 is float32, as in the three operations."""
    x, residual = torch.randn(4, 3, dtype=torch.bfloat16), torch.randn(4, 3)
    y = initbench_kernels.batch_norm_relu(x, None, None, training=True, residual=residual)
    wanted = (F.batch_norm(x, None, None, training=True) + residual).relu()
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, wanted)


def test_autocast() -> None:
    """Autocast does to the fused module what it does to the pair."""
    x = torch.randn(8, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        wanted = nn.BatchNorm1d(3)(x).relu()
        actual = initbench_kernels.BatchNormReLU1d(3)(x)
    assert actual.dtype == wanted.dtype
    torch.testing.assert_close(actual, wanted)


@pytest.mark.parametrize("rows", [8, NARROW_COLUMN_BYTES // 4])
def test_vmap_and_func_grad(rows: int) -> None:
    """torch.func transforms reach PyTorch's batch norm as they would without us."""
    x = torch.randn(3, rows, 5)

    def fused(x: Tensor) -> Tensor:
        return initbench_kernels.batch_norm_relu(x, None, None, training=True)

    def pair(x: Tensor) -> Tensor:
        return F.batch_norm(x, None, None, training=True).relu()

    torch.testing.assert_close(torch.func.vmap(fused)(x), torch.func.vmap(pair)(x))
    for transform in (torch.func.grad, torch.func.jacrev):
        actual, wanted = (transform(lambda x, f=f: f(x).square().sum())(x[0]) for f in (fused, pair))
        torch.testing.assert_close(actual, wanted)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*")  # of torch's own forward-mode rules
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_transforms_of_the_residual_alone(training: bool) -> None:
    """The sum has samples that the batch norm's output lacks, so it cannot lie in the place of that output."""
    x, residuals, tangents = torch.randn(8, 3), torch.randn(2, 8, 3), torch.randn(2, 8, 3)
    running = (torch.zeros(3), torch.ones(3)) if not training else (None, None)

    def fused(residual: Tensor) -> Tensor:
        return initbench_kernels.batch_norm_relu(x, *running, training=training, residual=residual)

    def pair(residual: Tensor) -> Tensor:
        return (F.batch_norm(x, *running, training=training) + residual).relu()

    results = []
    for f in (fused, pair):
        gradient = torch.func.grad(lambda r, f=f: f(r).square().sum())
        push = torch.func.jvp(f, (residuals[0],), (tangents[0],))
        results.append([torch.func.vmap(f)(residuals), torch.func.vmap(gradient)(residuals), *push])
    for actual, wanted in zip(*results, strict=True):
        torch.testing.assert_close(actual, wanted, **EXACT)

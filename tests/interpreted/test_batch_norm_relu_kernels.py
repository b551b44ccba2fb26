"""The Triton kernels, interpreted, against the float64 reference."""

from collections.abc import Iterator

import pytest
import torch
from batch_norm_oracle import SHAPES, Case, arrange, relative_error
from tolerances import FUSED_RELATIVE, LARGE_MEAN_ABSOLUTE, STATISTICS_RELATIVE

from initbench_kernels import batch_norm_relu
from initbench_kernels.batch_norm_relu import launch
from initbench_kernels.batch_norm_relu.layout import layout_of

HALVES = [torch.float16, torch.bfloat16]
HALF_SHAPES = [
    "rows_3_channels_short_last_row",
    "planes_7x7_grouped",
    "channels_last_1d",
    "rows_411_channels_unaligned",
]


def run(case: Case) -> dict[str, torch.Tensor]:
    """One forward and backward on the Triton backend."""
    leaves = {"x": case.x, "res": case.res, "weight": case.weight, "bias": case.bias}
    leaves = {name: t.detach().requires_grad_() for name, t in leaves.items() if t is not None}
    running_mean, running_var = case.running_mean.clone(), case.running_var.clone()
    y = batch_norm_relu(
        leaves["x"], running_mean, running_var, leaves.get("weight"), leaves.get("bias"), case.training,
        case.momentum, case.eps, residual=leaves.get("res"), backend="triton",
    )  # fmt: skip
    y.backward(case.dy)
    grads = {"x": "dx", "res": "dresidual", "weight": "dweight", "bias": "dbias"}
    return {"y": y.detach(), "running_mean": running_mean, "running_var": running_var} | {
        grads[name]: leaf.grad for name, leaf in leaves.items()
    }


def check(case: Case) -> None:
    actual, expected = run(case), case.expected()
    for name, value in actual.items():
        bound = FUSED_RELATIVE[case.dtype] if name in ("y", "dx", "dresidual") else STATISTICS_RELATIVE
        assert relative_error(value, expected[name]) <= bound, name
    assert actual["y"].stride() == case.x.stride()
    assert actual["dx"].stride() == case.x.stride()


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_agrees_with_float64(name: str, training: bool) -> None:
    """Output, gradients and running statistics, for every way to cut a tensor."""
    shape, memory = SHAPES[name]
    check(Case(shape, memory, training=training))


@pytest.fixture
def large_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make many splits, merged a few at a time, of tensors that the interpreter can manage."""
    monkeypatch.setattr(launch, "INTERPRETED_MULTIPROCESSORS", 5)
    monkeypatch.setattr(launch, "merge_rows", lambda tiling: 2)
    caches = (launch._multiprocessors, launch._plan)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


@pytest.mark.parametrize(
    ("shape", "memory"),
    [
        ((4001, 3), "contiguous"),
        ((400, 70), "contiguous"),
        ((8, 3, 50, 41), "contiguous"),
        ((60, 9, 7, 7), "contiguous"),
    ],
    ids=str,
)
@pytest.mark.usefixtures("large_device")
def test_many_splits(shape: tuple[int, ...], memory: str) -> None:
    """Partials of more splits than a program reads at a time, the last ones of it missing."""
    case = Case(shape, memory, mean=30.0)
    tiling = launch.choose("fwd_stats", layout_of(case.x), 4)[1]
    splits, _ = tiling.split(5 * 4, merged=True)
    assert splits > 2
    check(case)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("name", HALF_SHAPES)
def test_half_precision(name: str, dtype: torch.dtype) -> None:
    """Half-precision input with float32 parameters: nothing but the result is rounded."""
    shape, memory = SHAPES[name]
    check(Case(shape, memory, dtype=dtype))


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_without_parameters(training: bool) -> None:
    """affine=False."""
    check(Case((60, 9), training=training, affine=False))


@pytest.mark.parametrize(
    "name", ["rows_3_channels_short_last_row", "rows_70_channels_ragged_block", "planes_several_tiles"]
)
def test_large_mean(name: str) -> None:
    """A mean of 1e4 standard deviations: E[x^2] - E[x]^2 would have lost every digit."""
    shape, memory = SHAPES[name]
    case = Case(shape, memory, mean=1e4)
    actual, expected = run(case), case.expected()
    assert (actual["y"] - expected["y"]).abs().max() <= LARGE_MEAN_ABSOLUTE * expected["y"].abs().max()
    assert relative_error(actual["running_var"], expected["running_var"]) <= STATISTICS_RELATIVE
    # Near a pre-activation of 0 the rounding of x alone flips the mask, so dx is compared away from it.
    sure = (expected["y"] > 0.05) & (actual["y"] > 0.05)
    error = (actual["dx"] - expected["dx"]).abs()[sure].max() / expected["dx"].abs().max()
    assert error <= 10 * LARGE_MEAN_ABSOLUTE


# NumPy, which interprets the kernels, warns of inf - inf where hardware says nothing.
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")], ids=str)
@pytest.mark.parametrize(
    "name", ["rows_3_channels_short_last_row", "planes_7x7_grouped", "rows_70_channels_ragged_block"]
)
def test_non_finite_values_stay_in_their_channel(name: str, value: float) -> None:
    """One bad value makes its whole channel NaN, as in PyTorch, and touches no other."""
    shape, memory = SHAPES[name]
    case = Case(shape, memory)
    case.x = case.x.clone()
    case.x[1, 1] = value
    actual = run(case)
    others = [c for c in range(shape[1]) if c != 1]
    clean = Case(shape, memory).expected()
    for key in ("y", "dx"):
        assert actual[key][:, 1].isnan().all(), key
        assert relative_error(actual[key][:, others], clean[key][:, others]) <= FUSED_RELATIVE[torch.float32], key
    for key in ("dweight", "running_mean", "running_var"):
        assert not actual[key][1].isfinite(), key
        assert actual[key][others].isfinite().all(), key


def test_weight_zero_and_negative_and_pre_activation_zero() -> None:
    """weight 0 leaves relu(bias); a pre-activation of exactly 0 passes no gradient."""
    case = Case((64, 6))
    case.weight = torch.tensor([0.0, -1.0, -2.0, 0.0, 1.0, 0.0])
    case.bias = torch.tensor([1.0, 0.5, 0.0, -1.0, 0.0, 0.0])
    # A constant channel has x - mean = 0, hence a pre-activation of exactly bias = 0.
    case.x[:, 4] = 3.0
    actual, expected = run(case), case.expected()
    for name, value in actual.items():
        assert relative_error(value, expected[name]) <= STATISTICS_RELATIVE, name
    assert (actual["y"][:, 0] == 1).all()
    for channel in (3, 4, 5):
        assert (actual["y"][:, channel] == 0).all()
        assert actual["dbias"][channel] == 0
        assert (actual["dx"][:, channel] == 0).all()


def test_other_strides() -> None:
    """Sliced and expanded inputs, and a gradient in another layout than the input's."""
    base = torch.randn(6, 8, 10, 5)
    views = {
        "sliced_channels": base[:, ::2],
        "sliced_space": base[:, :, 1:-1],
        "sliced_channels_last": arrange(base, "channels_last")[:, :, ::2],
        "permuted": base.permute(3, 1, 0, 2),
        "expanded": torch.randn(6, 8, 10, 1).expand(6, 8, 10, 5),
    }
    for name, x in views.items():
        case = Case(tuple(x.shape))
        case.x = x
        case.dy = arrange(case.dy, "channels_last")
        actual, expected = run(case), case.expected()
        for key, value in actual.items():
            assert relative_error(value, expected[key]) <= STATISTICS_RELATIVE, (name, key)
        eager = torch.nn.functional.batch_norm(x, None, None, training=True)
        assert actual["y"].is_contiguous() == eager.is_contiguous(), name
        last = torch.channels_last
        assert actual["y"].is_contiguous(memory_format=last) == eager.is_contiguous(memory_format=last), name


@pytest.mark.parametrize(
    ("needs", "residual"),
    [("x", False), ("weight", False), ("x", True), ("weight", True), ("residual", True)],
    ids=["x", "weight", "x after a residual", "weight after a residual", "residual"],
)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_single_gradients(needs: str, residual: bool, training: bool) -> None:
    """A frozen input, frozen parameters: what is asked for alone is right alone."""
    case = Case((50, 7), training=training, residual=residual)
    leaf = {"x": case.x, "weight": case.weight, "residual": case.res}[needs].requires_grad_()
    y = batch_norm_relu(
        case.x, case.running_mean.clone(), case.running_var.clone(), case.weight, case.bias, training,
        case.momentum, case.eps, residual=case.res, backend="triton",
    )  # fmt: skip
    y.backward(case.dy)
    leaf_grad, leaf.grad = leaf.grad, None
    for tensor in (case.x, case.weight, case.bias):
        tensor.requires_grad_(False)
    key = {"x": "dx", "weight": "dweight", "residual": "dresidual"}[needs]
    if case.res is not None:
        case.res.requires_grad_(False)
    assert relative_error(leaf_grad, case.expected()[key]) <= STATISTICS_RELATIVE

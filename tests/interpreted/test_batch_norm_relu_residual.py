"""BatchNorm, residual addition and ReLU, interpreted: the signs that the forward pass saves, and the gradients."""

import pytest
import torch
from batch_norm_oracle import SHAPES, Case, arrange, relative_error
from tolerances import FUSED_RELATIVE, STATISTICS_RELATIVE

from initbench_kernels import batch_norm_relu
from initbench_kernels.batch_norm_relu import signs

HALVES = [torch.float16, torch.bfloat16]
# Planes that share bytes with no neighbour: an odd number of channels, groups that no byte fits, many channels.
ODD = {
    "planes_7x7_of_3_channels": ((5, 3, 7, 7), "contiguous"),
    "planes_17x17_of_9_channels": ((3, 9, 17, 17), "contiguous"),
    "planes_3x3_of_12_channels": ((4, 12, 3, 3), "contiguous"),
    "rows_5_of_3_channels": ((5, 3), "contiguous"),
    "rows_9_of_5_channels": ((9, 5), "contiguous"),
    "rows_33_channels_last": ((5, 33, 7, 7), "channels_last"),
    "rows_3_channels_last": ((5, 3, 7, 7), "channels_last"),
    "rows_300_channels": ((20, 300), "contiguous"),
}


def run(case: Case) -> tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor]:
    """Return the output, the gradients and the saved signs of one forward and backward on the Triton backend."""
    tensors = {"dx": case.x, "dresidual": case.res, "dweight": case.weight, "dbias": case.bias}
    leaves = {name: t.detach().requires_grad_() for name, t in tensors.items()}
    y = batch_norm_relu(
        leaves["dx"], case.running_mean.clone(), case.running_var.clone(), leaves["dweight"], leaves["dbias"],
        case.training, case.momentum, case.eps, residual=leaves["dresidual"], backend="triton",
    )  # fmt: skip
    packed = y.grad_fn.saved_tensors[-1].clone()
    grads = torch.autograd.grad(y, list(leaves.values()), case.dy)
    return y.detach(), dict(zip(leaves, grads, strict=True)), packed


def check_signs(case: Case, y: torch.Tensor, dresidual: torch.Tensor, packed: torch.Tensor) -> None:
    """Every bit is the sign of its y, and the residual's gradient follows it, to the last element."""
    passes = ~(y <= 0)
    assert 0 < passes.sum() < passes.numel()
    assert torch.equal(signs.unpack(packed, case.x), passes)
    assert torch.equal(dresidual, torch.where(passes, case.dy, 0))
    # What fills up a byte is 0: the result has nothing undefined in it.
    assert sum(int(byte).bit_count() for byte in packed) == passes.sum()


@pytest.mark.parametrize("name", SHAPES | ODD)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_agrees_with_float64(name: str, training: bool) -> None:
    """Output, signs and gradients, for every way to cut a tensor; half of the weights are negative."""
    shape, memory = (SHAPES | ODD)[name]
    case = Case(shape, memory, training=training, residual=True)
    y, grads, packed = run(case)
    expected = case.expected()
    assert relative_error(y, expected["y"]) <= FUSED_RELATIVE[case.dtype]
    check_signs(case, y, grads["dresidual"], packed)
    for key, value in grads.items():
        bound = FUSED_RELATIVE[case.dtype] if key in ("dx", "dresidual") else STATISTICS_RELATIVE
        assert relative_error(value, expected[key]) <= bound, key
    assert grads["dx"].stride() == grads["dresidual"].stride() == case.x.stride()


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("name", ["rows_3_channels_short_last_row", "channels_last_1d", "planes_7x7_of_3_channels"])
def test_half_precision(name: str, dtype: torch.dtype) -> None:
    """The sign is that of the rounded output."""
    shape, memory = (SHAPES | ODD)[name]
    case = Case(shape, memory, dtype=dtype, residual=True)
    y, grads, packed = run(case)
    check_signs(case, y, grads["dresidual"], packed)
    expected = case.expected()
    assert relative_error(y, expected["y"]) <= FUSED_RELATIVE[dtype]
    for key, value in grads.items():
        bound = FUSED_RELATIVE[dtype] if key in ("dx", "dresidual") else STATISTICS_RELATIVE
        assert relative_error(value, expected[key]) <= bound, key


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_half_precision_parameters(dtype: torch.dtype) -> None:
    """Parameters and running statistics in the input's own half precision, as after module.half()."""
    case = Case((40, 18), dtype=dtype, residual=True)
    for name in ("weight", "bias", "running_mean", "running_var"):
        setattr(case, name, getattr(case, name).to(dtype))
    y, grads, _ = run(case)
    expected = case.expected()
    for name, value in {"y": y, **grads}.items():
        assert value.dtype == dtype, name
        assert relative_error(value, expected[name]) <= FUSED_RELATIVE[dtype], name


def test_pre_activation_zero_and_rounded_to_zero() -> None:
    """Exactly 0 passes no gradient, nor does what is 0 once stored: PyTorch's ReLU sees the stored value, too."""
    case = Case((64, 4), dtype=torch.float16, residual=True)
    # Constant channels have x - mean = 0, hence a pre-activation of bias + residual.
    case.x[:, :3] = 3.0
    case.bias[:3] = torch.tensor([1.0, 1e-9, 1.0])
    case.res[:, :3] = torch.tensor([-1.0, 0.0, -0.5]).half()
    y, grads, packed = run(case)
    check_signs(case, y, grads["dresidual"], packed)
    assert (grads["dresidual"][:, :2] == 0).all()
    assert torch.equal(grads["dresidual"][:, 2], case.dy[:, 2])


# NumPy, which interprets the kernels, warns of inf - inf where hardware says nothing.
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("name", ["rows_3_channels_short_last_row", "planes_7x7_of_3_channels"])
def test_nan_passes_the_gradient(name: str) -> None:
    """As in PyTorch's ReLU; a NaN of x fills its channel, one of the residual stays alone."""
    shape, memory = (SHAPES | ODD)[name]
    case = Case(shape, memory, residual=True)
    case.x[1, 1], case.res[2, 0] = float("nan"), float("nan")
    y, grads, packed = run(case)
    check_signs(case, y, grads["dresidual"], packed)
    assert torch.equal(grads["dresidual"][:, 1], case.dy[:, 1])
    assert torch.equal(grads["dresidual"][2, 0], case.dy[2, 0])
    for key in ("dx", "dresidual", "dweight", "dbias"):
        channels = grads[key].movedim(1, 0) if grads[key].ndim > 1 else grads[key]
        assert channels[[0, 2]].isfinite().all(), key


def test_expanded_gradient_and_broadcast() -> None:
    """The gradient of sum() has stride 0; a residual may be broadcast, and its gradient is summed back."""
    for shape in ((5, 1), (8, 1, 6), (1,)):
        case = Case((8, 5, 6))
        x = case.x.requires_grad_()
        residual = torch.randn(shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
        y = batch_norm_relu(x, None, None, training=True, residual=residual, backend="triton")
        grads = torch.autograd.grad(y.sum(), [x, residual])
        expected = (torch.nn.functional.batch_norm(x, None, None, training=True) + residual).relu()
        for actual, wanted in zip(grads, torch.autograd.grad(expected.sum(), [x, residual]), strict=True):
            assert actual.shape == wanted.shape
            assert relative_error(actual, wanted.double()) <= STATISTICS_RELATIVE


def test_other_strides() -> None:
    """A residual and a gradient in other layouts than the input, and an input that has to be copied."""
    base = torch.randn(6, 8, 5, 7)
    for x in (base, arrange(base, "channels_last"), base[:, ::2], base[:, :, 1:-1], base.permute(3, 1, 0, 2)):
        case = Case(tuple(x.shape), residual=True)
        case.x, case.res, case.dy = x, arrange(case.res, "channels_last"), arrange(case.dy, "channels_last")
        y, grads, _ = run(case)
        expected = case.expected()
        for key, value in {"y": y, **grads}.items():
            assert relative_error(value, expected[key]) <= STATISTICS_RELATIVE, key


@pytest.mark.parametrize("create_graph", [False, True])
def test_hooks_may_change_the_order_of_saved_tensors(create_graph: bool) -> None:
    """The signs lie in the order that x had, which a hook that moves saved tensors away and back may lose."""
    case = Case((4, 6, 5, 3), "channels_last", residual=True)
    leaves = [case.x.requires_grad_(), case.res.requires_grad_()]

    def grads() -> tuple[torch.Tensor, ...]:
        y = batch_norm_relu(leaves[0], None, None, training=True, residual=leaves[1], backend="triton")
        return torch.autograd.grad(y, leaves, case.dy, create_graph=create_graph)

    wanted = grads()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.detach().contiguous(), lambda t: t):
        actual = grads()
    for a, b in zip(actual, wanted, strict=True):
        torch.testing.assert_close(a, b)


def test_output_may_be_changed_in_place() -> None:
    """Nothing of the output is needed any more."""
    case = Case((40, 18), residual=True)
    leaves = [case.x.requires_grad_(), case.res.requires_grad_()]
    grads = []
    for change in (lambda y: 3 * y, lambda y: y.mul_(3)):
        y = batch_norm_relu(leaves[0], None, None, training=True, residual=leaves[1], backend="triton")
        grads.append(torch.autograd.grad(change(y), leaves, case.dy))
    for a, b in zip(*grads, strict=True):
        assert torch.equal(a, b)
